//! What stands in the records.
//!
//! ```text
//! sandbox:   Creating ─► Ready ─► NotReady ─► (removed)
//! container: Creating ─► Created ─► Starting ─► Running ─► Exited ─► (removed)
//!                                      └──────────────────────▲
//! ```

use crate::plan::ContainerPlan;
use crate::request::{ContainerConfig, SandboxConfig};
use podbox_cgroup::Made;
use podbox_cgroup::systemd::Slice;
use podbox_netns::PodAddresses;
use podbox_plan::{ContainerId, ExitRecord, SandboxId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The version that records are written with.
pub const RECORD_VERSION: u32 = 2;

/// How far a sandbox's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxPhase {
    /// Its making has begun and not ended; no caller knows its id. After a crash it is undone.
    Creating,
    /// Pause runs and the network is there.
    Ready,
    /// Stopped, or pause or the monitor is gone.
    NotReady,
}

/// Pause as it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseRecord {
    /// In the host's PID namespace.
    pub pid: i32,
    /// Nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
    /// The monitor's process id.
    pub monitor_pid: i32,
}

/// A pod sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// Its id.
    pub id: SandboxId,
    /// What was asked for.
    pub config: SandboxConfig,
    /// Its hostname.
    pub hostname: String,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// The boot of the machine that it lives in.
    pub boot_id: String,
    /// How far it is.
    pub phase: SandboxPhase,
    /// Its cgroup, below the hierarchies' roots.
    pub cgroup: String,
    /// The slice in which its cgroup is a scope of systemd's; `None`: podbox made the cgroup itself.
    #[serde(default)]
    pub slice: Option<Slice>,
    /// The cgroup directories that are podbox's to remove: they were absent.
    pub cgroup_made: Option<Made>,
    /// Its addresses; held until it is stopped. `None` in the node's network.
    pub addresses: Option<PodAddresses>,
    /// It is stopped: its link is gone or going, and its addresses are free with it.
    pub network_released: bool,
    /// Pause, once it was started.
    pub pause: Option<PauseRecord>,
}

/// Why a container ended, in the CRI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// With status 0.
    Completed,
    /// With another.
    Error,
    /// Killed for memory.
    OomKilled,
    /// Its program could not be started.
    StartError,
    /// Nobody saw it end: the machine or the monitor went first.
    Unknown,
}

impl ExitReason {
    /// As `ContainerStatus.reason` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

/// How far a container's life has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPhase {
    /// Its making has begun and not ended; after a crash it is undone.
    Creating,
    /// Everything is there but the process.
    Created,
    /// The monitor was told to start it; after a crash the monitor says what became of that.
    Starting,
    /// Its init runs.
    Running {
        /// In the host's PID namespace.
        pid: i32,
        /// Nanoseconds since the Unix epoch.
        started_at_ns: i64,
    },
    /// Its init ended or never was.
    Exited {
        /// How.
        record: ExitRecord,
        /// Why.
        reason: ExitReason,
        /// More, for people.
        message: String,
    },
}

/// What making a container came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeContainer {
    /// Its image.
    pub image: ImageIdentity,
    /// What it is to run, and how.
    pub plan: ContainerPlan,
}

/// The image that a container was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageIdentity {
    /// `sha256:…` of its config.
    pub id: String,
    /// Its layers on disk, top-most first.
    pub lower_dirs: Vec<PathBuf>,
    /// The container's own layer.
    pub upper_dir: PathBuf,
    /// overlayfs's work directory.
    pub work_dir: PathBuf,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// Its id.
    pub id: ContainerId,
    /// Its sandbox.
    pub sandbox_id: SandboxId,
    /// What was asked for.
    pub config: ContainerConfig,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// How far it is.
    pub phase: ContainerPhase,
    /// Its cgroup, below the hierarchies' roots.
    pub cgroup: String,
    /// What it was made of; `None` until it was.
    pub made: Option<MadeContainer>,
}

impl ContainerRecord {
    /// The process id of its init while that runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        match self.phase {
            ContainerPhase::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }
}
