//! What a system call answers when it fails.

use rustix::io::Errno;

/// A system call of this crate failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SysError {
    /// `clone3(2)` was asked of a process with more than one thread.
    #[error("clone3 in a process of several threads")]
    Threads,
    /// The kernel said no.
    #[error("{call}")]
    Kernel {
        /// The call's name.
        call: &'static str,
        /// Its error number.
        #[source]
        errno: Errno,
    },
}

impl SysError {
    /// The error number; `EINVAL` where the kernel was not asked.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Threads => Errno::INVAL,
            Self::Kernel { errno, .. } => *errno,
        }
    }
}

/// The value of a libc call, or the error number it left.
pub(crate) fn checked(call: &'static str, value: libc::c_long) -> Result<libc::c_long, SysError> {
    if value < 0 {
        let errno = std::io::Error::last_os_error();
        return Err(SysError::Kernel { call, errno: Errno::from_io_error(&errno).unwrap_or(Errno::IO) });
    }
    Ok(value)
}
