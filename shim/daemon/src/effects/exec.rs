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
/// How long a command's kill may take.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
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
    format!("{} s", timeout.as_secs_f64())
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

/// Kills the command when nobody waits for it any more, however that comes.
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
    let number = link.next_exec();
    // From here on the command may be there. A kill that comes before its launch has ended ends that, too.
    let mut guard = KillOnDrop { link: link.clone(), process: Some(ProcessRef::Exec(number)) };
    let run = run(link, number, plan);
    let outcome = match timeout {
        None => run.await,
        Some(limit) => tokio::time::timeout(limit, run).await.unwrap_or(Err(ExecError::TimedOut { timeout: limit })),
    };
    match outcome {
        Err(ExecError::TimedOut { timeout }) => {
            // Answered when it is killed, where the monitor is well; else the guard sees to it.
            if tokio::time::timeout(KILL_TIMEOUT, link.signal(ProcessRef::Exec(number), KILL, true)).await.is_ok() {
                guard.process = None;
            }
            Err(ExecError::TimedOut { timeout })
        }
        Ok(output) => {
            guard.process = None;
            Ok(output)
        }
        // Whether it runs is not known: one that does not is not killed either.
        Err(error) => Err(error),
    }
}

async fn run(link: &MonitorLink, number: u64, plan: LaunchPlan) -> Result<ExecOutput, ExecError> {
    let (stdout, stdout_writer) = pipe_pair()?;
    let (stderr, stderr_writer) = pipe_pair()?;
    let end = link.launch_exec(number, plan, vec![stdout_writer, stderr_writer]).await?;
    let (stdout, stderr) = (Capture::start(stdout), Capture::start(stderr));
    let record = end.await.map_err(|_| MonitorError::Gone)?;
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
