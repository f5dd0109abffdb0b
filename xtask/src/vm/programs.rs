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
    "cgroup-kernel",
    "container_logs",
    "container_mounts",
    "container_process",
    "container_security",
    "crash",
    "exec_sync",
    "hostile",
    "network",
    "pod_cgroups",
    "pod_namespaces",
    "restart",
];

/// Test programs for which it makes a difference that systemd is the first process.
const SYSTEMD_MATTERS: &[&str] = &["pod_cgroups", "restart", "systemd_driver", "unit_file"];

/// Packages with test programs that need nothing but the kernel, and what their programs' names begin with in a guest.
const PACKAGES: [(&str, &str); 2] = [("podbox-tests", ""), ("podbox-cgroup", "cgroup-")];

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
    pub(super) fn select(&self, guest: Guest, all: bool, filters: &[String]) -> Selection {
        let names: Vec<&str> = self.tests.iter().map(|(name, _)| name.as_str()).collect();
        select(&names, guest, all, filters)
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

fn of_package(package: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut command = build::cargo();
    command.args(["test", "--no-run", "--locked", "--message-format=json-render-diagnostics", "--package", package, "--tests"]);
    let output = command.stderr(Stdio::inherit()).output().context("start cargo")?;
    ensure!(output.status.success(), "cargo test --no-run --package {package}: {}", output.status);
    let mut found = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Message = serde_json::from_slice(line).context("parse what cargo says")?;
        if let (Some(target), Some(executable)) = (message.target, message.executable)
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
fn select(programs: &[&str], guest: Guest, all: bool, filters: &[String]) -> Selection {
    let (named, filters): (Vec<String>, Vec<String>) = filters.iter().cloned().partition(|filter| programs.contains(&filter.as_str()));
    if !named.is_empty() {
        return Selection { programs: named, filters };
    }
    let matter = match guest {
        Guest::Plain(_) => KERNEL_MATTERS,
        Guest::Systemd(_) => SYSTEMD_MATTERS,
    };
    let runs = |name: &&&str| all || !filters.is_empty() || matter.contains(name);
    Selection { programs: programs.iter().filter(runs).map(|name| (*name).to_owned()).collect(), filters }
}

#[cfg(test)]
mod tests {
    use super::super::guest::{Cgroup, Driver};
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn selected(guest: Guest, all: bool, filters: &[&str]) -> (Vec<String>, Vec<String>) {
        let selection = select(&["crash", "images", "unit_file"], guest, all, &texts(filters));
        (selection.programs, selection.filters)
    }

    #[test]
    fn a_filter_names_a_program_or_tests() {
        let (plain, systemd) = (Guest::Plain(Cgroup::V2), Guest::Systemd(Driver::Cgroupfs));
        assert_eq!(selected(plain, false, &[]), (texts(&["crash"]), texts(&[])));
        assert_eq!(selected(systemd, false, &[]), (texts(&["unit_file"]), texts(&[])));
        assert_eq!(selected(plain, true, &[]), (texts(&["crash", "images", "unit_file"]), texts(&[])));
        assert_eq!(selected(plain, false, &["images"]), (texts(&["images"]), texts(&[])));
        assert_eq!(selected(plain, false, &["images", "pulled"]), (texts(&["images"]), texts(&["pulled"])));
        assert_eq!(selected(plain, false, &["pulled"]), (texts(&["crash", "images", "unit_file"]), texts(&["pulled"])));
    }
}
