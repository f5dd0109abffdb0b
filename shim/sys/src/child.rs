//! `waitid(2)`.

use crate::SysError;
use crate::error::checked;
use rustix::process::Pid;

/// A child of the caller's that has ended and is not reaped, which it is not by this either: until it is, its number is nobody else's. `None`
/// if there are only such that run.
///
/// # Errors
/// `ECHILD` where there is no child at all.
pub fn ended_child() -> Result<Option<Pid>, SysError> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: an all-zero siginfo_t is a valid one; it is this function's, and outlives the call, which writes no more than it.
    let (answer, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (libc::waitid(libc::P_ALL, 0, &raw mut info, flags), info)
    };
    checked("waitid", answer.into())?;
    // SAFETY: after a successful waitid(2) the structure is one of SIGCHLD's, or all zero where nobody has ended: the field is there.
    Ok(Pid::from_raw(unsafe { info.si_pid() }))
}
