//! The daemon–monitor protocol: messages over one `SOCK_SEQPACKET` socket a pod.
//!
//! One packet is one message: a JSON object, with descriptors as `SCM_RIGHTS`. A message of more than [`PACKET_BYTES_MAX`]
//! travels in a sealed memfd, the last descriptor of a packet whose body is the word `memfd`; nothing above
//! [`MESSAGE_BYTES_MAX`] or with more than [`DESCRIPTORS_MAX`] descriptors is sent or taken.
//!
//! The daemon speaks first: [`RequestBody::Hello`] with the versions it can speak; the monitor answers with the newest that it
//! speaks as well, or says that there is none and closes. Unknown fields are passed over, but nothing is sent that the other side
//! does not know: [`VERSION_MAX`] says how versions are added to. Each request gets exactly one [`Reply`], in any order; [`Event`]s
//! come in between. An event is a hint: what it tells also stands on disk.

mod transport;
mod version;

pub use transport::{Received, WireError, receive, send};
pub use version::{VERSION_MAX, VERSION_MIN};

use crate::{ContainerId, ExitRecord, LaunchPlan, ProcessRef, Slot};
use serde::{Deserialize, Serialize};

/// The largest body that is sent within a packet.
pub const PACKET_BYTES_MAX: usize = 32 * 1024;
/// The largest message at all.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most descriptors that come with one message, the memfd of a large one not counted.
pub const DESCRIPTORS_MAX: usize = 8;

/// From the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the [`Reply`].
    pub id: u64,
    /// What is asked.
    pub body: RequestBody,
}

/// What the daemon asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// The first message of every connection.
    Hello {
        /// Oldest version spoken.
        version_min: u32,
        /// Newest version spoken.
        version_max: u32,
    },
    /// Start a process; descriptors for `Stdio::Passed` and `Program::Passed` come with the message.
    Launch {
        /// What it is called from now on.
        process: ProcessRef,
        /// How it is born.
        plan: Box<LaunchPlan>,
    },
    /// Send a signal to a process. One that is gone is [`ReplyBody::NotRunning`].
    Signal {
        /// Whom.
        process: ProcessRef,
        /// The signal's number.
        signal: i32,
        /// Its whole process group as well; with SIGKILL, and of a command, all that it has started: an exec that timed out.
        group: bool,
    },
    /// Close the container's log file and open it anew. On an error the old one stays in use and no new file is left behind.
    ReopenLog {
        /// Whose.
        container: ContainerId,
    },
    /// Connect a client to a container's streams: what it writes from now on also goes to the pipes that come with the message. One that
    /// is not read holds the container up for a while, and is then let go of.
    Attach {
        /// Whose.
        container: ContainerId,
        /// Index of the pipe for its output, or its terminal's.
        stdout: Option<Slot>,
        /// Index of the pipe for its error output.
        stderr: Option<Slot>,
        /// How its input is wanted.
        stdin: AttachedStdin,
    },
    /// Close a container's input: what reads it finds its end. One that is closed, or a terminal, stays as it is.
    CloseStdin {
        /// Whose.
        container: ContainerId,
    },
    /// Give pause's network namespace.
    OpenNetwork,
    /// List the processes that run.
    State,
    /// End the monitor, once nothing runs any more; refused before.
    Shutdown,
}

/// How an attached client wants a container's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachedStdin {
    /// Not at all.
    Unwanted,
    /// Like any other's.
    Shared,
    /// It is closed when the connection to the daemon ends, for the client goes with that.
    ClosedWithConnection,
}

/// From the monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MonitorMessage {
    /// The answer to one request.
    Reply(Reply),
    /// Something happened.
    Event(Event),
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// The answer.
    pub body: ReplyBody,
}

/// What the monitor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyBody {
    /// To `Hello`.
    Hello {
        /// The version spoken from now on.
        version: u32,
        /// The monitor's process id in the host's PID namespace.
        monitor_pid: i32,
    },
    /// To `Launch`: the program runs. For pause, its network namespace comes as a descriptor.
    Launched {
        /// Process id in the host's PID namespace.
        pid: i32,
        /// When: nanoseconds since the Unix epoch.
        started_at_ns: i64,
    },
    /// To `Attach`. With the writing end of its input where that was wanted and is open; of a terminal, always with its master.
    Attached,
    /// To `OpenNetwork`, with the namespace.
    Network,
    /// To `Launch`: nothing runs and nothing of it is left.
    LaunchFailed(LaunchFailure),
    /// Done: to `Signal`, `ReopenLog`, `CloseStdin`, `Shutdown`.
    Done,
    /// There is no such process (any more).
    NotRunning,
    /// To `State`: what runs now.
    State {
        /// In no order.
        processes: Vec<RunningProcess>,
    },
    /// The request could not be done.
    Refused {
        /// What was wrong, for people.
        reason: String,
    },
}

/// Why a launch failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct LaunchFailure {
    /// The step: an [`Op`](crate::Op)'s description, or one of the monitor's own.
    pub step: String,
    /// The error number, 0 where the kernel gave none.
    pub errno: i32,
    /// The error in words.
    pub reason: String,
}

/// A process that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningProcess {
    /// What it is called.
    pub process: ProcessRef,
    /// Process id in the host's PID namespace.
    pub pid: i32,
    /// When it was started: nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
}

/// Something the monitor saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A process ended; its record, if it has one, is on disk already.
    Exited {
        /// Which.
        process: ProcessRef,
        /// How.
        record: ExitRecord,
    },
}
