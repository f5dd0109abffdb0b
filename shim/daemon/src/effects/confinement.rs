//! Profiles that confine processes: found, read, compiled, and refused by name where this node cannot keep what is asked for.

use super::apparmor::{self, AppArmorError, DEFAULT_PROFILE, DefaultProfile};
use super::facts::kernel_version;
use super::selinux::{self, SelinuxError};
use crate::plan::{Layout, ProcessConfinement, SeccompFilter};
use crate::request::{AppArmorProfile, Confinement, SeccompProfile, SelinuxContext};
use podbox_seccomp::{Compiled, Filter, FilterError, Filters, PROFILE_BYTES_MAX, Surroundings};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Confinement that was asked for and cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// The kernel filters no system calls.
    #[error("config.linux.security_context.seccomp: the kernel of this node has no seccomp filters")]
    NoSeccomp,
    /// A seccomp profile cannot be read.
    #[error("config.linux.security_context.seccomp: read the profile {}", path.display())]
    Read {
        /// Where it should stand.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else than a file.
    #[error("config.linux.security_context.seccomp: the profile {} is no regular file", path.display())]
    NoFile {
        /// Where it stands.
        path: PathBuf,
    },
    /// What was read is no profile that can be kept.
    #[error("config.linux.security_context.seccomp: the profile {profile}")]
    Seccomp {
        /// `runtime/default`, or its path.
        profile: String,
        /// Why.
        source: FilterError,
    },
    /// The filter or its profile cannot be kept.
    #[error("write {}, of the seccomp filter", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The profile that was kept with a filter cannot be read.
    #[error("read {}, of the seccomp filter", path.display())]
    Kept {
        /// Where it stands.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// AppArmor is not there.
    #[error("config.linux.security_context.apparmor: AppArmor is not enabled on this node")]
    NoAppArmor,
    /// The profile is not loaded.
    #[error("config.linux.security_context.apparmor: no profile {name:?} is loaded")]
    NotLoaded {
        /// Its name.
        name: String,
    },
    /// AppArmor would not.
    #[error("config.linux.security_context.apparmor")]
    AppArmor(#[from] AppArmorError),
    /// podbox's own profile cannot be had.
    #[error("config.linux.security_context.apparmor")]
    DefaultProfile(#[source] Arc<AppArmorError>),
    /// SELinux is not there.
    #[error("config.linux.security_context.selinux_options: SELinux is not enabled on this node")]
    NoSelinux,
    /// SELinux would not.
    #[error("config.linux.security_context.selinux_options")]
    Selinux(#[from] SelinuxError),
}

/// What the node's kernel can confine by, and the filters that were compiled.
#[derive(Debug)]
pub struct Confining {
    filters: Filters,
    kernel: (u32, u32),
    seccomp: bool,
    apparmor: bool,
    selinux: bool,
    default_profile: DefaultProfile,
}

/// What was found, before anything of it is written.
#[derive(Debug)]
pub struct Confined {
    confinement: ProcessConfinement,
    filter: Option<Arc<Filter>>,
}

impl Confined {
    /// Writes the filter to where the plan has it, if there is one, and its profile beside it.
    ///
    /// # Errors
    /// [`ConfinementError::Write`]
    pub fn written(self) -> Result<ProcessConfinement, ConfinementError> {
        if let (Some(filter), Some(planned)) = (&self.filter, &self.confinement.seccomp) {
            let write =
                |path: PathBuf, bytes: &[u8]| std::fs::write(&path, bytes).map_err(|source| ConfinementError::Write { path, source });
            write(planned.file.clone(), &filter.to_bytes())?;
            write(Layout::profile_of(&planned.file), filter.profile.as_bytes())?;
        }
        Ok(self.confinement)
    }
}

impl Confining {
    /// By what was found out of the node; `kernel` is its release.
    #[must_use]
    pub fn new(kernel: &str, seccomp: bool, apparmor: bool, selinux: bool) -> Self {
        let kernel = kernel_version(kernel).unwrap_or_default();
        Self { filters: Filters::default(), kernel, seccomp, apparmor, selinux, default_profile: DefaultProfile::default() }
    }

    /// Loads podbox's AppArmor profile ahead of the first container, where there is AppArmor.
    pub fn prepare(&self) {
        if self.apparmor {
            // Kept for Status, and tried again by who wants it.
            let _ = self.default_profile.ensure_loaded();
        }
    }

    /// Why containers that ask for no AppArmor profile are not confined, on a node that has AppArmor.
    #[must_use]
    pub fn lacks_default_profile(&self) -> Option<String> {
        self.default_profile.lacking()
    }

    /// Finds all that was asked for. A seccomp filter will stand in `file`.
    ///
    /// # Errors
    /// Something cannot be had; it is named.
    pub fn confine(&self, asked: &Confinement, capabilities: BTreeSet<String>, file: PathBuf) -> Result<Confined, ConfinementError> {
        let (seccomp, filter) = self.seccomp(&asked.seccomp, capabilities, file)?.unzip();
        let confinement = ProcessConfinement {
            seccomp,
            apparmor: self.apparmor(&asked.apparmor)?,
            selinux: asked.selinux.as_ref().map(|context| self.selinux(context)).transpose()?,
        };
        Ok(Confined { confinement, filter })
    }

    fn seccomp(
        &self,
        asked: &SeccompProfile,
        capabilities: BTreeSet<String>,
        file: PathBuf,
    ) -> Result<Option<(SeccompFilter, Arc<Filter>)>, ConfinementError> {
        if *asked == SeccompProfile::Unconfined {
            return Ok(None);
        }
        if !self.seccomp {
            return Err(ConfinementError::NoSeccomp);
        }
        let begun = Instant::now();
        let surroundings = Surroundings { capabilities, kernel: self.kernel };
        let (profile, compiled) = match asked {
            SeccompProfile::Localhost(path) => {
                (path.to_string_lossy().into_owned(), self.filters.of_profile(&read_profile(path)?, surroundings))
            }
            _ => ("runtime/default".to_owned(), self.filters.runtime_default(surroundings)),
        };
        let Compiled { filter, is_new } = compiled.map_err(|source| ConfinementError::Seccomp { profile: profile.clone(), source })?;
        let instructions = filter.instructions.len();
        if is_new {
            let taken_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            tracing::debug!(profile, instructions, taken_us, "compiled a seccomp profile");
            if !filter.unknown.is_empty() {
                tracing::warn!(profile, unknown = filter.unknown.join(" "), "the seccomp profile names system calls that nobody knows");
            }
        }
        let podbox_seccomp::Flags { log, spec_allow, tsync } = filter.flags;
        Ok(Some((SeccompFilter { file, profile, instructions, log, spec_allow, tsync }, filter)))
    }

    fn apparmor(&self, asked: &AppArmorProfile) -> Result<Option<String>, ConfinementError> {
        match asked {
            AppArmorProfile::Unconfined => Ok(None),
            AppArmorProfile::Unspecified if !self.apparmor => Ok(None),
            _ if !self.apparmor => Err(ConfinementError::NoAppArmor),
            AppArmorProfile::Unspecified | AppArmorProfile::RuntimeDefault => match self.default_profile.ensure_loaded() {
                Ok(()) => Ok(Some(DEFAULT_PROFILE.to_owned())),
                // A node that never had it confines who asks for nothing by nothing, and says so in Status.
                Err(_) if *asked == AppArmorProfile::Unspecified && self.lacks_default_profile().is_some() => Ok(None),
                Err(error) => Err(ConfinementError::DefaultProfile(error)),
            },
            AppArmorProfile::Localhost(name) if apparmor::is_loaded(name)? => Ok(Some(name.clone())),
            AppArmorProfile::Localhost(name) => Err(ConfinementError::NotLoaded { name: name.clone() }),
        }
    }

    fn selinux(&self, asked: &SelinuxContext) -> Result<String, ConfinementError> {
        if !self.selinux {
            return Err(ConfinementError::NoSelinux);
        }
        let or = |part: &'static str, text: &String| if text.is_empty() { part.to_owned() } else { text.clone() };
        let SelinuxContext { user, role, kind, level } = asked;
        let context = format!("{}:{}:{}:{}", or("system_u", user), or("system_r", role), or("container_t", kind), or("s0", level));
        Ok(selinux::canonical_context(&context)?)
    }
}

/// The profile of a filter that stands in `filter`, as `linux.seccomp` of the OCI runtime spec; `None` where there is no filter, or one of a
/// podbox that did not keep its profile.
///
/// # Errors
/// [`ConfinementError::Kept`]
pub fn kept_profile(filter: &Path) -> Result<Option<serde_json::Value>, ConfinementError> {
    let path = Layout::profile_of(filter);
    match std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?)) {
        Ok(profile) => Ok(Some(profile)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfinementError::Kept { path, source }),
    }
}

/// A profile's text: a regular file's, not beyond a link, and no more of it than a profile may have.
fn read_profile(path: &Path) -> Result<Vec<u8>, ConfinementError> {
    let failed = |source| ConfinementError::Read { path: path.to_owned(), source };
    // Opening a pipe would wait for who writes to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(ConfinementError::NoFile { path: path.to_owned() });
    }
    let mut text = Vec::new();
    // One byte more is too much, and is told so by who parses.
    file.take(PROFILE_BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}
