//! Mounts that root of the pod's user namespace may not loosen.
//!
//! What the newborn has opened as the host's root is read-only, or without set-user-id programs, because somebody on the node wants it so;
//! who may mount in the namespace could undo that. The kernel locks such attributes when a mount namespace is copied into another user
//! namespace (`mount_namespaces(7)`), and copies of a locked mount are as locked. So everything is attached to the newborn's own mount
//! namespace before the pod's is copied from it, and taken from there afterwards. The copies can be unmounted: only what is mounted below
//! them stays where it is.

use super::Newborn;
use super::error::OpError;
use super::mount::{copy_of, move_onto};
use super::root;
use super::target::{Links, file_type, open};
use podbox_plan::{Op, Slot};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::os::fd::AsFd;
use std::path::Path;

/// A directory that every node has and that nothing is looked up in any more. Over the root itself it would keep the newborn from leaving it.
const OVER: &str = "/dev";

impl Newborn<'_> {
    /// Attaches everything that is open, the root aside, each under its slot's number, to a folder that becomes the working directory: a
    /// copy of the mount namespace has the same there. Gives the slots.
    pub(super) fn attach_to_be_locked(&self) -> Result<Vec<Slot>, OpError> {
        let mut roots = self.birth.plan.ops.iter().filter_map(|op| if let Op::AttachRoot { slot } = op { Some(*slot) } else { None });
        let root = roots.next_back();
        let slots: Vec<Slot> = self.mounts.keys().copied().filter(|slot| Some(*slot) != root).collect();
        if slots.is_empty() {
            return Ok(slots);
        }
        let folder = root::empty(Path::new(OVER))?;
        for (slot, mount) in self.mounts.iter().filter(|(slot, _)| slots.contains(slot)) {
            let name = slot.to_string();
            if file_type(mount)? == FileType::Directory {
                rustix::fs::mkdirat(&folder, &name, Mode::RWXU)?;
            } else {
                rustix::fs::openat(&folder, &name, OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC, Mode::RUSR)?;
            }
            move_onto(mount, open(folder.as_fd(), Path::new(&name), OFlags::PATH, Links::Refuse)?)?;
        }
        rustix::process::fchdir(&folder)?;
        Ok(slots)
    }

    /// Takes them from the working directory, which is of the new mount namespace.
    pub(super) fn take_locked(&mut self, slots: &[Slot]) -> Result<(), OpError> {
        for slot in slots {
            let place = rustix::fs::openat(CWD, slot.to_string(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            self.mounts.insert(*slot, copy_of(&place, true)?);
        }
        Ok(rustix::process::chdir("/")?)
    }
}
