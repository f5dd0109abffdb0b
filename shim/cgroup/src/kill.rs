//! Ending every process of a cgroup: by `cgroup.kill` where there is a unified directory, by rounds of `SIGKILL` otherwise.

use crate::freeze::Freezer;
use crate::{CgroupPath, Error, control_file, tree};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A bound for where the cgroup cannot be frozen either; else a few rounds are enough.
const ROUNDS_MAX: u32 = 200;
/// What still makes processes after so many rounds is frozen first: then all there will be are there.
const ROUNDS_UNFROZEN: u32 = 2;

/// So many processes are held at once: a descriptor each, of which a daemon may have 1024 in all.
const HELD_MAX: usize = 256;

/// Sends `SIGKILL` to everything in a cgroup and below it, which stands in these directories: one of the unified hierarchy, and of v1 those
/// that were joined, in that order. As [`Cgroup::kill`](crate::Cgroup::kill), for whoever has no more than an [`Entry`](crate::Entry).
///
/// A process that is no member is never signalled, whatever becomes of the numbers meanwhile. Absent is success.
pub fn kill_members(unified: Option<&Path>, v1: &[PathBuf]) -> Result<(), Error> {
    if let Some(unified) = unified
        && !by_file(unified)?
    {
        by_rounds(unified, Freezer::of_unified(unified))?;
    }
    // On a hybrid host a process may stand in the v1 hierarchies alone.
    match v1.first() {
        Some(joined_first) => by_rounds(joined_first, v1.iter().find_map(|directory| Freezer::of_v1(directory))),
        None => Ok(()),
    }
}

/// Kills the subtree at once (`cgroup.kill`, Linux 5.14). False where the kernel has no such file; true if there is nothing.
fn by_file(unified: &Path) -> Result<bool, Error> {
    match control_file::write(unified, "cgroup.kill", "1") {
        Ok(()) => Ok(true),
        Err(Error::Write { source, .. }) if control_file::is_gone(&source) => Ok(!unified.exists()),
        Err(error) => Err(error),
    }
}

/// Sends `SIGKILL` to all processes at and below `directory`, again and again until a round meets none that the round before it
/// did not. Then all that are left are dying: a process with `SIGKILL` pending cannot fork.
fn by_rounds(directory: &Path, freezer: Option<Freezer>) -> Result<(), Error> {
    let outcome = rounds(directory, freezer.as_ref());
    // Who killed before may have died with the cgroup frozen, and what is frozen does not die.
    match freezer {
        Some(freezer) => outcome.and(freezer.thaw()),
        None => outcome,
    }
}

fn rounds(directory: &Path, freezer: Option<&Freezer>) -> Result<(), Error> {
    let mut signalled = BTreeSet::new();
    // Thawed when this ends, however it does.
    let mut frozen = None;
    for round in 0..ROUNDS_MAX {
        let present = tree::processes(directory, true)?;
        let met_new = !present.is_subset(&signalled);
        signal_all(directory, &present)?;
        if !met_new {
            return Ok(());
        }
        signalled = present;
        if round + 1 == ROUNDS_UNFROZEN
            && let Some(freezer) = freezer
        {
            frozen = Some(freezer.hold()?);
        }
    }
    drop(frozen);
    Err(Error::OutpacedKill { directory: directory.to_owned(), rounds: ROUNDS_MAX })
}

fn signal_all(directory: &Path, listed: &BTreeSet<i32>) -> Result<(), Error> {
    let listed: Vec<i32> = listed.iter().copied().collect();
    listed.chunks(HELD_MAX).try_for_each(|some| signal_some(directory, some))
}

/// A listed number may belong to another process by now. So hold all by pidfd first and signal those that are still listed.
fn signal_some(directory: &Path, listed: &[i32]) -> Result<(), Error> {
    let fault = |pid: i32, errno: Errno| Error::Kill { directory: directory.to_owned(), pid, source: io::Error::from(errno) };
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

/// Sends a signal to a process of which `is_member` is true while it is held, so that its number is nobody else's. False: it is not.
pub(crate) fn signal_if(
    cgroup: &CgroupPath,
    pid: i32,
    signal: i32,
    is_member: impl FnOnce() -> Result<bool, Error>,
) -> Result<bool, Error> {
    let failed = |errno: Errno| Error::Signal { cgroup: cgroup.clone(), pid, signal, source: errno.into() };
    let held = match hold(pid) {
        Err(Errno::SRCH) => return Ok(false),
        held => held.map_err(failed)?,
    };
    if !is_member()? {
        return Ok(false);
    }
    match podbox_sys::send_signal(&held, signal) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Errno::SRCH => Ok(false),
        Err(error) => Err(failed(error.errno())),
    }
}

/// The process of this number; `ESRCH` if there is none.
fn hold(pid: i32) -> Result<OwnedFd, Errno> {
    match pidfd_open(Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty()) {
        // A number that leads no process: a thread's, or that of a process which is being taken down at this moment. Kernels have
        // called that both.
        Err(Errno::INVAL | Errno::NOENT) => Err(Errno::SRCH),
        held => held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::gettid;

    #[test]
    fn a_number_that_leads_no_process_is_nobodys() {
        assert!(hold(std::process::id().cast_signed()).is_ok());
        let thread = std::thread::spawn(|| hold(gettid().as_raw_nonzero().get()).map(drop));
        assert_eq!(thread.join().unwrap(), Err(Errno::SRCH));
        assert_eq!(hold(0).map(drop), Err(Errno::SRCH));
        // Beyond what any kernel gives out.
        assert_eq!(hold(i32::MAX).map(drop), Err(Errno::SRCH));
    }
}
