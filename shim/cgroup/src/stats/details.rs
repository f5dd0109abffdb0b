//! What is asked seldom: opened when it is asked for.

use super::V1_UNLIMITED;
use super::io::{self, DeviceIo, Devices};
use super::text::{Buffer, keyed_lines, limit, number, read_once};
use crate::hierarchies::Home;
use crate::{Cgroup, Controller, Error, v2};
use std::path::Path;

/// More of what a cgroup uses, and what it may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// CPU.
    pub cpu: CpuDetails,
    /// Memory.
    pub memory: MemoryDetails,
    /// Block I/O, by device; `None` without that controller.
    pub io: Option<Vec<DeviceIo>>,
    /// The most processes and threads that it may have: `Some(None)` is any number, `None` a kernel that does not count them.
    pub tasks_limit: Option<Option<u64>>,
    /// Huge pages by their size; empty without that controller.
    pub hugetlb: Vec<HugetlbUsage>,
}

/// More of its CPU time, and its share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuDetails {
    /// In user mode, in nanoseconds.
    pub user_ns: Option<u64>,
    /// In the kernel, in nanoseconds.
    pub system_ns: Option<u64>,
    /// Periods of its quota that passed.
    pub periods: Option<u64>,
    /// Those of them in which it had to wait for the next.
    pub throttled_periods: Option<u64>,
    /// How long it waited for that, in nanoseconds.
    pub throttled_ns: Option<u64>,
    /// Of each period, in microseconds; `None` without a quota.
    pub quota_us: Option<u64>,
    /// In microseconds.
    pub period_us: Option<u64>,
    /// v1's shares.
    pub shares: Option<u64>,
    /// v2's weight.
    pub weight: Option<u64>,
}

impl CpuDetails {
    /// Its CPU shares, whichever kernel it is: where a weight stands for them, those that were `asked` for if that is their weight, else
    /// the most that have this weight.
    #[must_use]
    pub fn shares_as_asked(&self, asked: u64) -> Option<u64> {
        let of_weight = |weight| if v2::weight_of_shares(asked) == weight && asked > 0 { asked } else { v2::shares_of_weight(weight) };
        self.shares.or(self.weight.map(of_weight))
    }
}

/// More of its memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryDetails {
    /// Of the kernel, on its behalf.
    pub kernel_bytes: Option<u64>,
    /// The most that it ever used.
    pub max_usage_bytes: Option<u64>,
    /// How often its limit was hit.
    pub limit_hits: Option<u64>,
    /// Processes that were killed for want of memory. On v1 those of this cgroup alone.
    pub oom_kills: Option<u64>,
    /// What it keeps when memory is short (v2's `memory.low`), or is brought back to (v1's soft limit); `None` without.
    pub reservation_bytes: Option<u64>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugetlbUsage {
    /// As the control files' names have it: `2MB`.
    pub page_size: String,
    /// In use.
    pub usage_bytes: u64,
    /// The most that ever was; v2 does not tell.
    pub max_usage_bytes: Option<u64>,
}

impl Details {
    /// Reads everything. A cgroup that is gone has nothing.
    ///
    /// # Errors
    /// A file cannot be read for another reason than its absence.
    pub fn read(cgroup: &Cgroup) -> Result<Self, Error> {
        let buffer = &mut Buffer::default();
        let mut cpu = CpuDetails::default();
        if let Some(Home::V1(directory)) = cgroup.home(Controller::Cpuacct) {
            cpu.user_ns = read_once(&directory, "cpuacct.usage_user", buffer, number)?;
            cpu.system_ns = read_once(&directory, "cpuacct.usage_sys", buffer, number)?;
        } else if let Some(directory) = cgroup.unified() {
            read_cpu_stat(&directory, &mut cpu, buffer)?;
        }
        match cgroup.home(Controller::Cpu) {
            Some(Home::V1(directory)) => read_v1_cpu(&directory, &mut cpu, buffer)?,
            Some(Home::V2(directory)) => read_v2_cpu(&directory, &mut cpu, buffer)?,
            None => {}
        }
        let memory = match cgroup.home(Controller::Memory) {
            Some(Home::V1(directory)) => v1_memory(&directory, buffer)?,
            Some(Home::V2(directory)) => v2_memory(&directory, buffer)?,
            None => MemoryDetails::default(),
        };
        let tasks_limit = match cgroup.home(Controller::Pids) {
            Some(Home::V1(directory) | Home::V2(directory)) => read_once(&directory, "pids.max", buffer, limit)?,
            None => None,
        };
        Ok(Self { cpu, memory, io: read_io(cgroup, buffer)?, tasks_limit, hugetlb: read_hugetlb(cgroup, buffer)? })
    }
}

