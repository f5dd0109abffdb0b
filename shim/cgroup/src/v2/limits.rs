//! Limits that mean one thing in the OCI specification and another in v2's files.

use crate::resources::check_usage;
use crate::writer::Writer;
use crate::{CgroupPath, Error, Limit, control_file};
use std::path::Path;

/// Memory, page cache included.
pub(crate) const MEMORY_LIMIT: &str = "memory.max";
const USAGE: &str = "memory.current";
/// Takes back so many bytes that are not needed (Linux 5.19).
const RECLAIM: &str = "memory.reclaim";
/// Swap alone; absent where the kernel does not account swap.
pub(crate) const SWAP_LIMIT: &str = "memory.swap.max";
/// What [`set_memory`] writes.
pub(crate) const MEMORY_LIMITS: [&str; 2] = [MEMORY_LIMIT, SWAP_LIMIT];
const CPU_MAX: &str = "cpu.max";
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;

/// `cpu.weight` (1–10000) for OCI CPU shares (2–262144), by the exponential conversion that the OCI runtimes share since 2025:
/// `ceil(10^((l² + 125·l)/612 − 7/34))` with `l = log2(shares)`. It takes the ends to the ends and 1024 to 100, both defaults,
/// where the earlier linear one took 1024 to 39.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    if shares <= SHARES_MIN {
        return 1;
    }
    if shares >= SHARES_MAX {
        return 10_000;
    }
    // At most 2^18, so exact.
    let l = (shares as f64).log2();
    // One fraction (7/34 = 126/612), so that exact powers come out exact and are not rounded up.
    let exponent = (l * l + 125.0 * l - 126.0) / 612.0;
    10f64.powf(exponent).ceil() as u64
}

/// The shares that a `cpu.weight` stands for: the most of those which [`weight_of_shares`] turns into it.
pub(crate) fn shares_of_weight(weight: u64) -> u64 {
    if weight >= 10_000 {
        return SHARES_MAX;
    }
    // The quadratic equation of the exponent, solved for `l`.
    let l = ((15_625.0 + 4.0 * (126.0 + 612.0 * (weight.max(1) as f64).log10())).sqrt() - 125.0) / 2.0;
    let near = l.exp2().round() as u64;
    // One too many where rounding went up.
    [near, near.saturating_sub(1)].into_iter().find(|shares| weight_of_shares(*shares) <= weight).unwrap_or(near).max(SHARES_MIN)
}

/// Memory, and as its swap what the sum leaves beyond memory.
pub(crate) fn set_memory(
    writer: &mut Writer,
    path: &CgroupPath,
    directory: &Path,
    memory: Option<Limit>,
    memory_and_swap: Option<Limit>,
) -> Result<(), Error> {
    if let Some(sum) = memory_and_swap {
        let memory = match memory {
            Some(memory) => memory,
            None => current_limit(directory)?,
        };
        let swap = swap_limit(memory, sum).map_err(|memory_and_swap| {
            let memory = memory.or_max();
            Error::SwapBelowMemory { cgroup: path.clone(), memory, memory_and_swap }
        })?;
        if !directory.join(SWAP_LIMIT).exists() && directory.exists() {
            return Err(Error::NoSwapAccounting { cgroup: path.clone() });
        }
        writer.set(directory, SWAP_LIMIT, &swap.or_max())?;
    }
    memory.map_or(Ok(()), |memory| set_memory_limit(writer, path, directory, &memory.or_max()))
}

/// Sets `memory.max`, after a look at what is used: the kernel kills until a lower limit holds. It would take `16M`, and more than a
/// line, too: then what is looked at were not what it reads.
pub(crate) fn set_memory_limit(writer: &mut Writer, path: &CgroupPath, directory: &Path, value: &str) -> Result<(), Error> {
    let limit = parse_limit(value).ok_or_else(|| Error::NotBytes { cgroup: path.clone(), name: MEMORY_LIMIT, value: value.to_owned() })?;
    if let (Limit::At(bytes), true) = (limit, writer.is_of_used())
        && current_limit(directory)? != limit
    {
        check_usage(path, directory, USAGE, bytes)?;
    }
    writer.set(directory, MEMORY_LIMIT, value)
}

/// Refuses to put a former `memory.max` back where more is in use by now, and cannot be taken back without a kill. Whatever comes to be
/// used between this look and the write is beyond anybody's help.
pub(crate) fn check_before_put_back(directory: &Path, former: &str) -> Result<(), Error> {
    let Some(Limit::At(former_bytes)) = parse_limit(former) else { return Ok(()) };
    let usage = || -> Result<u64, Error> {
        let content = control_file::read(directory, USAGE)?;
        content.parse().map_err(|_| Error::Unreadable { file: directory.join(USAGE), content })
    };
    let excess = usage()?.saturating_sub(former_bytes);
    if excess == 0 {
        return Ok(());
    }
    // Page cache goes; where it does not, or the kernel has no such file, the second look tells.
    let _ = control_file::write(directory, RECLAIM, &excess.to_string());
    match usage()? {
        usage_bytes if usage_bytes > former_bytes => {
            Err(Error::LimitStays { file: directory.join(MEMORY_LIMIT), former_bytes, usage_bytes })
        }
        _ => Ok(()),
    }
}

