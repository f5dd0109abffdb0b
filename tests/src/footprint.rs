//! By what everything that belongs to a daemon can be found, even when the test that started it is no more: its directory, its
//! cgroup and its network namespace.

use crate::{host, wait};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
/// Where directories are that have to be on a disk.
pub(crate) const ON_DISK: &str = "/var/tmp";
/// Test directories are named `podbox-test-PID-NUMBER-RANDOM`, and cgroups `podbox-test-PID-NUMBER`.
const PREFIX: &str = "podbox-test-";

/// What a daemon leaves traces in.
#[derive(Debug, Clone)]
pub(crate) struct Footprint {
    pub directory: PathBuf,
    pub cgroup_parent: String,
    /// Inode of the network namespace, if it is the daemon's alone.
    pub network: Option<u64>,
}

/// The name that a test daemon of this process goes by.
pub(crate) fn name(number: u32) -> String {
    format!("{PREFIX}{}-{number}", std::process::id())
}

impl Footprint {
    /// Ids of the pods that stand in the state directory.
    pub fn recorded_pods(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.directory.join("run/pods")) else { return Vec::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Whether a process belongs to the daemon: it is the daemon or a child of its, one of its pods' monitors, below its cgroup, or in
    /// its network namespace.
    pub fn holds(&self, pid: i32) -> bool {
        if pid == i32::try_from(std::process::id()).unwrap_or_default() {
            return false;
        }
        self.is_in_cgroup(pid)
            || self.network.is_some_and(|network| host::namespace(pid, "net").is_ok_and(|inode| inode == network))
            || self.is_daemon(pid)
            || self.is_monitor(pid)
            || host::status_field(pid, "PPid").is_ok_and(|parent| parent.parse().is_ok_and(|parent| self.is_daemon(parent)))
    }

    fn is_in_cgroup(&self, pid: i32) -> bool {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return false };
        text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| Path::new(path).starts_with(&self.cgroup_parent))
    }

    fn is_daemon(&self, pid: i32) -> bool {
        let config = self.directory.join("podbox.toml");
        host::arguments(pid).is_some_and(|words| words.iter().any(|word| Path::new(word) == config))
    }

    fn is_monitor(&self, pid: i32) -> bool {
        let Some(words) = host::arguments(pid) else { return false };
        let is_here = |id: &String| ["run/pods", "run/quarantine"].iter().any(|folder| self.directory.join(folder).join(id).exists());
        words[0] == "podbox-monitor" && words.get(1).is_some_and(is_here)
    }

    /// Ends and removes all of it. Best effort: a test that failed must not keep the next one from its start.
    pub fn erase(&self) {
        self.kill_processes();
        for pod in self.recorded_pods() {
            if let Some(name) = pod.get(..16) {
                let _ = std::fs::remove_file(Path::new("/run/netns").join(format!("podbox-{name}")));
            }
        }
        for point in mounts_below(&self.directory) {
            let _ = umount2(&point, MntFlags::MNT_DETACH);
        }
        remove_cgroups(&self.cgroup_parent);
        let _ = std::fs::remove_dir_all(&self.directory);
    }

    /// Until none is left: what forks faster than it is killed ends in the next round.
    fn kill_processes(&self) {
        let end = Instant::now() + wait::scaled(PATIENCE);
        loop {
            let left: Vec<i32> = host::all_processes().into_iter().filter(|pid| self.holds(*pid) && host::runs(*pid)).collect();
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
}

/// Erases what tests left that were killed themselves.
pub(crate) fn erase_orphans() {
    let entries = [std::env::temp_dir(), PathBuf::from(ON_DISK)].into_iter().filter_map(|above| std::fs::read_dir(above).ok());
    for entry in entries.flatten().flatten() {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = file_name.strip_prefix(PREFIX).into_iter().flat_map(|rest| rest.splitn(3, '-'));
        let (Some(Ok(pid)), Some(Ok(number))) = (parts.next().map(str::parse::<i32>), parts.next().map(str::parse::<u32>)) else {
            continue;
        };
        if Path::new(&format!("/proc/{pid}")).exists() {
            continue;
        }
        let cgroup_parent = format!("/{PREFIX}{pid}-{number}");
        Footprint { directory: entry.path(), cgroup_parent, network: None }.erase();
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
        let end = Instant::now() + wait::scaled(PATIENCE);
        let top = root.join(parent.trim_start_matches('/'));
        // The processes are killed; their cgroups empty a moment later.
        while top.exists() && Instant::now() < end {
            let mut directories = host::directories_below(&top);
            directories.reverse();
            directories.push(top.clone());
            for directory in directories {
                let _ = std::fs::remove_dir(directory);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
