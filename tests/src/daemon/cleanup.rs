//! Taking away what a daemon leaves when it is killed: found by its cgroup, its network namespace and its state directory.

use super::Daemon;
use crate::census::{directories_below, is_of};
use crate::host;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// Best effort, all of it: a test that failed must not keep the next one from its start.
pub(super) fn remove_everything(daemon: &Daemon) {
    kill_processes(daemon);
    for pod in daemon.recorded_pods() {
        if let Some(name) = pod.get(..16) {
            let _ = std::fs::remove_file(Path::new("/run/netns").join(format!("podbox-{name}")));
        }
    }
    for point in mounts_below(daemon.directory()) {
        let _ = umount2(&point, MntFlags::MNT_DETACH);
    }
    remove_cgroups(daemon.cgroup_parent());
}

/// Until none is left: what forks faster than it is killed ends in the next round.
fn kill_processes(daemon: &Daemon) {
    let end = Instant::now() + PATIENCE;
    loop {
        let left: Vec<i32> = host::all_processes().into_iter().filter(|pid| is_of(daemon, *pid) && host::runs(*pid)).collect();
        if left.is_empty() {
            return;
        }
        if Instant::now() > end {
            host::say(&format!("processes that do not end: {left:?}"));
            return;
        }
        for pid in left {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Mount points below a directory, the deepest first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect();
    points.retain(|point| point.starts_with(directory));
    points.reverse();
    points
}

fn remove_cgroups(parent: &str) {
    for (_, root) in host::cgroup_hierarchies() {
        let end = Instant::now() + PATIENCE;
        let top = root.join(parent.trim_start_matches('/'));
        // The processes are killed; their cgroups empty a moment later.
        while top.exists() && Instant::now() < end {
            let mut directories = directories_below(&top);
            directories.reverse();
            directories.push(top.clone());
            for directory in directories {
                let _ = std::fs::remove_dir(directory);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
