//! `LinuxContainerResources`: of containers and of whole pods, at their making and later.

use super::RequestError;
use super::common::{bounded_text, shortened};
use podbox_cgroup::{HugepageSize, IdList, SettingName};
use podbox_proto::v1;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the kernel takes for a period, and for a quota at least (`sched-bwc` in the kernel's documentation).
const PERIOD_US: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
const QUOTA_US_MIN: i64 = 1_000;
/// What the kernel takes (`MAX_SHARES`); more it would cut down, and the record would say otherwise.
const CPU_SHARES_MAX: u64 = 262_144;
/// With less, the kernel kills a process before it runs its first instruction.
const MEMORY_BYTES_MIN: u64 = 512 * 1024;
/// Files of all v2 controllers together are fewer.
const SETTINGS_MAX: usize = 128;
/// A page: the most that the kernel takes in one write.
const VALUE_BYTES_MAX: usize = 4096;
/// Settings that are a number of bytes: as the number itself, so that what is looked at before the kernel is asked is what the kernel
/// reads (it takes `16M`, too).
const BYTES_SETTINGS: [&str; 5] = ["memory.high", "memory.low", MEMORY_MAX, "memory.min", "memory.swap.max"];
const MEMORY_MAX: &str = "memory.max";
/// More sizes than any machine has.
const HUGEPAGE_SIZES_MAX: usize = 64;
/// A list of every second CPU of the largest machine is shorter.
const LIST_BYTES_MAX: usize = 4095;

/// `LinuxContainerResources` as asked for. 0 and empty mean: nothing asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Length of a CPU accounting period, in µs.
    pub cpu_period_us: u64,
    /// CPU time in each period, in µs; -1 is no limit.
    pub cpu_quota_us: i64,
    /// Weight among siblings, 2 to 262144, as cgroup v1 has it.
    pub cpu_shares: u64,
    /// Memory limit in bytes.
    pub memory_limit_bytes: u64,
    /// Limit of memory and swap together in bytes; -1 is no limit.
    pub memory_swap_limit_bytes: i64,
    /// `oom_score_adj` of the container's processes.
    pub oom_score_adj: i32,
    /// CPUs, in list form: `0-3,7`.
    pub cpuset_cpus: String,
    /// Memory nodes, in list form.
    pub cpuset_mems: String,
    /// Bytes of huge pages by their size. A size that is named with 0 may not be used at all.
    pub hugepage_limits_bytes: BTreeMap<HugepageSize, u64>,
    /// Files of v2 controllers and what is written to them.
    pub unified: BTreeMap<SettingName, String>,
}

impl Resources {
    /// Reads the message of a container, named `prefix` in errors: every value is one that the kernel could take.
    ///
    /// # Errors
    /// Names the field.
    pub fn of_container(prefix: &'static str, message: Option<v1::LinuxContainerResources>) -> Result<Self, RequestError> {
        let resources = Self::of_pod(prefix, message)?;
        let invalid = |field: &str, reason: String| Err(RequestError::invalid(format!("{prefix}.{field}"), reason));
        if resources.cpu_period_us != 0 && !PERIOD_US.contains(&resources.cpu_period_us) {
            return invalid(
                "cpu_period",
                format!("{} µs are not from {} to {}", resources.cpu_period_us, PERIOD_US.start(), PERIOD_US.end()),
            );
        }
        if (1..QUOTA_US_MIN).contains(&resources.cpu_quota_us) {
            return invalid("cpu_quota", format!("{} µs are less than the {QUOTA_US_MIN} that the kernel takes", resources.cpu_quota_us));
        }
        if (1..MEMORY_BYTES_MIN).contains(&resources.memory_limit_bytes) {
            let bytes = resources.memory_limit_bytes;
            return invalid("memory_limit_in_bytes", too_little(bytes));
        }
        match resources.unified.get(MEMORY_MAX).and_then(|value| value.parse().ok()) {
            Some(bytes @ ..MEMORY_BYTES_MIN) => invalid("unified", format!("{MEMORY_MAX:?}: {}", too_little(bytes))),
            _ => Ok(resources),
        }
    }

