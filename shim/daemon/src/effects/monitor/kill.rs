//! Ending a monitor that does not answer.

use podbox_plan::SandboxId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kills the monitors of a sandbox: whatever runs under the name that [`spawn_monitor`](super::spawn_monitor) gives them. Tells how
/// many there were. `known` is the process id that is on record: if that is one, the others are not looked for. Else this reads
/// through all of `/proc`.
///
/// Any process of the node's can take that name; what it gains by that is to be killed.
pub fn kill_monitor(id: &SandboxId, known: Option<i32>) -> usize {
    if known.is_some_and(|pid| kill_if_monitor(pid, id)) {
        return 1;
    }
    let Ok(processes) = std::fs::read_dir("/proc") else { return 0 };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| kill_if_monitor(*pid, id)).count()
}

/// The name is looked at once more when the descriptor is there, so that it is of the process that is meant.
fn kill_if_monitor(pid: i32, id: &SandboxId) -> bool {
    let Some(valid) = Pid::from_raw(pid).filter(|_| is_monitor(pid, id)) else { return false };
    let Ok(pidfd) = pidfd_open(valid, PidfdFlags::empty()) else { return false };
    is_monitor(pid, id) && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
}

fn is_monitor(pid: i32, id: &SandboxId) -> bool {
    let wanted = format!("podbox-monitor\0{id}\0");
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(wanted.as_bytes()))
}
