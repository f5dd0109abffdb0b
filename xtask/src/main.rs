//! `cargo xtask`: every developer command of podbox.
//!
//! Each command does its own set-up ([`setup`]) and may be run again and again. Knows nothing of how podbox works inside: it
//! builds the binary, calls it as any client would, and looks at the kernel.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what commands print is what they are for")]

mod bench;
mod build;
mod check;
mod codegen;
mod conformance;
mod demo;
mod interrupt;
mod packages;
mod setup;
mod terminal;
mod test;
mod totals;
mod vm;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;

/// Every developer command of podbox.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
enum Command {
    /// Run one pod and show, measured from the kernel, what it shares, what it does not, and that nothing is left of it.
    Demo(demo::DemoArgs),
    /// Run every test there is.
    Test(test::TestArgs),
    /// Run the end-to-end tests on Debian's kernel in virtual machines: with cgroup v2, v1, systemd, SELinux.
    Vm(vm::VmArgs),
    /// Check everything that must hold before anything is tested.
    Check(check::CheckArgs),
    /// Measure podbox beside the floor: the same work in bare system calls.
    Bench(bench::BenchArgs),
    /// Run the CRI's own validation suite, critest, against podbox.
    Conformance(conformance::ConformanceArgs),
    /// Run the specs of `conformance`, in a guest.
    #[command(hide = true)]
    ConformanceInGuest(conformance::InGuestArgs),
    /// Generate the committed code of podbox-proto.
    Codegen {
        /// Write nothing; fail where the committed code is not what would be written.
        #[arg(long)]
        check: bool,
    },
    /// Measure the floor alone, as `bench` does.
    #[command(hide = true)]
    BenchFloor(bench::floor::FloorArgs),
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::ConformanceInGuest(args) => conformance::run_in_guest(&args),
        Command::Codegen { check } => codegen::run(check),
        Command::BenchFloor(args) => bench::floor::run(args),
    }
}