    /// Reads the message of a pod: what its containers have together, which nothing here enforces.
    ///
    /// # Errors
    /// Names the field.
    pub fn of_pod(prefix: &'static str, message: Option<v1::LinuxContainerResources>) -> Result<Self, RequestError> {
        let message = message.unwrap_or_default();
        let field = |name: &str| format!("{prefix}.{name}");
        let natural =
            |name: &str, value: i64| u64::try_from(value).map_err(|_| RequestError::invalid(field(name), format!("{value} is negative")));
        let or_unlimited = |name: &str, value: i64| {
            if value >= -1 { Ok(value) } else { Err(RequestError::invalid(field(name), format!("{value} is neither a limit nor -1"))) }
        };
        let list = |name: &str, text: String| {
            if text.is_empty() || (text.len() <= LIST_BYTES_MAX && text.parse::<IdList>().is_ok()) {
                return Ok(text);
            }
            let reason = format!("a list of numbers and ranges is due, like 0-3,7, not {:?}", shortened(&text));
            Err(RequestError::invalid(field(name), reason))
        };
        let oom_score_adj = i32::try_from(message.oom_score_adj).ok().filter(|value| (-1000..=1000).contains(value));
        Ok(Self {
            cpu_period_us: natural("cpu_period", message.cpu_period)?,
            cpu_quota_us: or_unlimited("cpu_quota", message.cpu_quota)?,
            cpu_shares: match natural("cpu_shares", message.cpu_shares)? {
                shares @ ..=CPU_SHARES_MAX => shares,
                shares => return Err(RequestError::invalid(field("cpu_shares"), format!("{shares} are more than {CPU_SHARES_MAX}"))),
            },
            memory_limit_bytes: natural("memory_limit_in_bytes", message.memory_limit_in_bytes)?,
            memory_swap_limit_bytes: or_unlimited("memory_swap_limit_in_bytes", message.memory_swap_limit_in_bytes)?,
            oom_score_adj: oom_score_adj
                .ok_or_else(|| RequestError::invalid(field("oom_score_adj"), "a value from -1000 to 1000 is due"))?,
            cpuset_cpus: list("cpuset_cpus", message.cpuset_cpus)?,
            cpuset_mems: list("cpuset_mems", message.cpuset_mems)?,
            hugepage_limits_bytes: hugepages(&field("hugepage_limits"), message.hugepage_limits)?,
            unified: unified(&field("unified"), message.unified)?,
        })
    }

    /// These with what `update` asks for in their place: zero and empty leave a value as it is, and huge pages and raw settings go by
    /// their names. `oom_score_adj` stays: it belongs to processes that run.
    #[must_use]
    pub fn merged_with(&self, update: &Self) -> Self {
        fn newer<T: Default + PartialEq + Clone>(old: &T, new: &T) -> T {
            if *new == T::default() { old.clone() } else { new.clone() }
        }
        let mut merged = Self {
            cpu_period_us: newer(&self.cpu_period_us, &update.cpu_period_us),
            cpu_quota_us: newer(&self.cpu_quota_us, &update.cpu_quota_us),
            cpu_shares: newer(&self.cpu_shares, &update.cpu_shares),
            memory_limit_bytes: newer(&self.memory_limit_bytes, &update.memory_limit_bytes),
            memory_swap_limit_bytes: newer(&self.memory_swap_limit_bytes, &update.memory_swap_limit_bytes),
            oom_score_adj: self.oom_score_adj,
            cpuset_cpus: newer(&self.cpuset_cpus, &update.cpuset_cpus),
            cpuset_mems: newer(&self.cpuset_mems, &update.cpuset_mems),
            hugepage_limits_bytes: self.hugepage_limits_bytes.clone(),
            unified: self.unified.clone(),
        };
        merged.hugepage_limits_bytes.extend(update.hugepage_limits_bytes.clone());
        merged.unified.extend(update.unified.clone());
        merged
    }

    /// Whether the limit of memory and swap together makes sense beside that of memory.
    #[must_use]
    pub fn swap_fits_memory(&self) -> bool {
        match u64::try_from(self.memory_swap_limit_bytes) {
            Ok(sum) if sum > 0 => self.memory_limit_bytes > 0 && self.memory_limit_bytes <= sum,
            _ => true,
        }
    }

