//! The little that the monitor does with cgroups when a process ends: ask about memory kills, and kill what is left.

use podbox_plan::CgroupEntry;
use podbox_sys::send_signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const SIGKILL: i32 = 9;
/// Each round kills what the one before had not seen: children forked meanwhile. A fork bomb may outrun any number.
const KILL_ROUNDS_MAX: usize = 64;
/// Cgroups that a container made below its own (v1 has no kill that reaches them).
const DEPTH_MAX: usize = 16;

/// How many processes the kernel has killed for memory in this cgroup so far; `None` where nobody counts.
pub fn oom_kills(entry: &CgroupEntry) -> Option<u64> {
    let text = fs::read_to_string(entry.oom_counter.as_ref()?).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// Sends SIGKILL to everything in the cgroup: by `cgroup.kill` on v2, else process by process.
pub fn kill_rest(entry: &CgroupEntry) {
    if let Some(unified) = &entry.unified
        && fs::write(unified.join("cgroup.kill"), "1").is_ok()
    {
        return;
    }
    let mut killed = BTreeSet::new();
    for directory in entry.unified.iter().chain(&entry.v1) {
        for _ in 0..KILL_ROUNDS_MAX {
            let before = killed.len();
            kill_members(directory, DEPTH_MAX, &mut killed);
            if killed.len() == before {
                break;
            }
        }
    }
}

/// One round over a cgroup and those below it.
fn kill_members(directory: &Path, depth: usize, killed: &mut BTreeSet<i32>) {
    if let Ok(members) = fs::read_to_string(directory.join("cgroup.procs")) {
        for pid in members.lines().filter_map(|line| line.parse().ok()) {
            if killed.insert(pid) {
                kill(pid);
            }
        }
    }
    if depth > 0
        && let Ok(entries) = fs::read_dir(directory)
    {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            kill_members(&entry.path(), depth - 1, killed);
        }
    }
}

/// One that is gone meanwhile is as good as killed; 0 stands for a process of a PID namespace that is not below this one.
fn kill(pid: i32) {
    if let Some(pidfd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
        let _ = send_signal(pidfd, SIGKILL);
    }
}
