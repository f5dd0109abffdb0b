//! What runs in the guests: podbox and the test programs, as cargo builds them.

use super::guest::{Cgroup, Guest};
use super::{Job, Payload};
use crate::build::{self, Profile};
use Extent::{All, Brief, Kernel};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Stdio;

/// Test programs for which the kernel, its version of cgroups, its security modules, or systemd as the first process make a difference:
/// the smallest extent with which each runs in the guest with v2, in the one with v1, of which a hybrid machine runs most without a
/// guest, and in the one with systemd, which has the kernel of that with v2 and owns the cgroups above the pods'. All others run with
/// `All`.
const MATTERS: &[(&str, [Extent; 3])] = &[
    ("apparmor", [Brief, Kernel, All]),
    ("cgroup-devices", [Brief, Brief, All]),
    ("cgroup-kernel", [Brief, Brief, All]),
    ("cgroup-limits", [Brief, Brief, All]),
    ("cgroup-stats", [Brief, Brief, All]),
    ("container_control", [Brief, Brief, Kernel]),
    ("container_devices", [Brief, Brief, Kernel]),
    ("container_huge_pages", [Brief, Kernel, Kernel]),
    ("container_limits", [Brief, Brief, Kernel]),
    ("container_logs", [Kernel, Kernel, All]),
    ("container_mounts", [Kernel, Kernel, All]),
    ("container_process", [Kernel, Kernel, All]),
    ("container_raw_limits", [Brief, Kernel, Kernel]),
    ("container_security", [Kernel, Kernel, All]),
    ("container_updates", [Brief, Kernel, Kernel]),
    ("crash", [Kernel, Kernel, All]),
    ("daemons_side_by_side", [Kernel, Kernel, All]),
    ("events", [Kernel, Kernel, All]),
    ("exec_sync", [Kernel, Kernel, All]),
    ("host_ports", [Kernel, Kernel, All]),
    ("hostile", [Kernel, Kernel, All]),
    ("image_volumes", [Kernel, Kernel, All]),
    ("killed_processes", [Kernel, Kernel, Kernel]),
    ("lost_connection", [Kernel, Kernel, All]),
    ("network", [Kernel, Kernel, All]),
    ("pod_cgroups", [Brief, Kernel, Kernel]),
    ("pod_namespaces", [Kernel, Kernel, All]),
    ("restart", [Kernel, Kernel, Kernel]),
    ("sctp", [Brief, Kernel, All]),
    ("seccomp", [Kernel, Kernel, All]),
    ("stats", [Brief, Kernel, Kernel]),
    ("stop", [Kernel, Kernel, All]),
    ("systemd_driver", [All, All, Brief]),
    ("unit_file", [All, All, Brief]),
    ("user_namespace", [Kernel, Kernel, All]),
    ("user_namespace_attacks", [Kernel, Kernel, All]),
    ("user_namespace_refusals", [Kernel, Kernel, All]),
];

/// What a machine with controllers of version 1 runs itself as well as the guest with v1 would: there it is no part of the brief extent.
const SAME_ON_V1: [&str; 3] = ["container_control", "container_devices", "container_limits"];

/// What runs in the guest with SELinux, whatever the extent; it lacks SELinux everywhere else.
const FOR_SELINUX: &str = "selinux";

/// Test programs that run in guests only where they are named: they need Debian packages that no guest has.
const NEED_PACKAGES: &[&str] = &["pull", "pull_tls"];

/// Packages with test programs that need nothing but the kernel, and what their programs' names begin with in a guest.
const PACKAGES: [(&str, &str); 2] = [("podbox-tests", ""), ("podbox-cgroup", "cgroup-")];

/// Two processors; more tests at a time only make each one slower.
const TEST_THREADS: u32 = 2;

/// How much of the suite runs in a guest where nothing is named; each has all of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Extent {
    /// What every `cargo xtask test` runs: what cgroups do, which are another interface in each guest, what the systemd driver makes
    /// different, and AppArmor and SCTP, which the machine outside may not have.
    Brief,
    /// All for which the kernel or systemd makes a difference.
    #[default]
    Kernel,
    /// Everything.
    All,
}

/// Programs by their names in the guest's payload, and which of their tests to run.
#[derive(Debug)]
pub(super) struct Programs {
    podbox: PathBuf,
    tests: Vec<(String, PathBuf)>,
}

/// Which tests a guest runs.
#[derive(Debug, PartialEq, Eq)]
struct Selection {
    /// Names of test programs.
    programs: Vec<String>,
    /// Parts of tests' names; a test runs if one of them fits, or if there is none.
    filters: Vec<String>,
}

impl Programs {
    /// What a guest runs of them. The filters are parts of Rust's names, so no character of theirs is special to a shell.
    pub(super) fn select(&self, guest: Guest, extent: Extent, filters: &[String]) -> Vec<Job> {
        let is_asked_for_v1 = guest == Guest::Plain(Cgroup::V1) && extent == Brief && filters.is_empty();
        let skipped: &[&str] = if is_asked_for_v1 && limits_memory_by_v1() { &SAME_ON_V1 } else { &[] };
        let names: Vec<&str> = self.tests.iter().map(|(name, _)| name.as_str()).filter(|name| !skipped.contains(name)).collect();
        let Selection { programs, filters } = select(&names, guest, extent, filters);
        let arguments = format!("--test-threads={TEST_THREADS} {}", filters.join(" "));
        programs.into_iter().map(|name| Job { command: format!("/mnt/tests/{name} {arguments}"), name }).collect()
    }

