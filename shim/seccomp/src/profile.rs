//! Profiles as they are written: JSON of the OCI runtime spec, with what Docker and containerd have beside it (`archMap`,
//! `includes`, `excludes`).
//!
//! Parsing checks everything that does not depend on the machine. A key that nobody knows is refused: `arg` in place of `args` would make
//! a rule wider than it is meant. Known are those of the runtime spec, of Docker and containerd, and of containers/common, which has
//! `errno` and `defaultErrno` with the number's name: they are taken beside the number only. Everything may have a `comment`. Bounds: [`PROFILE_BYTES_MAX`], [`NAMES_MAX`].

use super::Action;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The largest profile that is read.
pub const PROFILE_BYTES_MAX: usize = 1024 * 1024;
/// The most names of system calls in all rules together, each as often as it is there. There are some five hundred calls.
pub const NAMES_MAX: usize = 8192;
/// The most comparisons of one rule, and the most of all together times the names that they are for.
const CONDITIONS_MAX: usize = 4096;
/// libseccomp takes no longer name, and the kernel has none.
const NAME_BYTES_MAX: usize = 63;
/// System calls have as many.
const ARGUMENTS: u32 = 6;

/// A profile cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not JSON, or not of the right form.
    #[error("it is no seccomp profile in JSON")]
    Json(#[from] serde_json::Error),
    /// Over a bound.
    #[error("{what} are over the limit of {limit}")]
    TooMuch {
        /// "1048577 bytes"
        what: String,
        /// The bound.
        limit: usize,
    },
    /// No action of this name.
    #[error("{name:?} is no action")]
    Action {
        /// As it is written.
        name: String,
    },
    /// The supervisor of a filter.
    #[error("SCMP_ACT_NOTIFY needs a listener, which podbox does not give")]
    Notify,
    /// An error number that cannot be.
    #[error("{errno} is no error number")]
    Errno {
        /// As it is written.
        errno: u32,
    },
    /// An error number beside an action that has none.
    #[error("{name} takes no error number")]
    NeedlessErrno {
        /// The action.
        name: String,
    },
    /// An error by name alone.
    #[error("the error {name:?} has no number beside it")]
    ErrnoByName {
        /// As it is written.
        name: String,
    },
    /// No architecture of this name.
    #[error("{name:?} is no architecture")]
    Architecture {
        /// As it is written.
        name: String,
    },
    /// No flag of this name, or one for listeners.
    #[error("the flag {name:?} is not supported")]
    Flag {
        /// As it is written.
        name: String,
    },
    /// No comparison of this name.
    #[error("{name:?} is no comparison")]
    Comparison {
        /// As it is written.
        name: String,
    },
    /// System calls have six arguments.
    #[error("there is no argument {index}: the first is 0, the last 5")]
    Argument {
        /// As it is written.
        index: u32,
    },
    /// A rule for nothing.
    #[error("a rule names no system call")]
    NoName,
    /// A name that can be no system call's.
    #[error("{name:?} can be no system call's name")]
    Name {
        /// Its beginning.
        name: String,
    },
    /// `minKernel` is not two numbers.
    #[error("{version:?} is no kernel version")]
    KernelVersion {
        /// As it is written.
        version: String,
    },
}

/// What a kernel runs. Those that no machine of podbox's runs are names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `SCMP_ARCH_X86_64`
    X8664,
    /// `SCMP_ARCH_X86`
    X86,
    /// `SCMP_ARCH_X32`
    X32,
    /// `SCMP_ARCH_AARCH64`
    Aarch64,
    /// `SCMP_ARCH_ARM`
    Arm,
    /// Another one that there is, by its name in profiles.
    Foreign(&'static str),
}

impl Architecture {
    /// Of the machine that this is built for.
    pub const NATIVE: Self = if cfg!(target_arch = "x86_64") {
        Self::X8664
    } else if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::Foreign("SCMP_ARCH_NATIVE")
    };

    const OF_PODBOX: [Self; 5] = [Self::X8664, Self::X86, Self::X32, Self::Aarch64, Self::Arm];

    /// As profiles call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X8664 => "SCMP_ARCH_X86_64",
            Self::X86 => "SCMP_ARCH_X86",
            Self::X32 => "SCMP_ARCH_X32",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Arm => "SCMP_ARCH_ARM",
            Self::Foreign(name) => name,
        }
    }

    fn parse(name: &str) -> Result<Self, ProfileError> {
        const FOREIGN: [&str; 17] = [
            "SCMP_ARCH_LOONGARCH64",
            "SCMP_ARCH_M68K",
            "SCMP_ARCH_MIPS",
            "SCMP_ARCH_MIPS64",
            "SCMP_ARCH_MIPS64N32",
            "SCMP_ARCH_MIPSEL",
            "SCMP_ARCH_MIPSEL64",
            "SCMP_ARCH_MIPSEL64N32",
            "SCMP_ARCH_PARISC",
            "SCMP_ARCH_PARISC64",
            "SCMP_ARCH_PPC",
            "SCMP_ARCH_PPC64",
            "SCMP_ARCH_PPC64LE",
            "SCMP_ARCH_RISCV64",
            "SCMP_ARCH_S390",
            "SCMP_ARCH_S390X",
            "SCMP_ARCH_SH",
        ];
        match name {
            "SCMP_ARCH_NATIVE" => Ok(Self::NATIVE),
            _ => Self::OF_PODBOX
                .into_iter()
                .find(|architecture| architecture.name() == name)
                .or_else(|| FOREIGN.into_iter().find(|foreign| *foreign == name).map(Self::Foreign))
                .ok_or_else(|| ProfileError::Architecture { name: name.chars().take(64).collect() }),
        }
    }
}

