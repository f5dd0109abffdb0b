//! A monitor of one's own, a root file system of busybox, and plans for it.

mod cgroup;
mod monitor;
mod plans;

pub use cgroup::TestCgroup;
pub use monitor::{Launched, TestMonitor, record_at, until};
pub use plans::{ContainerPlan, FEW_CAPABILITIES, Image, exec_plan, pause_plan};

use std::path::Path;

/// The text of a namespace's link: two processes are in the same one if theirs are equal.
pub fn namespace_of(pid: i32, kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("namespace link");
    link.to_str().expect("UTF-8").to_owned()
}

/// A line of `/proc/PID/status`.
pub fn status_of(pid: i32, key: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default().trim().to_owned()
}

/// The text of each line of a log, its stream and tag in front: `stdout F text`.
pub fn log_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "the log ends within a line");
    // Not `lines`: a terminal's output has carriage returns that are part of it.
    text.split_terminator('\n').map(|line| line.split_once(' ').expect("a time").1.to_owned()).collect()
}

/// Puts this test's thread into a mount namespace of its own, where mounts are nobody else's; it goes with the thread.
pub fn leave_mount_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("unshare");
    use rustix::mount::{MountPropagationFlags, mount_change};
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).expect("make mounts private");
}

/// Mounts a tmpfs; only after [`leave_mount_namespace`].
pub fn mount_tmpfs(at: &Path, options: &std::ffi::CStr) {
    rustix::mount::mount("tmpfs", at, "tmpfs", rustix::mount::MountFlags::empty(), options).expect("mount tmpfs");
}
