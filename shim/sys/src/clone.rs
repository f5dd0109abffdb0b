//! `clone3(2)` as a better `fork(2)`: new namespaces, a pidfd, and birth in a cgroup.

use crate::SysError;
use crate::error::checked;
use rustix::io::Errno;
use rustix::process::Pid;
use std::ops::BitOr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Namespaces that the child gets anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CloneFlags(u64);

impl CloneFlags {
    /// A child in its parent's namespaces.
    pub const EMPTY: Self = Self(0);
    /// `CLONE_NEWNS`
    pub const NEW_MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    /// `CLONE_NEWNET`
    pub const NEW_NET: Self = Self(libc::CLONE_NEWNET as u64);
    /// `CLONE_NEWIPC`
    pub const NEW_IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// `CLONE_NEWUTS`
    pub const NEW_UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    /// `CLONE_NEWPID`
    pub const NEW_PID: Self = Self(libc::CLONE_NEWPID as u64);
    /// `CLONE_NEWUSER`
    pub const NEW_USER: Self = Self(libc::CLONE_NEWUSER as u64);
}

impl BitOr for CloneFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What the child is born with; its end is told by SIGCHLD, and it shares nothing with the caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneArguments<'a> {
    /// New namespaces.
    pub flags: CloneFlags,
    /// A directory of a cgroup2 hierarchy to be born in (`CLONE_INTO_CGROUP`).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The child is the caller's parent's, which hears of its end as it hears of the caller's (`CLONE_PARENT`).
    pub sibling: bool,
}

/// Which of the two goes on.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The caller.
    Parent {
        /// The child's id in the caller's PID namespace.
        pid: Pid,
        /// A close-on-exec pidfd of the child.
        pidfd: OwnedFd,
    },
}

/// `CLONE_INTO_CGROUP`; libc's constant does not fit its type.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child process, a copy of the caller that goes on from here.
///
/// # Errors
/// [`SysError::Threads`] in a process of several threads; else what `clone3(2)`, or the `unshare(2)` that counts them, says.
pub fn clone3(arguments: CloneArguments<'_>) -> Result<Cloned, SysError> {
    single_threaded()?;
    let mut pidfd: RawFd = -1;
    let mut raw = libc::clone_args {
        flags: arguments.flags.0 | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if arguments.sibling {
        raw.flags |= libc::CLONE_PARENT as u64;
        // The kernel takes the caller's own, and demands that none is named.
        raw.exit_signal = 0;
    }
    if let Some(cgroup) = arguments.cgroup {
        raw.flags |= INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the structure and `pidfd` are this function's and outlive the call. Without CLONE_VM and with a null stack the
    // child runs on a copy of all memory, as after fork(2); that it can use all of that copy (no lock in it is held by a thread
    // that the child lacks) is kept by `single_threaded`, checked above.
    let pid = checked("clone3", unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<libc::clone_args>()) })?;
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        None => Ok(Cloned::Child),
        Some(pid) => {
            // SAFETY: in the parent of a successful CLONE_PIDFD the kernel has stored a new descriptor there, which nothing
            // else owns yet.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// Asks the kernel whether this is the only thread: `unshare(CLONE_VM)` does nothing where it is and fails where it is not
/// (`unshare(2)`). A single thread cannot become two behind the caller's back.
fn single_threaded() -> Result<(), SysError> {
    // SAFETY: the flag shares or unshares nothing in a process of one thread, and the call fails in any other.
    match checked("unshare", unsafe { libc::unshare(libc::CLONE_VM) }.into()) {
        Ok(_) => Ok(()),
        Err(error) => Err(not_counted(error)),
    }
}

/// `EINVAL` is the answer about threads; any other, of a system call filter for example, says nothing of them.
fn not_counted(error: SysError) -> SysError {
    if error.errno() == Errno::INVAL { SysError::Threads } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tells_of_threads_is_called_threads() {
        let refused = |errno| not_counted(SysError::Kernel { call: "unshare", errno });
        assert_eq!(refused(Errno::INVAL), SysError::Threads);
        assert_eq!(refused(Errno::PERM), SysError::Kernel { call: "unshare", errno: Errno::PERM });
    }
}