    /// The most processes, where that is limited.
    #[must_use]
    pub fn pids_limit(&self) -> Option<i64> {
        self.unified.get("pids.max")?.trim().parse().ok()
    }
}

fn hugepages(field: &str, limits: Vec<v1::HugepageLimit>) -> Result<BTreeMap<HugepageSize, u64>, RequestError> {
    if limits.len() > HUGEPAGE_SIZES_MAX {
        return Err(RequestError::invalid(field.to_owned(), format!("more than {HUGEPAGE_SIZES_MAX} sizes")));
    }
    let mut by_size = BTreeMap::new();
    for v1::HugepageLimit { page_size, limit } in limits {
        let shown = shortened(&page_size);
        let size =
            HugepageSize::new(page_size).map_err(|error| RequestError::invalid(field.to_owned(), format!("{error}, not {shown:?}")))?;
        if by_size.insert(size, limit).is_some_and(|other| other != limit) {
            return Err(RequestError::invalid(field.to_owned(), format!("two limits for pages of {shown}")));
        }
    }
    Ok(by_size)
}

fn unified(field: &str, settings: BTreeMap<String, String>) -> Result<BTreeMap<SettingName, String>, RequestError> {
    if settings.len() > SETTINGS_MAX {
        return Err(RequestError::invalid(field.to_owned(), format!("more than {SETTINGS_MAX} settings")));
    }
    let mut checked = BTreeMap::new();
    for (name, value) in settings {
        let shown = shortened(&name);
        let invalid = |reason: String| RequestError::invalid(field.to_owned(), format!("{shown:?}: {reason}"));
        let setting = SettingName::new(name).map_err(|error| invalid(error.to_string()))?;
        if value.trim().is_empty() || value.len() > VALUE_BYTES_MAX {
            return Err(invalid(format!("a value of 1 to {VALUE_BYTES_MAX} bytes is due")));
        }
        // Of settings by device there may be a line each.
        bounded_text("unified", value.replace('\n', " ")).map_err(|error| invalid(error.to_string()))?;
        if BYTES_SETTINGS.contains(&setting.as_str()) && !is_bytes_limit(&value) {
            return Err(invalid("a number of bytes in digits or max is due".to_owned()));
        }
        if setting.as_str() == "pids.max" && !is_pids_limit(&value) {
            return Err(invalid("a number above 0 or max is due".to_owned()));
        }
        checked.insert(setting, value);
    }
    Ok(checked)
}

fn too_little(bytes: u64) -> String {
    format!("in {bytes} bytes no process can live; {MEMORY_BYTES_MIN} are due at least")
}

fn is_bytes_limit(value: &str) -> bool {
    value == "max" || (value.bytes().all(|byte| byte.is_ascii_digit()) && value.parse::<u64>().is_ok())
}

