//! The cgroup hierarchies that are mounted on this host, and which controller is where.
//!
//! Paths are relative to the root of each *mount*, wherever this process itself stands: the kubelet's absolute paths mean
//! the same. A v1 hierarchy without a controller that podbox uses (`name=systemd`, `perf_event`) is not in the list.

mod mountinfo;

use crate::{CgroupPath, Controller, Controllers, Error, control_file};
use mountinfo::{Mount, MountedAs};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// What the cgroup2 root can give away.
const AVAILABLE: &str = "cgroup.controllers";

/// Deeper than this nobody puts a pod, and a container that nests cgroups without end is not followed.
const FIND_DEPTH_MAX: u32 = 16;

/// Which kernel interface limits resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The unified hierarchy alone.
    V2,
    /// A hierarchy for each controller; the unified one may be mounted beside them.
    V1,
}

/// The hierarchies that podbox uses. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    v1: Arc<[V1Hierarchy]>,
    unified: Option<Arc<UnifiedHierarchy>>,
}

/// One mounted v1 hierarchy with at least one controller that podbox uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct V1Hierarchy {
    pub(crate) mount_point: PathBuf,
    pub(crate) controllers: Controllers,
}

/// The mounted cgroup2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnifiedHierarchy {
    pub(crate) mount_point: PathBuf,
    /// Those of podbox's controllers that its root can give away; empty on a hybrid host.
    pub(crate) controllers: Controllers,
}

/// Where a controller's files of one cgroup are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Home {
    V1(PathBuf),
    V2(PathBuf),
}

impl Hierarchies {
    /// Reads the mount table of this process. To be called once; what is mounted later is not seen.
    pub fn discover() -> Result<Self, Error> {
        let table = fs::read_to_string(MOUNTINFO);
        let table = table.map_err(|source| Error::ReadMountTable { file: MOUNTINFO.into(), source })?;
        Self::from_mountinfo(&table)
    }

    /// As [`discover`](Self::discover), from the text of a mount table (`proc_pid_mountinfo(5)`). Which controllers a cgroup2
    /// mount has is still read from the mount point.
    pub fn from_mountinfo(table: &str) -> Result<Self, Error> {
        let mut v1: Vec<V1Hierarchy> = Vec::new();
        let mut unified: Option<UnifiedHierarchy> = None;
        for Mount { mount_point, mounted } in mountinfo::cgroup_mounts(table) {
            match mounted {
                MountedAs::V1(controllers) if v1.iter().all(|known| known.controllers.is_disjoint(&controllers)) => {
                    v1.push(V1Hierarchy { mount_point, controllers });
                }
                MountedAs::Unified if unified.is_none() => {
                    let controllers = Controller::of_v2_list(&control_file::read(&mount_point, AVAILABLE)?);
                    unified = Some(UnifiedHierarchy { mount_point, controllers });
                }
                // The same hierarchy, mounted once more.
                MountedAs::V1(_) | MountedAs::Unified => {}
            }
        }
        if v1.is_empty() && unified.is_none() {
            return Err(Error::NoHierarchy);
        }
        let first_controller = |hierarchy: &V1Hierarchy| Controller::ALL.iter().position(|c| hierarchy.controllers.contains(c));
        v1.sort_by_key(first_controller);
        Ok(Self { v1: v1.into(), unified: unified.map(Arc::new) })
    }

    /// Which interface limits resources here.
    pub fn version(&self) -> Version {
        if self.v1.is_empty() { Version::V2 } else { Version::V1 }
    }

    /// Those of podbox's controllers that this host has, in whichever hierarchy.
    pub fn controllers(&self) -> Controllers {
        let v1 = self.v1.iter().flat_map(|hierarchy| &hierarchy.controllers);
        let unified = self.unified.iter().flat_map(|unified| &unified.controllers);
        v1.chain(unified).copied().collect()
    }

    /// Where the unified hierarchy is mounted, if it is.
    pub fn unified_mount_point(&self) -> Option<&Path> {
        self.unified.as_ref().map(|unified| unified.mount_point.as_path())
    }

    pub(crate) fn v1(&self) -> &[V1Hierarchy] {
        &self.v1
    }

    pub(crate) fn unified(&self) -> Option<&UnifiedHierarchy> {
        self.unified.as_deref()
    }

