//! The working directory.

use super::error::OpError;
use super::target::{Links, Make, find_or_make, open};
use rustix::fs::OFlags;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Enters `path`. Neither a magic link (`/proc/self/fd/7`) nor anything else leads out of the root, and the kernel is asked
/// afterwards where this is.
pub fn enter(root: BorrowedFd<'_>, path: &Path, create: bool) -> Result<(), OpError> {
    let directory = if create {
        find_or_make(root, path, Make::Directory, Links::Follow)?
    } else {
        open(root, path, OFlags::PATH | OFlags::DIRECTORY, Links::Follow)?
    };
    rustix::process::fchdir(&directory)?;
    let seen = rustix::process::getcwd(Vec::new())?;
    // A directory that cannot be reached from the root is shown as "(unreachable)/…".
    if seen.to_bytes().first() == Some(&b'/') { Ok(()) } else { Err(OpError::OutsideRoot) }
}
