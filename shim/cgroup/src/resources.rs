//! What a cgroup may use.

use crate::hierarchies::Home;
use crate::writer::Writer;
use crate::{CgroupPath, Controller, Error, Hierarchies, HugepageSize, SettingName, control_file, hugepages, setting, v1, v2};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

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
    /// Bytes of huge pages, by the pages' size. 0 is a limit.
    pub hugepage_limits_bytes: BTreeMap<HugepageSize, u64>,
    /// Settings by the name of their v2 file (`memory.oom.group`), written as they are, after the named limits of the same file. Where the controller is
    /// on v1 they are refused, but for `pids.max`, which is the same file there. A weight for block I/O (`io.weight`, `io.bfq.weight`)
    /// is among them; v1 has none that podbox sets.
    pub unified: BTreeMap<SettingName, String>,
}

impl Resources {
    /// A raw setting comes after the limit of the same file, so that it wins. The limit of memory comes after everything that the kernel
    /// may refuse: what was given cannot always be taken back, since it may be in use by then.
    pub(crate) fn write(&self, writer: &mut Writer, host: &Hierarchies, path: &CgroupPath) -> Result<(), Error> {
        self.write_cpu(writer, host, path)?;
        for (name, value) in [("cpuset.cpus", &self.cpuset_cpus), ("cpuset.mems", &self.cpuset_mems)] {
            if let Some(list) = value {
                writer.set(home(host, Controller::Cpuset, path)?.directory(), name, list)?;
            }
        }
        if let Some(limit) = self.pids_limit {
            writer.set(home(host, Controller::Pids, path)?.directory(), "pids.max", &limit.or_max())?;
        }
        hugepages::set(writer, host, path, &self.hugepage_limits_bytes)?;
        let (late, early): (Vec<_>, Vec<_>) = self.unified.iter().partition(|(name, _)| v2::MEMORY_LIMITS.contains(&name.as_str()));
        early.into_iter().try_for_each(|(name, value)| setting::set(writer, host, path, name, value))?;
        self.write_memory(writer, host, path)?;
        // Swap, then memory.
        late.into_iter().rev().try_for_each(|(name, value)| setting::set(writer, host, path, name, value))
    }

    fn write_memory(&self, writer: &mut Writer, host: &Hierarchies, path: &CgroupPath) -> Result<(), Error> {
        let (memory, sum) = (self.memory_limit_bytes, self.memory_and_swap_limit_bytes);
        if memory.is_none() && sum.is_none() {
            return Ok(());
        }
        match home(host, Controller::Memory, path)? {
            Home::V1(directory) => v1::set_memory(writer, path, &directory, memory, sum),
            Home::V2(directory) => v2::set_memory(writer, path, &directory, memory, sum),
        }
    }

    fn write_cpu(&self, writer: &mut Writer, host: &Hierarchies, path: &CgroupPath) -> Result<(), Error> {
        if let Some(shares) = self.cpu_shares {
            match home(host, Controller::Cpu, path)? {
                Home::V1(directory) => v1::set_shares(writer, &directory, shares)?,
                Home::V2(directory) => writer.set(&directory, "cpu.weight", &v2::weight_of_shares(shares).to_string())?,
            }
        }
        if self.cpu_quota_us.is_none() && self.cpu_period_us.is_none() {
            return Ok(());
        }
        match home(host, Controller::Cpu, path)? {
            Home::V1(directory) => v1::set_cpu(writer, &directory, self.cpu_quota_us, self.cpu_period_us),
            Home::V2(directory) => v2::set_cpu(writer, &directory, self.cpu_quota_us, self.cpu_period_us),
        }
    }
}

fn home(host: &Hierarchies, controller: Controller, path: &CgroupPath) -> Result<Home, Error> {
    host.home(controller, path).ok_or_else(|| Error::NoController { cgroup: path.clone(), controller })
}

/// Refuses a memory limit below what is used: v2 would kill processes for it, v1 would first drop caches and then refuse it. Of a
/// cgroup without processes nothing can be hurt.
pub(crate) fn check_usage(path: &CgroupPath, directory: &Path, usage_file: &str, limit_bytes: u64) -> Result<(), Error> {
    let content = match control_file::read(directory, usage_file) {
        Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    match content.parse() {
        Ok(usage_bytes) if limit_bytes < usage_bytes => Err(Error::BelowUsage { cgroup: path.clone(), limit_bytes, usage_bytes }),
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Unreadable { file: directory.join(usage_file), content }),
    }
}
