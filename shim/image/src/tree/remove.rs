//! Removal that needs the same few descriptors for a tree of any depth and breadth, and makes nothing: it works on a file system without
//! a free block or inode.
//!
//! The tree is renamed into a scratch directory. Then, until it is empty: what is no directory is unlinked, and each directory gives its
//! own directories to the tree's root, under names that are free there, and is removed. Each directory moves once, so the work is linear,
//! and an interrupted removal leaves a tree in the scratch directory that can be removed the same way.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, Dir, FileType, IFlags, Mode, OFlags, RenameFlags, ioctl_getflags, ioctl_setflags, openat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::open_child;

static SCRATCH_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Removes `name` in `parent`, whatever it is, with all that is below. What is absent is success.
///
/// `scratch` is a directory on the same file system that nobody else looks into; the tree appears in it under a unique name
/// for the time of the removal. Immutable and append-only flags left by a container are cleared.
///
/// # Errors
/// As `rename(2)`, `unlink(2)` and `rmdir(2)`; `EBUSY` or `EXDEV` if something is still mounted inside.
pub fn remove(scratch: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlink(parent, name) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let own_name = loop {
        let own_name = format!("remove-{}-{}", std::process::id(), SCRATCH_NUMBER.fetch_add(1, Ordering::Relaxed));
        match past_flags(parent, name, || renameat_with(parent, name, scratch, own_name.as_str(), RenameFlags::NOREPLACE)) {
            Ok(()) => break own_name,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let own_name = OsStr::new(&own_name);
    let root = open_child(scratch, own_name)?;
    let mut free = 0;
    while flatten(root.as_fd(), &mut free)? {}
    Ok(past_flags(scratch, own_name, || unlinkat(scratch, own_name, AtFlags::REMOVEDIR))?)
}

/// Removes what is in `root`; directories below its directories come to be in it. Says whether there was anything.
fn flatten(root: BorrowedFd<'_>, free: &mut u64) -> io::Result<bool> {
    each_entry(root, |child| {
        loop {
            let found = hoist(root, child, free)?;
            match past_flags(root, child, || unlinkat(root, child, AtFlags::REMOVEDIR)) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // A directory that changes while it is read may skip entries; read it again as long as that helps.
                Err(Errno::NOTEMPTY) if found => {}
                Err(error) => return Err(error.into()),
            }
        }
    })
}

/// Empties `root/name`: its directories move to `root`. Says whether there was anything.
fn hoist(root: BorrowedFd<'_>, name: &OsStr, free: &mut u64) -> io::Result<bool> {
    let directory = open_child(root, name)?;
    each_entry(directory.as_fd(), |child| {
        loop {
            let target = free.to_string();
            *free += 1;
            match past_flags(directory.as_fd(), child, || renameat_with(&directory, child, root, target.as_str(), RenameFlags::NOREPLACE)) {
                Err(Errno::EXIST) => {}
                moved => return Ok(moved?),
            }
        }
    })
}

/// Unlinks everything in a directory but the directories in it, which are for `on_directory`. Says whether there was anything.
fn each_entry(directory: BorrowedFd<'_>, mut on_directory: impl FnMut(&OsStr) -> io::Result<()>) -> io::Result<bool> {
    let mut found = false;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let child = OsStr::from_bytes(entry.file_name().to_bytes());
        if child == "." || child == ".." {
            continue;
        }
        found = true;
        if entry.file_type() != FileType::Directory {
            match unlink(directory, child) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        on_directory(child)?;
    }
    Ok(found)
}

/// `unlink(2)`, with `EISDIR` for a directory on every file system.
fn unlink(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::PERM) => {
            let kind = FileType::from_raw_mode(statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
            if kind == FileType::Directory {
                return Err(Errno::ISDIR);
            }
            past_flags(parent, name, || unlinkat(parent, name, AtFlags::empty()))
        }
        result => result,
    }
}

/// Runs `operation` on `name` in `parent`; if it is not permitted, once more with both freed of the immutable and
/// append-only flags, which forbid it even to root.
fn past_flags(parent: BorrowedFd<'_>, name: &OsStr, operation: impl Fn() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    match operation() {
        Err(Errno::PERM) => {
            let child = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if let Ok(child) = openat(parent, name, child, Mode::empty()) {
                clear_flags(child.as_fd());
            }
            clear_flags(parent);
            operation()
        }
        result => result,
    }
}

fn clear_flags(file: BorrowedFd<'_>) {
    if let Ok(flags) = ioctl_getflags(file) {
        // If this fails, the operation that follows reports why the object stays.
        let _ = ioctl_setflags(file, flags - IFlags::IMMUTABLE - IFlags::APPEND);
    }
}
