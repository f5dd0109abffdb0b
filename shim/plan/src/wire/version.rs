//! Versions of the protocol, and which of them a message needs.
//!
//! A pod's monitor is of the podbox that made the pod, and lives as long as the pod does: the daemon may be a newer one or, after a
//! downgrade, an older one. Both speak the newest version that both know, and neither sends what needs a newer one: a monitor that is asked
//! for what it does not know could only let go of the daemon.
//!
//! **The rule.** What a version says is settled once a podbox that speaks it was given to anybody. Whatever is added to a message, be it an
//! [`Op`], a variant or a field, needs the next version, which [`VERSION_MAX`] is then raised to; `tests/versions.rs` compares every form with
//! those that are written down, and does not let a change go by.
//!
//! | version | brought |
//! |---|---|
//! | 1 | pods, containers, commands |
//! | 2 | limits, labels and seccomp filters of processes; image volumes and volumes that images declare; users of a pod's own; mounts whose attributes differ from those below them; clients of containers, terminals of commands, pause's network namespace |

use super::{Event, MonitorMessage, RequestBody};
use crate::{LaunchPlan, Op, Overlay, Stdio};

/// The oldest version of the protocol that this code speaks.
pub const VERSION_MIN: u32 = 1;
/// The newest version of the protocol that this code speaks: raised with all that is added to a message. What an older version says stays
/// as it is.
pub const VERSION_MAX: u32 = 2;

impl RequestBody {
    /// The oldest version with which a monitor understands it.
    #[must_use]
    pub fn version_needed(&self) -> u32 {
        match self {
            Self::Hello { .. } | Self::Signal { .. } | Self::ReopenLog { .. } | Self::State | Self::Shutdown => 1,
            Self::Launch { plan, .. } => plan.version_needed(),
            Self::Attach { .. } | Self::CloseStdin { .. } | Self::OpenNetwork => 2,
        }
    }
}

impl MonitorMessage {
    /// The oldest version with which a daemon understands it. Who asks understands the answers.
    #[must_use]
    pub fn version_needed(&self) -> u32 {
        match self {
            Self::Reply(_) | Self::Event(Event::Exited { .. }) => 1,
        }
    }
}

impl LaunchPlan {
    /// The oldest version with which a monitor carries it out as it is meant.
    #[must_use]
    pub fn version_needed(&self) -> u32 {
        let of_user = if self.user.is_host() { 1 } else { 2 };
        let of_streams = match self.stdio {
            Stdio::Closed | Stdio::Piped { .. } | Stdio::Terminal { .. } | Stdio::Passed { .. } => 1,
            Stdio::PassedTerminal { .. } => 2,
        };
        self.ops.iter().map(Op::version_needed).fold(of_user.max(of_streams), u32::max)
    }
}

impl Op {
    /// The oldest version with which a monitor knows it in this form.
    #[must_use]
    pub fn version_needed(&self) -> u32 {
        match self {
            Self::Join { .. }
            | Self::NewCgroupNamespace
            | Self::SetHostname { .. }
            | Self::SetSysctl { .. }
            | Self::SetOomScoreAdj { .. }
            | Self::OpenFromPause { .. }
            | Self::LeaveHostMounts
            | Self::OverlayRoot { overlay: Overlay { context: None, .. }, .. }
            | Self::EmptyRoot { .. }
            | Self::Mount { .. }
            | Self::Attach { .. }
            | Self::MakeNode(_)
            | Self::Mask { .. }
            | Self::ReadOnlyPath { .. }
            | Self::ReadOnlyRoot
            | Self::PivotRoot
            | Self::ConnectStdio
            | Self::WorkingDirectory { .. }
            | Self::NoNewPrivileges
            | Self::Credentials { .. }
            | Self::Exec { .. } => 1,
            Self::SetLimits { .. }
            | Self::SetExecLabel { .. }
            | Self::ReadSeccompFilter { .. }
            | Self::OpenBind(_)
            | Self::OpenImage(_)
            | Self::OverlayRoot { overlay: Overlay { context: Some(_), .. }, .. }
            | Self::OpenOverlay { .. }
            | Self::OpenFileSystem { .. }
            | Self::OpenDevices { .. }
            | Self::EnterUserNamespace { .. }
            | Self::AttachRoot { .. }
            | Self::KeepVolume { .. }
            | Self::ReadOnlyMount { .. }
            | Self::LoadSeccompFilter { .. } => 2,
        }
    }
}
