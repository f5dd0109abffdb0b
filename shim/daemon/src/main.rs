//! `podbox`: a Kubernetes CRI runtime.
//!
//! Requests flow one way through the modules: `cri` takes them from the wire, `request` checks them, `plan` works out what they
//! become, `pod` carries that out with `effects` and keeps `store`, from which `cri` answers lists and status calls.

mod chain;
mod config;
mod cri;
mod effects;
mod image_command;
mod metrics;
mod plan;
mod pod;
mod request;
mod serve;
mod store;
mod stream_command;

use clap::{Parser, Subcommand};
use config::Config;
use std::path::PathBuf;
use std::process::ExitCode;

/// A Kubernetes container runtime: pods from namespaces and cgroups, with nothing in between.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file (TOML); every key has a default.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the CRI on a unix socket.
    Serve,
    /// Look after the images in the store, with or without a daemon running.
    Image {
        #[command(subcommand)]
        command: image_command::ImageCommand,
    },
    /// Run a command in a container that runs.
    ///
    /// Its output and error output go to this command's own, and its exit status is this command's; 125 says that podbox itself has failed,
    /// and a message on standard error why. A signal that ends this command ends the other one, too.
    Exec(stream_command::ExecCommand),
    /// Attach to a container that runs: to its input, if it has one, and to what it writes from now on.
    ///
    /// At a terminal, Ctrl-P Ctrl-Q detaches and the container runs on; without one, Ctrl-C does. When the container ends, its exit status is
    /// this command's; 125 says that podbox itself has failed.
    Attach(stream_command::AttachCommand),
    /// Make ports of a pod reachable at ports here, until interrupted.
    ///
    /// Listens on 127.0.0.1 and ::1, or on the addresses given, and connects within the pod to its own loopback.
    PortForward(stream_command::PortForwardCommand),
    /// Show what a container has written, as far as its log was not rotated.
    Logs(stream_command::LogsCommand),
}

impl Command {
    /// The exit status where podbox itself has failed.
    fn failure(&self) -> ExitCode {
        match self {
            // All others are those of somebody else.
            Self::Exec(_) | Self::Attach(_) => ExitCode::from(stream_command::OWN_FAILURE),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Makes a panic the process' end wherever it happens: pods of which a part is looked after no more would be worse than a daemon that is
/// started again. What is released is compiled to do so.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn main() -> ExitCode {
    abort_on_panic();
    let arguments = Arguments::parse();
    let failure = arguments.command.failure();
    match run(arguments) {
        Ok(status) => status,
        Err(error) => {
            use std::io::Write;
            // There is nowhere left to tell it if this fails.
            let _ = writeln!(std::io::stderr(), "podbox: {error:#}");
            failure
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.config.as_deref())?;
    match arguments.command {
        Command::Serve => {
            // Before anything is freed: a burst of large answers must not be the daemon's size from then on.
            podbox_sys::return_freed_memory();
            serve::serve(config)?;
        }
        Command::Image { command } => image_command::run(&config, command)?,
        Command::Exec(command) => return stream_command::exec(&config, command),
        Command::Attach(command) => return stream_command::attach(&config, command),
        Command::PortForward(command) => return stream_command::port_forward(&config, command),
        Command::Logs(command) => return stream_command::logs(&config, command),
    }
    Ok(ExitCode::SUCCESS)
}
