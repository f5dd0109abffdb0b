//! `mount_setattr(2)`.

use crate::SysError;
use crate::error::checked;
use rustix::mount::MountAttrFlags;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What a mount passes on and takes (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// `MS_PRIVATE`
    Private,
    /// `MS_SLAVE`
    Slave,
    /// `MS_SHARED`
    Shared,
}

/// What changes of a mount; the default changes nothing.
#[derive(Debug, Clone, Copy)]
pub struct MountChange {
    /// Attributes that are set.
    pub set: MountAttrFlags,
    /// Attributes that are cleared first. To set an access time mode, clear `MOUNT_ATTR__ATIME`.
    pub clear: MountAttrFlags,
    /// The new propagation; `None` leaves it.
    pub propagation: Option<Propagation>,
    /// All mounts below as well (`AT_RECURSIVE`).
    pub recursive: bool,
}

impl Default for MountChange {
    fn default() -> Self {
        Self { set: MountAttrFlags::empty(), clear: MountAttrFlags::empty(), propagation: None, recursive: false }
    }
}

/// Changes the mount whose root `mount` is open on (an `O_PATH` descriptor, or one of `fsmount(2)` or `open_tree(2)`).
///
/// # Errors
/// What `mount_setattr(2)` says.
pub fn mount_setattr(mount: impl AsFd, change: &MountChange) -> Result<(), SysError> {
    let attributes = libc::mount_attr {
        attr_set: change.set.bits().into(),
        attr_clr: change.clear.bits().into(),
        propagation: match change.propagation {
            None => 0,
            Some(Propagation::Private) => libc::MS_PRIVATE,
            Some(Propagation::Slave) => libc::MS_SLAVE,
            Some(Propagation::Shared) => libc::MS_SHARED,
        },
        userns_fd: 0,
    };
    set_attributes(mount.as_fd(), &attributes, change.recursive)
}

/// Has a detached mount, and those below it if `recursive`, show the file system's ids as the user namespace maps them
/// (`MOUNT_ATTR_IDMAP`): what is 0 on disk is what is 0 within the namespace. It cannot be undone.
///
/// # Errors
/// `EINVAL` where the file system cannot do that or the mount is attached, `EPERM` where it is done already (`mount_setattr(2)`).
pub fn map_ids(mount: impl AsFd, user_namespace: impl AsFd, recursive: bool) -> Result<(), SysError> {
    let userns_fd = u64::try_from(user_namespace.as_fd().as_raw_fd()).expect("an open descriptor's number is not negative");
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attributes(mount.as_fd(), &attributes, recursive)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: &libc::mount_attr, recursive: bool) -> Result<(), SysError> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a static NUL-terminated string, the structure is borrowed and has the size that is given, the descriptor
    // is borrowed for the call; the kernel only reads.
    checked("mount_setattr", unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}
