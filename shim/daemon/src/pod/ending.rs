//! How containers end, and words for it. What is said of one whose end nobody told is decided here alone.

use crate::plan::Layout;
use crate::store::{ContainerPhase, ContainerRecord, ExitReason, read_record};
use podbox_plan::{EXIT_RECORD_VERSION, ExitRecord};

/// 128 and the number of SIGKILL.
pub(super) const KILLED_CODE: i32 = 137;
/// The exit code of a container whose end nobody saw.
const UNKNOWN_CODE: i32 = 255;
/// The exit code of a container whose program could not be started, as other runtimes report it.
pub(super) const START_ERROR_CODE: i32 = 128;

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

/// Whether its init runs, or is about to.
pub(super) fn runs(record: &ContainerRecord) -> bool {
    matches!(record.phase, ContainerPhase::Running { .. } | ContainerPhase::Starting)
}

/// Why a container ended, in the CRI's words. It was killed for memory when the kernel killed one of its processes for that
/// and its init went the way of a kill, be it that one or one that followed its child's, unless it was we who killed it. An init that
/// outlives the kill of a child, and ends with a code of its own, was not.
pub(super) fn reason_of(end: &ExitRecord) -> ExitReason {
    match end.exit_code {
        KILLED_CODE if end.oom_killed && !end.killed_on_request => ExitReason::OomKilled,
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

/// What became of the monitor that watched a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watcher {
    /// It runs.
    Alive,
    /// It was killed, or ended with the pod, and what it watched was killed.
    Gone,
    /// It went with the machine's last boot.
    OtherBoot,
}

/// How a container ended that was started and does not run: by its exit record, or by what is to be assumed where there is none.
/// `None`: it was never heard of. A monitor drops what it was starting for a daemon whose connection is lost. `kill_asked`: it was
/// about to be killed, perhaps past its monitor.
pub(super) fn end_of_lost(
    layout: &Layout,
    container: &ContainerRecord,
    watcher: Watcher,
    kill_asked: bool,
    now_ns: i64,
) -> Option<ContainerPhase> {
    if let Ok(mut end) = read_record::<ExitRecord>(&layout.container_exit(&container.sandbox_id, &container.id)) {
        end.killed_on_request |= kill_asked;
        return Some(ContainerPhase::Exited { reason: reason_of(&end), record: end, message: String::new() });
    }
    let (code, reason, message) = match watcher {
        Watcher::Alive if container.phase == ContainerPhase::Starting => return None,
        Watcher::Alive => (UNKNOWN_CODE, ExitReason::Unknown, "its end could not be recorded"),
        Watcher::OtherBoot => (UNKNOWN_CODE, ExitReason::Unknown, "the machine was started anew"),
        Watcher::Gone => (KILLED_CODE, ExitReason::Error, "the pod's monitor was killed, and its containers with it"),
    };
    Some(ContainerPhase::Exited { record: unseen_end(code, now_ns), reason, message: message.to_owned() })
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
