//! `cargo xtask bench`: what podbox costs, beside what the same work costs in bare system calls.
//!
//! ```text
//! machine   what the numbers depend on
//! serial    pods one after the other, in batches; before each batch and after the last, a batch of the floor
//! clients   pods from several clients at once
//! images    a large image from a registry on loopback, beside skopeo and tar
//! streams   a gigabyte of a command's output, beside a pipe and a socket
//! critest   what critest's own benchmark finds, where there is Go
//! idle      pods that only wait: memory of each, processor time of all, and how long lists take
//! ```
//!
//! The daemon and this program are both built with optimisation: a slow client would be counted as the daemon's time. Everything is
//! private, as in the demo. Prints tables and writes the same as JSON.

mod baseline;
mod critest;
mod cycle;
pub(crate) mod floor;
mod idle;
mod images;
mod machine;
mod node_files;
mod report;
mod samples;
mod streams;

use crate::terminal::Colours;
use crate::{build, interrupt, setup};
use anyhow::{Context, Result};
use baseline::Baseline;
use cycle::Cycles;
use machine::Machine;
use podbox_tests::{Daemon, DaemonOptions, TestImage};
use report::{AtOnce, Report};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// How much to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BenchArgs {
    /// Pods run one after the other, and again by all clients together.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pods: u32,
    /// Clients at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// Pods that wait while memory, idle processor time and lists are measured.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    idle_pods: u32,
    /// Where the JSON goes; by default `bench.json` in cargo's target folder.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Batches that pods run one after the other are divided into, so that the floor is measured in between.
const BATCHES: u32 = 4;

/// Runs it.
///
/// # Errors
/// Something cannot be set up, or a call fails.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    setup::ensure_ready()?;
    setup::ensure_ready_for_bench()?;
    let podbox = build::program("podbox", "podbox", build::Profile::Release)?;
    if cfg!(debug_assertions) {
        let xtask = build::program("xtask", "xtask", build::Profile::Release)?;
        let fault = std::process::Command::new(&xtask).args(std::env::args_os().skip(1)).exec();
        return Err(fault).with_context(|| format!("execute {}", xtask.display()));
    }
    let json = match &args.json {
        Some(path) => path.clone(),
        None => target_folder(&podbox)?.join("bench.json"),
    };
    let options = DaemonOptions { binary: Some(podbox), log_level: "info".to_owned(), ..DaemonOptions::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start tokio")?;
    let report = runtime.block_on(interrupt::or_else(measure(args, options)))?;
    eprintln!("==> critest's own benchmark");
    let report = report.with_critest(critest::measure()?);
    report.print(Colours::of_stdout());
    std::fs::write(&json, format!("{:#}\n", serde_json::to_value(&report)?)).with_context(|| format!("write {}", json.display()))?;
    println!("\nwritten to {}", json.display());
    Ok(())
}

/// Programs are built in a folder of it that has the profile's name.
fn target_folder(program: &std::path::Path) -> Result<PathBuf> {
    Ok(program.ancestors().nth(2).context("cargo builds into a folder of its target folder")?.to_owned())
}

async fn measure(args: &BenchArgs, options: DaemonOptions) -> Result<Report> {
    let machine = Machine::read();
    eprintln!("==> an image of 200 MB");
    let images = images::measure(options.clone()).await?;
    let daemon = Daemon::start(options).await?;
    daemon.warm_up().await?;
    let image = TestImage::default();
    let baseline = Baseline::prepare(&daemon, &image).await?;

    let batches = BATCHES.min(args.pods);
    let mut serial = Cycles::default();
    let mut floor = baseline::Floor::default();
    for batch in 0..batches {
        eprintln!("==> batch {} of {batches}: the floor, then {} pods", batch + 1, args.pods / batches);
        floor.add(baseline.run(args.pods / batches)?);
        serial.extend(cycle::one_after_the_other(&daemon.client(), &daemon.logs(), args.pods / batches).await?);
    }
    floor.add(baseline.run(args.pods / batches)?);

    eprintln!("==> {} pods by {} clients at once", args.pods, args.clients);
    let (cycles, took) = cycle::at_once(&daemon.client(), &daemon.logs(), args.pods, args.clients).await?;

    eprintln!("==> a gigabyte of output");
    let streams = streams::measure(&daemon).await?;

    eprintln!("==> {} pods that wait", args.idle_pods);
    floor.available = baseline.hold(args.idle_pods)?;
    let idle = idle::measure(&daemon, args.idle_pods).await?;
    Ok(Report::new(machine, &serial, &floor, &AtOnce { cycles, clients: args.clients, took }, idle, images, streams))
}
