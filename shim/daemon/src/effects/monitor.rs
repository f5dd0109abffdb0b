//! Monitors: starting one, and talking to it.
//!
//! A [`MonitorLink`] is the daemon's end of a pod's socket. One task owns the socket: it sends requests in the order they were
//! made, hands each reply to its asker, the end of an exec to whoever waits for it, and everything else to the pod's driver. When the
//! socket closes, every asker gets [`MonitorError::Gone`] and the driver sees its channel of events end. Whether the monitor is gone
//! as well is seen by connecting once more.
//!
//! A monitor may be of an older podbox than the daemon. What it does not know it is not asked for: that is an error of the request, and
//! the pod goes on.

mod connection;
mod kill;
mod spawn;

pub use kill::kill_monitor;
pub use spawn::{spawn_monitor, spawn_unborn_monitor};

use connection::Connection;
use podbox_plan::wire::{AttachedStdin, LaunchFailure, ReplyBody, RequestBody, RunningProcess, VERSION_MAX, VERSION_MIN, WireError};
use podbox_plan::{ContainerId, ExitRecord, LaunchPlan, ProcessRef, Slot};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Nothing that a monitor is asked waits for anything but the monitor; one that is stopped or hangs must not take its askers along.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A launch also waits for what is mounted: the kubelet gives it two minutes.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(110);
/// Requests that wait for their turn to be sent.
const QUEUE: usize = 64;
/// Ends of processes that wait for the pod's driver.
const EVENTS: usize = 256;

