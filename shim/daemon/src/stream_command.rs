//! `podbox exec | attach | port-forward | logs`: pods that run, for people.
//!
//! ```text
//! command ─► daemon (gRPC on its socket) ─► URL ─► session (SPDY) ─► this terminal, these ports
//!    └─────► status: the log's path ─► log file ─► standard output
//! ```
//!
//! These commands know the daemon as the kubelet does, by the CRI alone: ids and their unique prefixes are resolved by it, and so is what may be
//! done. What ends a command leaves the terminal as it was found.

mod daemon;
mod forward;
mod keys;
mod logs;
mod process;
mod session;
mod terminal;

use crate::config::Config;
use anyhow::Context;
use clap::{Args, ValueEnum};
use forward::PortMapping;
use std::io;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How `exec` and `attach` say that podbox itself has failed: other statuses are of the command or the container.
pub const OWN_FAILURE: u8 = 125;
/// The status of a program whose reader is gone, as shells tell it: 128 and SIGPIPE.
const NO_READER: u8 = 128 + 13;

/// `podbox exec`
#[derive(Debug, Args)]
pub struct ExecCommand {
    /// Send standard input, and its end.
    #[arg(short = 'i', long = "stdin", visible_alias = "interactive")]
    stdin: bool,
    /// Give the command a terminal, as large as this one; with `-i` standard input must be one.
    #[arg(short = 't', long = "tty")]
    tty: bool,
    /// Its id, or the beginning of it.
    container: String,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// `podbox attach`
#[derive(Debug, Args)]
pub struct AttachCommand {
    /// Take output alone.
    #[arg(long)]
    no_stdin: bool,
    /// Its id, or the beginning of it.
    container: String,
}

/// `podbox port-forward`
#[derive(Debug, Args)]
pub struct PortForwardCommand {
    /// The pod's id, or the beginning of it.
    pod: String,
    /// `[ADDRESS:]LOCAL:REMOTE`, `:REMOTE` for a local port that is free, or one number for both; IPv6 addresses stand in brackets.
    #[arg(required = true, value_name = "[ADDRESS:]LOCAL:REMOTE")]
    ports: Vec<PortMapping>,
}

/// How lines of a log are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogOutput {
    /// As the container wrote them: each of its outputs to our own.
    #[default]
    Text,
    /// An object a line, with `time`, `stream` and `text`, to standard output; a line beyond 1 MiB is several, all but the last `"partial": true`.
    Json,
}

/// `podbox logs`
#[derive(Debug, Args)]
pub struct LogsCommand {
    /// Go on with what is written from now on, until the container has ended.
    #[arg(short = 'f', long)]
    follow: bool,
    /// Begin with the last so many lines.
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Put the time of its beginning before each line.
    #[arg(long)]
    timestamps: bool,
    /// How lines are shown.
    #[arg(long, value_enum, default_value_t)]
    output: LogOutput,
    /// Its id, or the beginning of it.
    container: String,
}

/// Runs a command in a container; gives its exit status.
pub fn exec(config: &Config, command: ExecCommand) -> anyhow::Result<ExitCode> {
    run(process::exec(config, command))
}

/// Attaches to a container; gives its exit status, if it has ended.
pub fn attach(config: &Config, command: AttachCommand) -> anyhow::Result<ExitCode> {
    run(process::attach(config, command))
}

/// Forwards ports until it is interrupted.
pub fn port_forward(config: &Config, command: PortForwardCommand) -> anyhow::Result<ExitCode> {
    run(forward::forward(config, command))
}

/// Shows a log.
pub fn logs(config: &Config, command: LogsCommand) -> anyhow::Result<ExitCode> {
    run(logs::show(config, command))
}

/// Runs to the end; what still reads or writes then is left behind.
fn run(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    match outcome {
        Err(error) if is_reader_gone(&error) => Ok(ExitCode::from(NO_READER)),
        outcome => outcome,
    }
}

/// Nobody reads what is written: an end that nobody has to be told of.
fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

/// What a shell makes of a program that ended by a signal.
fn status_of_signal(number: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + number).unwrap_or(OWN_FAILURE))
}

/// The signals by which a command is asked to end.
struct Interrupts([(i32, Signal); 4]);

impl Interrupts {
    fn new() -> io::Result<Self> {
        let of = |kind: SignalKind| Ok::<_, io::Error>((kind.as_raw_value(), signal(kind)?));
        Ok(Self([of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?, of(SignalKind::quit())?]))
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        let [(a, interrupt), (b, terminate), (c, hangup), (d, quit)] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => *a,
            _ = terminate.recv() => *b,
            _ = hangup.recv() => *c,
            _ = quit.recv() => *d,
        }
    }
}
