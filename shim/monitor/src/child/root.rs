//! The root of a container's file system, and moving into it.

use super::Newborn;
use super::error::{OpError, leaving_root};
use super::mount::{move_onto, new_file_system};
use podbox_plan::MountAttributes;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};
use std::os::fd::OwnedFd;
use std::path::Path;

impl Newborn<'_> {
    /// The new root becomes `/`, and the host's file system is let go of.
    pub(super) fn pivot_root(&mut self) -> Result<(), OpError> {
        rustix::process::fchdir(self.new_root()?)?;
        // With both the same, the old root comes to lie over the new one (pivot_root(2)) and no directory is needed for it.
        rustix::process::pivot_root(".", ".").map_err(leaving_root)?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        self.root = None;
        self.root_or_slash()?;
        Ok(())
    }
}

/// An empty tmpfs mounted over `at`.
pub fn empty(at: &Path) -> Result<OwnedFd, OpError> {
    let root = new_file_system("tmpfs", &[("mode", Some(b"0755"))], &MountAttributes::default())?;
    attach(&root, at)?;
    Ok(root)
}

/// Attaches what is to be the root over `at`, in this namespace.
pub fn attach(root: &OwnedFd, at: &Path) -> Result<(), OpError> {
    let place = rustix::fs::open(at, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    move_onto(root, &place)
}
