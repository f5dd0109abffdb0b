//! What a run left behind that was killed before it could clean up: its daemon, which goes on serving, its pods, and their files.
//!
//! A run's daemon has a directory `podbox-test-PID-NUMBER-…` among the temporary files and a cgroup `podbox-test-PID-NUMBER`, with
//! the process id of the run. It is abandoned when there is no such process any more.

use anyhow::{Context, Result, ensure};
use podbox_tests::host;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PREFIX: &str = "podbox-test-";
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// One daemon's.
struct Abandoned {
    directory: PathBuf,
    /// By name, below the root of each hierarchy that has it.
    cgroups: Vec<PathBuf>,
    /// Ids of its pods.
    pods: Vec<String>,
}

/// Ends and removes whatever killed runs left; says so on standard error.
///
/// # Errors
/// Something of it does not go away.
pub(crate) fn remove() -> Result<()> {
    let temporary = std::env::temp_dir();
    for entry in fs::read_dir(&temporary).with_context(|| temporary.display().to_string())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(cgroup) = cgroup_of_dead(&name, |pid| Path::new("/proc").join(pid).exists()) {
            eprintln!("==> removing what a killed run left: {}", entry.path().display());
            Abandoned::find(entry.path(), cgroup).remove()?;
        }
    }
    Ok(())
}

/// Name of the cgroup that belongs to a directory of this name, if the run is dead.
fn cgroup_of_dead(directory: &str, is_alive: impl Fn(&str) -> bool) -> Option<&str> {
    let (pid, rest) = directory.strip_prefix(PREFIX)?.split_once('-')?;
    let (number, _) = rest.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let well_formed = is_number(pid) && is_number(number);
    (well_formed && !is_alive(pid)).then(|| &directory[..PREFIX.len() + pid.len() + 1 + number.len()])
}

impl Abandoned {
    fn find(directory: PathBuf, cgroup: &str) -> Self {
        let cgroups = host::cgroup_hierarchies().into_iter().map(|(_, root)| root.join(cgroup)).filter(|path| path.exists()).collect();
        let pods = names_in(&directory.join("run/pods"));
        Self { directory, cgroups, pods }
    }

    fn remove(&self) -> Result<()> {
        let end = Instant::now() + ENDS_WITHIN;
        loop {
            let processes = self.processes();
            if processes.is_empty() && self.cgroups.iter().all(|cgroup| !cgroup.exists()) {
                break;
            }
            ensure!(Instant::now() < end, "{} is still in use: processes {processes:?}", self.directory.display());
            for pid in processes.into_iter().filter_map(Pid::from_raw) {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
            self.cgroups.iter().for_each(|cgroup| remove_cgroup(cgroup));
            std::thread::sleep(Duration::from_millis(10));
        }
        for pod in &self.pods {
            // Named for the beginning of the id; there is none of a pod without a network of its own.
            let _ = fs::remove_file(Path::new("/run/netns").join(format!("podbox-{}", pod.get(..16).unwrap_or(pod))));
        }
        fs::remove_dir_all(&self.directory).with_context(|| format!("remove {}", self.directory.display()))
    }

    /// The daemon, the monitors, and what is in the cgroups.
    fn processes(&self) -> Vec<i32> {
        let config = self.directory.join("podbox.toml");
        let is_own = |words: &[String]| match words {
            [program, pod, ..] if program == "podbox-monitor" => self.pods.contains(pod),
            words => words.iter().any(|word| Path::new(word) == config),
        };
        let mut found: Vec<i32> = self.cgroups.iter().flat_map(|cgroup| members(cgroup)).collect();
        found.extend(host::all_processes().into_iter().filter(|pid| host::arguments(*pid).is_some_and(|words| is_own(&words))));
        found.retain(|pid| host::runs(*pid));
        found
    }
}

/// Processes of a cgroup and of those below it.
fn members(cgroup: &Path) -> Vec<i32> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let below = folders_in(cgroup).into_iter().flat_map(|child| members(&child));
    own.lines().filter_map(|line| line.parse().ok()).chain(below).collect()
}

/// As far as it is empty; the caller comes again.
fn remove_cgroup(cgroup: &Path) {
    folders_in(cgroup).iter().for_each(|child| remove_cgroup(child));
    let _ = fs::remove_dir(cgroup);
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    names_in(folder).into_iter().map(|name| folder.join(name)).filter(|path| path.is_dir()).collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_run_named_is_abandoned() {
        let dead = |name| cgroup_of_dead(name, |pid| pid == "7");
        assert_eq!(dead("podbox-test-8-0-aBcDeF"), Some("podbox-test-8-0"));
        assert_eq!(dead("podbox-test-812-31-x-y"), Some("podbox-test-812-31"));
        for kept in
            ["podbox-test-7-0-aBcDeF", "podbox-test-8-0", "podbox-test-x-0-a", "podbox-test-8--a", "podbox-test--0-a", "other-8-0-a"]
        {
            assert_eq!(dead(kept), None, "{kept}");
        }
    }
}