/// v2's `cpu.stat`, and v1's, which has other words for some of it and none for the rest.
fn read_cpu_stat(directory: &Path, cpu: &mut CpuDetails, buffer: &mut Buffer) -> Result<(), Error> {
    let nanoseconds = |microseconds: u64| Some(microseconds.saturating_mul(1000));
    let read = read_once(directory, "cpu.stat", buffer, |text| {
        for (key, value) in keyed_lines(text) {
            match key {
                "user_usec" => cpu.user_ns = nanoseconds(value),
                "system_usec" => cpu.system_ns = nanoseconds(value),
                "nr_periods" => cpu.periods = Some(value),
                "nr_throttled" => cpu.throttled_periods = Some(value),
                "throttled_usec" => cpu.throttled_ns = nanoseconds(value),
                "throttled_time" => cpu.throttled_ns = Some(value),
                _ => {}
            }
        }
        Some(())
    });
    read.map(|_| ())
}

fn read_v1_cpu(directory: &Path, cpu: &mut CpuDetails, buffer: &mut Buffer) -> Result<(), Error> {
    read_cpu_stat(directory, cpu, buffer)?;
    let quota: Option<i64> = read_once(directory, "cpu.cfs_quota_us", buffer, number)?;
    cpu.quota_us = quota.and_then(|quota| u64::try_from(quota).ok());
    cpu.period_us = read_once(directory, "cpu.cfs_period_us", buffer, number)?;
    cpu.shares = read_once(directory, "cpu.shares", buffer, number)?;
    Ok(())
}

fn read_v2_cpu(directory: &Path, cpu: &mut CpuDetails, buffer: &mut Buffer) -> Result<(), Error> {
    let max = read_once(directory, "cpu.max", buffer, |text| {
        let (quota, period) = text.split_once(' ')?;
        Some((limit(quota)?, number(period)?))
    })?;
    if let Some((quota, period)) = max {
        (cpu.quota_us, cpu.period_us) = (quota, Some(period));
    }
    cpu.weight = read_once(directory, "cpu.weight", buffer, number)?;
    Ok(())
}

fn keyed(text: &str, wanted: &str) -> Option<u64> {
    keyed_lines(text).find(|(key, _)| *key == wanted).map(|(_, value)| value)
}

fn v1_memory(directory: &Path, buffer: &mut Buffer) -> Result<MemoryDetails, Error> {
    let reservation: Option<u64> = read_once(directory, "memory.soft_limit_in_bytes", buffer, number)?;
    Ok(MemoryDetails {
        kernel_bytes: read_once(directory, "memory.kmem.usage_in_bytes", buffer, number)?,
        max_usage_bytes: read_once(directory, "memory.max_usage_in_bytes", buffer, number)?,
        limit_hits: read_once(directory, "memory.failcnt", buffer, number)?,
        oom_kills: read_once(directory, crate::v1::OOM_COUNTER, buffer, |text| Some(keyed(text, "oom_kill")))?.flatten(),
        reservation_bytes: reservation.filter(|bytes| *bytes < V1_UNLIMITED),
    })
}

