//! Files of the container's `/dev`, and its null device.

use super::error::OpError;
use super::mount::{copy_of, move_onto, new_file_system};
use super::root::attach;
use super::target::{Links, Make, find_or_make, open, parent};
use podbox_plan::{DeviceNode, MountAttributes, NodeKind, OpenedDevice, Slot};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, StatVfsMountFlags, Uid, makedev};
use rustix::mount::{UnmountFlags, unmount};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const NULL_DEVICE: (u32, u32) = (1, 3);

/// Where a device's file is made that cannot be used in its own place.
const ELSEWHERE: &str = "/dev";
const NAME_ELSEWHERE: &str = ".podbox-device";

/// A device, who it belongs to and who may use it.
struct Device {
    kind: FileType,
    numbers: (u32, u32),
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
        kind @ (NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. }) => {
            Device::of(kind).map_or(Ok(()), |device| device.make(root, &directory, &node.path))
        }
    };
    rustix::process::umask(umask);
    made
}

/// Makes files of devices in a file system that nobody sees but through the mounts that are given back. In one that belongs to a user
/// namespace none could be used, whoever made it.
pub fn make_apart(at: &Path, devices: &[OpenedDevice]) -> Result<Vec<(Slot, OwnedFd)>, OpError> {
    let inodes = (devices.len() + 1).to_string();
    let options = [("mode", Some(&b"0700"[..])), ("size", Some(b"4096")), ("nr_inodes", Some(inodes.as_bytes()))];
    let attributes = MountAttributes { no_suid: true, no_exec: true, ..MountAttributes::default() };
    let folder = new_file_system("tmpfs", &options, &attributes)?;
    // Before Linux 6.15 only what is attached can be copied.
    attach(&folder, at)?;
    let umask = rustix::process::umask(Mode::empty());
    let mut mounts = Vec::with_capacity(devices.len());
    for OpenedDevice { slot, kind } in devices {
        let Some(device) = Device::of(kind) else { continue };
        let name = slot.to_string();
        device.make_in(&folder, Path::new(&name))?;
        mounts.push((*slot, copy_of(open(folder.as_fd(), Path::new(&name), OFlags::PATH, Links::Refuse)?, false)?));
    }
    rustix::process::umask(umask);
    unmount(at, UnmountFlags::DETACH)?;
    Ok(mounts)
}

impl Device {
    /// `None` of what is no device.
    fn of(kind: &NodeKind) -> Option<Self> {
        let (file_type, mode, numbers, uid, gid) = match *kind {
            NodeKind::CharDevice { mode, major, minor, uid, gid } => (FileType::CharacterDevice, mode, (major, minor), uid, gid),
            NodeKind::BlockDevice { mode, major, minor, uid, gid } => (FileType::BlockDevice, mode, (major, minor), uid, gid),
            NodeKind::Directory { .. } | NodeKind::Symlink { .. } => return None,
        };
        Some(Self { kind: file_type, numbers, mode, uid, gid })
    }

    /// Makes its file at `path`, whose parent is open. Where devices are dead, which is everywhere in an image's root, the file is made in
    /// `/dev` and mounted in place.
    fn make(&self, root: BorrowedFd<'_>, directory: &OwnedFd, path: &Path) -> Result<(), OpError> {
        if !rustix::fs::fstatvfs(directory)?.f_flag.contains(StatVfsMountFlags::NODEV) {
            let name = path.file_name().ok_or_else(|| OpError::UnusablePath(path.to_owned()))?;
            return self.make_in(directory, Path::new(name));
        }
        let elsewhere = open(root, Path::new(ELSEWHERE), OFlags::PATH | OFlags::DIRECTORY, Links::Refuse)?;
        self.make_in(&elsewhere, Path::new(NAME_ELSEWHERE))?;
        let mounted = mount_in_place(root, &elsewhere, path);
        rustix::fs::unlinkat(&elsewhere, NAME_ELSEWHERE, AtFlags::empty())?;
        mounted
    }

    fn make_in(&self, directory: &OwnedFd, name: &Path) -> Result<(), OpError> {
        rustix::fs::mknodat(directory, name, self.kind, Mode::from_raw_mode(self.mode), makedev(self.numbers.0, self.numbers.1))?;
        let owner = (self.uid != u32::MAX).then(|| Uid::from_raw(self.uid)).ok_or(OpError::NoId(self.uid))?;
        let group = (self.gid != u32::MAX).then(|| Gid::from_raw(self.gid)).ok_or(OpError::NoId(self.gid))?;
        Ok(rustix::fs::chownat(directory, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn mount_in_place(root: BorrowedFd<'_>, elsewhere: &OwnedFd, path: &Path) -> Result<(), OpError> {
    let node = open(elsewhere.as_fd(), Path::new(NAME_ELSEWHERE), OFlags::PATH, Links::Refuse)?;
    move_onto(copy_of(node, false)?, find_or_make(root, path, Make::File, Links::Refuse)?)
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
