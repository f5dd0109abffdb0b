//! `cargo xtask test`: every test there is.
//!
//! The binary is built first, since the end-to-end tests run it; then cargo runs all tests of the workspace, and goes on after
//! one that fails, so that one call tells of every failure; then, unless only some tests were asked for, guests run ([`vm`]) what is another
//! interface in each: with cgroup v2 and with v1 alone the tests of what cgroups do, with systemd those of what its cgroup driver makes
//! different. cargo's own output is shown as it comes; the totals, and
//! what this machine lacks for tests to show what they are to show, go to standard error.

use crate::build::{self, Profile};
use crate::totals::Totals;
use crate::{setup, vm};
use anyhow::{Context, Result, ensure};
use podbox_tests::host::{SKIPPED, SKIPPED_FILE};
use std::io::{BufRead, BufReader};
use std::process::{ExitStatus, Stdio};
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
    let (totals, status) = on_this_machine(&args.arguments)?;
    eprintln!("on this machine: {totals}; {} s", started.elapsed().as_secs());
    let guests = if args.arguments.is_empty() { in_guests() } else { Ok(None) };
    if let Ok(Some(guests)) = &guests {
        let all = totals.plus(guests.totals());
        eprintln!("on this machine and in guests: {all}; {} s", started.elapsed().as_secs());
    }
    let guests = guests.and_then(|guests| guests.map_or(Ok(()), |guests| guests.ensure_success()));
    match guests {
        Err(error) if !status.success() => Err(error.context(format!("cargo test: {status}; and in guests"))),
        guests => {
            ensure!(status.success(), "cargo test: {status}");
            guests
        }
    }
}

/// What became of the tests, and of cargo.
fn on_this_machine(arguments: &[String]) -> Result<(Totals, ExitStatus)> {
    build::program("podbox", "podbox", Profile::Dev)?;
    let mut command = build::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast", "--"]).args(arguments);
    let skipped = tempfile::NamedTempFile::new().context("make a file for the names of tests that are skipped")?;
    command.env(SKIPPED_FILE, skipped.path()).env("PODBOX_FUZZ_SECONDS", FUZZ_SECONDS);
    let mut cargo = command.stdout(Stdio::piped()).spawn().context("start cargo")?;
    let mut totals = Totals::default();
    for line in BufReader::new(cargo.stdout.take().context("cargo has an output")?).lines() {
        let line = line.context("read what cargo says")?;
        println!("{line}");
        totals.add(&line);
    }
    let status = cargo.wait().context("wait for cargo")?;
    // Not among what cargo prints, which others may want to read.
    let skipped = std::fs::read_to_string(skipped.path()).context("read the names of tests that were skipped")?;
    skipped.lines().for_each(|line| eprintln!("{line}"));
    Ok((totals.with_skipped(skipped.lines().filter_map(|line| line.strip_prefix(SKIPPED))), status))
}

/// None where no guests can be made.
fn in_guests() -> Result<Option<vm::Outcome>> {
    if !vm::CAN_BOOT {
        eprintln!("not run: tests in guests, which are made on x86_64 only");
        return Ok(None);
    }
    vm::boot_guests(&vm::VmArgs::of_test()).map(Some)
}