    /// The cgroups with one of these names, wherever they are, but for those below another one that is found. In one hierarchy: the
    /// unified one, or that of v1 which is joined first. Takes as long as it takes to list all cgroups.
    #[must_use]
    pub fn find(&self, names: &[&str]) -> Vec<CgroupPath> {
        let first_v1 = self.v1.first().map(|hierarchy| &hierarchy.mount_point);
        let Some(root) = self.unified.as_ref().map(|unified| &unified.mount_point).or(first_v1) else { return Vec::new() };
        let mut found = Vec::new();
        let mut unvisited = vec![(root.clone(), 0)];
        while let Some((directory, depth)) = unvisited.pop() {
            // What goes meanwhile is not there.
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let below = entry.path();
                if entry.file_name().to_str().is_some_and(|name| names.contains(&name)) {
                    let path = below.strip_prefix(root).ok().and_then(Path::to_str);
                    found.extend(path.and_then(|path| CgroupPath::new(format!("/{path}")).ok()));
                } else if depth < FIND_DEPTH_MAX {
                    unvisited.push((below, depth + 1));
                }
            }
        }
        found
    }

    /// Where the files of `controller` are for `path`; v1 goes first, because a controller is bound to one hierarchy only.
    pub(crate) fn home(&self, controller: Controller, path: &CgroupPath) -> Option<Home> {
        if let Some(v1) = self.v1.iter().find(|hierarchy| hierarchy.controllers.contains(&controller)) {
            return Some(Home::V1(path.below(&v1.mount_point)));
        }
        let unified = self.unified.as_ref().filter(|unified| unified.controllers.contains(&controller))?;
        Some(Home::V2(path.below(&unified.mount_point)))
    }
}

impl Home {
    /// The cgroup's directory, for files that have one name on both.
    pub(crate) fn directory(&self) -> &Path {
        match self {
            Self::V1(directory) | Self::V2(directory) => directory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1_controllers(host: &Hierarchies) -> Vec<Vec<&'static str>> {
        host.v1().iter().map(|h| h.controllers.iter().map(|c| c.v1_name()).collect()).collect()
    }

    const COMOUNTED: &str = "\
25 30 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
27 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
28 25 0:26 / /sys/fs/cgroup/perf_event rw - cgroup cgroup rw,perf_event
29 25 0:27 / /sys/fs/cgroup/memory rw shared:10 master:2 - cgroup cgroup rw,memory
31 25 0:25 / /srv/cg rw - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn comounted_controllers_are_one_hierarchy_and_foreign_ones_none() {
        let host = Hierarchies::from_mountinfo(COMOUNTED).expect("v1");
        assert_eq!(host.version(), Version::V1);
        assert_eq!(v1_controllers(&host), [vec!["memory"], vec!["cpu", "cpuacct"]]);
        let path = CgroupPath::new("/p").expect("plain");
        assert_eq!(host.home(Controller::Cpuacct, &path), Some(Home::V1("/sys/fs/cgroup/cpu,cpuacct/p".into())));
        assert_eq!(host.home(Controller::Pids, &path), None);
        assert_eq!(host.unified_mount_point(), None);
    }

    #[test]
    fn the_whole_hierarchy_is_preferred_to_a_part_and_escapes_are_undone() {
        let table = "\
40 1 0:25 /sub /run/part rw - cgroup cgroup rw,pids
41 1 0:25 / /run/with\\040space rw - cgroup cgroup rw,pids
42 1 0:26 /../.. /run/outside rw - cgroup cgroup rw,memory
";
        let host = Hierarchies::from_mountinfo(table).expect("v1");
        let path = CgroupPath::new("/p").expect("plain");
        assert_eq!(host.home(Controller::Pids, &path), Some(Home::V1("/run/with space/p".into())));
        assert_eq!(host.home(Controller::Memory, &path), None, "its root is outside of this cgroup namespace");
    }

    #[test]
    fn a_host_without_cgroups_is_told_so() {
        let table = "25 30 0:23 / / rw - ext4 /dev/vda rw\nnonsense\n";
        assert!(matches!(Hierarchies::from_mountinfo(table), Err(Error::NoHierarchy)));
    }
}
