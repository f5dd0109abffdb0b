//! Limits whose v1 files constrain each other, so that the order of the writes matters.

use crate::resources::check_usage;
use crate::writer::Writer;
use crate::{CgroupPath, Error, Limit, control_file};
use rustix::io::Errno;
use std::path::Path;

const LIMIT: &str = "memory.limit_in_bytes";
/// Memory and swap together; absent where the kernel does not account swap.
pub(crate) const SWAP_LIMIT: &str = "memory.memsw.limit_in_bytes";
const USAGE: &str = "memory.usage_in_bytes";
const SHARES: &str = "cpu.shares";
const PERIOD: &str = "cpu.cfs_period_us";
const QUOTA: &str = "cpu.cfs_quota_us";

/// The sum may never be below the memory limit, not even between two writes: a growing sum goes first, a shrinking one last.
pub(crate) fn set_memory(
    writer: &mut Writer,
    path: &CgroupPath,
    directory: &Path,
    memory: Option<Limit>,
    memory_and_swap: Option<Limit>,
) -> Result<(), Error> {
    let Some(sum) = memory_and_swap else { return set_memory_limit(writer, path, directory, memory) };
    check_sum(path, memory, sum)?;
    if !directory.join(SWAP_LIMIT).exists() && directory.exists() {
        return Err(Error::NoSwapAccounting { cgroup: path.clone() });
    }
    let value = sum.or_minus_one();
    if grows(directory, sum)? {
        writer.set(directory, SWAP_LIMIT, &value)?;
        set_memory_limit(writer, path, directory, memory)
    } else {
        set_memory_limit(writer, path, directory, memory)?;
        writer.set(directory, SWAP_LIMIT, &value)
    }
}

fn set_memory_limit(writer: &mut Writer, path: &CgroupPath, directory: &Path, memory: Option<Limit>) -> Result<(), Error> {
    let Some(limit) = memory else { return Ok(()) };
    if let (Limit::At(bytes), true) = (limit, writer.is_of_used())
        && control_file::read(directory, LIMIT)? != limit.or_minus_one()
    {
        check_usage(path, directory, USAGE, bytes)?;
    }
    writer.set(directory, LIMIT, &limit.or_minus_one())
}

/// The kernel takes any number and corrects it to its bounds.
pub(crate) fn set_shares(writer: &mut Writer, directory: &Path, shares: u64) -> Result<(), Error> {
    writer.set(directory, SHARES, &shares.to_string())
}

/// The kernel would say only `EINVAL`.
fn check_sum(path: &CgroupPath, memory: Option<Limit>, sum: Limit) -> Result<(), Error> {
    match (memory, sum) {
        (Some(memory), Limit::At(memory_and_swap)) if !matches!(memory, Limit::At(bytes) if bytes <= memory_and_swap) => {
            Err(Error::SwapBelowMemory { cgroup: path.clone(), memory: memory.or_max(), memory_and_swap })
        }
        _ => Ok(()),
    }
}

fn grows(directory: &Path, sum: Limit) -> Result<bool, Error> {
    let content = control_file::read(directory, SWAP_LIMIT)?;
    let Ok(now) = content.parse::<u64>() else {
        return Err(Error::Unreadable { file: directory.join(SWAP_LIMIT), content });
    };
    Ok(match sum {
        Limit::Unlimited => true,
        Limit::At(bytes) => bytes >= now,
    })
}

/// A new period with the old quota may exceed what the parent allows (`EINVAL`), so then the quota goes first.
pub(crate) fn set_cpu(writer: &mut Writer, directory: &Path, quota: Option<Limit>, period_us: Option<u64>) -> Result<(), Error> {
    let set_period = |writer: &mut Writer, period: u64| writer.set(directory, PERIOD, &period.to_string());
    let mut period_is_late = None;
    if let Some(period) = period_us {
        match set_period(writer, period) {
            Err(Error::Write { source, .. }) if quota.is_some() && is_invalid(&source) => period_is_late = Some(period),
            other => other?,
        }
    }
    if let Some(quota) = quota {
        writer.set(directory, QUOTA, &quota.or_minus_one())?;
    }
    period_is_late.map_or(Ok(()), |period| set_period(writer, period))
}

fn is_invalid(source: &std::io::Error) -> bool {
    source.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}
