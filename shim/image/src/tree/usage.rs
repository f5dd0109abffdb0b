//! What a tree occupies on disk, measured without a descriptor or a stack frame per level.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::ops::AddAssign;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Stat, fstat, openat, seek, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::DIRECTORY;

const READ_BUFFER_LEN: usize = 16 * 1024;
/// Files with several names are remembered to count them once, up to this many; beyond it they count once a name.
const HARD_LINKS_MAX: usize = 1 << 16;
/// `st_blocks` counts units of 512 bytes, whatever the file system's block size (inode(7)).
const STAT_BLOCK_BYTES: u64 = 512;

/// Disk space and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes.
    pub bytes: u64,
    /// Inodes, directories included.
    pub inodes: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// A directory on the way down: who it is, and where reading it goes on.
struct Level {
    device: u64,
    inode: u64,
    resume: u64,
}

/// Measures the tree below and including `root`. Files with several names count once; other file systems mounted inside
/// are not entered.
///
/// The tree may change meanwhile. If a directory on the way is moved elsewhere, the rest of the walk is given up and what
/// was counted so far is returned, rather than following it.
///
/// # Errors
/// As `getdents(2)` and `stat(2)`.
pub fn usage(root: BorrowedFd<'_>) -> io::Result<Usage> {
    let mut walk = Walk::default();
    let root_stat = fstat(root)?;
    walk.count(&root_stat);
    let mut directory = openat(root, ".", DIRECTORY, Mode::empty())?;
    let mut level = Level { device: root_stat.st_dev, inode: root_stat.st_ino, resume: 0 };
    let mut above: Vec<Level> = Vec::new();
    loop {
        match walk.read_to_subdirectory(&directory, &mut level)? {
            Some((child, child_level)) => {
                above.push(std::mem::replace(&mut level, child_level));
                directory = child;
            }
            None => {
                let Some(parent) = above.pop() else {
                    return Ok(walk.usage);
                };
                match open_parent(&directory, &parent)? {
                    Some(opened) => directory = opened,
                    None => return Ok(walk.usage),
                }
                level = parent;
            }
        }
    }
}

#[derive(Default)]
struct Walk {
    usage: Usage,
    linked: HashSet<u64>,
}

impl Walk {
    fn count(&mut self, stat: &Stat) {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !is_directory && stat.st_nlink > 1 {
            let known = !self.linked.contains(&stat.st_ino) && self.linked.len() >= HARD_LINKS_MAX;
            if !known && !self.linked.insert(stat.st_ino) {
                return;
            }
        }
        self.usage += Usage { bytes: stat.st_blocks as u64 * STAT_BLOCK_BYTES, inodes: 1 };
    }

    /// Counts entries of `directory` from where `level` says, up to the first subdirectory, which is opened.
    fn read_to_subdirectory(&mut self, directory: &OwnedFd, level: &mut Level) -> io::Result<Option<(OwnedFd, Level)>> {
        let mut buffer = [MaybeUninit::uninit(); READ_BUFFER_LEN];
        seek(directory, SeekFrom::Start(level.resume))?;
        let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name: &CStr = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            if stat.st_dev != level.device {
                continue;
            }
            self.count(&stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                level.resume = entry.next_entry_cookie();
                let name = CString::from(name);
                match openat(directory, name.as_c_str(), DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                    Ok(child) => {
                        let child_level = Level { device: stat.st_dev, inode: stat.st_ino, resume: 0 };
                        return Ok(Some((child, child_level)));
                    }
                    Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(None)
    }
}

/// Opens `..` of `directory`, but only if that is the directory we came from.
fn open_parent(directory: &OwnedFd, expected: &Level) -> io::Result<Option<OwnedFd>> {
    let parent = match openat(directory, "..", DIRECTORY, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&parent)?;
    Ok((stat.st_dev == expected.device && stat.st_ino == expected.inode).then_some(parent))
}
