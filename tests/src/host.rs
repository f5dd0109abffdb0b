//! The machine: what only root can look at, and what it lacks.

use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Tells whoever watches, past the capture of test output.
pub(crate) fn say(text: &str) {
    // Nobody listens: nothing to be done.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What the line begins with that a test prints when it cannot run here.
pub const SKIPPED: &str = "skipped ";
/// Names the file that gets these lines as well, for whoever reports on many test programs.
pub const SKIPPED_FILE: &str = "PODBOX_TEST_SKIPPED";

/// Says that the test that calls this cannot show on this machine what it is to show, for want of something, past the capture of
/// test output. The test then returns, at once or after it held podbox to saying so itself: whoever reads the results finds it
/// among those that were skipped, with the reason.
pub fn lacks(what: &str) {
    let thread = std::thread::current();
    let line = format!("{SKIPPED}{}: this machine has no {what}", thread.name().unwrap_or("a test"));
    say(&line);
    if let Some(path) = std::env::var_os(SKIPPED_FILE) {
        // Short lines: appended whole, whatever other tests do. Who cannot write has said it above.
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }
}

/// Prints what the test harness keeps to itself unless the test fails.
#[allow(clippy::print_stderr)]
pub(crate) fn show(text: &str) {
    eprintln!("{text}");
}

/// What a namespace link under `/proc` names: its inode.
///
/// # Errors
/// The process is gone.
pub fn namespace(pid: i32, kind: &str) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let path = format!("/proc/{pid}/ns/{kind}");
    Ok(std::fs::metadata(&path).with_context(|| path)?.ino())
}

/// A line of `/proc/PID/status`, without its name.
///
/// # Errors
/// The process is gone, or there is no such line.
pub fn status_field(pid: i32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).with_context(|| format!("{path}: {name}"))?;
    Ok(line.trim().to_owned())
}

/// Whether a process runs; a zombie does not.
#[must_use]
pub fn runs(pid: i32) -> bool {
    status_field(pid, "State").is_ok_and(|state| !state.starts_with('Z'))
}

/// Processes whose first argument is `name`.
#[must_use]
pub fn processes_named(name: &str) -> Vec<(i32, Vec<String>)> {
    all_processes().into_iter().filter_map(|pid| Some((pid, arguments(pid)?))).filter(|(_, words)| words[0] == name).collect()
}

/// Every process.
#[must_use]
pub fn all_processes() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The argument vector of a process; `None` of one that is gone or has none.
#[must_use]
pub fn arguments(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (!text.is_empty()).then(|| text.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
}

/// Mount points of the cgroup hierarchies, with the name that tells them apart: `memory`, `unified`.
#[must_use]
pub fn cgroup_hierarchies() -> Vec<(String, PathBuf)> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let kind = right.split(' ').next().unwrap_or_default();
        let Some(point) = left.split(' ').nth(4).filter(|_| kind == "cgroup" || kind == "cgroup2") else { continue };
        let point = Path::new(point);
        let name = point.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.push((name, point.to_owned()));
    }
    found
}

/// The value of a cgroup's file in whichever hierarchy has it: `cgroup_file("/podbox/x", "pids.max")`.
///
/// # Errors
/// No hierarchy has it.
pub fn cgroup_file(cgroup: &str, file: &str) -> Result<String> {
    for (_, root) in cgroup_hierarchies() {
        let path = root.join(cgroup.trim_start_matches('/')).join(file);
        if let Ok(text) = std::fs::read_to_string(path) {
            return Ok(text.trim().to_owned());
        }
    }
    anyhow::bail!("no hierarchy has {file} of the cgroup {cgroup}")
}

/// All directories below one, each after its parent.
#[must_use]
pub fn directories_below(top: &Path) -> Vec<PathBuf> {
    entries_below(top).into_iter().filter(|path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())).collect()
}

/// Everything below a directory, each after the directory that holds it.
#[must_use]
pub fn entries_below(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(top) else { return found };
    for entry in entries.flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(entries_below(&entry.path()));
        }
    }
    found
}
