//! A process made by `clone3`, from birth to grave.

use super::flush_output;
use anyhow::{Context, Result, bail};
use nix::unistd::fexecve;
use podbox_sys::{CloneArguments, CloneFlags, Cloned, clone3};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, set_parent_process_death_signal, waitid};
use std::convert::Infallible;
use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Killed and reaped when dropped, so that a failed round leaves nothing.
pub(super) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    ended: bool,
}

impl Child {
    /// Clones, lets the child `prepare`, and waits until it has become `program`. What fails in the child is this call's error.
    pub(super) fn spawn(
        namespaces: CloneFlags,
        cgroup: Option<BorrowedFd<'_>>,
        prepare: impl FnOnce() -> Result<()>,
        program: &OwnedFd,
    ) -> Result<Self> {
        flush_output()?;
        let (told, tell) = pipe_with(PipeFlags::CLOEXEC).context("make a pipe")?;
        match clone3(CloneArguments { flags: namespaces, cgroup, sibling: false })? {
            Cloned::Child => {
                // Everything of the parent's that is to be dropped is the parent's: the child never returns.
                let Err(fault) = become_program(prepare, program);
                let told = File::from(tell).write_all(format!("{fault:#}").as_bytes());
                std::process::exit(if told.is_ok() { 126 } else { 127 });
            }
            Cloned::Parent { pid, pidfd } => {
                drop(tell);
                let child = Self { pid, pidfd, ended: false };
                let mut fault = String::new();
                // Ends without a word when `execve` closes the child's end.
                File::from(told).read_to_string(&mut fault).context("hear of the child")?;
                if !fault.is_empty() {
                    bail!("in the child: {fault}");
                }
                Ok(child)
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills and reaps it.
    pub(super) fn end(mut self) -> Result<()> {
        self.kill_and_reap()
    }

    fn kill_and_reap(&mut self) -> Result<()> {
        self.ended = true;
        pidfd_send_signal(&self.pidfd, Signal::KILL).context("kill")?;
        waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED).context("reap")?;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            let _best_effort = self.kill_and_reap();
        }
    }
}

fn become_program(prepare: impl FnOnce() -> Result<()>, program: &OwnedFd) -> Result<Infallible> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("tie to the parent")?;
    prepare()?;
    fexecve(program, &[c"pause"], &[] as &[&CStr]).context("execute")
}
