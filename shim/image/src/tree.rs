//! Directory trees of unbounded depth, handled by descriptor: removal and measuring.
//!
//! A container can nest directories deeper than any path, stack or descriptor limit. Both operations therefore hold a
//! constant number of descriptors, never recurse, and never follow a symbolic link. They do not know what a tree is for.

mod remove;
mod usage;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

pub use remove::remove;
use rustix::fs::{CWD, Mode, OFlags, openat};
pub use usage::{Usage, usage};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens the directory at a path that the caller trusts.
///
/// # Errors
/// As `open(2)`; `ENOTDIR` if there is something else.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, DIRECTORY, Mode::empty())?)
}

/// Opens the directory `name` in `parent`, unless it is a symbolic link.
pub(crate) fn open_child(parent: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}
