//! What a cgroup may use.

use crate::hierarchies::Home;
use crate::{CgroupPath, Controller, Error, Hierarchies, control_file, v1, v2};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An upper bound, or the express wish for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// No bound.
    Unlimited,
    /// At most so much, in the unit that the field's name tells.
    At(u64),
}

impl Limit {
    /// As v2 files and `pids.max` write it.
    pub(crate) fn or_max(self) -> String {
        match self {
            Self::Unlimited => "max".to_owned(),
            Self::At(bound) => bound.to_string(),
        }
    }

    /// As most v1 files write it.
    pub(crate) fn or_minus_one(self) -> String {
        match self {
            Self::Unlimited => "-1".to_owned(),
            Self::At(bound) => bound.to_string(),
        }
    }
}

/// What to set in a cgroup. `None` leaves a setting as it is, so an update names only what it changes. The meanings are those
/// of the OCI runtime specification, "Control groups", whichever kernel it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory, page cache included.
    pub memory_limit_bytes: Option<Limit>,
    /// Memory and swap together; not less than the memory limit. On v2 the difference is the swap limit.
    pub memory_and_swap_limit_bytes: Option<Limit>,
    /// Share of the CPU relative to the siblings, 2 to 262144, 1024 being one unit. Converted to `cpu.weight` on v2.
    pub cpu_shares: Option<u64>,
    /// CPU time that may be used in each period.
    pub cpu_quota_us: Option<Limit>,
    /// The period of the quota.
    pub cpu_period_us: Option<u64>,
    /// CPUs that may be used, as a list such as `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used, as a list.
    pub cpuset_mems: Option<String>,
    /// Number of tasks.
    pub pids_limit: Option<Limit>,
    /// Settings by the name of their v2 file (`memory.oom.group`), written last and as they are.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    pub(crate) fn apply(&self, host: &Hierarchies, path: &CgroupPath) -> Result<(), Error> {
        self.apply_memory(host, path)?;
        self.apply_cpu(host, path)?;
        for (name, value) in [("cpuset.cpus", &self.cpuset_cpus), ("cpuset.mems", &self.cpuset_mems)] {
            if let Some(list) = value {
                home(host, Controller::Cpuset, path)?.write_either((name, list), (name, list))?;
            }
        }
        if let Some(limit) = self.pids_limit {
            let value = limit.or_max();
            home(host, Controller::Pids, path)?.write_either(("pids.max", &value), ("pids.max", &value))?;
        }
        self.unified.iter().try_for_each(|(name, value)| apply_unified(host, path, name, value))
    }

    fn apply_memory(&self, host: &Hierarchies, path: &CgroupPath) -> Result<(), Error> {
        let (memory, sum) = (self.memory_limit_bytes, self.memory_and_swap_limit_bytes);
        if memory.is_none() && sum.is_none() {
            return Ok(());
        }
        match home(host, Controller::Memory, path)? {
            Home::V1(directory) => v1::set_memory(path, &directory, memory, sum),
            Home::V2(directory) => v2::set_memory(path, &directory, memory, sum),
        }
    }

    fn apply_cpu(&self, host: &Hierarchies, path: &CgroupPath) -> Result<(), Error> {
        if let Some(shares) = self.cpu_shares {
            let (v1, v2) = (shares.to_string(), v2::weight_of_shares(shares).to_string());
            home(host, Controller::Cpu, path)?.write_either(("cpu.shares", &v1), ("cpu.weight", &v2))?;
        }
        if self.cpu_quota_us.is_none() && self.cpu_period_us.is_none() {
            return Ok(());
        }
        match home(host, Controller::Cpu, path)? {
            Home::V1(directory) => v1::set_cpu(&directory, self.cpu_quota_us, self.cpu_period_us),
            Home::V2(directory) => v2::set_cpu(&directory, self.cpu_quota_us, self.cpu_period_us),
        }
    }
}

fn home(host: &Hierarchies, controller: Controller, path: &CgroupPath) -> Result<Home, Error> {
    host.home(controller, path).ok_or_else(|| Error::NoController { cgroup: path.clone(), controller })
}

/// The name comes from outside: it must be a file of a controller that is on v2 here, never a core file (`cgroup.procs`) and
/// never a path.
fn apply_unified(host: &Hierarchies, path: &CgroupPath, name: &str, value: &str) -> Result<(), Error> {
    let controller = name.split_once('.').and_then(|(controller, _)| Controller::from_v2_name(controller));
    match controller.filter(|_| !name.contains('/')).and_then(|controller| host.home(controller, path)) {
        Some(Home::V2(directory)) => control_file::write(&directory, name, value),
        _ => Err(Error::UnknownSetting { cgroup: path.clone(), name: name.to_owned() }),
    }
}
