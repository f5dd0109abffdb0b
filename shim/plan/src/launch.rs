//! The plan of one process's birth.

use crate::{ContainerId, Op, Slot};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A process of the pod that the monitor is parent of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProcessRef {
    /// The owner of the pod's namespaces.
    Pause,
    /// A container's init.
    Container(ContainerId),
    /// A process executed in a container, by a number that the daemon never uses twice for one monitor.
    Exec(u64),
}

impl fmt::Display for ProcessRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pause => f.write_str("pause"),
            Self::Container(id) => write!(f, "container {id}"),
            Self::Exec(number) => write!(f, "exec {number}"),
        }
    }
}

/// Namespaces made at `clone3(2)`. The PID namespace is [`PidNamespace`]'s; the cgroup namespace is made after the process
/// stands in its cgroup ([`Op::NewCgroupNamespace`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNamespaces {
    /// `CLONE_NEWNS`
    pub mount: bool,
    /// `CLONE_NEWNET`
    pub net: bool,
    /// `CLONE_NEWIPC`
    pub ipc: bool,
    /// `CLONE_NEWUTS`
    pub uts: bool,
}

/// The PID namespace that the process is born in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// A new one, in which it is PID 1.
    New,
    /// The monitor's own, which is the host's.
    Host,
    /// That of another process of this pod.
    Of(ProcessRef),
}

/// Ids that a user namespace has: those from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// What 0 is for the host.
    pub first_host_id: u32,
    /// How many there are.
    pub length: u32,
}

impl IdRange {
    /// Whether it has this id.
    #[must_use]
    pub fn has(&self, id: u32) -> bool {
        id < self.length
    }
}

/// The users and groups of a user namespace (`user_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMappings {
    /// Users.
    pub uids: IdRange,
    /// Groups.
    pub gids: IdRange,
}

/// The user namespace that the process is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserNamespace {
    /// The monitor's own, which is the host's.
    #[default]
    Host,
    /// A new one.
    New(UserMappings),
    /// That of another process of this pod.
    Of {
        /// Whose.
        process: ProcessRef,
        /// What it has.
        mappings: UserMappings,
    },
}

impl UserNamespace {
    /// Whether it is the host's.
    #[must_use]
    pub fn is_host(&self) -> bool {
        *self == Self::Host
    }
}

/// Where the process is accounted and limited. All paths are absolute and exist before the launch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupEntry {
    /// Directory in the cgroup2 hierarchy; the process is born in it (`CLONE_INTO_CGROUP`).
    pub unified: Option<PathBuf>,
    /// Directories in v1 hierarchies; the newborn, a single thread yet, writes itself to each one's `tasks`.
    pub v1: Vec<PathBuf>,
    /// The file whose `oom_kill N` line counts processes killed for memory: `memory.events` (v2) or `memory.oom_control` (v1).
    pub oom_counter: Option<PathBuf>,
    /// Kill what is left in the cgroup when the process ends: due where it is not PID 1 of its own PID namespace, where the
    /// kernel does that.
    pub kill_rest_on_exit: bool,
}

/// Where the process's output goes as CRI log lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTarget {
    /// Absolute path of the log file; made with mode 0640 if absent, appended to if there.
    pub path: PathBuf,
}

/// The process's standard streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Nothing at all is open: pause.
    Closed,
    /// Pipes that the monitor holds: output is logged, input is kept open for attached clients or is the container's `/dev/null`.
    Piped {
        /// Keep an input pipe; otherwise `/dev/null`.
        stdin: bool,
        /// Where lines go; `None` drops them.
        log: Option<LogTarget>,
    },
    /// A pseudo-terminal made inside the container's own devpts; the monitor holds its master.
    Terminal {
        /// Where lines go (all as `stdout`); `None` drops them.
        log: Option<LogTarget>,
    },
    /// A pseudo-terminal made inside the container's own devpts, whose master is sent over a socket that came with the message.
    PassedTerminal {
        /// Index of the socket's descriptor.
        channel: Slot,
    },
    /// Descriptors that came with the message, by index; `None` is the container's `/dev/null`.
    Passed {
        /// Index of the input's descriptor.
        stdin: Option<Slot>,
        /// Index of the output's descriptor.
        stdout: Option<Slot>,
        /// Index of the error output's descriptor.
        stderr: Option<Slot>,
    },
}

/// How one process is born. The newborn first joins `cgroup.v1`, then carries out `ops` in order; the last is [`Op::Exec`].
///
/// With a `user` namespace other than the host's, it begins with a mount namespace alone, if that; whatever else is to be new is made by
/// [`Op::EnterUserNamespace`], and belongs to the user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Namespaces made for it.
    pub namespaces: NewNamespaces,
    /// The PID namespace it is born in.
    pub pid: PidNamespace,
    /// The user namespace that it is in from [`Op::EnterUserNamespace`] on.
    #[serde(default, skip_serializing_if = "UserNamespace::is_host")]
    pub user: UserNamespace,
    /// Its cgroup.
    pub cgroup: CgroupEntry,
    /// Its standard streams; connected by [`Op::ConnectStdio`].
    pub stdio: Stdio,
    /// What it does before it becomes the program.
    pub ops: Vec<Op>,
    /// Where its [`ExitRecord`](crate::ExitRecord) goes; `None` for an exec, whose end only its caller waits for.
    pub exit_record: Option<PathBuf>,
}
