//! Files of the container's `/dev`, and its null device.

use super::error::OpError;
use super::target::{Links, open, parent};
use podbox_plan::{DeviceNode, NodeKind};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const NULL_DEVICE: (u32, u32) = (1, 3);

/// Who a device belongs to and who may use it.
struct Access {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Makes one file; the directories above it are made where they are absent.
pub fn make_node(root: BorrowedFd<'_>, node: &DeviceNode) -> Result<(), OpError> {
    let (directory, name) = parent(root, &node.path, Links::Refuse)?;
    // The modes of the plan are exact.
    let umask = rustix::process::umask(Mode::empty());
    let made = match &node.kind {
        NodeKind::Directory { mode } => rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(*mode)).map_err(OpError::from),
        NodeKind::Symlink { to } => rustix::fs::symlinkat(to, &directory, &name).map_err(OpError::from),
        NodeKind::CharDevice { mode, major, minor, uid, gid } => {
            let access = Access { mode: *mode, uid: *uid, gid: *gid };
            make_device(&directory, Path::new(&name), FileType::CharacterDevice, (*major, *minor), &access)
        }
        NodeKind::BlockDevice { mode, major, minor, uid, gid } => {
            let access = Access { mode: *mode, uid: *uid, gid: *gid };
            make_device(&directory, Path::new(&name), FileType::BlockDevice, (*major, *minor), &access)
        }
    };
    rustix::process::umask(umask);
    made
}

fn make_device(directory: &OwnedFd, name: &Path, kind: FileType, device: (u32, u32), access: &Access) -> Result<(), OpError> {
    rustix::fs::mknodat(directory, name, kind, Mode::from_raw_mode(access.mode), makedev(device.0, device.1))?;
    let owner = (access.uid != u32::MAX).then(|| Uid::from_raw(access.uid)).ok_or(OpError::NoId(access.uid))?;
    let group = (access.gid != u32::MAX).then(|| Gid::from_raw(access.gid)).ok_or(OpError::NoId(access.gid))?;
    Ok(rustix::fs::chownat(directory, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The container's own `/dev/null`, opened with `flags` and verified: an image may have put anything there.
pub fn open_null(root: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, OpError> {
    let place = open(root, Path::new("/dev/null"), OFlags::PATH, Links::Refuse)
        .map_err(|errno| OpError::Part { part: "the container's /dev/null".to_owned(), errno })?;
    let stat = rustix::fs::statat(&place, c"", AtFlags::EMPTY_PATH)?;
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || device != NULL_DEVICE {
        return Err(OpError::NotTheNullDevice);
    }
    if flags.contains(OFlags::PATH) {
        return Ok(place);
    }
    // Opening a FIFO or a device that somebody swapped in could block or do worse; what is open is looked at again.
    let opened = open(root, Path::new("/dev/null"), flags | OFlags::NONBLOCK | OFlags::NOCTTY, Links::Refuse)?;
    if !is_null(opened.as_fd())? {
        return Err(OpError::NotTheNullDevice);
    }
    rustix::io::ioctl_fionbio(&opened, false)?;
    Ok(opened)
}

fn is_null(file: BorrowedFd<'_>) -> Result<bool, OpError> {
    let stat = rustix::fs::fstat(file)?;
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && device == NULL_DEVICE)
}
