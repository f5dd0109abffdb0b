//! Checks and values that sandboxes and containers share.

use super::RequestError;
use podbox_proto::v1;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Labels or annotations: returned as they came.
pub type Labels = BTreeMap<String, String>;

/// One object's labels, or its annotations: Kubernetes bounds annotations to 256 KiB an object.
const LABELS_BYTES_MAX: usize = 256 * 1024;
/// Names of pods, containers and namespaces; Kubernetes' own bound is 253.
const NAME_BYTES_MAX: usize = 1024;
/// `PATH_MAX`, less the NUL.
const PATH_BYTES_MAX: usize = 4095;

pub(super) fn labels(field: &'static str, labels: BTreeMap<String, String>) -> Result<Labels, RequestError> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > LABELS_BYTES_MAX {
        return Err(RequestError::invalid(field, format!("{bytes} bytes are over the limit of {LABELS_BYTES_MAX}")));
    }
    Ok(labels)
}

pub(super) fn name(field: &'static str, name: String) -> Result<String, RequestError> {
    if name.is_empty() {
        return Err(RequestError::invalid(field, "is required"));
    }
    bounded_text(field, name)
}

/// Text that ends up in names and messages: bounded, without control characters.
pub(super) fn bounded_text(field: &'static str, text: String) -> Result<String, RequestError> {
    if text.len() > NAME_BYTES_MAX {
        return Err(RequestError::invalid(field, format!("{} bytes are over the limit of {NAME_BYTES_MAX}", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(RequestError::invalid(field, "holds a control character"));
    }
    Ok(text)
}

pub(super) fn absolute_path(field: &'static str, text: &str) -> Result<PathBuf, RequestError> {
    if !text.starts_with('/') {
        return Err(RequestError::invalid(field, format!("an absolute path is due, not {:?}", shortened(text))));
    }
    checked_path(field, text)
}

pub(super) fn checked_path(field: &'static str, text: &str) -> Result<PathBuf, RequestError> {
    if text.len() > PATH_BYTES_MAX {
        return Err(RequestError::invalid(field, format!("{} bytes are over a path's limit of {PATH_BYTES_MAX}", text.len())));
    }
    if text.contains('\0') {
        return Err(RequestError::invalid(field, "holds a NUL byte"));
    }
    Ok(PathBuf::from(text))
}

pub(super) fn has_parent_component(path: &Path) -> bool {
    path.components().any(|part| matches!(part, Component::ParentDir))
}

/// The beginning of a text, for messages.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Reads an enum of the CRI; numbers outside it are errors, not defaults.
pub(super) fn enum_value<E: TryFrom<i32>>(field: &'static str, number: i32) -> Result<E, RequestError> {
    E::try_from(number).map_err(|_| RequestError::invalid(field, format!("{number} is no value of this enumeration")))
}

/// Checks an id of the kernel's: 0 to 2³²−2 (the last one means "no change" to `setresuid(2)`).
pub(super) fn kernel_id(field: &'static str, value: i64) -> Result<u32, RequestError> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(RequestError::invalid(field, format!("{value} is no user or group id"))),
    }
}

/// `LinuxContainerResources`, as far as it is honoured. 0 and empty mean: nothing asked for.
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
    /// The most processes; from `unified["pids.max"]`, on either version of cgroups.
    pub pids_limit: u64,
}

impl TryFrom<v1::LinuxContainerResources> for Resources {
    type Error = RequestError;

    fn try_from(resources: v1::LinuxContainerResources) -> Result<Self, RequestError> {
        if resources.hugepage_limits.iter().any(|limit| limit.limit > 0) {
            return Err(RequestError::unsupported("linux.resources.hugepage_limits", "huge page limits are"));
        }
        let natural = |field: &'static str, value: i64| {
            u64::try_from(value).map_err(|_| RequestError::invalid(field, format!("{value} is negative")))
        };
        let or_unlimited = |field: &'static str, value: i64| {
            if value >= -1 { Ok(value) } else { Err(RequestError::invalid(field, format!("{value} is neither a limit nor -1"))) }
        };
        let oom_score_adj = i32::try_from(resources.oom_score_adj).ok().filter(|value| (-1000..=1000).contains(value));
        Ok(Self {
            cpu_period_us: natural("linux.resources.cpu_period", resources.cpu_period)?,
            cpu_quota_us: or_unlimited("linux.resources.cpu_quota", resources.cpu_quota)?,
            cpu_shares: natural("linux.resources.cpu_shares", resources.cpu_shares)?,
            memory_limit_bytes: natural("linux.resources.memory_limit_in_bytes", resources.memory_limit_in_bytes)?,
            memory_swap_limit_bytes: or_unlimited("linux.resources.memory_swap_limit_in_bytes", resources.memory_swap_limit_in_bytes)?,
            oom_score_adj: oom_score_adj
                .ok_or_else(|| RequestError::invalid("linux.resources.oom_score_adj", "a value from -1000 to 1000 is due"))?,
            cpuset_cpus: cpu_list("linux.resources.cpuset_cpus", resources.cpuset_cpus)?,
            cpuset_mems: cpu_list("linux.resources.cpuset_mems", resources.cpuset_mems)?,
            pids_limit: pids_limit(&resources.unified)?,
        })
    }
}

fn cpu_list(field: &'static str, text: String) -> Result<String, RequestError> {
    if text.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '-')) && text.len() <= PATH_BYTES_MAX {
        return Ok(text);
    }
    Err(RequestError::invalid(field, "a list of numbers and ranges is due, like 0-3,7"))
}

fn pids_limit(unified: &BTreeMap<String, String>) -> Result<u64, RequestError> {
    if unified.keys().any(|key| key != "pids.max") {
        return Err(RequestError::unsupported("linux.resources.unified", "keys but pids.max are"));
    }
    match unified.get("pids.max").map(String::as_str) {
        None | Some("max") => Ok(0),
        Some(text) => text
            .parse::<u64>()
            .ok()
            .filter(|limit| *limit > 0)
            .ok_or_else(|| RequestError::invalid("linux.resources.unified", "pids.max: a number above 0 or max is due")),
    }
}
