//! `podbox exec` and `podbox attach`: a process, and the terminal or the pipes here.

use super::daemon::{Daemon, refused};
use super::session::{End, Session};
use super::terminal::{self, RawTerminal};
use super::{AttachCommand, ExecCommand, Interrupts};
use crate::config::Config;
use anyhow::{Context, anyhow, ensure};
use podbox_proto::v1::{AttachRequest, ContainerState, ContainerStatusResponse, ExecRequest};
use podbox_stream::{Outcome, StandardStreams};
use serde_json::Value;
use std::io::Write;
use std::process::ExitCode;

pub(super) async fn exec(config: &Config, command: ExecCommand) -> anyhow::Result<ExitCode> {
    let ExecCommand { stdin, tty, container, command } = command;
    let streams = StandardStreams { stdin, stdout: true, stderr: !tty, tty };
    check_terminal(streams)?;
    let interrupts = Interrupts::new().context("wait for signals")?;
    let mut daemon = Daemon::connect(config.socket.as_ref()).await?;
    let failed = || format!("execute {:?} in container {container}", command.first().map(String::as_str).unwrap_or_default());
    let request =
        ExecRequest { container_id: container.clone(), cmd: command.clone(), tty, stdin, stdout: streams.stdout, stderr: streams.stderr };
    let url = daemon.runtime.exec(request).await.map_err(|status| refused(&status)).with_context(failed)?.into_inner().url;
    match converse(&url, streams, interrupts, false).await.with_context(failed)? {
        End::Outcome(Outcome::Exited(code)) => Ok(status(code)),
        End::Outcome(Outcome::Failed(why)) => Err(anyhow!(why)).with_context(failed),
        End::Interrupted(code) => Ok(code),
        End::Detached => Ok(ExitCode::SUCCESS),
    }
}

pub(super) async fn attach(config: &Config, command: AttachCommand) -> anyhow::Result<ExitCode> {
    let AttachCommand { no_stdin, container } = command;
    let failed = || format!("attach to container {container}");
    let interrupts = Interrupts::new().context("wait for signals")?;
    let mut daemon = Daemon::connect(config.socket.as_ref()).await?;
    let made = daemon.container(&container, true).await.map_err(|status| refused(&status)).with_context(failed)?;
    let (stdin, tty) = made_with(&made).with_context(failed)?;
    // A terminal can be written to whatever the container was made with.
    let streams = StandardStreams { stdin: (stdin || tty) && !no_stdin, stdout: true, stderr: !tty, tty };
    check_terminal(streams).context("use --no-stdin to see its output alone")?;
    let StandardStreams { stdin, stdout, stderr, tty } = streams;
    // From here on the whole id: the end of another one with the same beginning is none of ours.
    let id = made.status.map(|status| status.id).unwrap_or_default();
    let request = AttachRequest { container_id: id.clone(), stdin, tty, stdout, stderr };
    let url = daemon.runtime.attach(request).await.map_err(|status| refused(&status)).with_context(failed)?.into_inner().url;
    match converse(&url, streams, interrupts, tty && stdin).await.with_context(failed)? {
        End::Outcome(Outcome::Exited(_)) => exit_status(&daemon, &id).await.with_context(failed),
        End::Outcome(Outcome::Failed(why)) => Err(anyhow!(why)).with_context(failed),
        End::Interrupted(code) => Ok(code),
        End::Detached => {
            // Where nobody can read it, it need not be said.
            let _ = writeln!(std::io::stderr(), "detached from container {container}; it runs on");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Input for a terminal comes from one.
fn check_terminal(streams: StandardStreams) -> anyhow::Result<()> {
    ensure!(
        !(streams.tty && streams.stdin) || terminal::is_input_terminal(),
        "the input device is not a TTY: standard input must be a terminal, where that of a terminal in a container is to come from it"
    );
    Ok(())
}

async fn converse(url: &str, streams: StandardStreams, interrupts: Interrupts, detaches: bool) -> anyhow::Result<End> {
    let session = Session::open(url, streams).await?;
    // Without input, keys are for this side: Ctrl-C ends the command.
    let raw = (streams.tty && streams.stdin).then(RawTerminal::enter).transpose().context("make the terminal raw")?;
    let end = session.converse(interrupts, detaches).await;
    drop(raw);
    end
}

/// Whether a container was made with stdin, and with a terminal.
fn made_with(made: &ContainerStatusResponse) -> anyhow::Result<(bool, bool)> {
    let info: Value = serde_json::from_str(made.info.get("info").map_or("", String::as_str)).context("read its status")?;
    let of = |key: &str| info["config"][key].as_bool().with_context(|| format!("its status does not say {key}"));
    Ok((of("stdin")?, of("tty")?))
}

/// How a container ended; success if it has not, or is gone with what it ended with.
async fn exit_status(daemon: &Daemon, id: &str) -> anyhow::Result<ExitCode> {
    let now = match daemon.container(id, false).await {
        Ok(now) => now.status.unwrap_or_default(),
        Err(status) if status.code() == tonic::Code::NotFound => return Ok(ExitCode::SUCCESS),
        Err(status) => return Err(refused(&status)).context("ask how it ended"),
    };
    Ok(if now.state() == ContainerState::ContainerExited { status(now.exit_code) } else { ExitCode::SUCCESS })
}

fn status(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
