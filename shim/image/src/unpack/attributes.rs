//! Ownership, mode, extended attributes and times of what was just created.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Gid, Mode, Uid, XattrFlags, chmodat, chownat, fchmod, fchown, fsetxattr, futimens, utimensat};
use rustix::io::Errno;

use super::path::EntryPath;
use super::{UnpackError, times};
use crate::tarstream::{Entry, EntryKind};

/// The user and group ID that mean "leave as it is" to `chown(2)`; no file can have it.
const ID_UNCHANGED: u32 = u32::MAX;

/// For an open file or directory.
pub(super) fn apply(file: BorrowedFd<'_>, entry: &Entry, path: &EntryPath) -> Result<(), UnpackError> {
    let (uid, gid) = owner(entry, path)?;
    fchown(file, Some(uid), Some(gid)).map_err(|errno| path.failed("set its owner", errno))?;
    fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(|errno| path.failed("set its mode", errno))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_for_images(name)) {
        match fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            // The file system below has no such attributes; neither Docker nor containerd insists.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(path.failed("set an extended attribute", errno)),
        }
    }
    futimens(file, &times(entry.mtime_seconds, entry.mtime_nanos)).map_err(|errno| path.failed("set its times", errno))
}

/// For what must not be opened: symbolic links, devices and pipes.
pub(super) fn apply_at(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry, path: &EntryPath) -> Result<(), UnpackError> {
    let (uid, gid) = owner(entry, path)?;
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| path.failed("set its owner", errno))?;
    if entry.kind != EntryKind::Symlink {
        // This would follow a symbolic link, but the caller made `name` a moment ago and nobody else has access.
        chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty()).map_err(|errno| path.failed("set its mode", errno))?;
    }
    utimensat(parent, name, &times(entry.mtime_seconds, entry.mtime_nanos), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| path.failed("set its times", errno))
}

fn owner(entry: &Entry, path: &EntryPath) -> Result<(Uid, Gid), UnpackError> {
    if entry.uid == ID_UNCHANGED || entry.gid == ID_UNCHANGED {
        return Err(path.failed("set its owner", Errno::INVAL));
    }
    Ok((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)))
}

/// Which attributes an image may bring: capabilities, access lists, and users' own. The rest is the host's affair:
/// `trusted.*` steers overlayfs itself, `security.selinux` belongs to the host's policy.
pub(crate) fn is_for_images(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}
