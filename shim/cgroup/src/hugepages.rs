//! Huge pages, by their size.

use crate::hierarchies::Home;
use crate::writer::Writer;
use crate::{CgroupPath, Controller, Error, Hierarchies, v2};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// More digits than the kernel puts before a unit.
const DIGITS_MAX: usize = 6;

/// A size of huge pages as the kernel spells it in file names: a number and `KB`, `MB` or `GB`, such as `2MB`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HugepageSize(String);

/// The text is no [`HugepageSize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a size of huge pages is a number and KB, MB or GB, like 2MB")]
pub struct InvalidHugepageSize;

impl HugepageSize {
    /// Checks a size. Whether this host has pages of it is another question.
    pub fn new(size: impl Into<String>) -> Result<Self, InvalidHugepageSize> {
        let size = size.into();
        let digits = ["KB", "MB", "GB"].into_iter().find_map(|unit| size.strip_suffix(unit)).ok_or(InvalidHugepageSize)?;
        let plain =
            (1..=DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
        if plain { Ok(Self(size)) } else { Err(InvalidHugepageSize) }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HugepageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HugepageSize {
    type Error = InvalidHugepageSize;
    fn try_from(size: String) -> Result<Self, InvalidHugepageSize> {
        Self::new(size)
    }
}

impl From<HugepageSize> for String {
    fn from(size: HugepageSize) -> Self {
        size.0
    }
}

/// Limits what is used, and what is reserved where the kernel can (Linux 5.7): a reservation beyond the limit would be taken and end
/// in `SIGBUS` only when it is used. Where there are no such pages, or nothing to limit them with, a limit of 0 holds by itself.
pub(crate) fn set(writer: &mut Writer, host: &Hierarchies, path: &CgroupPath, limits: &BTreeMap<HugepageSize, u64>) -> Result<(), Error> {
    let home = host.home(Controller::Hugetlb, path);
    for (size, limit_bytes) in limits {
        let (directory, suffix) = match &home {
            Some(Home::V1(directory)) => (directory, "limit_in_bytes"),
            Some(Home::V2(directory)) => (directory, "max"),
            None if *limit_bytes == 0 => continue,
            None => return Err(Error::NoController { cgroup: path.clone(), controller: Controller::Hugetlb }),
        };
        let (used, reserved) = (format!("hugetlb.{size}.{suffix}"), format!("hugetlb.{size}.rsvd.{suffix}"));
        if !directory.join(&used).exists() && directory.exists() {
            if *limit_bytes == 0 {
                continue;
            }
            if matches!(&home, Some(Home::V2(_))) && !v2::has_controller(directory, Controller::Hugetlb) {
                return Err(Error::NoController { cgroup: path.clone(), controller: Controller::Hugetlb });
            }
            return Err(Error::NoHugepages { cgroup: path.clone(), size: size.clone() });
        }
        let value = limit_bytes.to_string();
        writer.set(directory, &used, &value)?;
        if directory.join(&reserved).exists() {
            writer.set(directory, &reserved, &value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_part_of_a_file_name_is_a_size() {
        for size in ["64KB", "2MB", "512MB", "1GB"] {
            assert_eq!(HugepageSize::new(size).expect(size).as_str(), size);
        }
        for text in ["", "MB", "2", "2mb", "2 MB", "02MB", "-2MB", "2M", "2MiB", "2MB/..", "../2MB", "1234567KB", "2TB", "２MB"] {
            assert_eq!(HugepageSize::new(text), Err(InvalidHugepageSize), "{text:?}");
        }
        assert!(serde_json::from_str::<HugepageSize>("\"../x\"").is_err());
    }
}
