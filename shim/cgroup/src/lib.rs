//! Cgroups of pods and containers: one face, two kernels.
//!
//! [`Hierarchies::discover`] reads once what the host has mounted; every [`Cgroup`] is a [`CgroupPath`] below the roots of
//! those hierarchies. On v2 there is one directory. On v1, and on hybrid hosts, there is one in each controller's hierarchy
//! that podbox uses, and one in the unified hierarchy if that is mounted beside them: births, `cgroup.kill` and
//! `cgroup.events` work there even without controllers.
//!
//! ```text
//! absent ──create──▶ made ──apply──▶ limited ──(births)──▶ populated ──kill, wait_empty──▶ empty ──remove──▶ absent
//! ```
//!
//! Invariants:
//! - No process is moved here. On v2 a process is born in its cgroup (`CLONE_INTO_CGROUP`); on v1 the newborn
//!   writes itself, by the directories that [`Cgroup::entry`] names.
//! - [`Cgroup::create`] leaves nothing behind when it fails, and tells in [`Made`] which directories it made, ancestors too.
//!   Nothing else is ever removed but a cgroup's own subtree.
//! - [`Cgroup::update`] changes all that it was asked to, or nothing.
//! - `create`, `kill` and `remove` may be repeated; what is gone already is success.
//! - The mount table is read once, never on the way of a pod's start.
//!
//! Nothing here knows pods, the CRI, ids or async; every call may block for as long as its documentation says.

mod cgroup;
mod control_file;
mod controller;
mod devices;
mod driver;
mod error;
mod freeze;
mod hierarchies;
mod hugepages;
mod id_list;
mod kill;
mod made;
mod path;
mod resources;
mod setting;
mod stats;
pub mod systemd;
mod tree;
mod v1;
mod v2;
mod writer;

pub use cgroup::{Cgroup, Entry, oom_kills};
pub use controller::{Controller, Controllers};
pub use devices::{DeviceAccess, DeviceKind, DeviceRule, InvalidAccess};
pub use driver::Driver;
pub use error::Error;
pub use hierarchies::{Hierarchies, Version};
pub use hugepages::{HugepageSize, InvalidHugepageSize};
pub use id_list::{IdList, InvalidIdList};
pub use kill::kill_members;
pub use made::Made;
pub use path::{CgroupPath, InvalidPath};
pub use resources::{Limit, Resources};
pub use setting::{InvalidSetting, SettingName};
pub use stats::{
    CpuDetails, Details, DeviceIo, HugetlbUsage, MemoryDetails, MemoryUsage, Meter, Pressure, Pressures, Stall, SwapUsage, Usage,
};
pub use writer::Changes;