/// Something could not be had of a monitor.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// It could not be started.
    #[error("start the monitor: {step}")]
    Spawn {
        /// What failed.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It cannot be reached.
    #[error("connect to the monitor")]
    Connect(#[source] Errno),
    /// The connection to it ended before it answered, most likely since it did.
    #[error("the connection to the pod's monitor is gone")]
    Gone,
    /// It is there and does not answer.
    #[error("the pod's monitor did not answer within {seconds} s")]
    Silent {
        /// How long was waited.
        seconds: u64,
    },
    /// It is of another podbox, and speaks no version that we speak.
    #[error("the pod's monitor speaks none of the versions {VERSION_MIN} to {VERSION_MAX} of the protocol: {said}")]
    NoCommonVersion {
        /// What it said.
        said: String,
    },
    /// It is of an older podbox, and does not know what it is to do.
    #[error("this takes version {needed} of the protocol, and the pod's monitor, which an older podbox started, speaks version {spoken}")]
    TooOld {
        /// What the request needs.
        needed: u32,
        /// What it was agreed to speak.
        spoken: u32,
    },
    /// The request could not be sent.
    #[error("send to the monitor")]
    Send(#[source] WireError),
    /// The process could not be started.
    #[error("start {process}")]
    Launch {
        /// Which.
        process: ProcessRef,
        /// The step and the reason.
        #[source]
        source: LaunchFailure,
    },
    /// There is no such process any more.
    #[error("{process} does not run")]
    NotRunning {
        /// Which.
        process: ProcessRef,
    },
    /// It would not do it.
    #[error("the monitor refused: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// It answered something else.
    #[error("the monitor gave an answer that does not fit the request")]
    Unexpected,
}

/// A process that was started.
#[derive(Debug)]
pub struct Started {
    /// In the host's PID namespace.
    pub pid: i32,
    /// Nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
    /// What came with the reply: pause's network namespace.
    pub descriptors: Vec<OwnedFd>,
}

/// What a pod's driver hears of its monitor.
#[derive(Debug)]
pub enum MonitorEvent {
    /// Pause or a container's init ended.
    Exited {
        /// Which.
        process: ProcessRef,
        /// How.
        record: ExitRecord,
    },
}

/// The daemon's end of a pod's socket; clones share it.
#[derive(Debug, Clone)]
pub struct MonitorLink {
    requests: mpsc::Sender<connection::Outgoing>,
    next_exec: Arc<AtomicU64>,
    /// Of the protocol: nothing is asked that needs a newer one.
    version: u32,
    /// The monitor's process id.
    pub pid: i32,
}

/// Connects to the monitor whose socket stands in a folder, and greets it.
///
/// # Errors
/// See [`MonitorError`]; `Connect` with `ECONNREFUSED` or `ENOENT` means that there is no monitor.
pub async fn connect_monitor(folder: &Path, socket: &str) -> Result<(MonitorLink, mpsc::Receiver<MonitorEvent>), MonitorError> {
    let socket = connected(folder, socket).map_err(MonitorError::Connect)?;
    let (requests, outgoing) = mpsc::channel(QUEUE);
    let (events, heard) = mpsc::channel(EVENTS);
    let connection =
        Connection::new(socket, outgoing, events).map_err(|source| MonitorError::Spawn { step: "watch its socket", source })?;
    tokio::spawn(connection.run());
    // Execs of a daemon before this one may still run: their numbers must not come again.
    let first_exec = super::now_ns().unsigned_abs();
    let mut link = MonitorLink { requests, next_exec: Arc::new(AtomicU64::new(first_exec)), version: VERSION_MIN, pid: 0 };
    let hello = RequestBody::Hello { version_min: VERSION_MIN, version_max: VERSION_MAX };
    match link.ask(hello, Vec::new()).await?.0 {
        ReplyBody::Hello { version, monitor_pid } if (VERSION_MIN..=VERSION_MAX).contains(&version) => {
            (link.version, link.pid) = (version, monitor_pid);
            Ok((link, heard))
        }
        ReplyBody::Hello { version, .. } => Err(MonitorError::NoCommonVersion { said: format!("it chose version {version}") }),
        ReplyBody::Refused { reason } => Err(MonitorError::NoCommonVersion { said: reason }),
        _ => Err(MonitorError::Unexpected),
    }
}

/// Socket addresses hold 107 bytes, state directories may be deeper: the way leads over the folder's descriptor.
pub(super) fn socket_address(folder: &OwnedFd, name: &str) -> Result<SocketAddrUnix, Errno> {
    use std::os::fd::AsRawFd;
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

pub(super) fn open_folder(folder: &Path) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn connected(folder: &Path, name: &str) -> Result<OwnedFd, Errno> {
    let folder = open_folder(folder)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    rustix::net::connect(socket.as_fd(), &socket_address(&folder, name)?)?;
    Ok(socket)
}

impl MonitorLink {
    async fn ask(&self, body: RequestBody, descriptors: Vec<OwnedFd>) -> Result<(ReplyBody, Vec<OwnedFd>), MonitorError> {
        self.exchange(ANSWER_TIMEOUT, body, descriptors, None).await
    }

    /// A request and its answer, the time in the queue included: a monitor that takes nothing more fills that as well.
    async fn exchange(
        &self,
        limit: Duration,
        body: RequestBody,
        descriptors: Vec<OwnedFd>,
        exec: Option<(u64, oneshot::Sender<ExitRecord>)>,
    ) -> Result<(ReplyBody, Vec<OwnedFd>), MonitorError> {
        let needed = body.version_needed();
        if needed > self.version {
            return Err(MonitorError::TooOld { needed, spoken: self.version });
        }
        let (reply, answered) = oneshot::channel();
        let outgoing = connection::Outgoing { body, descriptors, reply, exec };
        let exchanged = tokio::time::timeout(limit, async {
            self.requests.send(outgoing).await.map_err(|_| MonitorError::Gone)?;
            answered.await.map_err(|_| MonitorError::Gone)?
        });
        exchanged.await.unwrap_or(Err(MonitorError::Silent { seconds: limit.as_secs() }))
    }

    /// Starts a process.
    ///
    /// # Errors
    /// [`MonitorError::Launch`] names the step that failed; nothing of the process is left then.
    pub async fn launch(&self, process: ProcessRef, plan: LaunchPlan, descriptors: Vec<OwnedFd>) -> Result<Started, MonitorError> {
        let body = RequestBody::Launch { process: process.clone(), plan: Box::new(plan) };
        let answer = self.exchange(LAUNCH_TIMEOUT, body, descriptors, None).await?;
        started(process, answer)
    }

    /// Starts a process whose end is told to the caller alone.
    ///
    /// # Errors
    /// As [`MonitorLink::launch`].
    pub async fn launch_exec(
        &self,
        number: u64,
        plan: LaunchPlan,
        descriptors: Vec<OwnedFd>,
    ) -> Result<oneshot::Receiver<ExitRecord>, MonitorError> {
        let process = ProcessRef::Exec(number);
        let body = RequestBody::Launch { process: process.clone(), plan: Box::new(plan) };
        let (ended, end) = oneshot::channel();
        let answer = self.exchange(LAUNCH_TIMEOUT, body, descriptors, Some((number, ended))).await?;
        started(process, answer)?;
        Ok(end)
    }

    /// A number for an exec, which no other has.
    #[must_use]
    pub fn next_exec(&self) -> u64 {
        self.next_exec.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a signal, to the process's group as well if asked.
    ///
    /// # Errors
    /// [`MonitorError::NotRunning`] if it ended already.
    pub async fn signal(&self, process: ProcessRef, signal: i32, group: bool) -> Result<(), MonitorError> {
        match self.ask(RequestBody::Signal { process: process.clone(), signal, group }, Vec::new()).await?.0 {
            ReplyBody::Done => Ok(()),
            ReplyBody::NotRunning => Err(MonitorError::NotRunning { process }),
            other => Err(refusal(other)),
        }
    }

    /// Opens a container's log anew.
    ///
    /// # Errors
    /// The old file stays in use and no new one is left behind.
    pub async fn reopen_log(&self, container: ContainerId) -> Result<(), MonitorError> {
        match self.ask(RequestBody::ReopenLog { container: container.clone() }, Vec::new()).await?.0 {
            ReplyBody::Done => Ok(()),
            ReplyBody::NotRunning => Err(MonitorError::NotRunning { process: ProcessRef::Container(container) }),
            other => Err(refusal(other)),
        }
    }

    /// Lets a client follow a container's output through pipes, and gives what it may write to, if that was wanted and is open; of a
    /// terminal always its master.
    ///
    /// # Errors
    /// [`MonitorError::NotRunning`] if the container ended already.
    pub async fn attach(
        &self,
        container: ContainerId,
        [stdout, stderr]: [Option<Slot>; 2],
        stdin: AttachedStdin,
        pipes: Vec<OwnedFd>,
    ) -> Result<Option<OwnedFd>, MonitorError> {
        let body = RequestBody::Attach { container: container.clone(), stdout, stderr, stdin };
        match self.ask(body, pipes).await? {
            (ReplyBody::Attached, descriptors) => Ok(descriptors.into_iter().next()),
            (ReplyBody::NotRunning, _) => Err(MonitorError::NotRunning { process: ProcessRef::Container(container) }),
            (other, _) => Err(refusal(other)),
        }
    }

    /// Closes a container's input.
    ///
    /// # Errors
    /// [`MonitorError::NotRunning`] if the container ended already.
    pub async fn close_stdin(&self, container: ContainerId) -> Result<(), MonitorError> {
        match self.ask(RequestBody::CloseStdin { container: container.clone() }, Vec::new()).await?.0 {
            ReplyBody::Done => Ok(()),
            ReplyBody::NotRunning => Err(MonitorError::NotRunning { process: ProcessRef::Container(container) }),
            other => Err(refusal(other)),
        }
    }

    /// The pod's network namespace.
    ///
    /// # Errors
    /// [`MonitorError::NotRunning`] if pause has ended.
    pub async fn open_network(&self) -> Result<OwnedFd, MonitorError> {
        let not_running = || MonitorError::NotRunning { process: ProcessRef::Pause };
        match self.ask(RequestBody::OpenNetwork, Vec::new()).await? {
            (ReplyBody::Network, descriptors) => descriptors.into_iter().next().ok_or(MonitorError::Unexpected),
            (ReplyBody::NotRunning, _) => Err(not_running()),
            (other, _) => Err(refusal(other)),
        }
    }

    /// What runs.
    ///
    /// # Errors
    /// The monitor is gone.
    pub async fn state(&self) -> Result<Vec<RunningProcess>, MonitorError> {
        match self.ask(RequestBody::State, Vec::new()).await?.0 {
            ReplyBody::State { processes } => Ok(processes),
            other => Err(refusal(other)),
        }
    }

    /// Ends the monitor, which must have nothing left to watch.
    ///
    /// # Errors
    /// [`MonitorError::Refused`] if something still runs.
    pub async fn shutdown(&self) -> Result<(), MonitorError> {
        match self.ask(RequestBody::Shutdown, Vec::new()).await?.0 {
            ReplyBody::Done => Ok(()),
            other => Err(refusal(other)),
        }
    }
}

fn started(process: ProcessRef, answer: (ReplyBody, Vec<OwnedFd>)) -> Result<Started, MonitorError> {
    match answer {
        (ReplyBody::Launched { pid, started_at_ns }, descriptors) => Ok(Started { pid, started_at_ns, descriptors }),
        (ReplyBody::LaunchFailed(source), _) => Err(MonitorError::Launch { process, source }),
        (ReplyBody::NotRunning, _) => Err(MonitorError::NotRunning { process }),
        (other, _) => Err(refusal(other)),
    }
}

fn refusal(reply: ReplyBody) -> MonitorError {
    match reply {
        ReplyBody::Refused { reason } => MonitorError::Refused { reason },
        _ => MonitorError::Unexpected,
    }
}
