//! Ending every process of a cgroup: by `cgroup.kill` where there is a unified directory, by rounds of `SIGKILL` otherwise.

use crate::{CgroupPath, Error, control_file, tree};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Each round kills all there were, so only a fork bomb outlives a few; v1 has no means against one but the pids limit.
const ROUNDS_MAX: u32 = 200;

/// Kills the subtree at once (`cgroup.kill`, Linux 5.14). False where the kernel has no such file; true if there is nothing.
pub(crate) fn by_file(unified: &Path) -> Result<bool, Error> {
    match control_file::write(unified, "cgroup.kill", "1") {
        Ok(()) => Ok(true),
        Err(Error::Write { source, .. }) if control_file::is_gone(&source) => Ok(!unified.exists()),
        Err(error) => Err(error),
    }
}

/// Sends `SIGKILL` to all processes at and below `directory`, again and again until a round meets none that the round before it
/// did not. Then all that are left are dying: a process with `SIGKILL` pending cannot fork.
pub(crate) fn by_rounds(path: &CgroupPath, directory: &Path) -> Result<(), Error> {
    let mut signalled = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let present = tree::processes(directory, true)?;
        let met_new = !present.is_subset(&signalled);
        signal_all(path, directory, &present)?;
        if !met_new {
            return Ok(());
        }
        signalled = present;
    }
    Err(Error::OutpacedKill { cgroup: path.clone(), rounds: ROUNDS_MAX })
}

/// A listed number may belong to another process by now. So hold all by pidfd first and signal those that are still listed.
fn signal_all(path: &CgroupPath, directory: &Path, listed: &BTreeSet<i32>) -> Result<(), Error> {
    let fault = |pid: i32, errno: Errno| Error::Kill { cgroup: path.clone(), pid, source: io::Error::from(errno) };
    let mut held = Vec::with_capacity(listed.len());
    for pid in listed {
        match hold(*pid) {
            Ok(pidfd) => held.push((*pid, pidfd)),
            Err(Errno::SRCH) => {}
            Err(errno) => return Err(fault(*pid, errno)),
        }
    }
    let still_listed = tree::processes(directory, true)?;
    for (pid, pidfd) in held.iter().filter(|(pid, _)| still_listed.contains(pid)) {
        match pidfd_send_signal(pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(fault(*pid, errno)),
        }
    }
    Ok(())
}

fn hold(pid: i32) -> Result<OwnedFd, Errno> {
    pidfd_open(Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty())
}
