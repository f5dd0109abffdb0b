//! Running a command in a container to its end.

mod capture;

pub use capture::CaptureRoom;

use super::{MonitorError, MonitorLink};
use crate::request::KILL;
use capture::{Captured, NoRoom, Stream};
use podbox_plan::{LaunchPlan, ProcessRef, Stdio};
use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::Instant;

/// What is read at once of a stream.
const READ_BYTES: usize = 16 * 1024;
/// After the command's end, how long output is waited for that a process it left behind may hold open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a command's kill may take.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// A command could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Its pipes cannot be made.
    #[error("make the pipes of the command")]
    Pipe(#[source] io::Error),
    /// It cannot be started.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// Too much is being captured.
    #[error("keep the output of the command")]
    NoRoom(#[from] NoRoom),
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
    /// Its beginning: with `stderr`, it fits into an answer of 16 MiB.
    pub stdout: Vec<u8>,
    /// Its beginning.
    pub stderr: Vec<u8>,
    /// 0–255.
    pub exit_code: i32,
}

/// How the streams of a command are passed whose output is captured.
pub const CAPTURED_STDIO: Stdio = Stdio::Passed { stdin: None, stdout: Some(0), stderr: Some(1) };

/// Kills the command when nobody waits for it any more, however that comes.
/// What is kept until then is let go of after the kill.
pub(super) struct KillOnDrop {
    link: MonitorLink,
    process: Option<ProcessRef>,
    kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl KillOnDrop {
    pub(super) fn new(link: &MonitorLink, process: ProcessRef) -> Self {
        Self { link: link.clone(), process: Some(process), kept: None }
    }

    /// Keeps something until it is killed.
    pub(super) fn keep(&mut self, kept: Arc<dyn Any + Send + Sync>) {
        self.kept = Some(kept);
    }

    /// It has ended by itself.
    pub(super) fn disarm(&mut self) {
        self.process = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            let (link, kept) = (self.link.clone(), self.kept.take());
            tokio::spawn(async move {
                // One that is gone already needs no kill.
                let _ = link.signal(process, KILL, true).await;
                drop(kept);
            });
        }
    }
}

/// Runs a command; `None` as its timeout is no timeout.
///
/// # Errors
/// [`ExecError::TimedOut`] once it was killed for taking too long.
pub async fn exec_sync(
    link: &MonitorLink,
    plan: LaunchPlan,
    timeout: Option<Duration>,
    room: &CaptureRoom,
) -> Result<ExecOutput, ExecError> {
    let captured = room.capture()?;
    let number = link.next_exec();
    // From here on the command may be there. A kill that comes before its launch has ended ends that, too.
    let mut guard = KillOnDrop::new(link, ProcessRef::Exec(number));
    let run = run(link, number, plan, captured);
    let outcome = match timeout {
        None => run.await,
        Some(limit) => tokio::time::timeout(limit, run).await.unwrap_or(Err(ExecError::TimedOut { timeout: limit })),
    };
    match outcome {
        Err(ExecError::TimedOut { timeout }) => {
            // Answered when it is killed, where the monitor is well; else the guard sees to it.
            if tokio::time::timeout(KILL_TIMEOUT, link.signal(ProcessRef::Exec(number), KILL, true)).await.is_ok() {
                guard.disarm();
            }
            Err(ExecError::TimedOut { timeout })
        }
        Ok(output) => {
            guard.disarm();
            Ok(output)
        }
        // Whether it runs is not known: one that does not is not killed either.
        Err(error) => Err(error),
    }
}

async fn run(link: &MonitorLink, number: u64, plan: LaunchPlan, mut captured: Captured) -> Result<ExecOutput, ExecError> {
    let (stdout, stdout_writer) = pipe_pair()?;
    let (stderr, stderr_writer) = pipe_pair()?;
    let mut end = link.launch_exec(number, plan, vec![stdout_writer, stderr_writer]).await?;
    let mut streams = Streams { stdout: Some(stdout), stderr: Some(stderr) };
    let record = loop {
        tokio::select! {
            // A stream that never pauses must not hide the end.
            biased;
            record = &mut end => break record.map_err(|_| MonitorError::Gone)?,
            read = streams.read(), if !streams.are_over() => captured.take(read.0, &read.1)?,
        }
    };
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while !streams.are_over() {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(deadline) => break,
            read = streams.read() => captured.take(read.0, &read.1)?,
        }
    }
    let (stdout, stderr) = captured.into_streams();
    Ok(ExecOutput { stdout, stderr, exit_code: record.exit_code })
}

fn pipe_pair() -> Result<(pipe::Receiver, OwnedFd), ExecError> {
    let (reader, writer) = io::pipe().map_err(ExecError::Pipe)?;
    let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(ExecError::Pipe)?;
    Ok((reader, writer.into()))
}

/// What is open of a command's output.
struct Streams {
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

impl Streams {
    fn are_over(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// What comes next of either; nothing where one has just ended. Dropped half-way, nothing is lost.
    async fn read(&mut self) -> (Stream, Vec<u8>) {
        let (stream, bytes) = tokio::select! {
            bytes = read_some(&mut self.stdout) => (Stream::Stdout, bytes),
            bytes = read_some(&mut self.stderr) => (Stream::Stderr, bytes),
        };
        if bytes.is_empty() {
            match stream {
                Stream::Stdout => self.stdout = None,
                Stream::Stderr => self.stderr = None,
            }
        }
        (stream, bytes)
    }
}

/// What is there of a stream; empty at its end. One that has ended has nothing more to say.
async fn read_some(pipe: &mut Option<pipe::Receiver>) -> Vec<u8> {
    let Some(pipe) = pipe else { return std::future::pending().await };
    let mut bytes = Vec::with_capacity(READ_BYTES);
    match pipe.read_buf(&mut bytes).await {
        Ok(_) => bytes,
        Err(_) => Vec::new(),
    }
}
