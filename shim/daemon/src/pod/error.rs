//! What can go wrong with a pod.

use crate::effects::{CgroupsError, ConfinementError, DeviceError, ExecError, LimitError, MonitorError, NetworkError, RootfsError};
use crate::plan::PlanError;
use crate::store::{LookupError, RecordError};
use podbox_plan::{ContainerId, SandboxId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// An operation on a pod failed; nothing half-made stays.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// There is no such object.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Another one has the name.
    #[error("{object} {name:?} is there already")]
    NameTaken {
        /// "sandbox" or "container".
        object: &'static str,
        /// Its name.
        name: String,
    },
    /// A port of the node leads to another pod.
    #[error("{port} of the node leads to sandbox {holder} already")]
    HostPortTaken {
        /// As it was asked for: "TCP port 80 of 127.0.0.1".
        port: String,
        /// The other one's namespace, name and id.
        holder: String,
    },
    /// The sandbox is stopped, or being stopped.
    #[error("sandbox {id} is not ready")]
    SandboxNotReady {
        /// Which.
        id: SandboxId,
    },
    /// The monitor of a sandbox that is ready cannot be reached at the moment.
    #[error("the monitor of sandbox {id} cannot be reached")]
    OutOfReach {
        /// Which.
        id: SandboxId,
    },
    /// The container is not in the state that the operation needs.
    #[error("container {id} is {state}: it must be {due}")]
    WrongState {
        /// Which.
        id: ContainerId,
        /// What it is: "running".
        state: &'static str,
        /// What it has to be.
        due: &'static str,
    },
    /// The container whose PID namespace is wanted.
    #[error("target container {id:?} does not run in this sandbox")]
    NoTarget {
        /// As it was asked for.
        id: String,
    },
    /// A mount's host path is not there.
    #[error("mount source {}", path.display())]
    MountSource {
        /// The host path.
        path: PathBuf,
        /// Why it cannot be used.
        source: io::Error,
    },
    /// A device cannot be given.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Confinement cannot be had.
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    /// The request makes no sense here.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The image or its user.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The container's own layer.
    #[error("the layer of container {id}")]
    Snapshot {
        /// Which.
        id: ContainerId,
        /// Why.
        source: podbox_image::Error,
    },
    /// A limit that this node cannot keep.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A cgroup.
    #[error(transparent)]
    Cgroups(#[from] CgroupsError),
    /// The pod network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The monitor, or what it was asked to start.
    #[error("sandbox {id}")]
    Monitor {
        /// Which.
        id: SandboxId,
        /// Why.
        source: MonitorError,
    },
    /// A container's init did not become its program; the source names the container.
    #[error(transparent)]
    Launch(MonitorError),
    /// A container's start.
    #[error("start container {id}")]
    Start {
        /// Which.
        id: ContainerId,
        /// Why.
        source: MonitorError,
    },
    /// A signal to a container.
    #[error("signal container {id}")]
    Signal {
        /// Which.
        id: ContainerId,
        /// Why.
        source: MonitorError,
    },
    /// A command in a container.
    #[error("execute in container {id}")]
    Exec {
        /// Which.
        id: ContainerId,
        /// Why.
        source: ExecError,
    },
    /// A client that is to be connected to a container.
    #[error("attach to container {id}")]
    Attach {
        /// Which.
        id: ContainerId,
        /// Why.
        source: ExecError,
    },
    /// A container's log.
    #[error("reopen the log of container {id}")]
    ReopenLog {
        /// Which.
        id: ContainerId,
        /// Why.
        source: MonitorError,
    },
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The pod's files.
    #[error("the files of sandbox {id}")]
    Files {
        /// Which.
        id: SandboxId,
        /// Why.
        source: io::Error,
    },
    /// The container's log folder.
    #[error("the log folder {}", path.display())]
    LogFolder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A container was asked to stop, then killed, and is still there.
    #[error("container {id} did not end within {seconds} s of its kill")]
    DidNotStop {
        /// Which.
        id: ContainerId,
        /// How long was waited.
        seconds: u64,
    },
    /// The sandbox was to be removed, and its stop failed.
    #[error("sandbox {id} could not be stopped")]
    SandboxNotStopped {
        /// Which.
        id: SandboxId,
    },
    /// The daemon is going away.
    #[error("the daemon is stopping")]
    Stopping,
    /// An operation that this one joined.
    #[error(transparent)]
    Joined(#[from] Arc<PodError>),
    /// A task of ours ended before its work did.
    #[error("the work was cut off")]
    CutOff,
}
