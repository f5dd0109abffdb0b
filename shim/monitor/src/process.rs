//! A process that runs, and what is due when it ends.

use crate::clock;
use crate::exec_cgroup::ExecCgroup;
use crate::exit_record::record_exit;
use crate::output::{Output, Scratch};
use podbox_plan::{CgroupEntry, EXIT_RECORD_VERSION, ExitRecord, LaunchPlan, ProcessRef};
use rustix::process::{Pid, WaitStatus};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A shell shows a signal's number above this one.
const SIGNALLED: i32 = 128;

/// A process whose program runs.
pub struct Running {
    /// What the daemon calls it.
    pub process: ProcessRef,
    /// Its id in the monitor's PID namespace. The monitor has not reaped it, so the id is nobody else's.
    pub pid: Pid,
    /// The same for the kernel.
    pub pidfd: OwnedFd,
    /// When its program was started: nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
    /// Its streams.
    pub output: Output,
    /// What is due at its end.
    pub at_end: AtEnd,
    /// The cgroup of its own, of a command.
    pub own_cgroup: Option<ExecCgroup>,
    /// The daemon asked for its kill.
    pub killed_on_request: bool,
}

/// What is due when a process ends.
pub struct AtEnd {
    exit_record: Option<PathBuf>,
    cgroup: CgroupEntry,
    oom_kills_before: Option<u64>,
}

impl AtEnd {
    /// Takes it from the plan, before the process is made.
    pub fn of(plan: &LaunchPlan) -> Self {
        Self { exit_record: plan.exit_record.clone(), cgroup: plan.cgroup.clone(), oom_kills_before: oom_kills(&plan.cgroup) }
    }
}

/// How many processes the kernel has killed for memory in this cgroup so far; `None` where nobody counts.
fn oom_kills(entry: &CgroupEntry) -> Option<u64> {
    podbox_cgroup::oom_kills(entry.oom_counter.as_ref()?).ok()
}

impl Running {
    /// Does what is due once the process is reaped, the record last, and gives the record.
    pub fn end(&mut self, status: WaitStatus, scratch: &mut Scratch) -> ExitRecord {
        let finished_at_ns = clock::now_ns().max(self.started_at_ns);
        // Asked before the rest is killed: that is none of the kernel's memory kills, but time passes.
        let oom_killed = match (self.at_end.oom_kills_before, oom_kills(&self.at_end.cgroup)) {
            (Some(before), Some(now)) => now > before,
            _ => false,
        };
        if self.at_end.cgroup.kill_rest_on_exit {
            // What it does not reach, the daemon kills before it removes the cgroup.
            let _ = podbox_cgroup::kill_members(self.at_end.cgroup.unified.as_deref(), &self.at_end.cgroup.v1);
        }
        self.output.read_what_is_left(scratch);
        let signal = status.terminating_signal();
        let record = ExitRecord {
            version: EXIT_RECORD_VERSION,
            exit_code: signal.map_or_else(|| status.exit_status().unwrap_or(0), |signal| SIGNALLED + signal),
            signal,
            oom_killed,
            killed_on_request: self.killed_on_request,
            started_at_ns: self.started_at_ns,
            finished_at_ns,
            log_bytes_lost: self.output.log.as_ref().map_or(0, |log| log.bytes_lost),
        };
        if let Some(path) = &self.at_end.exit_record {
            // Where the disk takes no record, the daemon still gets the event with the same content.
            let _ = record_exit(path, &record);
        }
        record
    }
}