    /// Every one, whether it is to run or not: the payload serves the next call as well.
    pub(super) fn all(&self) -> Payload {
        let tests = self.tests.iter().map(|(name, path)| (format!("tests/{name}"), path.clone()));
        std::iter::once(("podbox".to_owned(), self.podbox.clone())).chain(tests).collect()
    }
}

fn limits_memory_by_v1() -> bool {
    podbox_tests::host::cgroup_hierarchies().iter().any(|(controllers, _)| controllers.split(',').any(|controller| controller == "memory"))
}

/// A line of cargo's messages, as far as it matters.
#[derive(Deserialize)]
struct Message {
    package_id: Option<String>,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds them all.
///
/// # Errors
/// cargo fails; it has said why.
pub(super) fn build() -> Result<Programs> {
    let podbox = build::program("podbox", "podbox", Profile::Dev)?;
    let mut tests = Vec::new();
    for (package, prefix) in PACKAGES {
        tests.extend(of_package(package)?.into_iter().map(|(name, path)| (format!("{prefix}{name}"), path)));
    }
    tests.sort();
    for name in MATTERS.iter().map(|(name, _)| *name).chain([FOR_SELINUX]) {
        ensure!(tests.iter().any(|(built, _)| built == name), "{name} is to run in guests, and there is no such test program");
    }
    Ok(Programs { podbox, tests })
}

/// Of the whole workspace, as all other commands build it: with other packages alone, dependencies would be built anew.
fn of_package(package: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut command = build::cargo();
    command.args(["test", "--no-run", "--locked", "--message-format=json-render-diagnostics", "--workspace", "--tests"]);
    let output = command.stderr(Stdio::inherit()).output().context("start cargo")?;
    ensure!(output.status.success(), "cargo test --no-run: {}", output.status);
    let mut found = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Message = serde_json::from_slice(line).context("parse what cargo says")?;
        if let (Some(target), Some(executable)) = (message.target, message.executable)
            && message.package_id.is_some_and(|id| id.contains(&format!("#{package}@")))
            && target.kind.iter().any(|kind| kind == "test")
        {
            found.push((target.name, executable));
        }
    }
    ensure!(!found.is_empty(), "{package} has no test programs");
    Ok(found)
}

/// The programs to run and the filters that are left: one that names a program selects it, others go to the programs. Without a
/// program's name every filter is tried on all of them.
fn select(programs: &[&str], guest: Guest, extent: Extent, filters: &[String]) -> Selection {
    let (named, filters): (Vec<String>, Vec<String>) = filters.iter().cloned().partition(|filter| programs.contains(&filter.as_str()));
    if !named.is_empty() {
        return Selection { programs: named, filters };
    }
    let is_asked_for = |name: &&&str| match guest {
        Guest::Selinux => **name == FOR_SELINUX,
        _ => !filters.is_empty() || extent >= smallest_extent(name, guest),
    };
    let runs = |name: &&&str| is_asked_for(name) && !NEED_PACKAGES.contains(*name);
    Selection { programs: programs.iter().filter(runs).map(|name| (*name).to_owned()).collect(), filters }
}

fn smallest_extent(program: &str, guest: Guest) -> Extent {
    let Some((_, [v2, v1, systemd])) = MATTERS.iter().find(|(name, _)| *name == program) else { return All };
    match guest {
        Guest::Plain(Cgroup::V2) | Guest::Selinux => *v2,
        Guest::Plain(Cgroup::V1) => *v1,
        Guest::Systemd(_) => *systemd,
    }
}

#[cfg(test)]
mod tests {
    use super::super::guest::Driver;
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn selected(guest: Guest, extent: Extent, filters: &[&str]) -> (Vec<String>, Vec<String>) {
        let selection = select(&["crash", "images", "pull", "selinux", "stats", "unit_file"], guest, extent, &texts(filters));
        (selection.programs, selection.filters)
    }

    #[test]
    fn a_filter_names_a_program_or_tests() {
        let (plain, systemd) = (Guest::Plain(Cgroup::V2), Guest::Systemd(Driver::Cgroupfs));
        assert_eq!(selected(Guest::Plain(Cgroup::V1), Brief, &[]), (texts(&[]), texts(&[])));
        assert_eq!(selected(plain, Kernel, &[]), (texts(&["crash", "stats"]), texts(&[])));
        assert_eq!(selected(plain, Brief, &[]), (texts(&["stats"]), texts(&[])));
        assert_eq!(selected(systemd, Kernel, &[]), (texts(&["stats", "unit_file"]), texts(&[])));
        assert_eq!(selected(systemd, Brief, &[]), (texts(&["unit_file"]), texts(&[])));
        assert_eq!(selected(plain, All, &[]), (texts(&["crash", "images", "selinux", "stats", "unit_file"]), texts(&[])));
        assert_eq!(selected(Guest::Selinux, All, &[]), (texts(&["selinux"]), texts(&[])));
        assert_eq!(selected(Guest::Selinux, Kernel, &["crash"]), (texts(&["crash"]), texts(&[])));
        assert_eq!(selected(plain, Kernel, &["images"]), (texts(&["images"]), texts(&[])));
        assert_eq!(selected(plain, Kernel, &["images", "pulled"]), (texts(&["images"]), texts(&["pulled"])));
        assert_eq!(
            selected(plain, Kernel, &["pulled"]),
            (texts(&["crash", "images", "selinux", "stats", "unit_file"]), texts(&["pulled"]))
        );
    }
}