/// Flags of `SECCOMP_SET_MODE_FILTER`. All are off where a profile names none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// Log all but what is allowed.
    pub log: bool,
    /// Leave speculative store bypass as it is.
    pub spec_allow: bool,
    /// All threads.
    pub tsync: bool,
}

/// How an argument is compared, as a number of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `SCMP_CMP_NE`
    NotEqual,
    /// `SCMP_CMP_LT`
    Less,
    /// `SCMP_CMP_LE`
    LessOrEqual,
    /// `SCMP_CMP_EQ`
    Equal,
    /// `SCMP_CMP_GE`
    GreaterOrEqual,
    /// `SCMP_CMP_GT`
    Greater,
    /// `SCMP_CMP_MASKED_EQ`: what is left of the argument by the mask.
    MaskedEqual {
        /// The mask.
        mask: u64,
    },
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// 0 to 5.
    pub argument: u8,
    /// How it is compared.
    pub comparison: Comparison,
    /// What with.
    pub value: u64,
}

/// Where a rule holds, or does not: all of it must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// Capabilities, as `CAP_NAME`.
    pub capabilities: Vec<String>,
    /// Architectures as Go names them: `amd64`, `arm64`.
    pub architectures: Vec<String>,
    /// The oldest kernel, major and minor number.
    pub kernel_min: Option<(u32, u32)>,
}

