//! `cargo xtask test`: every test there is.
//!
//! The binary is built first, since the end-to-end tests run it; then cargo runs all tests of the workspace, and goes on after
//! one that fails, so that one call tells of every failure; then those for which the kernel matters run in guests ([`vm`]), unless
//! only some tests were asked for. cargo's own output is shown as it comes; the total, and what
//! this machine lacks for tests to show what they are to show, go to standard error.

use crate::build::{self, Profile};
use crate::{setup, vm};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

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
    build::program("podbox", "podbox", Profile::Dev)?;
    let mut command = build::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast", "--"]).args(&args.arguments);
    let skipped = tempfile::NamedTempFile::new().context("make a file for the names of tests that are skipped")?;
    command.env(podbox_tests::host::SKIPPED_FILE, skipped.path());
    let mut cargo = command.stdout(Stdio::piped()).spawn().context("start cargo")?;
    let mut totals = Totals::default();
    for line in BufReader::new(cargo.stdout.take().context("cargo has an output")?).lines() {
        let line = line.context("read what cargo says")?;
        println!("{line}");
        totals.add(&line);
    }
    let status = cargo.wait().context("wait for cargo")?;
    let Totals { passed, failed, ignored } = totals;
    let took = started.elapsed().as_secs();
    // Not among what cargo prints, which others may want to read.
    let skipped = std::fs::read_to_string(skipped.path()).context("read the names of tests that were skipped")?;
    skipped.lines().for_each(|line| eprintln!("{line}"));
    let skipped = skipped.lines().count();
    eprintln!("all test programs: {passed} passed, of which {skipped} skipped themselves; {failed} failed; {ignored} ignored; {took} s");
    let guests = if args.arguments.is_empty() { in_guests() } else { Ok(()) };
    ensure!(status.success(), "cargo test: {status}");
    guests
}

fn in_guests() -> Result<()> {
    if !vm::CAN_BOOT {
        eprintln!("not run: tests in guests, which are made on x86_64 only");
        return Ok(());
    }
    vm::run(&vm::VmArgs::of_test())
}

/// Of all `test result:` lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Totals {
    /// Takes `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines say nothing.
    pub(crate) fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else { return };
        for count in counts.split("; ") {
            let Some((Ok(number), what)) = count.split_once(' ').map(|(number, what)| (number.parse::<u64>(), what)) else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed, ignored: self.ignored + other.ignored }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_and_all_else_is_passed_over() {
        let mut totals = Totals::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.00s",
            "test a::b ... ok",
        ] {
            totals.add(line);
        }
        assert_eq!(totals, Totals { passed: 5, failed: 4, ignored: 1 });
    }
}
