//! Signals by number, real-time ones included, and their dispositions.

use crate::SysError;
use crate::error::checked;
use rustix::process::Pid;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null_mut;

/// The largest signal number of Linux.
const SIGNAL_MAX: libc::c_int = 64;

/// Sends `signal` to the process of a pidfd; 0 only asks whether it is there.
///
/// # Errors
/// `ESRCH` where it is gone and reaped, `EINVAL` for a number that is no signal (`pidfd_send_signal(2)`).
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<(), SysError> {
    // SAFETY: the descriptor is borrowed for the call, and a null siginfo is not read.
    checked("pidfd_send_signal", unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, null_mut::<libc::siginfo_t>(), 0)
    })?;
    Ok(())
}

/// Sends `signal` to every process of the group that `leader` leads.
///
/// # Errors
/// `ESRCH` where the group is empty, `EINVAL` for a number that is no signal (`kill(2)`).
pub fn send_signal_to_group(leader: Pid, signal: i32) -> Result<(), SysError> {
    // SAFETY: the call takes numbers alone.
    checked("kill", unsafe { libc::kill(-leader.as_raw_nonzero().get(), signal) }.into())?;
    Ok(())
}

/// Makes the process ignore `signal`; its children and programs inherit that until [`reset_signals`].
///
/// # Errors
/// `EINVAL` for SIGKILL, SIGSTOP and what is no signal (`sigaction(2)`).
pub fn ignore_signal(signal: i32) -> Result<(), SysError> {
    // SAFETY: an all-zero sigaction is a valid one, it is this function's, no old one is asked for, and SIG_IGN is no address that
    // is called.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_IGN;
        libc::sigaction(signal, &raw const action, null_mut())
    };
    checked("sigaction", result.into()).map(drop)
}

/// Gives every signal its default disposition and blocks none: how a program expects to be started.
///
/// # Errors
/// What `sigprocmask(2)` says.
pub fn reset_signals() -> Result<(), SysError> {
    for signal in 1..=SIGNAL_MAX {
        // SIGKILL and SIGSTOP cannot be set and are never anything but default.
        let _ = set_default(signal);
    }
    // SAFETY: an all-zero sigset_t is a valid (empty) one, it is this function's, and no old set is asked for.
    let result = unsafe {
        let empty: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, null_mut())
    };
    checked("sigprocmask", result.into()).map(drop)
}

/// Past libc, which keeps two signals to itself and would leave them ignored if whoever started the process ignored them.
fn set_default(signal: libc::c_int) -> Result<(), SysError> {
    /// At least as long as the kernel's `struct sigaction` of any architecture.
    const ACTION_BYTES: usize = 64;
    /// Of the kernel's `sigset_t`, which libc's is longer than.
    const SIGSET_BYTES: usize = 8;
    #[repr(align(8))]
    struct Action([u8; ACTION_BYTES]);
    let default = Action([0; ACTION_BYTES]);
    // SAFETY: whatever the fields' order, all zero is SIG_DFL without flags, so no code of this process is named; the kernel
    // reads no more than the structure, which is this function's, and writes no old one.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.0.as_ptr(), null_mut::<u8>(), SIGSET_BYTES) };
    checked("rt_sigaction", result).map(drop)
}