/// A rule for some calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Names of system calls; at least one.
    pub names: Vec<String>,
    /// What becomes of them.
    pub action: Action,
    /// Where all of these hold. Of several on one argument, one has to.
    pub conditions: Vec<Condition>,
    /// Only there.
    pub includes: Guard,
    /// Not there.
    pub excludes: Guard,
}

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What becomes of a call without a rule.
    pub default_action: Action,
    /// The profile says with which error number such a call fails.
    pub default_errno_is_explicit: bool,
    /// Beside the native one.
    pub architectures: Vec<Architecture>,
    /// How it is loaded.
    pub flags: Flags,
    /// In the order of the file.
    pub rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenProfile {
    #[serde(default, rename = "comment")]
    _comment: IgnoredAny,
    default_action: String,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<WrittenArchitectures>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    #[serde(default, rename = "listenerMetadata")]
    _listener_metadata: IgnoredAny,
    syscalls: Option<Vec<WrittenRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenArchitectures {
    #[serde(default, rename = "comment")]
    _comment: IgnoredAny,
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRule {
    #[serde(default, rename = "comment")]
    _comment: IgnoredAny,
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    errno: Option<String>,
    args: Option<Vec<WrittenCondition>>,
    includes: Option<WrittenGuard>,
    excludes: Option<WrittenGuard>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenCondition {
    #[serde(default, rename = "comment")]
    _comment: IgnoredAny,
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenGuard {
    #[serde(default, rename = "comment")]
    _comment: IgnoredAny,
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// podbox's own profile, for containers that ask for the runtime's default.
///
/// # Panics
/// It does not parse, which a test sees.
#[must_use]
pub fn runtime_default() -> Profile {
    Profile::parse(include_bytes!("default.json")).expect("the profile is part of this program")
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// It is malformed, over a bound, or asks for what podbox does not give; the first fault is named.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProfileError> {
        if bytes.len() > PROFILE_BYTES_MAX {
            return Err(ProfileError::TooMuch { what: format!("{} bytes", bytes.len()), limit: PROFILE_BYTES_MAX });
        }
        let written: WrittenProfile = serde_json::from_slice(bytes)?;
        if written.listener_path.is_some_and(|path| !path.is_empty()) {
            return Err(ProfileError::Notify);
        }
        check_errno(written.default_errno, written.default_errno_ret)?;
        let rules: Vec<Rule> = written.syscalls.into_iter().flatten().map(Rule::try_from).collect::<Result<_, _>>()?;
        check_extent(&rules)?;
        Ok(Self {
            default_action: Action::parse(&written.default_action, written.default_errno_ret)?,
            default_errno_is_explicit: written.default_errno_ret.is_some(),
            architectures: architectures(written.architectures, written.arch_map)?,
            flags: flags(&written.flags.unwrap_or_default())?,
            rules,
        })
    }
}

/// An error's name says nothing to the runtimes that read numbers.
fn check_errno(name: Option<String>, number: Option<u32>) -> Result<(), ProfileError> {
    match name {
        Some(name) if number.is_none() && !name.is_empty() => Err(ProfileError::ErrnoByName { name: name.chars().take(64).collect() }),
        _ => Ok(()),
    }
}

fn check_extent(rules: &[Rule]) -> Result<(), ProfileError> {
    let names: usize = rules.iter().map(|rule| rule.names.len()).sum();
    if names > NAMES_MAX {
        return Err(ProfileError::TooMuch { what: format!("{names} names of system calls"), limit: NAMES_MAX });
    }
    let conditions: usize = rules.iter().map(|rule| rule.names.len() * rule.conditions.len()).sum();
    if conditions > CONDITIONS_MAX {
        return Err(ProfileError::TooMuch { what: format!("{conditions} conditions"), limit: CONDITIONS_MAX });
    }
    Ok(())
}

/// Either all that there are, or by what is native.
fn architectures(plain: Option<Vec<String>>, map: Option<Vec<WrittenArchitectures>>) -> Result<Vec<Architecture>, ProfileError> {
    let mut found = Vec::new();
    for name in plain.into_iter().flatten() {
        found.push(Architecture::parse(&name)?);
    }
    let mut of_map = Vec::new();
    for entry in map.into_iter().flatten() {
        let is_native = Architecture::parse(&entry.architecture)? == Architecture::NATIVE;
        for name in entry.sub_architectures.into_iter().flatten() {
            let architecture = Architecture::parse(&name)?;
            if is_native {
                of_map.push(architecture);
            }
        }
    }
    Ok(if found.is_empty() { of_map } else { found })
}

fn flags(names: &[String]) -> Result<Flags, ProfileError> {
    let mut flags = Flags::default();
    for name in names {
        match name.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => flags.log = true,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => flags.spec_allow = true,
            "SECCOMP_FILTER_FLAG_TSYNC" => flags.tsync = true,
            other => return Err(ProfileError::Flag { name: other.chars().take(64).collect() }),
        }
    }
    Ok(flags)
}

impl TryFrom<WrittenRule> for Rule {
    type Error = ProfileError;

    fn try_from(written: WrittenRule) -> Result<Self, ProfileError> {
        let mut names = written.names.unwrap_or_default();
        names.extend(written.name);
        if names.is_empty() {
            return Err(ProfileError::NoName);
        }
        let is_name = |name: &&String| !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            return Err(ProfileError::Name { name: name.chars().take(64).collect() });
        }
        check_errno(written.errno, written.errno_ret)?;
        let conditions: Vec<Condition> = written.args.into_iter().flatten().map(Condition::try_from).collect::<Result<_, _>>()?;
        Ok(Self {
            names,
            action: Action::parse(&written.action, written.errno_ret)?,
            conditions,
            includes: written.includes.map_or(Ok(Guard::default()), Guard::try_from)?,
            excludes: written.excludes.map_or(Ok(Guard::default()), Guard::try_from)?,
        })
    }
}

impl TryFrom<WrittenCondition> for Condition {
    type Error = ProfileError;

    fn try_from(written: WrittenCondition) -> Result<Self, ProfileError> {
        let argument = u8::try_from(written.index).ok().filter(|_| written.index < ARGUMENTS);
        let argument = argument.ok_or(ProfileError::Argument { index: written.index })?;
        let (comparison, value) = match written.op.as_str() {
            "SCMP_CMP_NE" => (Comparison::NotEqual, written.value),
            "SCMP_CMP_LT" => (Comparison::Less, written.value),
            "SCMP_CMP_LE" => (Comparison::LessOrEqual, written.value),
            "SCMP_CMP_EQ" => (Comparison::Equal, written.value),
            "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, written.value),
            "SCMP_CMP_GT" => (Comparison::Greater, written.value),
            "SCMP_CMP_MASKED_EQ" => (Comparison::MaskedEqual { mask: written.value }, written.value_two),
            other => return Err(ProfileError::Comparison { name: other.chars().take(64).collect() }),
        };
        Ok(Self { argument, comparison, value })
    }
}

impl TryFrom<WrittenGuard> for Guard {
    type Error = ProfileError;

    fn try_from(written: WrittenGuard) -> Result<Self, ProfileError> {
        let kernel = |version: String| {
            let numbers = version.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
            numbers.ok_or(ProfileError::KernelVersion { version: version.chars().take(64).collect() })
        };
        Ok(Self {
            capabilities: written.caps.unwrap_or_default(),
            architectures: written.arches.unwrap_or_default(),
            kernel_min: written.min_kernel.map(kernel).transpose()?,
        })
    }
}
