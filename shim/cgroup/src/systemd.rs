//! systemd's names for cgroups, and what a pod is in its tree. Nothing here talks to systemd.
//!
//! ```text
//! /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice    the kubelet's: its limits are the pod's
//!     podbox-SANDBOX.scope/                                                   systemd's, delegated to podbox (Delegate=yes)
//!         monitor/                                                            the monitor: it keeps the scope alive
//!         SANDBOX/                                                            pause
//!         CONTAINER/                                                          a container, with its limits
//! ```
//!
//! One scope a pod, and no process in the scope itself: controllers can then be given to what is below (`cgroups(7)`, "no
//! internal processes"). systemd writes to a delegated scope's own files only, never to those below it, so limits that podbox sets
//! there are out of reach of `systemctl daemon-reload`, and there is nothing that both would have to say alike. Nor does systemd
//! attach a device program to a scope without `DeviceAllow=`. (`systemd.resource-control(5)`; "Control Group APIs and
//! Delegation" of systemd's documentation.)

mod slice;

pub use slice::{InvalidSlice, Slice};

use crate::{CgroupPath, Error, Hierarchies, InvalidPath};
use std::fs;
use std::io;
use std::path::PathBuf;

/// The leaf of a pod's scope in which its monitor lives. No id is as short.
pub const MONITOR_LEAF: &str = "monitor";

/// A pod's scope: where it is, and what systemd calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    slice: Slice,
    unit: String,
}

impl Scope {
    /// The scope `podbox-ID.scope` in a slice. The id consists of letters and digits.
    #[must_use]
    pub fn new(slice: Slice, id: &str) -> Self {
        Self { slice, unit: Self::unit_of(id) }
    }

    /// The name of the scope of the sandbox `id`, whatever slice it is in.
    #[must_use]
    pub fn unit_of(id: &str) -> String {
        format!("podbox-{id}.scope")
    }

    /// The slice that it is in.
    #[must_use]
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    /// Its unit's name.
    #[must_use]
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Its cgroup.
    ///
    /// # Errors
    /// The slices are nested too deep for a path.
    pub fn path(&self) -> Result<CgroupPath, InvalidPath> {
        CgroupPath::new(format!("{}/{}", self.slice.path(), self.unit))
    }
}

/// Makes the monitor's leaf in a scope that systemd has made, and gives its directory. Plainly: as long as a process is in the
/// scope itself, no controller can be given to what is below.
///
/// # Errors
/// The scope is gone, or there is no unified hierarchy.
pub fn make_monitor_leaf(host: &Hierarchies, scope: &CgroupPath) -> Result<PathBuf, Error> {
    let unified = host.unified().ok_or(Error::NoHierarchy)?;
    let directory = scope.below(&unified.mount_point).join(MONITOR_LEAF);
    match fs::create_dir(&directory) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(Error::Make { directory, source }),
        _ => Ok(directory),
    }
}

/// Those of a slice and the slices above it that have no cgroup.
#[must_use]
pub fn absent_slices(host: &Hierarchies, slice: &Slice) -> Vec<Slice> {
    let Some(unified) = host.unified() else { return Vec::new() };
    let is_absent = |slice: &Slice| !unified.mount_point.join(slice.path().trim_start_matches('/')).exists();
    slice.lineage().into_iter().filter(is_absent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_scope_is_in_the_kubelets_slice() {
        let slice = Slice::from_cgroup_parent("/kubepods.slice/kubepods-pod1_2.slice").expect("well-formed");
        let scope = Scope::new(slice, "0123");
        assert_eq!(scope.unit(), "podbox-0123.scope");
        assert_eq!(scope.path().expect("short").as_str(), "/kubepods.slice/kubepods-pod1_2.slice/podbox-0123.scope");
        assert_eq!(Scope::unit_of("0123"), scope.unit());
    }
}
