//! What runs in the guests: podbox and the test programs, as cargo builds them.

use super::guest::Guest;
use crate::build::{self, Profile};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Test programs for which the kernel, its version of cgroups or its security modules make a difference: what runs in guests
/// without systemd. All others run there with `--all`.
const KERNEL_MATTERS: &[&str] = &[
    "cgroup-devices",
    "cgroup-kernel",
    "cgroup-limits",
    "container_control",
    "container_devices",
    "container_huge_pages",
    "container_limits",
    "container_logs",
    "container_mounts",
    "container_process",
    "container_raw_limits",
    "container_security",
    "container_updates",
    "crash",
    "daemons_side_by_side",
    "exec_sync",
    "hostile",
    "killed_processes",
    "lost_connection",
    "network",
    "pod_cgroups",
    "pod_namespaces",
    "restart",
    "stats",
    "stop",
];

/// Those that every `cargo xtask test` runs: what cgroups do, which are another interface in each guest.
const CGROUPS_MATTER: &[&str] = &[
    "cgroup-devices",
    "cgroup-kernel",
    "cgroup-limits",
    "container_control",
    "container_devices",
    "container_huge_pages",
    "container_limits",
    "container_raw_limits",
    "container_updates",
    "pod_cgroups",
    "stats",
];

/// Test programs for which it makes a difference that systemd is the first process, and owns the cgroups above the pods'.
const SYSTEMD_MATTERS: &[&str] = &[
    "container_control",
    "container_devices",
    "container_huge_pages",
    "container_limits",
    "container_raw_limits",
    "container_updates",
    "killed_processes",
    "pod_cgroups",
    "restart",
    "stats",
    "systemd_driver",
    "unit_file",
];

/// Those of them that every `cargo xtask test` runs. The rest is the same kernel's as in the guest with v2.
const DRIVER_MATTERS: &[&str] = &["container_limits", "container_updates", "systemd_driver", "unit_file"];

/// Packages with test programs that need nothing but the kernel, and what their programs' names begin with in a guest.
const PACKAGES: [(&str, &str); 2] = [("podbox-tests", ""), ("podbox-cgroup", "cgroup-")];

/// How much of the suite runs in a guest where nothing is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Extent {
    /// What cgroups and their drivers do.
    Brief,
    /// All for which the kernel makes a difference.
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

/// What a guest runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// Names of test programs.
    pub(super) programs: Vec<String>,
    /// Parts of tests' names; a test runs if one of them fits, or if there is none.
    pub(super) filters: Vec<String>,
}

impl Programs {
    /// What a guest runs of them.
    pub(super) fn select(&self, guest: Guest, extent: Extent, filters: &[String]) -> Selection {
        let names: Vec<&str> = self.tests.iter().map(|(name, _)| name.as_str()).collect();
        select(&names, guest, extent, filters)
    }

    /// The path below the payload's root and the program, of every one whether it is to run or not: the payload serves the next
    /// call as well.
    pub(super) fn all(&self) -> Vec<(String, &Path)> {
        let tests = self.tests.iter().map(|(name, path)| (format!("tests/{name}"), path.as_path()));
        std::iter::once(("podbox".to_owned(), self.podbox.as_path())).chain(tests).collect()
    }
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
    let matter = match (guest, extent) {
        (Guest::Plain(_), Extent::Brief) => CGROUPS_MATTER,
        (Guest::Plain(_), _) => KERNEL_MATTERS,
        (Guest::Systemd(_), Extent::Brief) => DRIVER_MATTERS,
        (Guest::Systemd(_), _) => SYSTEMD_MATTERS,
    };
    let runs = |name: &&&str| extent == Extent::All || !filters.is_empty() || matter.contains(name);
    Selection { programs: programs.iter().filter(runs).map(|name| (*name).to_owned()).collect(), filters }
}

#[cfg(test)]
mod tests {
    use super::super::guest::{Cgroup, Driver};
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn selected(guest: Guest, extent: Extent, filters: &[&str]) -> (Vec<String>, Vec<String>) {
        let selection = select(&["crash", "images", "stats", "unit_file"], guest, extent, &texts(filters));
        (selection.programs, selection.filters)
    }

    #[test]
    fn a_filter_names_a_program_or_tests() {
        let (plain, systemd) = (Guest::Plain(Cgroup::V2), Guest::Systemd(Driver::Cgroupfs));
        assert_eq!(selected(plain, Extent::Kernel, &[]), (texts(&["crash", "stats"]), texts(&[])));
        assert_eq!(selected(plain, Extent::Brief, &[]), (texts(&["stats"]), texts(&[])));
        assert_eq!(selected(systemd, Extent::Kernel, &[]), (texts(&["stats", "unit_file"]), texts(&[])));
        assert_eq!(selected(systemd, Extent::Brief, &[]), (texts(&["unit_file"]), texts(&[])));
        assert_eq!(selected(plain, Extent::All, &[]), (texts(&["crash", "images", "stats", "unit_file"]), texts(&[])));
        assert_eq!(selected(plain, Extent::Kernel, &["images"]), (texts(&["images"]), texts(&[])));
        assert_eq!(selected(plain, Extent::Kernel, &["images", "pulled"]), (texts(&["images"]), texts(&["pulled"])));
        assert_eq!(selected(plain, Extent::Kernel, &["pulled"]), (texts(&["crash", "images", "stats", "unit_file"]), texts(&["pulled"])));
    }
}