fn v2_memory(directory: &Path, buffer: &mut Buffer) -> Result<MemoryDetails, Error> {
    let events = read_once(directory, v2::OOM_COUNTER, buffer, |text| Some((keyed(text, "max"), keyed(text, "oom_kill"))))?;
    let (limit_hits, oom_kills) = events.unwrap_or_default();
    let low = read_once(directory, "memory.low", buffer, limit)?.flatten();
    Ok(MemoryDetails {
        kernel_bytes: read_once(directory, "memory.stat", buffer, |text| Some(keyed(text, "kernel")))?.flatten(),
        max_usage_bytes: read_once(directory, "memory.peak", buffer, number)?,
        limit_hits,
        oom_kills,
        reservation_bytes: low.filter(|bytes| *bytes > 0),
    })
}

fn read_io(cgroup: &Cgroup, buffer: &mut Buffer) -> Result<Option<Vec<DeviceIo>>, Error> {
    let mut devices = Devices::new();
    let counted = match cgroup.home(Controller::BlockIo) {
        Some(Home::V1(directory)) => {
            let bytes = read_once(&directory, "blkio.throttle.io_service_bytes_recursive", buffer, |text| {
                io::add_v1(&mut devices, text, false);
                Some(())
            })?;
            let requests = read_once(&directory, "blkio.throttle.io_serviced_recursive", buffer, |text| {
                io::add_v1(&mut devices, text, true);
                Some(())
            })?;
            bytes.or(requests)
        }
        Some(Home::V2(directory)) => read_once(&directory, "io.stat", buffer, |text| {
            io::add_v2(&mut devices, text);
            Some(())
        })?,
        None => None,
    };
    Ok(counted.map(|()| devices.into_values().collect()))
}

/// The sizes are those that the names of the control files tell.
fn read_hugetlb(cgroup: &Cgroup, buffer: &mut Buffer) -> Result<Vec<HugetlbUsage>, Error> {
    let (directory, usage_file, max_file) = match cgroup.home(Controller::Hugetlb) {
        Some(Home::V1(directory)) => (directory, "usage_in_bytes", Some("max_usage_in_bytes")),
        Some(Home::V2(directory)) => (directory, "current", None),
        None => return Ok(Vec::new()),
    };
    // A cgroup that is gone has no sizes either.
    let Ok(entries) = std::fs::read_dir(&directory) else { return Ok(Vec::new()) };
    let size_of = |name: &str| name.strip_prefix("hugetlb.")?.strip_suffix(usage_file)?.strip_suffix('.').map(str::to_owned);
    let mut sizes: Vec<String> = entries.filter_map(|entry| size_of(entry.ok()?.file_name().to_str()?)).collect();
    // `2MB.rsvd` is what was promised, not what is used.
    sizes.retain(|size| !size.contains('.'));
    sizes.sort();
    let mut usages = Vec::new();
    for page_size in sizes {
        let Some(usage_bytes) = read_once(&directory, &format!("hugetlb.{page_size}.{usage_file}"), buffer, number)? else { continue };
        let max_usage_bytes = match max_file {
            Some(max_file) => read_once(&directory, &format!("hugetlb.{page_size}.{max_file}"), buffer, number)?,
            None => None,
        };
        usages.push(HugetlbUsage { page_size, usage_bytes, max_usage_bytes });
    }
    Ok(usages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_told_as_they_were_asked_for_as_long_as_they_hold() {
        let on_v2 = |weight| CpuDetails { weight: Some(weight), ..CpuDetails::default() };
        for asked in [2, 3, 102, 512, 1000, 1024, 1025, 4096, 262_144] {
            assert_eq!(on_v2(v2::weight_of_shares(asked)).shares_as_asked(asked), Some(asked));
        }
        assert_eq!(on_v2(100).shares_as_asked(0), Some(1024), "nothing was asked for");
        assert_eq!(on_v2(100).shares_as_asked(512), Some(1024), "somebody else set it");
        assert_eq!(CpuDetails { shares: Some(7), ..CpuDetails::default() }.shares_as_asked(512), Some(7));
        assert_eq!(CpuDetails::default().shares_as_asked(512), None);
    }
}