/// With 0 nothing could be started.
fn is_pids_limit(value: &str) -> bool {
    value == "max" || value.parse::<u32>().is_ok_and(|limit| limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut v1::LinuxContainerResources)) -> Result<Resources, RequestError> {
        let mut message = v1::LinuxContainerResources::default();
        change(&mut message);
        Resources::of_container("linux", Some(message))
    }

    #[test]
    fn zero_and_empty_in_an_update_leave_what_is_there() {
        let huge = |size: &str, limit| v1::HugepageLimit { page_size: size.to_owned(), limit };
        let old = read(|r| {
            (r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes, r.oom_score_adj) = (512, 20_000, 64 << 20, 100);
            r.hugepage_limits = vec![huge("2MB", 4 << 20), huge("1GB", 0)];
            r.unified = [("pids.max", "9"), ("memory.high", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        })
        .expect("valid");
        assert_eq!(old.merged_with(&Resources::default()), old);
        let update = read(|r| {
            (r.cpu_shares, r.oom_score_adj) = (1024, 5);
            "0".clone_into(&mut r.cpuset_cpus);
            r.hugepage_limits = vec![huge("2MB", 0)];
            r.unified = [("pids.max".to_owned(), "max".to_owned())].into();
        })
        .expect("valid");
        let merged = old.merged_with(&update);
        assert_eq!((merged.cpu_shares, merged.cpu_quota_us, merged.memory_limit_bytes), (1024, 20_000, 64 << 20));
        assert_eq!((merged.oom_score_adj, &*merged.cpuset_cpus), (100, "0"));
        assert_eq!(merged.hugepage_limits_bytes.values().copied().collect::<Vec<_>>(), [0, 0]);
        assert_eq!((merged.unified.len(), merged.pids_limit()), (2, None));
    }

    #[test]
    fn what_no_kernel_takes_is_refused_by_the_fields_name() {
        type Change = fn(&mut v1::LinuxContainerResources);
        let cases: [(&str, Change); 13] = [
            ("linux.cpu_shares", |r| r.cpu_shares = 262_145),
            ("linux.cpu_period", |r| r.cpu_period = 999),
            ("linux.cpu_period", |r| r.cpu_period = 1_000_001),
            ("linux.cpu_quota", |r| r.cpu_quota = 999),
            ("linux.cpu_quota", |r| r.cpu_quota = -2),
            ("linux.memory_limit_in_bytes", |r| r.memory_limit_in_bytes = 4096),
            ("linux.memory_swap_limit_in_bytes", |r| r.memory_swap_limit_in_bytes = -2),
            ("linux.cpuset_cpus", |r| r.cpuset_cpus = "3-1".to_owned()),
            ("linux.cpuset_mems", |r| r.cpuset_mems = "0,".to_owned()),
            ("linux.hugepage_limits", |r| r.hugepage_limits = vec![v1::HugepageLimit { page_size: "2M".to_owned(), limit: 0 }]),
            ("linux.unified", |r| drop(r.unified.insert("memory/high".to_owned(), "1".to_owned()))),
            ("linux.unified", |r| drop(r.unified.insert("cgroup.procs".to_owned(), "1".to_owned()))),
            ("linux.unified", |r| drop(r.unified.insert("pids.max".to_owned(), "0".to_owned()))),
        ];
        for (name, change) in cases {
            let Err(RequestError::Invalid { field, .. }) = read(change) else { panic!("{name} was taken") };
            assert_eq!(field, name);
        }
    }

    #[test]
    fn raw_limits_of_memory_are_plain_numbers_on_one_line() {
        let raw = |name: &str, value: &str| read(|r| drop(r.unified.insert(name.to_owned(), value.to_owned())));
        for name in BYTES_SETTINGS {
            for value in ["max", "16777216", "0016777216"] {
                raw(name, value).expect(value);
            }
            for value in ["16M", "16m", "+16777216", "-1", "16777216 ", "16777216\n", "max\n16M", "0x1000000", "18446744073709551616"] {
                let refusal = raw(name, value).expect_err(value).to_string();
                assert!(refusal.contains("linux.unified") && refusal.contains(name), "{refusal}");
            }
        }
        for value in ["0", "524287"] {
            let refusal = raw(MEMORY_MAX, value).expect_err(value).to_string();
            assert!(refusal.contains("linux.unified") && refusal.contains("524288"), "{refusal}");
        }
        raw(MEMORY_MAX, "524288").expect("as much as the memory limit may be");
        raw("memory.swap.max", "0").expect("no swap");
        raw("io.max", "8:0 rbps=1\n8:16 rbps=1").expect("a line a device");
        raw("io.max", "8:0 rbps=1\r8:16 rbps=1").expect_err("no line end of Linux");
    }

    #[test]
    fn swap_goes_with_memory_and_not_below_it() {
        let both = |memory, swap| Resources { memory_limit_bytes: memory, memory_swap_limit_bytes: swap, ..Resources::default() };
        for (memory, swap) in [(0, 0), (0, -1), (64, 0), (64, -1), (64, 64), (64, 65)] {
            assert!(both(memory, swap).swap_fits_memory(), "{memory}, {swap}");
        }
        assert!(!both(0, 64).swap_fits_memory() && !both(64, 63).swap_fits_memory());
    }
}
