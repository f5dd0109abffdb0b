//! Running a command in a container to its end.

use super::{MonitorError, MonitorLink};
use podbox_plan::{LaunchPlan, ProcessRef};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What is kept of each stream; the rest is read and dropped, so that the command never blocks.
pub const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// After the command's end, how long output is waited for that a process it left behind may hold open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// After its kill, how long a command's end is waited for.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// `SIGKILL`
const KILL: i32 = 9;

/// A command could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Its pipes cannot be made.
    #[error("make the pipes of the command")]
    Pipe(#[source] io::Error),
    /// It cannot be started.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// It took longer than it was given, and was killed.
    #[error("the command did not end within {}", seconds(*timeout))]
    TimedOut {
        /// What it was given.
        timeout: Duration,
    },
}

fn seconds(timeout: Duration) -> String {
    format!("{} s", timeout.as_secs())
}

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// At most [`OUTPUT_BYTES_MAX`] of it.
    pub stdout: Vec<u8>,
    /// At most [`OUTPUT_BYTES_MAX`] of it.
    pub stderr: Vec<u8>,
    /// 0–255.
    pub exit_code: i32,
}

/// Kills the command when its caller stops waiting, however that comes.
struct KillOnDrop {
    link: MonitorLink,
    process: Option<ProcessRef>,
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            let link = self.link.clone();
            tokio::spawn(async move { link.signal(process, KILL, true).await });
        }
    }
}

/// Runs a command; `None` as its timeout is no timeout.
///
/// # Errors
/// [`ExecError::TimedOut`] once it was killed for taking too long.
pub async fn exec_sync(link: &MonitorLink, plan: LaunchPlan, timeout: Option<Duration>) -> Result<ExecOutput, ExecError> {
    let (stdout, stdout_writer) = pipe_pair()?;
    let (stderr, stderr_writer) = pipe_pair()?;
    let (process, mut end) = link.launch_exec(plan, vec![stdout_writer, stderr_writer]).await?;
    let mut guard = KillOnDrop { link: link.clone(), process: Some(process.clone()) };
    let (stdout, stderr) = (Capture::start(stdout), Capture::start(stderr));
    let ended = match timeout {
        None => Some((&mut end).await),
        Some(timeout) => tokio::time::timeout(timeout, &mut end).await.ok(),
    };
    let Some(ended) = ended else {
        // It may end on its own in this very moment, and then there is nobody to signal.
        let _ = link.signal(process, KILL, true).await;
        let _ = tokio::time::timeout(KILL_TIMEOUT, end).await;
        guard.process = None;
        return Err(ExecError::TimedOut { timeout: timeout.unwrap_or_default() });
    };
    guard.process = None;
    let record = ended.map_err(|_| MonitorError::Gone)?;
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    Ok(ExecOutput { stdout: stdout.finish(deadline).await, stderr: stderr.finish(deadline).await, exit_code: record.exit_code })
}

fn pipe_pair() -> Result<(pipe::Receiver, OwnedFd), ExecError> {
    let (reader, writer) = io::pipe().map_err(ExecError::Pipe)?;
    let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(ExecError::Pipe)?;
    Ok((reader, writer.into()))
}

/// A task that reads one stream to its end, or until a deadline that is set later. Dropped, it stops.
struct Capture {
    kept: JoinHandle<Vec<u8>>,
    deadline: oneshot::Sender<Instant>,
}

impl Capture {
    fn start(pipe: pipe::Receiver) -> Self {
        let (deadline, set) = oneshot::channel();
        Self { kept: tokio::spawn(read_bounded(pipe, set)), deadline }
    }

    async fn finish(self, deadline: Instant) -> Vec<u8> {
        // The stream may have ended already, and its task with it.
        let _ = self.deadline.send(deadline);
        self.kept.await.unwrap_or_default()
    }
}

async fn read_bounded(mut pipe: pipe::Receiver, mut set: oneshot::Receiver<Instant>) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut deadline: Option<Instant> = None;
    loop {
        let until = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            // A stream that never pauses must not outlast its deadline.
            biased;
            () = tokio::time::sleep_until(until), if deadline.is_some() => return kept,
            got = &mut set, if deadline.is_none() => match got {
                Ok(instant) => deadline = Some(instant),
                Err(_) => return kept,
            },
            read = pipe.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return kept,
                Ok(count) => {
                    let room = OUTPUT_BYTES_MAX - kept.len();
                    kept.extend_from_slice(&buffer[..count.min(room)]);
                }
            },
        }
    }
}
