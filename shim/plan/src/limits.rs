//! Limits of one process (`getrlimit(2)`).

use rustix::process::Resource;
use serde::{Deserialize, Serialize};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LimitKind {
    /// `RLIMIT_AS`, bytes.
    AddressSpace,
    /// `RLIMIT_CORE`, bytes.
    Core,
    /// `RLIMIT_CPU`, seconds.
    CpuTime,
    /// `RLIMIT_DATA`, bytes.
    Data,
    /// `RLIMIT_FSIZE`, bytes.
    FileSize,
    /// `RLIMIT_LOCKS`
    Locks,
    /// `RLIMIT_MEMLOCK`, bytes.
    LockedMemory,
    /// `RLIMIT_MSGQUEUE`, bytes.
    MessageQueues,
    /// `RLIMIT_NICE`: 20 less the lowest nice value.
    Nice,
    /// `RLIMIT_NOFILE`
    OpenFiles,
    /// `RLIMIT_NPROC`
    Processes,
    /// `RLIMIT_RSS`, bytes.
    ResidentSet,
    /// `RLIMIT_RTPRIO`
    RealtimePriority,
    /// `RLIMIT_RTTIME`, microseconds.
    RealtimeCpu,
    /// `RLIMIT_SIGPENDING`
    PendingSignals,
    /// `RLIMIT_STACK`, bytes.
    Stack,
}

impl LimitKind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::AddressSpace,
        Self::Core,
        Self::CpuTime,
        Self::Data,
        Self::FileSize,
        Self::Locks,
        Self::LockedMemory,
        Self::MessageQueues,
        Self::Nice,
        Self::OpenFiles,
        Self::Processes,
        Self::ResidentSet,
        Self::RealtimePriority,
        Self::RealtimeCpu,
        Self::PendingSignals,
        Self::Stack,
    ];

    /// As the kernel knows it.
    #[must_use]
    pub fn resource(self) -> Resource {
        match self {
            Self::AddressSpace => Resource::As,
            Self::Core => Resource::Core,
            Self::CpuTime => Resource::Cpu,
            Self::Data => Resource::Data,
            Self::FileSize => Resource::Fsize,
            Self::Locks => Resource::Locks,
            Self::LockedMemory => Resource::Memlock,
            Self::MessageQueues => Resource::Msgqueue,
            Self::Nice => Resource::Nice,
            Self::OpenFiles => Resource::Nofile,
            Self::Processes => Resource::Nproc,
            Self::ResidentSet => Resource::Rss,
            Self::RealtimePriority => Resource::Rtprio,
            Self::RealtimeCpu => Resource::Rttime,
            Self::PendingSignals => Resource::Sigpending,
            Self::Stack => Resource::Stack,
        }
    }
}

/// One limit; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimit {
    /// What it is of.
    pub kind: LimitKind,
    /// What holds.
    pub soft: Option<u64>,
    /// What the process may raise it to itself.
    pub hard: Option<u64>,
}
