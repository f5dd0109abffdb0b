//! Hiding paths and making them read-only.

use super::error::OpError;
use super::mount::{copy_of, move_onto, new_file_system};
use super::target::{Links, error_of, file_type, find, open};
use super::{Newborn, dev};
use podbox_plan::MountAttributes;
use podbox_sys::{MountChange, mount_setattr};
use rustix::fs::{FileType, OFlags};
use rustix::mount::MountAttrFlags;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// The one empty directory that lies over all hidden ones.
const EMPTY: MountAttributes = MountAttributes { read_only: true, no_suid: true, no_dev: true, no_exec: true, strict_atime: false };
const EMPTY_OPTIONS: [(&str, Option<&[u8]>); 3] = [("mode", Some(b"0755")), ("size", Some(b"4096")), ("nr_inodes", Some(b"1"))];

impl Newborn<'_> {
    /// Hides what is at `target`: a directory behind an empty one, anything else behind `/dev/null`.
    pub(super) fn mask(&mut self, target: &Path) -> Result<(), OpError> {
        let Some(place) = find(self.new_root()?, target, Links::Follow)? else { return Ok(()) };
        if file_type(&place)? != FileType::Directory {
            return move_onto(copy_of(dev::open_null(self.new_root()?, OFlags::PATH)?, false)?, place);
        }
        match &self.empty_directory {
            Some(empty) => move_onto(copy_of(empty, false)?, place),
            // Once it is attached, copies can be made of it.
            None => {
                let empty = new_file_system("tmpfs", &EMPTY_OPTIONS, &EMPTY)?;
                move_onto(&empty, place)?;
                self.empty_directory = Some(empty);
                Ok(())
            }
        }
    }
}

/// Lays a read-only copy of what is at `target`, and of all mounts below, over it.
pub fn make_read_only(root: BorrowedFd<'_>, target: &Path) -> Result<(), OpError> {
    let Some(place) = find(root, target, Links::Follow)? else { return Ok(()) };
    let copy = copy_of(&place, true)?;
    mount_setattr(&copy, &MountChange { set: MountAttrFlags::MOUNT_ATTR_RDONLY, recursive: true, ..MountChange::default() })?;
    move_onto(copy, place)
}

/// The mount at `target` alone.
pub fn make_mount_read_only(root: BorrowedFd<'_>, target: &Path) -> Result<(), OpError> {
    let place = open(root, target, OFlags::PATH | OFlags::DIRECTORY, Links::Refuse).map_err(|errno| error_of(errno, Links::Refuse))?;
    make_root_read_only(place.as_fd())
}

/// The root mount alone: volumes below it stay as they are.
pub fn make_root_read_only(root: BorrowedFd<'_>) -> Result<(), OpError> {
    let change = MountChange { set: MountAttrFlags::MOUNT_ATTR_RDONLY, ..MountChange::default() };
    Ok(mount_setattr(root.as_fd(), &change)?)
}
