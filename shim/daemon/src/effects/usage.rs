//! What a container uses, as its cgroup counts it.

use podbox_cgroup::{Cgroup, CgroupPath, Hierarchies};
use std::path::{Path, PathBuf};

/// What a container has used and uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its processes, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory, page cache included, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory less the page cache that nobody used lately, as the kubelet defines the working set.
    pub working_set_bytes: Option<u64>,
}

/// Reads a cgroup's usage; what the host does not count is `None`, and so is all of a cgroup that is gone.
#[must_use]
pub fn read_usage(host: &Hierarchies, path: &str) -> Usage {
    let Ok(path) = CgroupPath::new(path) else { return Usage::default() };
    let entry = Cgroup::at(host, &path).entry();
    let folders: Vec<PathBuf> = entry.v1.into_iter().chain(entry.unified).collect();
    let number = |name: &str| folders.iter().find_map(|folder| read_number(&folder.join(name)));
    let keyed = |name: &str, key: &str| folders.iter().find_map(|folder| read_keyed(&folder.join(name), key));
    let memory = number("memory.usage_in_bytes").or_else(|| number("memory.current"));
    let inactive = keyed("memory.stat", "total_inactive_file").or_else(|| keyed("memory.stat", "inactive_file"));
    Usage {
        cpu_ns: number("cpuacct.usage").or_else(|| keyed("cpu.stat", "usage_usec").map(|usec| usec.saturating_mul(1000))),
        memory_bytes: memory,
        working_set_bytes: memory.map(|memory| memory.saturating_sub(inactive.unwrap_or_default())),
    }
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_keyed(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
