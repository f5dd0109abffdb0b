//! Finding and making places below a root, by descriptor.
//!
//! A path of the container is resolved by the kernel with the root as its `/` (`RESOLVE_IN_ROOT`, `openat2(2)`): no symbolic link,
//! `..` or magic link of an image leads out, and there is no moment between a check and its use.

use super::error::OpError;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// What symbolic links within the root mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They are followed, within the root.
    Follow,
    /// They are an error.
    Refuse,
}

/// What is made where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// A directory (0755).
    Directory,
    /// An empty regular file (0644).
    File,
}

/// As many symbolic links as the kernel follows.
const LINKS_MAX: usize = 40;
/// `RESOLVE_IN_ROOT` gives up with EAGAIN where something is renamed at the same time.
const ATTEMPTS_MAX: usize = 128;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

impl Links {
    fn resolve(self) -> ResolveFlags {
        match self {
            Self::Follow => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            Self::Refuse => ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        }
    }
}

/// Opens what is at `path`, `None` if nothing is.
pub fn find(root: BorrowedFd<'_>, path: &Path, links: Links) -> Result<Option<OwnedFd>, OpError> {
    match open(root, path, OFlags::PATH, links) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(error_of(errno, links)),
    }
}

/// Opens what is at `path` with these flags.
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
    let mut result = Err(Errno::AGAIN);
    for _ in 0..ATTEMPTS_MAX {
        result = rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), links.resolve());
        if result.as_ref().err() != Some(&Errno::AGAIN) {
            break;
        }
    }
    result
}

/// Opens what is at `path`, and makes it, with the directories above it, as far as it is absent.
pub fn find_or_make(root: BorrowedFd<'_>, path: &Path, make: Make, links: Links) -> Result<OwnedFd, OpError> {
    let mut wanted = absolute(path)?;
    for _ in 0..=LINKS_MAX {
        match make_below(root, &wanted, make, links)? {
            Made::Place(place) => return Ok(place),
            // Its target does not exist: that is then what is wanted.
            Made::DanglingLink(target) => wanted = target,
        }
    }
    Err(OpError::Kernel(Errno::LOOP))
}

/// Opens the directory above `path`, made if absent, and gives the last name.
pub fn parent(root: BorrowedFd<'_>, path: &Path, links: Links) -> Result<(OwnedFd, OsString), OpError> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(OpError::UnusablePath(path.to_owned()));
    };
    Ok((find_or_make(root, directory, Make::Directory, links)?, name.to_owned()))
}

/// Whether a descriptor is on a `proc` file system.
pub fn is_proc(file: impl AsFd) -> Result<bool, Errno> {
    has_magic(file, PROC_SUPER_MAGIC)
}

/// Whether a descriptor is on the file system with this magic number (`statfs(2)`).
pub fn has_magic(file: impl AsFd, magic: i64) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatfs(file)?.f_type as i64 == magic)
}

/// Turns "too many symbolic links" into what it means here.
pub fn error_of(errno: Errno, links: Links) -> OpError {
    if errno == Errno::LOOP && links == Links::Refuse { OpError::SymbolicLink } else { OpError::Kernel(errno) }
}

enum Made {
    Place(OwnedFd),
    DanglingLink(PathBuf),
}

fn make_below(root: BorrowedFd<'_>, path: &Path, make: Make, links: Links) -> Result<Made, OpError> {
    let (mut place, mut at, mut missing) = deepest(root, path, links)?;
    while let Some(name) = missing.pop_front() {
        if name == ".." {
            return Err(OpError::UnusablePath(path.to_owned()));
        }
        // And a descriptor of this process may have come up there between the look and now, as a link to anywhere.
        if is_proc(&place)? {
            return Err(OpError::NotInProc);
        }
        let kind = if missing.is_empty() { make } else { Make::Directory };
        match make_one(&place, &name, kind) {
            Ok(()) => {}
            // `deepest` did not get through it: a symbolic link to nothing, or something made just now.
            Err(Errno::EXIST) if links == Links::Follow => {
                if let Ok(target) = rustix::fs::readlinkat(&place, &name, Vec::new()) {
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    let rest: PathBuf = missing.into_iter().collect();
                    return Ok(Made::DanglingLink(absolute(&at.join(target).join(rest))?));
                }
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        place = open(place.as_fd(), Path::new(&name), OFlags::PATH, Links::Refuse).map_err(|errno| error_of(errno, Links::Refuse))?;
        at.push(name);
    }
    Ok(Made::Place(place))
}

/// The deepest part of `path` that exists: opened, by name, and what is missing below it.
fn deepest(root: BorrowedFd<'_>, path: &Path, links: Links) -> Result<(OwnedFd, PathBuf, VecDeque<OsString>), OpError> {
    let mut existing = path.to_owned();
    let mut missing = VecDeque::new();
    loop {
        match open(root, &existing, OFlags::PATH, links) {
            Ok(place) => return Ok((place, existing, missing)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(error_of(errno, links)),
        }
        let last = existing.components().next_back().map(Component::as_os_str).map(OsStr::to_owned);
        match last {
            Some(name) if existing.pop() => missing.push_front(name),
            _ => return Err(Errno::NOENT.into()),
        }
    }
}

fn make_one(directory: &OwnedFd, name: &OsStr, make: Make) -> Result<(), Errno> {
    match make {
        Make::Directory => rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)),
        Make::File => rustix::fs::mknodat(directory, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
    }
}

/// The path without `.` and doubled slashes; it must begin at the root.
fn absolute(path: &Path) -> Result<PathBuf, OpError> {
    if path.is_absolute() { Ok(path.components().collect()) } else { Err(OpError::UnusablePath(path.to_owned())) }
}

/// What kind a descriptor's file is.
pub fn file_type(file: impl AsFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::statat(file, c"", AtFlags::EMPTY_PATH)?.st_mode))
}
