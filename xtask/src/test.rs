//! `cargo xtask test`: every test there is.
//!
//! The binary is built first, since the end-to-end tests run it, and what else they run; then all tests of the workspace run, a few programs
//! at once ([`lanes`]), and go on after one that fails, so that one call tells of every failure; then, unless only some tests were asked for, guests run ([`vm`]) what is another
//! interface in each: with cgroup v2 and with v1 alone the tests of what cgroups do, with systemd those of what its cgroup driver makes
//! different. The totals, and
//! what this machine lacks for tests to show what they are to show, go to standard error.

mod lanes;

use crate::build::{self, Profile};
use crate::totals::Totals;
use crate::{setup, vm};
use anyhow::{Context, Result, anyhow};
use podbox_tests::host::{SKIPPED, SKIPPED_FILE};
use std::path::Path;
use std::time::Instant;

/// For each fuzz target (`tests/fuzz`).
const FUZZ_SECONDS: &str = "60";

/// Which tests to run.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// For the test programs: part of the names of the tests to run, and what `cargo test -- --help` lists.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs them.
///
/// # Errors
/// A build or a test fails.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    setup::ensure_ready()?;
    let started = Instant::now();
    let (totals, failed) = on_this_machine(&args.arguments)?;
    eprintln!("on this machine: {totals}; {} s", started.elapsed().as_secs());
    let guests = if args.arguments.is_empty() { in_guests() } else { Ok(None) };
    if let Ok(Some(guests)) = &guests {
        let all = totals.plus(guests.totals());
        eprintln!("on this machine and in guests: {all}; {} s", started.elapsed().as_secs());
    }
    let guests = guests.and_then(|guests| guests.map_or(Ok(()), |guests| guests.ensure_success()));
    let here = if failed.is_empty() { Ok(()) } else { Err(anyhow!("these test programs failed: {}", failed.join(", "))) };
    match (here, guests) {
        (Err(here), Err(guests)) => Err(guests.context(format!("{here}; and in guests"))),
        (here, guests) => here.and(guests),
    }
}

/// What became of the tests, and the programs that failed.
fn on_this_machine(arguments: &[String]) -> Result<(Totals, Vec<String>)> {
    let podbox = build::program("podbox", "podbox", Profile::Dev)?;
    if podbox_tests::host::crictl()?.is_none() {
        eprintln!("no crictl is built: this machine has no Go");
    }
    let programs = lanes::build()?;
    let skipped = tempfile::NamedTempFile::new().context("make a file for the names of tests that are skipped")?;
    let environment = [(SKIPPED_FILE, skipped.path()), ("PODBOX_BIN", podbox.as_path()), ("PODBOX_FUZZ_SECONDS", Path::new(FUZZ_SECONDS))];
    let mut totals = Totals::default();
    let mut failed = lanes::run(programs, &environment, arguments, |line| totals.add(line))?;
    let documented = build::cargo().args(["test", "--workspace", "--locked", "--doc", "--quiet", "--"]).args(arguments).output();
    let documented = documented.context("start cargo")?;
    let said = String::from_utf8_lossy(&documented.stdout);
    said.lines().for_each(|line| totals.add(line));
    if !documented.status.success() {
        println!("{said}{}", String::from_utf8_lossy(&documented.stderr));
        failed.push("documentation".to_owned());
    }
    // Not among what the tests print, which others may want to read.
    let skipped = std::fs::read_to_string(skipped.path()).context("read the names of tests that were skipped")?;
    skipped.lines().for_each(|line| eprintln!("{line}"));
    Ok((totals.with_skipped(skipped.lines().filter_map(|line| line.strip_prefix(SKIPPED))), failed))
}

/// None where no guests can be made.
fn in_guests() -> Result<Option<vm::Outcome>> {
    if !vm::CAN_BOOT {
        eprintln!("not run: tests in guests, which are made on x86_64 only");
        return Ok(None);
    }
    vm::boot_guests(&vm::VmArgs::of_test()).map(Some)
}
