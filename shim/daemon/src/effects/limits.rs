//! Limits that make no sense on this node, told by the field that asked for them before any cgroup hears of them.

use crate::request::Resources;
use podbox_cgroup::IdList;

/// CPUs and memory nodes that are there and in use (`sysfs-devices-system-cpu` in the kernel's documentation).
const CPUS: &str = "/sys/devices/system/cpu/online";
const NODES: &str = "/sys/devices/system/node/online";

/// A limit that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("linux.resources.{field}: {reason}")]
pub struct LimitError {
    /// As the CRI spells it.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// Checks what is asked for now, and what a container has with it in all.
///
/// # Errors
/// Names the field.
pub fn check_limits(asked: &Resources, in_all: &Resources) -> Result<(), LimitError> {
    check_list("cpuset_cpus", "CPUs", &asked.cpuset_cpus, CPUS)?;
    check_list("cpuset_mems", "memory nodes", &asked.cpuset_mems, NODES)?;
    if in_all.swap_fits_memory() {
        return Ok(());
    }
    let (memory, sum) = (in_all.memory_limit_bytes, in_all.memory_swap_limit_bytes);
    let reason = match memory {
        0 => "it needs a memory limit".to_owned(),
        _ => format!("memory and swap together, {sum} bytes, are less than memory, {memory} bytes"),
    };
    Err(LimitError { field: "memory_swap_limit_in_bytes", reason })
}

/// A kernel without the file, such as one without NUMA, judges for itself.
fn check_list(field: &'static str, what: &str, asked: &str, online: &str) -> Result<(), LimitError> {
    let list = std::fs::read_to_string(online).ok();
    let (Ok(asked), Some(Ok(online))) = (asked.parse::<IdList>(), list.map(|list| list.trim().parse::<IdList>())) else { return Ok(()) };
    match asked.missing_in(&online) {
        None => Ok(()),
        Some(missing) => Err(LimitError { field, reason: format!("{what} {missing} are not there, {online} are") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_and_nodes_that_are_not_there_are_named() {
        let cpus = Resources { cpuset_cpus: "0,4090-4091".to_owned(), ..Resources::default() };
        let error = check_limits(&cpus, &cpus).expect_err("no machine has them");
        assert_eq!(error.field, "cpuset_cpus");
        assert!(error.reason.contains("4090-4091"), "{error}");
        // What was asked for long ago is not judged again.
        check_limits(&Resources::default(), &cpus).expect("nothing asked for");
        let swap = Resources { memory_swap_limit_bytes: 1 << 20, ..Resources::default() };
        assert_eq!(check_limits(&Resources::default(), &swap).expect_err("no memory limit").field, "memory_swap_limit_in_bytes");
    }
}
