//! Removal that needs the same few descriptors for a tree of any depth and breadth.
//!
//! The tree is renamed into a scratch directory as `0`. Then, for each number in turn: everything in that directory that
//! is not a directory is unlinked, every directory is renamed to the next free number, and the directory itself is
//! removed. Each directory moves once, so the work is linear, and an interrupted removal leaves a scratch directory that
//! can be removed the same way.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, Dir, FileType, IFlags, Mode, OFlags, RenameFlags, ioctl_getflags, ioctl_setflags, mkdirat, openat, renameat, renameat_with,
    statat, unlinkat,
};
use rustix::io::Errno;

use super::open_child;

static SCRATCH_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Removes `name` in `parent`, whatever it is, with all that is below. What is absent is success.
///
/// `scratch` is a directory on the same file system that nobody else looks into; a uniquely named directory appears in it
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
    let work_name = make_scratch(scratch)?;
    let work = open_child(scratch, OsStr::new(&work_name))?;
    match past_flags(parent, name, || renameat(parent, name, &work, "0")) {
        Ok(()) => remove_numbered(work.as_fd())?,
        Err(Errno::NOENT) => {}
        Err(error) => {
            let _ = unlinkat(scratch, work_name.as_str(), AtFlags::REMOVEDIR);
            return Err(error.into());
        }
    }
    Ok(unlinkat(scratch, work_name.as_str(), AtFlags::REMOVEDIR)?)
}

fn make_scratch(scratch: BorrowedFd<'_>) -> io::Result<String> {
    loop {
        let number = SCRATCH_NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("remove-{}-{number}", std::process::id());
        match mkdirat(scratch, name.as_str(), Mode::RWXU) {
            Ok(()) => return Ok(name),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn remove_numbered(work: BorrowedFd<'_>) -> io::Result<()> {
    let (mut next, mut free) = (0u64, 1u64);
    while next < free {
        let name = next.to_string();
        loop {
            let removed = empty_into(work, OsStr::new(&name), &mut free)?;
            match past_flags(work, OsStr::new(&name), || unlinkat(work, name.as_str(), AtFlags::REMOVEDIR)) {
                Ok(()) => break,
                // A directory that changes while it is read may skip entries; read it again as long as that helps.
                Err(Errno::NOTEMPTY) if removed => {}
                Err(error) => return Err(error.into()),
            }
        }
        next += 1;
    }
    Ok(())
}

/// Unlinks everything in `work/name` but directories, which move to `work` under the next free numbers. Says whether
/// there was anything.
fn empty_into(work: BorrowedFd<'_>, name: &OsStr, free: &mut u64) -> io::Result<bool> {
    let directory = open_child(work, name)?;
    let mut removed = false;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let child = OsStr::from_bytes(entry.file_name().to_bytes());
        if child == "." || child == ".." {
            continue;
        }
        removed = true;
        if entry.file_type() != FileType::Directory {
            match unlink(directory.as_fd(), child) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let target = free.to_string();
        past_flags(directory.as_fd(), child, || renameat_with(&directory, child, work, target.as_str(), RenameFlags::NOREPLACE))?;
        *free += 1;
    }
    Ok(removed)
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
