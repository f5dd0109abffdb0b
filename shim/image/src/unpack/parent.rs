//! The parent directory of the entry at hand: opened below the layer's root, created where missing, kept open for the
//! next entry, and given back its modification time when left.
//!
//! Creating an entry changes its parent's times. As an archive lists a directory before what is in it, the times that
//! the directory's own entry set would be lost; so they are read on entering a directory and written back on leaving
//! it. No list of directories has to be kept.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags, fchmod, fsetxattr, fstat, futimens, mkdirat, openat2, statat, unlinkat,
};
use rustix::io::Errno;

use super::implied::Implied;
use super::path::EntryPath;
use super::{UnpackError, times};
use crate::tree::open_child;

pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const IMPLIED_MODE: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP).union(Mode::ROTH).union(Mode::XOTH);
/// `openat2` gives up with `EAGAIN` when a rename elsewhere on the host makes `..` uncertain; it is then asked again.
const RESOLVE_ATTEMPTS_MAX: usize = 100;

pub(super) struct ParentCursor<'a> {
    root: BorrowedFd<'a>,
    current: Option<Current>,
    implied: Implied,
}

struct Current {
    path: Vec<u8>,
    directory: OwnedFd,
    before: Stat,
}

impl<'a> ParentCursor<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, current: None, implied: Implied::default() }
    }

    /// The directory at `parent` below the root, created with all that is missing on the way.
    pub(super) fn enter(&mut self, parent: &[u8], entry: &EntryPath) -> Result<BorrowedFd<'_>, UnpackError> {
        if self.current.as_ref().is_none_or(|current| current.path != parent) {
            self.leave();
            let directory = match open_below(self.root, parent) {
                Err(Errno::NOENT | Errno::NOTDIR) => create_below(self.root, parent, entry, &mut self.implied)?,
                result => result.map_err(|errno| entry.failed("open its parent directory", errno))?,
            };
            let before = fstat(&directory).map_err(|errno| entry.failed("stat its parent directory", errno))?;
            self.current = Some(Current { path: parent.to_vec(), directory, before });
        }
        let current = self.current.as_ref().expect("set just above if it was not");
        Ok(current.directory.as_fd())
    }

    /// Leaves the current directory, restoring its times.
    pub(super) fn leave(&mut self) {
        if let Some(current) = self.current.take() {
            restore_times(current.directory.as_fd(), &current.before);
        }
    }

    /// A directory has an entry of its own.
    pub(super) fn described(&mut self, inode: u64) {
        self.implied.described(inode);
    }

    /// The directories made here that no entry described.
    pub(super) fn implied(self) -> Vec<String> {
        let inode_of = |path: &str| open_below(self.root, path.as_bytes()).and_then(fstat).map(|stat| stat.st_ino).ok();
        self.implied.finish(inode_of)
    }

    /// Opens an existing directory below the root without making it the current one.
    pub(super) fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        open_below(self.root, path)
    }
}

/// Marks a directory so that overlayfs hides what lower layers have in it.
pub(super) fn make_opaque(directory: impl AsFd) -> rustix::io::Result<()> {
    fsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

/// Whether this is overlayfs's mark of a deleted file: a character device 0:0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn open_below(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    for _ in 0..RESOLVE_ATTEMPTS_MAX {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Walks down one component at a time and makes what is missing.
fn create_below(root: BorrowedFd<'_>, path: &[u8], entry: &EntryPath, implied: &mut Implied) -> Result<OwnedFd, UnpackError> {
    let mut directory = open_below(root, b"").map_err(|errno| entry.failed("open the layer's root", errno))?;
    let mut end = 0;
    let mut is_straight = true;
    let mut make = |directory: &OwnedFd, name: &OsStr, over_whiteout: bool, straight: Option<&[u8]>| {
        let made = make_implied(directory, name, over_whiteout, entry)?;
        if let (Some(path), Ok(stat)) = (straight, fstat(&made)) {
            implied.add(stat.st_ino, path);
        }
        Ok::<_, UnpackError>(made)
    };
    for component in path.split(|&b| b == b'/') {
        end += component.len();
        let name = OsStr::from_bytes(component);
        let straight = is_straight.then_some(&path[..end]);
        directory = match open_child(&directory, name) {
            Ok(child) => child,
            Err(Errno::NOENT) => make(&directory, name, false, straight)?,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let stat =
                    statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| entry.failed("stat a parent directory", errno))?;
                if is_whiteout(&stat) {
                    make(&directory, name, true, straight)?
                } else {
                    is_straight = false;
                    open_below(root, &path[..end]).map_err(|errno| entry.failed("follow a symbolic link among its parents", errno))?
                }
            }
            Err(errno) => return Err(entry.failed("open a parent directory", errno)),
        };
        end += 1;
    }
    Ok(directory)
}

/// Makes a directory that no entry described; in the place of a whiteout, it goes on hiding the lower layers.
fn make_implied(parent: &OwnedFd, name: &OsStr, over_whiteout: bool, entry: &EntryPath) -> Result<OwnedFd, UnpackError> {
    let make = || {
        let before = fstat(parent)?;
        if over_whiteout {
            unlinkat(parent, name, AtFlags::empty())?;
        }
        mkdirat(parent, name, IMPLIED_MODE)?;
        let directory = open_child(parent, name)?;
        fchmod(&directory, IMPLIED_MODE)?;
        if over_whiteout {
            make_opaque(&directory)?;
        }
        restore_times(parent.as_fd(), &before);
        Ok(directory)
    };
    make().map_err(|errno| entry.failed("make a parent directory", errno))
}

fn restore_times(directory: BorrowedFd<'_>, before: &Stat) {
    // Times are a courtesy; a layer is not refused over them.
    let _ = futimens(directory, &times(before.st_mtime, before.st_mtime_nsec as u32));
}
