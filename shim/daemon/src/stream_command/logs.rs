//! `podbox logs`: a container's log file, for people and programs.
//!
//! The file is read as the kubelet reads it, without the daemon, which is asked only where it is and when the container has ended.
//!
//! ```text
//! log file ─► lines::Splitter (no line is ever held) ─► view::View ─► standard output and error
//!     └─ follow: inotify says what there is to read, and which file comes next
//! ```

mod file;
mod lines;
mod view;

use super::daemon::{Daemon, refused};
use super::{LogOutput, LogsCommand};
use crate::config::Config;
use anyhow::{Context, ensure};
use file::{Follower, LogFile};
use podbox_proto::v1::{ContainerEventType, ContainerState, GetEventsRequest};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::task::spawn_blocking;
use view::View;

/// How often a daemon that is gone is looked for, for the end of a container that is followed.
const RETRY: Duration = Duration::from_millis(500);

pub(super) async fn show(config: &Config, command: LogsCommand) -> anyhow::Result<ExitCode> {
    let LogsCommand { follow, tail, timestamps, output, container } = command;
    let failed = || format!("show the log of container {container}");
    let daemon = Daemon::connect(config.socket.as_ref()).await?;
    let status = daemon.container(&container, false).await.map_err(|status| refused(&status)).with_context(failed)?;
    let status = status.status.unwrap_or_default();
    ensure!(!status.log_path.is_empty(), "container {container} was made without a log");
    let path = PathBuf::from(status.log_path);
    let view = View::new(output == LogOutput::Json, timestamps);
    if !follow {
        let shown = spawn_blocking(move || once(&path, view, tail)).await.context("read the log")?;
        return shown.with_context(failed).map(|()| ExitCode::SUCCESS);
    }
    let (is_over, over) = io::pipe().context("make a pipe")?;
    let following = spawn_blocking(move || Follower::new(&path, is_over)?.run(view, tail));
    let socket = config.socket.as_ref().to_owned();
    let end = async {
        ended(&socket, daemon, &status.id).await;
        // The reader sees the end of the pipe, and reads to the end of the log.
        drop(over);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        shown = following => shown.context("read the log")?.with_context(failed)?,
        () = end => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what there is.
fn once(path: &Path, mut view: View, tail: Option<u64>) -> anyhow::Result<()> {
    let mut file = LogFile::open(path)?;
    let mut splitter = file.splitter_for(tail)?;
    file.read_on(&mut |bytes| splitter.feed(bytes, &mut view))?;
    view.finish()
}

/// Waits until a container has ended, or is gone.
async fn ended(socket: &Path, daemon: Daemon, id: &str) {
    let mut known = Some(daemon);
    loop {
        let daemon = match known.take() {
            Some(daemon) => Some(daemon),
            None => Daemon::connect(socket).await.ok(),
        };
        if let Some(daemon) = daemon
            && ended_as_told(daemon, id).await.is_ok()
        {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The same, as long as the daemon answers.
async fn ended_as_told(mut daemon: Daemon, id: &str) -> Result<(), tonic::Status> {
    // Subscribed before asked: an end between both is not missed.
    let mut events = daemon.runtime.get_container_events(GetEventsRequest {}).await?.into_inner();
    match daemon.container(id, false).await {
        Ok(now) if now.status.as_ref().is_some_and(|now| now.state() != ContainerState::ContainerExited) => {}
        Ok(_) => return Ok(()),
        Err(status) if status.code() == tonic::Code::NotFound => return Ok(()),
        Err(status) => return Err(status),
    }
    while let Some(event) = events.message().await? {
        let is_end =
            matches!(event.container_event_type(), ContainerEventType::ContainerStoppedEvent | ContainerEventType::ContainerDeletedEvent);
        if is_end && event.container_id == id {
            return Ok(());
        }
    }
    Err(tonic::Status::unavailable("the events ended"))
}