fn parse_limit(text: &str) -> Option<Limit> {
    match text {
        "max" => Some(Limit::Unlimited),
        number => number.parse().ok().map(Limit::At),
    }
}

/// The error is the sum that is too small.
fn swap_limit(memory: Limit, sum: Limit) -> Result<Limit, u64> {
    match (memory, sum) {
        (_, Limit::Unlimited) => Ok(Limit::Unlimited),
        (Limit::Unlimited, Limit::At(sum)) => Err(sum),
        (Limit::At(memory), Limit::At(sum)) => sum.checked_sub(memory).map(Limit::At).ok_or(sum),
    }
}

fn current_limit(directory: &Path) -> Result<Limit, Error> {
    let content = control_file::read(directory, MEMORY_LIMIT)?;
    parse_limit(&content).ok_or_else(|| Error::Unreadable { file: directory.join(MEMORY_LIMIT), content })
}

/// `cpu.max` holds quota and period; what is not named stays.
pub(crate) fn set_cpu(writer: &mut Writer, directory: &Path, quota: Option<Limit>, period_us: Option<u64>) -> Result<(), Error> {
    let value = match (quota, period_us) {
        (None, None) => return Ok(()),
        (Some(quota), None) => quota.or_max(),
        (Some(quota), Some(period)) => format!("{} {period}", quota.or_max()),
        (None, Some(period)) => {
            let now = control_file::read(directory, CPU_MAX)?;
            let quota = now.split_ascii_whitespace().next().unwrap_or("max");
            format!("{quota} {period}")
        }
    };
    writer.set(directory, CPU_MAX, &value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn shares_become_weights_with_both_defaults_and_both_ends_in_place() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (3, 2),
            (102, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
        }
    }

    #[test]
    fn every_weight_comes_back_from_the_most_shares_that_make_it() {
        for weight in 1..=10_000 {
            let shares = shares_of_weight(weight);
            assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
            assert!(shares == SHARES_MAX || weight_of_shares(shares + 1) > weight, "{shares} shares for {weight}");
        }
        assert_eq!([1, 100, 10_000].map(shares_of_weight), [2, 1024, 262_144]);
        assert_eq!((shares_of_weight(0), shares_of_weight(u64::MAX)), (2, 262_144));
    }

    #[test]
    fn weights_never_fall_as_shares_rise() {
        let weights: Vec<u64> = (2..=SHARES_MAX).step_by(7).map(weight_of_shares).collect();
        assert!(weights.is_sorted());
    }

    #[test]
    fn swap_is_what_the_sum_leaves() {
        assert_eq!(swap_limit(Limit::At(100), Limit::At(150)), Ok(Limit::At(50)));
        assert_eq!(swap_limit(Limit::At(100), Limit::At(100)), Ok(Limit::At(0)));
        assert_eq!(swap_limit(Limit::At(100), Limit::Unlimited), Ok(Limit::Unlimited));
        assert_eq!(swap_limit(Limit::At(100), Limit::At(99)), Err(99));
        assert_eq!(swap_limit(Limit::Unlimited, Limit::At(99)), Err(99));
    }

    #[test]
    fn a_limit_that_is_no_plain_number_is_not_handed_on() {
        let path = CgroupPath::new("/p").expect("plain");
        for value in ["16M", "16777216\n4096", " 16777216", ""] {
            let refused = set_memory_limit(&mut Writer::of_new(), &path, Path::new("/sys/fs/cgroup/podbox-test-absent"), value);
            assert!(matches!(refused, Err(Error::NotBytes { .. })), "{value:?}");
        }
    }

    #[test]
    fn what_an_update_does_not_name_stays() {
        let directory = std::env::temp_dir().join(format!("podbox-cgroup-limits-{}", std::process::id()));
        fs::create_dir(&directory).expect("fresh");
        let put = |name: &str, content: &str| fs::write(directory.join(name), content).expect("write");
        let get = |name: &str| fs::read_to_string(directory.join(name)).expect("read");
        let path = CgroupPath::new("/p").expect("plain");

        put(CPU_MAX, "20000 100000\n");
        let set = set_cpu(&mut Writer::of_new(), &directory, None, Some(50_000));
        let cpu_max = get(CPU_MAX);
        put(MEMORY_LIMIT, "4096\n");
        put(SWAP_LIMIT, "max\n");
        let memory = set_memory(&mut Writer::of_new(), &path, &directory, None, Some(Limit::At(8192)));
        let (limit, swap) = (get(MEMORY_LIMIT), get(SWAP_LIMIT));
        fs::remove_file(directory.join(SWAP_LIMIT)).expect("remove");
        let unaccounted = set_memory(&mut Writer::of_new(), &path, &directory, Some(Limit::At(1)), Some(Limit::At(1)));
        fs::remove_dir_all(&directory).expect("clean up");

        set.expect("cpu.max");
        // A plain file keeps the tail that the kernel would not.
        assert!(cpu_max.starts_with("20000 50000"), "{cpu_max}");
        memory.expect("memory");
        assert_eq!(limit, "4096\n");
        assert!(swap.starts_with("4096"), "{swap}");
        assert!(matches!(unaccounted, Err(Error::NoSwapAccounting { .. })));
    }
}
