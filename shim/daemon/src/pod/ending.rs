//! Words for how containers end.

use crate::store::{ContainerPhase, ContainerRecord, ExitReason};
use podbox_plan::{EXIT_RECORD_VERSION, ExitRecord};

/// The state of a container, for messages.
pub(super) fn state_name(record: &ContainerRecord) -> &'static str {
    match record.phase {
        ContainerPhase::Creating => "being created",
        ContainerPhase::Created => "created",
        ContainerPhase::Starting => "being started",
        ContainerPhase::Running { .. } => "running",
        ContainerPhase::Exited { .. } => "exited",
    }
}

/// Why a container ended, in the CRI's words. It was killed for memory when the kernel killed one of its processes for that
/// and its init went the way of a kill, be it that one or one that followed its child's, unless it was we who killed it. An init that
/// outlives the kill of a child, and ends with a code of its own, was not.
pub(super) fn reason_of(end: &ExitRecord) -> ExitReason {
    match end.exit_code {
        137 if end.oom_killed && !end.killed_on_request => ExitReason::OomKilled,
        0 => ExitReason::Completed,
        _ => ExitReason::Error,
    }
}

/// The end of something that was not seen running.
pub(super) fn unseen_end(exit_code: i32, at_ns: i64) -> ExitRecord {
    ExitRecord {
        version: EXIT_RECORD_VERSION,
        exit_code,
        signal: None,
        oom_killed: false,
        killed_on_request: false,
        started_at_ns: 0,
        finished_at_ns: at_ns,
        log_bytes_lost: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn killed_for_memory_is_who_was_killed_for_memory() {
        let end = |exit_code, oom_killed, killed_on_request| ExitRecord { oom_killed, killed_on_request, ..unseen_end(exit_code, 0) };
        for (end, reason) in [
            (end(137, true, false), "OOMKilled"),
            (end(137, false, false), "Error"),
            (end(137, true, true), "Error"),
            (end(0, true, false), "Completed"),
            (end(1, true, false), "Error"),
            (end(143, true, false), "Error"),
        ] {
            assert_eq!(reason_of(&end).as_str(), reason, "{end:?}");
        }
    }
}
