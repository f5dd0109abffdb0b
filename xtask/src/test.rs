//! `cargo xtask test`: every test there is.
//!
//! All is built first: the binary, since the end-to-end tests run it, and what else they run. Then all tests of the workspace run, a few programs
//! at once ([`lanes`]), and go on after one that fails, so that one call tells of every failure. After them, unless only some tests were asked
//! for, guests run ([`vm`]) what is another interface in each: with cgroup v2 and with v1 alone the tests of what cgroups do, with systemd those
//! of what its cgroup driver makes different, with SELinux those of its labels. Beside the machine's own tests a guest would be too slow for
//! deadlines that are podbox's own. The totals, and what this machine lacks for tests to show what they are to show, go to standard error.

mod lanes;

use crate::build::{self, Profile};
use crate::totals::Totals;
use crate::{setup, vm};
use anyhow::{Context, Result, anyhow};
use lanes::Program;
use podbox_tests::host::{SKIPPED, SKIPPED_FILE};
use std::path::{Path, PathBuf};
use std::thread;
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
    let in_guests = args.arguments.is_empty();
    let ((podbox, programs), ()) = thread::scope(|scope| {
        // Much of it is waiting.
        let others = scope.spawn(|| programs_of_others(in_guests));
        let own = own_programs();
        let others = others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        anyhow::Ok((own?, others?))
    })?;
    let vm_args = vm::VmArgs::of_test();
    let guests = if in_guests { guests(&vm_args)? } else { None };
    eprintln!("all is built; {} s", started.elapsed().as_secs());
    let here = on_this_machine(&podbox, programs, &args.arguments);
    eprintln!("on this machine all have run; {} s", started.elapsed().as_secs());
    let there = guests.map(|guests| guests.boot()).transpose();
    if let Ok(Some(outcome)) = &there {
        print!("{outcome}");
    }
    if let Ok((totals, _)) = &here {
        eprintln!("on this machine: {totals}");
        if let Ok(Some(outcome)) = &there {
            eprintln!("on this machine and in guests: {}; {} s", totals.plus(outcome.totals()), started.elapsed().as_secs());
        }
    }
    let here = here.and_then(|(_, failed)| match failed.as_slice() {
        [] => Ok(()),
        failed => Err(anyhow!("these test programs failed: {}", failed.join(", "))),
    });
    let there = there.and_then(|outcome| outcome.map_or(Ok(()), |outcome| outcome.ensure_success()));
    match (here, there) {
        (Err(here), Err(there)) => Err(there.context(format!("{here:#}; and in guests"))),
        (here, there) => here.and(there),
    }
}

/// podbox, and its tests.
fn own_programs() -> Result<(PathBuf, Vec<Program>)> {
    Ok((build::program("podbox", "podbox", Profile::Dev)?, lanes::build()?))
}

/// What tests and guests would else wait for.
fn programs_of_others(in_guests: bool) -> Result<()> {
    let clients = [podbox_tests::programs::crictl()?, podbox_tests::programs::grpcurl()?];
    if clients.contains(&None) {
        eprintln!("crictl or grpcurl is not built: this machine has no Go");
    }
    if in_guests { vm::fetch() } else { Ok(()) }
}

/// What became of the tests, and the programs that failed.
fn on_this_machine(podbox: &Path, programs: Vec<Program>, arguments: &[String]) -> Result<(Totals, Vec<String>)> {
    let skipped = tempfile::NamedTempFile::new().context("make a file for the names of tests that are skipped")?;
    let environment = [(SKIPPED_FILE, skipped.path()), ("PODBOX_BIN", podbox), ("PODBOX_FUZZ_SECONDS", Path::new(FUZZ_SECONDS))];
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

/// None where none can be made.
fn guests(args: &vm::VmArgs) -> Result<Option<vm::Guests<'_>>> {
    if !vm::CAN_BOOT {
        eprintln!("not run: tests in guests, which are made on x86_64 only");
        return Ok(None);
    }
    vm::Guests::prepare(args).map(Some)
}
