//! Which devices the processes of a cgroup may use (runtime-spec, `config-linux.md`, "Allowed Device list").
//!
//! Everything is denied but what the rules allow. v1 keeps such a list itself; v2 asks a BPF program, which [`program`] assembles from the
//! rules. Either way the kernel holds on to it for as long as the cgroup lives, so whoever set it may end.
//!
//! A process that runs while the rules are set could be denied what it has; they are for a cgroup that is empty yet.

mod program;

use crate::hierarchies::Home;
use crate::{CgroupPath, Controller, Error, Hierarchies, v1};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// The kernel verifies every way through the program, and there are about as many as the square of the rules.
const RULES_MAX: usize = 512;

/// The two kinds of device files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// What may be done with a device. As text: some of the letters `r`, `w` and `m`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeviceAccess {
    /// Open it to read.
    pub read: bool,
    /// Open it to write.
    pub write: bool,
    /// Make a file for it: `mknod(2)`.
    pub mknod: bool,
}

/// A text is not made of the letters `r`, `w` and `m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one or more of the letters r, w and m are due")]
pub struct InvalidAccess;

/// Some devices, and what may be done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Character or block devices.
    pub kind: DeviceKind,
    /// Those with this major number; `None` is all.
    pub major: Option<u32>,
    /// Those with this minor number; `None` is all.
    pub minor: Option<u32>,
    /// What is allowed.
    pub access: DeviceAccess,
}

impl DeviceAccess {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, mknod: true };
    /// Making files.
    pub const MKNOD: Self = Self { read: false, write: false, mknod: true };

    fn and(self, other: Self) -> Self {
        Self { read: self.read || other.read, write: self.write || other.write, mknod: self.mknod || other.mknod }
    }

    fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl FromStr for DeviceAccess {
    type Err = InvalidAccess;

    fn from_str(text: &str) -> Result<Self, InvalidAccess> {
        let mut access = Self::default();
        for letter in text.chars() {
            match letter {
                'r' => access.read = true,
                'w' => access.write = true,
                'm' => access.mknod = true,
                _ => return Err(InvalidAccess),
            }
        }
        if access.is_none() { Err(InvalidAccess) } else { Ok(access) }
    }
}

impl fmt::Display for DeviceAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(self.read, "r"), (self.write, "w"), (self.mknod, "m")];
        letters.iter().filter(|(allowed, _)| *allowed).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// As `devices.allow` takes it: `c 1:* rw`.
impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        write!(f, "{letter} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

/// Denies every device but what the rules allow.
pub(crate) fn restrict(host: &Hierarchies, path: &CgroupPath, rules: &[DeviceRule]) -> Result<(), Error> {
    let rules = merged(rules);
    if rules.len() > RULES_MAX {
        return Err(Error::TooManyDevices { cgroup: path.clone(), count: rules.len(), max: RULES_MAX });
    }
    match (host.home(Controller::Devices, path), host.unified()) {
        (Some(Home::V1(directory)), _) => v1::restrict_devices(&directory, &rules),
        // On v2 it is no controller that could be there or not.
        (_, Some(unified)) => restrict_by_program(&path.below(&unified.mount_point), &rules),
        (_, None) => Err(Error::NoController { cgroup: path.clone(), controller: Controller::Devices }),
    }
}

/// One rule for the same devices: an open to read and write is one question, which no two rules could answer together.
fn merged(rules: &[DeviceRule]) -> Vec<DeviceRule> {
    let mut all: BTreeMap<(DeviceKind, Option<u32>, Option<u32>), DeviceAccess> = BTreeMap::new();
    for rule in rules {
        let access = all.entry((rule.kind, rule.major, rule.minor)).or_default();
        *access = access.and(rule.access);
    }
    let allowing = all.into_iter().filter(|(_, access)| !access.is_none());
    allowing.map(|((kind, major, minor), access)| DeviceRule { kind, major, minor, access }).collect()
}

fn restrict_by_program(directory: &Path, rules: &[DeviceRule]) -> Result<(), Error> {
    let failed = |step: &'static str| move |source: io::Error| Error::DeviceFilter { step, directory: directory.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cgroup = rustix::fs::open(directory, flags, Mode::empty()).map_err(|errno| failed("attach")(errno.into()))?;
    let program = podbox_sys::load_device_filter(&program::assemble(rules)).map_err(|error| failed("load")(error.errno().into()))?;
    podbox_sys::attach_device_filter(cgroup, program).map_err(|error| failed("attach")(error.errno().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_written_as_it_is_read() {
        for (text, written) in [("r", "r"), ("mrw", "rwm"), ("wwr", "rw"), ("m", "m")] {
            assert_eq!(text.parse::<DeviceAccess>().map(|access| access.to_string()).as_deref(), Ok(written));
        }
        for text in ["", "x", "rwmx", "RW", "r w", "*"] {
            assert_eq!(text.parse::<DeviceAccess>(), Err(InvalidAccess), "{text:?}");
        }
    }

    #[test]
    fn rules_of_the_same_devices_become_one() {
        let rule =
            |access: &str| DeviceRule { kind: DeviceKind::Block, major: Some(8), minor: None, access: access.parse().expect("letters") };
        let nothing = DeviceRule { access: DeviceAccess::default(), major: Some(9), ..rule("r") };
        assert_eq!(merged(&[rule("r"), nothing, rule("w")]), [rule("rw")]);
        assert_eq!(rule("rw").to_string(), "b 8:* rw");
    }
}
