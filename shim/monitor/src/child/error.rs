//! What can go wrong in a step. The step itself is named by the [`Op`](podbox_plan::Op), so these only say what was the matter.

use podbox_plan::{ProcessRef, Slot};
use podbox_sys::SysError;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// The kernel refused the step.
    #[error("{}", errno_text(*.0))]
    Kernel(Errno),
    /// The kernel refused a part of the step that needs naming.
    #[error("{part}: {}", errno_text(*.errno))]
    Part {
        /// What was tried.
        part: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// A file system refused its options, and said why.
    #[error("{}: {said}", errno_text(*.errno))]
    FileSystem {
        /// What the kernel said.
        errno: Errno,
        /// What the file system said.
        said: String,
    },
    /// The host's root cannot be left behind (`pivot_root(2)`: it must be a mount point, and not the first one, rootfs).
    #[error(
        "{}: the root of the host podbox runs on is an initramfs, or a chroot to a folder that is no mount point",
        errno_text(Errno::INVAL)
    )]
    RootCannotBeLeft,
    /// The plan attaches a mount that it has not opened.
    #[error("no mount was opened in slot {0}")]
    EmptySlot(Slot),
    /// The plan opens two mounts in one slot.
    #[error("slot {0} has a mount already")]
    SlotTaken(Slot),
    /// The plan works on a root that it has not made.
    #[error("no root was made yet")]
    NoRoot,
    /// What should be a seccomp filter is none.
    #[error("{bytes} bytes are no filter")]
    NoFilter {
        /// How many were read.
        bytes: usize,
    },
    /// The plan loads a filter that it has not read.
    #[error("no filter was read")]
    NoFilterRead,
    /// The plan enters no user namespace, or one of a process that it does not name.
    #[error("the plan has no user namespace")]
    NoUserNamespace,
    /// A mount whose ids cannot be mapped.
    #[error("the ids of {} cannot be mapped for the pod's user namespace: {}", path.display(), id_map_reason(*.errno))]
    NoIdMap {
        /// What was mounted.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The plan has no last step.
    #[error("the plan executes nothing")]
    NothingExecuted,
    /// The plan names a descriptor that did not come with it.
    #[error("descriptor {0} did not come with the launch")]
    NoDescriptor(Slot),
    /// A process whose namespaces are wanted is gone.
    #[error("{0} is not running")]
    NotRunning(ProcessRef),
    /// A path has a symbolic link where none may be.
    #[error("a symbolic link is in the way")]
    SymbolicLink,
    /// A path is not absolute, or goes up where nothing is.
    #[error("no usable path: {0}")]
    UnusablePath(PathBuf),
    /// A target came out in a process file system.
    #[error("it leads into a proc file system")]
    LeadsIntoProc,
    /// Something is absent in a process file system, where nothing can be made.
    #[error("nothing can be made in a proc file system")]
    NotInProc,
    /// The container's null device is something else.
    #[error("the container's /dev/null is not the null device")]
    NotTheNullDevice,
    /// The container's terminals are somebody else's.
    #[error("the container's /dev/pts is no devpts")]
    NoTerminals,
    /// A bind source must pass on mounts and its mount does not.
    #[error("{source_path} is on a mount that is not {wanted}, so the asked-for propagation is impossible")]
    NotShared {
        /// The source.
        source_path: PathBuf,
        /// `shared`, or `shared or a slave`.
        wanted: &'static str,
    },
    /// The working directory is not below the root.
    #[error("it lies outside of the container's root")]
    OutsideRoot,
    /// A capability that the monitor itself lacks.
    #[error("this host does not have the capability number {0} to give")]
    NoSuchCapability(u32),
    /// A user or group id that stands for no user.
    #[error("{0} is no user or group id")]
    NoId(u32),
    /// No file of that name in the PATH.
    #[error("executable file not found in $PATH")]
    NotInPath,
    /// The file is there, but not what it needs to be run.
    #[error("no such file or directory: the file is there, its interpreter or loader is not")]
    NoInterpreter,
    /// A directory.
    #[error("it is a directory")]
    IsDirectory,
    /// A NUL in an argument or the environment.
    #[error("an argument or environment variable contains a NUL byte")]
    NulByte,
}

impl OpError {
    /// The number that goes with it.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Kernel(errno) | Self::Part { errno, .. } | Self::FileSystem { errno, .. } | Self::NoIdMap { errno, .. } => *errno,
            Self::RootCannotBeLeft
            | Self::EmptySlot(_)
            | Self::SlotTaken(_)
            | Self::NoRoot
            | Self::NoUserNamespace
            | Self::NothingExecuted
            | Self::NoFilter { .. }
            | Self::NoFilterRead
            | Self::NoDescriptor(_) => Errno::INVAL,
            Self::UnusablePath(_) | Self::NotShared { .. } | Self::NoId(_) | Self::NulByte => Errno::INVAL,
            Self::NotRunning(_) => Errno::SRCH,
            Self::SymbolicLink | Self::LeadsIntoProc => Errno::LOOP,
            Self::NotTheNullDevice | Self::NoTerminals => Errno::NODEV,
            Self::OutsideRoot | Self::NotInProc | Self::NotInPath | Self::NoInterpreter => Errno::NOENT,
            Self::NoSuchCapability(_) => Errno::PERM,
            Self::IsDirectory => Errno::ISDIR,
        }
    }
}

/// What the kernel's refusal to leave the host's root means. The new root is a mount of our own making, so that `EINVAL` can only be
/// about the old one.
pub(super) fn leaving_root(errno: Errno) -> OpError {
    if errno == Errno::INVAL { OpError::RootCannotBeLeft } else { OpError::Kernel(errno) }
}

/// What the kernel's refusal to map the ids of a mount means.
fn id_map_reason(errno: Errno) -> String {
    match errno {
        Errno::INVAL => "its file system, or one that is mounted below it, does not support that on this kernel".to_owned(),
        errno => errno_text(errno),
    }
}

impl From<Errno> for OpError {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

impl From<nix::errno::Errno> for OpError {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Kernel(Errno::from_raw_os_error(errno as i32))
    }
}

impl From<SysError> for OpError {
    fn from(error: SysError) -> Self {
        Self::Kernel(error.errno())
    }
}

/// An error number in the words that everybody knows, without the number.
pub fn errno_text(errno: Errno) -> String {
    let text = errno.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    // libc begins with a capital letter, which reads oddly after a colon.
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_cannot_be_left_is_said_to_be_the_reason() {
        let error = leaving_root(Errno::INVAL);
        assert!(error.to_string().starts_with("invalid argument: ") && error.to_string().contains("initramfs"), "{error}");
        assert_eq!(error.errno(), Errno::INVAL);
        assert_eq!(leaving_root(Errno::PERM).to_string(), "operation not permitted");
    }
}
