//! Raw settings: files of v2 controllers by their names, `unified` in the OCI runtime specification.

use crate::hierarchies::Home;
use crate::v2;
use crate::writer::Writer;
use crate::{CgroupPath, Controller, Error, Hierarchies};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;

/// `NAME_MAX`
const NAME_BYTES_MAX: usize = 255;
/// The file that has the same name, and whose content means the same, on v1.
const SAME_ON_V1: &str = "pids.max";

/// The name of a v2 controller's file, such as `memory.high`. Never a core file (`cgroup.procs`), never a path, and never a file that
/// asks for an action or a notification and sets nothing (`memory.reclaim`, `cpu.pressure`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SettingName(String);

/// Why a text is no [`SettingName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSetting {
    /// It could lead to another directory.
    #[error("a file's name is due, without a slash and without `..`")]
    Path,
    /// It is empty, too long, or has a byte that no control file's name has.
    #[error("letters, digits, dots and underscores are due, 255 at most")]
    Malformed,
    /// It belongs to the cgroup itself.
    #[error("the files of the cgroup core are podbox's to write")]
    Core,
    /// It begins with no controller that podbox gives to containers.
    #[error("the name begins with none of cpu, cpuset, memory, io, pids and hugetlb")]
    UnknownController,
    /// It does not hold a value.
    #[error("the file takes orders and holds no limit")]
    NoLimit,
}

impl SettingName {
    /// Checks a name. Whether this host's kernel has such a file shows when it is written.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidSetting> {
        let name = name.into();
        if name.contains('/') || name.contains("..") {
            return Err(InvalidSetting::Path);
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
            return Err(InvalidSetting::Malformed);
        }
        let (prefix, rest) = name.split_once('.').ok_or(InvalidSetting::UnknownController)?;
        if prefix == "cgroup" {
            return Err(InvalidSetting::Core);
        }
        if rest.is_empty() || Controller::from_v2_name(prefix).is_none() {
            return Err(InvalidSetting::UnknownController);
        }
        if matches!(rest, "reclaim" | "pressure") {
            return Err(InvalidSetting::NoLimit);
        }
        Ok(Self(name))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn controller(&self) -> Option<Controller> {
        self.0.split_once('.').and_then(|(prefix, _)| Controller::from_v2_name(prefix))
    }
}

impl fmt::Display for SettingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SettingName {
    type Error = InvalidSetting;
    fn try_from(name: String) -> Result<Self, InvalidSetting> {
        Self::new(name)
    }
}

impl From<SettingName> for String {
    fn from(name: SettingName) -> Self {
        name.0
    }
}

impl std::borrow::Borrow<str> for SettingName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Writes the value as it is, line by line: files such as `io.max` take a line a device.
pub(crate) fn set(writer: &mut Writer, host: &Hierarchies, path: &CgroupPath, name: &SettingName, value: &str) -> Result<(), Error> {
    let file = name.as_str();
    match name.controller().and_then(|controller| host.home(controller, path)) {
        // The cgroup is there and the file is not: this kernel has none.
        Some(Home::V2(directory)) if directory.exists() && !directory.join(file).exists() => {
            Err(Error::UnknownSetting { cgroup: path.clone(), name: name.clone() })
        }
        Some(Home::V2(directory)) if file == v2::MEMORY_LIMIT => v2::set_memory_limit(writer, path, &directory, value),
        Some(Home::V2(directory)) => match writer.set(&directory, file, value) {
            // The same number says that the cgroup is gone.
            Err(Error::Write { source, .. }) if source.raw_os_error() == Some(Errno::NODEV.raw_os_error()) && directory.exists() => {
                Err(Error::NoDevice { cgroup: path.clone(), name: name.clone(), value: value.to_owned() })
            }
            other => other,
        },
        Some(Home::V1(directory)) if file == SAME_ON_V1 => writer.set(&directory, file, value),
        Some(Home::V1(_)) => Err(Error::SettingNeedsV2 { cgroup: path.clone(), name: name.clone() }),
        None => Err(Error::UnknownSetting { cgroup: path.clone(), name: name.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_controllers_that_hold_a_limit_are_settings() {
        for name in ["memory.high", "memory.oom.group", "hugetlb.2MB.rsvd.max", "io.bfq.weight", "pids.max", "cpu.uclamp.max"] {
            assert_eq!(SettingName::new(name).expect(name).as_str(), name);
        }
        let refused = [
            ("", InvalidSetting::Malformed),
            ("memory.high\n", InvalidSetting::Malformed),
            ("memory high", InvalidSetting::Malformed),
            ("../memory.high", InvalidSetting::Path),
            ("memory.x/../../cgroup.procs", InvalidSetting::Path),
            ("memory..high", InvalidSetting::Path),
            ("cgroup.procs", InvalidSetting::Core),
            ("cgroup.kill", InvalidSetting::Core),
            ("memory", InvalidSetting::UnknownController),
            ("memory.", InvalidSetting::UnknownController),
            (".max", InvalidSetting::UnknownController),
            ("nonsense.max", InvalidSetting::UnknownController),
            ("freezer.state", InvalidSetting::UnknownController),
            ("memory.reclaim", InvalidSetting::NoLimit),
            ("io.pressure", InvalidSetting::NoLimit),
        ];
        for (name, why) in refused {
            assert_eq!(SettingName::new(name), Err(why), "{name:?}");
        }
        assert_eq!(SettingName::new(format!("memory.{}", "x".repeat(255))), Err(InvalidSetting::Malformed));
    }
}
