//! What is asked seldom of a container: more of its cgroup's counters, and its processes' descriptors.

use podbox_cgroup::{Cgroup, CgroupPath, Details, Hierarchies};
use std::path::Path;

/// Descriptors of one container that are looked at: more would take long, and say no more.
const DESCRIPTORS_MAX: u64 = 100_000;

/// More of what a container uses.
#[derive(Debug, Clone, Default)]
pub struct ContainerDetails {
    /// Of its cgroup.
    pub cgroup: Details,
    /// Processes, each once however many threads it has.
    pub processes: u64,
    /// Open descriptors of all its processes.
    pub descriptors: u64,
    /// Those of them that are sockets.
    pub sockets: u64,
    /// How many files its init may have open; `None` once it is gone, and where any number may be.
    pub open_files_max: Option<u64>,
}

/// Space of the file system that containers' layers are on.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskSpace {
    /// In all.
    pub size_bytes: u64,
    /// In all.
    pub inodes: u64,
    /// That are not used.
    pub inodes_free: u64,
}

/// Reads the details of a container; to be called where one may wait for the kernel. What is gone counts nothing.
#[must_use]
pub fn read_details(host: &Hierarchies, cgroup: &str, init: i32) -> ContainerDetails {
    let Ok(path) = CgroupPath::new(cgroup) else { return ContainerDetails::default() };
    let cgroup = Cgroup::at(host, &path);
    let counters = Details::read(&cgroup).unwrap_or_else(|error| {
        tracing::warn!(cgroup = %path, error = %crate::chain::Chain(&error), "details are not measured");
        Details::default()
    });
    let processes = cgroup.processes(true).unwrap_or_default();
    let mut details = ContainerDetails {
        cgroup: counters,
        processes: processes.len() as u64,
        open_files_max: open_files_of(init),
        ..ContainerDetails::default()
    };
    for pid in processes {
        if details.descriptors >= DESCRIPTORS_MAX {
            break;
        }
        count_descriptors(pid, &mut details);
    }
    details
}

fn count_descriptors(pid: i32, details: &mut ContainerDetails) {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    for descriptor in descriptors.flatten() {
        details.descriptors += 1;
        let is_socket =
            std::fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        details.sockets += u64::from(is_socket);
    }
}

/// The soft limit, from the table that the kernel writes for people.
fn open_files_of(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// How much room there is where `path` is; `None` if nobody can tell.
#[must_use]
pub fn disk_space(path: &Path) -> Option<DiskSpace> {
    let space = rustix::fs::statvfs(path).ok()?;
    Some(DiskSpace { size_bytes: space.f_blocks.saturating_mul(space.f_frsize), inodes: space.f_files, inodes_free: space.f_ffree })
}
