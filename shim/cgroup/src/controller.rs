//! The resource controllers that podbox uses.

use std::collections::BTreeSet;
use std::fmt;

/// A set of controllers.
pub type Controllers = BTreeSet<Controller>;

/// A controller that podbox uses; a host's other controllers (`perf_event`, `net_cls`, `rdma`, …) are left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// CPU time: weight and quota.
    Cpu,
    /// CPU accounting; on v2 a part of [`Controller::Cpu`].
    Cpuacct,
    /// Which CPUs and memory nodes.
    Cpuset,
    /// Memory and swap.
    Memory,
    /// Number of tasks.
    Pids,
    /// Device access; on v2 a BPF program and no controller.
    Devices,
    /// Freezing; on v2 a core file and no controller.
    Freezer,
    /// Block I/O: `blkio` on v1, `io` on v2.
    BlockIo,
    /// Huge pages.
    Hugetlb,
}

impl Controller {
    /// All of them, in the order in which a newborn joins their v1 hierarchies.
    pub(crate) const ALL: [Self; 9] =
        [Self::Freezer, Self::Pids, Self::Memory, Self::Cpu, Self::Cpuacct, Self::Cpuset, Self::Devices, Self::BlockIo, Self::Hugetlb];

    /// The name in the options of a v1 mount.
    pub fn v1_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::BlockIo => "blkio",
            Self::Hugetlb => "hugetlb",
        }
    }

    /// The name in `cgroup.controllers`; `None` for what is no controller on v2.
    pub fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Cpuacct | Self::Devices | Self::Freezer => None,
            Self::BlockIo => Some("io"),
            other => Some(other.v1_name()),
        }
    }

    pub(crate) fn from_v1_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|controller| controller.v1_name() == name)
    }

    /// Those of podbox's controllers that a list such as `cgroup.controllers` names.
    pub(crate) fn of_v2_list(list: &str) -> Controllers {
        list.split_ascii_whitespace().filter_map(Self::from_v2_name).collect()
    }

    pub(crate) fn from_v2_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|controller| controller.v2_name() == Some(name))
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.v1_name())
    }
}
