//! `keyctl(2)`.

use crate::SysError;
use crate::error::checked;
use rustix::io::Errno;

/// `KEYCTL_JOIN_SESSION_KEYRING`, which libc lacks.
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Gives the calling thread an empty session keyring that nobody else has, in place of what it inherited. A kernel without keyrings
/// has nothing to inherit.
///
/// # Errors
/// What `keyctl(2)` says.
pub fn new_session_keyring() -> Result<(), SysError> {
    let no_name = std::ptr::null::<libc::c_char>();
    // SAFETY: without a name the call reads no memory; it replaces the thread's own keyring.
    match checked("keyctl", unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, no_name) }) {
        Err(error) if error.errno() == Errno::NOSYS => Ok(()),
        outcome => outcome.map(drop),
    }
}
