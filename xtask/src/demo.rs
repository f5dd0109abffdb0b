//! `cargo xtask demo`: one pod, from nothing to nothing, measured.
//!
//! Starts a daemon of its own on a private socket, in a private network namespace, with private directories; imports an image that
//! it makes itself; runs a pod of two containers, and a third that takes more memory than it may. What it shows of them is read
//! from the kernel, under `/proc` and in the cgroup file systems, never from what was asked for. Then everything is stopped and
//! removed, and a census before is compared with one after. Whatever happens in between, nothing is left running.
//!
//! Progress goes to standard error, the result to standard output.

mod leftovers;
mod measure;
mod pod;
mod report;

use crate::interrupt::{self, Interrupted};
use crate::terminal::{Colours, Table, Tone};
use crate::{build, setup};
use anyhow::{Context, Result, bail};
use leftovers::Traces;
use pod::DemoPod;
use podbox_tests::{Census, Daemon, DaemonOptions};
use report::{Promise, Report, promises_table};
use std::time::Duration;

/// How to show it.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// For people, or one JSON object for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Namespaces end, and links with them, a little after the last process in them.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);

/// Runs it.
///
/// # Errors
/// Something cannot be set up, or a row of the result does not hold.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    setup::ensure_ready()?;
    step("building podbox");
    let binary = build::program("podbox", "podbox", build::Profile::Dev)?;
    let stage = Stage { output: args.output, colours: Colours::of_stdout() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start tokio")?;
    let report = runtime.block_on(stage.play(DaemonOptions { binary: Some(binary), ..DaemonOptions::default() }))?;
    match args.output {
        Output::Table => println!("\n{}", report.summary(stage.colours)),
        Output::Json => println!("{:#}", report.json()),
    }
    if !report.holds() {
        bail!("not everything that was promised holds");
    }
    Ok(())
}

fn step(what: &str) {
    eprintln!("==> {what}");
}

/// Where the demo is shown.
struct Stage {
    output: Output,
    colours: Colours,
}

impl Stage {
    /// Runs and shows all of it. What goes wrong once the daemon is up is in the report, and what was begun is ended.
    async fn play(&self, options: DaemonOptions) -> Result<Report> {
        let mut report = Report::default();
        let mut daemon = Daemon::prepare(&options)?;
        let traces = Traces::of(&daemon)?;
        step(&format!("starting podbox serve in {}", daemon.directory().display()));
        let outcome = interrupt::or_else(self.life(&mut daemon, &mut report)).await;
        if let Err(fault) = outcome {
            if !fault.is::<Interrupted>() {
                eprintln!("{}", end_of(&daemon.log()));
            }
            report.fault = Some(format!("{fault:#}"));
        }
        drop(daemon);
        report.endings.push(traces.promise());
        self.show_table("The end", || promises_table(&report.endings, self.colours));
        Ok(report)
    }

    async fn life(&self, daemon: &mut Daemon, report: &mut Report) -> Result<()> {
        daemon.start_again().await?;
        // The first pod makes the bridge, the folders and the sockets that stay as long as the daemon.
        pod::first(daemon).await.context("run the first pod")?;
        let before = Census::at_rest(daemon).await?;

        step("making an image, importing it, running a pod with two containers");
        let pod = DemoPod::run(daemon).await?;
        report.namespaces = measure::namespaces(&pod).await?;
        self.show_table("Namespaces: inodes behind /proc/PID/ns", || report.namespaces_table(self.colours));
        report.promises = measure::promises(&pod).await?;
        self.show_table("What the containers share, and what they do not", || promises_table(&report.promises, self.colours));
        let during = Census::take(daemon)?;

        step("stopping and removing the pod and the image");
        pod.remove(daemon).await?;
        report.leftovers = leftovers::settled(daemon, &before, &during, SETTLES_WITHIN).await?;
        self.show_table("What is left of the pod, beside the daemon as it was before", || report.leftovers_table(self.colours));

        step("stopping the daemon");
        let status = daemon.terminate().await?;
        report.endings.push(Promise {
            promise: "the daemon ends on SIGTERM".to_owned(),
            measured: status.to_string(),
            holds: status.success(),
        });
        Ok(())
    }

    fn show_table(&self, title: &str, table: impl FnOnce() -> Table) {
        if self.output == Output::Table {
            print!("\n{}\n{}", self.colours.paint(Tone::Heading, title), table());
        }
    }
}

/// What led to a fault stands there.
fn end_of(log: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
