//! A cgroup's path below the roots of the hierarchies.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `NAME_MAX`: the most bytes of one component.
const COMPONENT_BYTES_MAX: usize = 255;
/// Leaves room below `PATH_MAX` (4096) for the mount point before it and a control file's name behind it.
const PATH_BYTES_MAX: usize = 3072;

/// An absolute path such as `/kubepods/burstable/pod7`, the same in every hierarchy. Never the root itself, and nothing in
/// it can lead out of where it points: no `.`, `..`, empty component, NUL or newline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

/// Why a text is no [`CgroupPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// It does not begin with `/`.
    #[error("a cgroup path begins with `/`")]
    Relative,
    /// It is `/`.
    #[error("the root of the hierarchies is not podbox's to use")]
    Root,
    /// Two slashes follow each other, or one ends it.
    #[error("a component of the cgroup path is empty")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("`.` and `..` are not allowed in a cgroup path")]
    DotComponent,
    /// It has a byte that the kernel takes in no cgroup's name.
    #[error("a cgroup path has neither NUL nor newline")]
    ForbiddenByte,
    /// The path or one component is longer than the kernel takes.
    #[error("the cgroup path or one of its components is too long")]
    TooLong,
}

impl CgroupPath {
    /// Checks a path.
    pub fn new(path: impl Into<String>) -> Result<Self, InvalidPath> {
        let path = path.into();
        let below_root = path.strip_prefix('/').ok_or(InvalidPath::Relative)?;
        if below_root.is_empty() {
            return Err(InvalidPath::Root);
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(InvalidPath::TooLong);
        }
        for component in below_root.split('/') {
            check_component(component)?;
        }
        Ok(Self(path))
    }

    /// The cgroup `name` below this one.
    pub fn child(&self, name: &str) -> Result<Self, InvalidPath> {
        Self::new(format!("{}/{name}", self.0))
    }

    /// As text, with its leading `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where it is in a hierarchy mounted at `mount_point`.
    pub(crate) fn below(&self, mount_point: &Path) -> PathBuf {
        mount_point.join(self.0.trim_start_matches('/'))
    }
}

fn check_component(component: &str) -> Result<(), InvalidPath> {
    match component {
        "" => Err(InvalidPath::EmptyComponent),
        "." | ".." => Err(InvalidPath::DotComponent),
        _ if component.contains(['\0', '\n']) => Err(InvalidPath::ForbiddenByte),
        _ if component.len() > COMPONENT_BYTES_MAX => Err(InvalidPath::TooLong),
        _ => Ok(()),
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = InvalidPath;
    fn try_from(path: String) -> Result<Self, InvalidPath> {
        Self::new(path)
    }
}

impl FromStr for CgroupPath {
    type Err = InvalidPath;
    fn from_str(path: &str) -> Result<Self, InvalidPath> {
        Self::new(path)
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> Self {
        path.0
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_absolute_path_is_taken() {
        assert_eq!(CgroupPath::new("/kubepods/pod-1.slice").expect("plain").as_str(), "/kubepods/pod-1.slice");
        let refused = [
            ("", InvalidPath::Relative),
            ("podbox", InvalidPath::Relative),
            ("../podbox", InvalidPath::Relative),
            ("/", InvalidPath::Root),
            ("/a//b", InvalidPath::EmptyComponent),
            ("/a/", InvalidPath::EmptyComponent),
            ("/a/../b", InvalidPath::DotComponent),
            ("/./a", InvalidPath::DotComponent),
            ("/a\0", InvalidPath::ForbiddenByte),
            ("/a\nb", InvalidPath::ForbiddenByte),
        ];
        for (text, why) in refused {
            assert_eq!(CgroupPath::new(text), Err(why), "{text:?}");
        }
        assert_eq!(CgroupPath::new(format!("/{}", "x".repeat(256))), Err(InvalidPath::TooLong));
        assert_eq!(CgroupPath::new("/x".repeat(1600)), Err(InvalidPath::TooLong));
    }

    #[test]
    fn a_child_cannot_lead_elsewhere() {
        let pod = CgroupPath::new("/podbox/p").expect("plain");
        assert_eq!(pod.child("c").expect("plain").as_str(), "/podbox/p/c");
        assert_eq!(pod.child(".."), Err(InvalidPath::DotComponent));
        assert_eq!(pod.child(""), Err(InvalidPath::EmptyComponent));
    }

    #[test]
    fn a_record_with_a_bad_path_does_not_load() {
        assert!(serde_json::from_str::<CgroupPath>("\"/a/../../etc\"").is_err());
        let path: CgroupPath = serde_json::from_str("\"/a/b\"").expect("plain");
        assert_eq!(serde_json::to_string(&path).expect("text"), "\"/a/b\"");
    }
}
