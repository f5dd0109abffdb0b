//! Slices: `a-b.slice` is in `a.slice`, its cgroup is `/a.slice/a-b.slice` (`systemd.slice(5)`).

use serde::{Deserialize, Serialize};
use std::fmt;

const SUFFIX: &str = ".slice";
/// `UNIT_NAME_MAX`, without the NUL that it counts.
const NAME_BYTES_MAX: usize = 255;

/// A slice below the root slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slice {
    /// Without the suffix.
    stem: String,
}

/// Why a text names no slice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSlice {
    /// It does not end in `.slice`.
    #[error("a slice is due, whose name ends in `.slice`: the cgroup driver is systemd")]
    NotASlice,
    /// `-.slice`
    #[error("the root slice is not podbox's to use")]
    Root,
    /// A part between dashes is empty.
    #[error("a dash in a slice's name stands between two parts, and none of them is empty")]
    EmptyPart,
    /// It has a byte that no unit's name has.
    #[error("a slice's name has only letters, digits and `:_.\\-`")]
    ForbiddenByte,
    /// It is longer than systemd takes.
    #[error("a slice's name has at most {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// The path is not that of the slice that its last component names.
    #[error("the cgroup of that slice is {due}")]
    Elsewhere {
        /// Where systemd has it.
        due: String,
    },
}

impl Slice {
    /// By its unit's name, `a-b.slice`.
    ///
    /// # Errors
    /// systemd would not take the name either.
    pub fn new(name: &str) -> Result<Self, InvalidSlice> {
        let stem = name.strip_suffix(SUFFIX).ok_or(InvalidSlice::NotASlice)?;
        if stem == "-" {
            return Err(InvalidSlice::Root);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(InvalidSlice::TooLong);
        }
        if stem.split('-').any(str::is_empty) {
            return Err(InvalidSlice::EmptyPart);
        }
        if !stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte)) {
            return Err(InvalidSlice::ForbiddenByte);
        }
        Ok(Self { stem: stem.to_owned() })
    }

    /// By a request's `cgroup_parent`: a name alone, with or without a slash before it, or the whole path as the kubelet sends it.
    ///
    /// # Errors
    /// It names no slice, or a path where systemd does not have it.
    pub fn from_cgroup_parent(text: &str) -> Result<Self, InvalidSlice> {
        let (above, name) = text.rsplit_once('/').unwrap_or(("", text));
        let slice = Self::new(name)?;
        let due = slice.path();
        if above.is_empty() || text == due { Ok(slice) } else { Err(InvalidSlice::Elsewhere { due }) }
    }

    /// A plain path of the configuration as a slice, in the way in which Kubernetes translates: each component is a part of the
    /// name, a dash within one becomes `_`; `/podbox` is `podbox.slice`. What ends in `.slice` is one already.
    ///
    /// # Errors
    /// A component has what no unit's name has.
    pub fn from_path(path: &str) -> Result<Self, InvalidSlice> {
        if path.ends_with(SUFFIX) {
            return Self::from_cgroup_parent(path);
        }
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(|part| part.replace('-', "_")).collect();
        if parts.is_empty() {
            return Err(InvalidSlice::Root);
        }
        Self::new(&format!("{}{SUFFIX}", parts.join("-")))
    }

    /// The unit's name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}{SUFFIX}", self.stem)
    }

    /// Its cgroup, from the root.
    #[must_use]
    pub fn path(&self) -> String {
        self.lineage().iter().map(|slice| format!("/{}", slice.name())).collect()
    }

    /// The slices from below the root down to this one.
    #[must_use]
    pub fn lineage(&self) -> Vec<Self> {
        let ends = self.stem.match_indices('-').map(|(at, _)| at).chain([self.stem.len()]);
        ends.map(|end| Self { stem: self.stem[..end].to_owned() }).collect()
    }
}

impl TryFrom<String> for Slice {
    type Error = InvalidSlice;

    fn try_from(name: String) -> Result<Self, InvalidSlice> {
        Self::new(&name)
    }
}

impl From<Slice> for String {
    fn from(slice: Slice) -> Self {
        slice.name()
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SUFFIX}", self.stem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "kubepods-burstable-pod1234_5678.slice";
    const POD_PATH: &str = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_5678.slice";

    #[test]
    fn a_dash_in_the_name_is_a_level_of_the_tree() {
        assert_eq!(Slice::new(POD).expect("well-formed").path(), POD_PATH);
        assert_eq!(Slice::new("test.slice").expect("well-formed").path(), "/test.slice");
    }

    #[test]
    fn a_parent_is_a_name_or_the_path_that_belongs_to_it() {
        for text in [POD, POD_PATH, &format!("/{POD}")] {
            assert_eq!(Slice::from_cgroup_parent(text).map(|slice| slice.name()), Ok(POD.to_owned()), "{text}");
        }
        let due = POD_PATH.to_owned();
        for text in [format!("/elsewhere/{POD}"), format!("/kubepods.slice/{POD}"), format!("{POD_PATH}/")] {
            let refused = Slice::from_cgroup_parent(&text).expect_err(&text);
            assert!(refused == InvalidSlice::Elsewhere { due: due.clone() } || refused == InvalidSlice::NotASlice, "{text}: {refused}");
        }
    }

    #[test]
    fn what_systemd_would_not_take_is_refused() {
        for (name, why) in [
            ("", InvalidSlice::NotASlice),
            ("/kubepods/pod1", InvalidSlice::NotASlice),
            ("pod.scope", InvalidSlice::NotASlice),
            ("-.slice", InvalidSlice::Root),
            (".slice", InvalidSlice::EmptyPart),
            ("-a.slice", InvalidSlice::EmptyPart),
            ("a-.slice", InvalidSlice::EmptyPart),
            ("a--b.slice", InvalidSlice::EmptyPart),
            ("a b.slice", InvalidSlice::ForbiddenByte),
            ("a\nb.slice", InvalidSlice::ForbiddenByte),
            ("ä.slice", InvalidSlice::ForbiddenByte),
            ("a%n.slice", InvalidSlice::ForbiddenByte),
        ] {
            assert_eq!(Slice::from_cgroup_parent(name), Err(why), "{name:?}");
        }
        assert_eq!(Slice::new(&format!("{}.slice", "a".repeat(250))), Err(InvalidSlice::TooLong));
        assert_eq!(Slice::new("a/../b.slice"), Err(InvalidSlice::ForbiddenByte));
    }

    #[test]
    fn a_plain_path_becomes_a_slice_as_kubernetes_does_it() {
        for (path, name) in [
            ("/podbox", "podbox.slice"),
            ("/my/pods", "my-pods.slice"),
            ("/with-dash/b", "with_dash-b.slice"),
            ("/podbox.slice", "podbox.slice"),
            ("/a.slice/a-b.slice", "a-b.slice"),
        ] {
            assert_eq!(Slice::from_path(path).map(|slice| slice.name()), Ok(name.to_owned()), "{path}");
        }
        assert_eq!(Slice::from_path("/"), Err(InvalidSlice::Root));
    }
}
