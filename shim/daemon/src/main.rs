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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            // There is nowhere left to tell it if this fails.
            let _ = writeln!(std::io::stderr(), "podbox: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = Config::load(arguments.config.as_deref())?;
    match arguments.command {
        Command::Serve => {
            // Before anything is freed: a burst of large answers must not be the daemon's size from then on.
            podbox_sys::return_freed_memory();
            serve::serve(config)
        }
        Command::Image { command } => image_command::run(&config, command),
    }
}
