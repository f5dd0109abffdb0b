//! How a process of a pod ended, as the monitor leaves it on disk.

use serde::{Deserialize, Serialize};

/// The version that [`ExitRecord`]s are written with.
pub const EXIT_RECORD_VERSION: u32 = 1;

/// One process's end. Written by the monitor to a temporary name and renamed, so that a reader sees all of it or nothing;
/// it is the truth, and the [`Event`](crate::wire::Event) that follows is a hint to go and look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`EXIT_RECORD_VERSION`] of the writer.
    pub version: u32,
    /// The exit status as a shell shows it: 0–255, or 128 + the signal's number.
    pub exit_code: i32,
    /// The signal that ended the process, if one did.
    pub signal: Option<i32>,
    /// The kernel killed a process of its cgroup for memory while it ran.
    pub oom_killed: bool,
    /// The monitor was asked to kill it and did: a memory kill of one of its processes is not what it ended for.
    #[serde(default)]
    pub killed_on_request: bool,
    /// When the program was started: nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
    /// When its end was seen: nanoseconds since the Unix epoch, never before the start.
    pub finished_at_ns: i64,
    /// Log bytes that could not be written (a full disk, say) and were dropped.
    #[serde(default)]
    pub log_bytes_lost: u64,
}
