//! Creates one entry in its parent directory.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, fstat, ftruncate, linkat, makedev, mkdirat, mknodat, openat, seek, statat, symlinkat,
};
use rustix::io::Errno;

use super::parent::{is_whiteout, make_opaque};
use super::path::{EntryPath, Name};
use super::{Layer, UnpackError, attributes};
use crate::tarstream::{Entry, EntryKind, Skip, TarStream};
use crate::tree;

pub(super) const COPY_BUFFER_LEN: usize = 256 * 1024;
const SYMLINK_LEN_MAX: usize = 4095;

impl Layer<'_> {
    /// Creates `name` below `parent` as `entry` describes it.
    pub(super) fn create<R: Skip>(
        &mut self,
        stream: &mut TarStream<R>,
        entry: &Entry,
        path: &EntryPath,
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), UnpackError> {
        let name = OsStr::from_bytes(name);
        let link_target = match entry.kind {
            EntryKind::HardLink => Some(self.open_link_target(entry, path)?),
            _ => None,
        };
        let directory = self.cursor.enter(parent, path)?;
        let site = Site { directory, name, path, scratch: self.scratch };
        match entry.kind {
            EntryKind::Directory => {
                let inode = site.make_directory(entry)?;
                self.cursor.described(inode);
                Ok(())
            }
            EntryKind::Regular => site.write_file(stream, entry, &mut self.buffer),
            EntryKind::HardLink => {
                let (target_directory, target) = link_target.expect("opened above for hard links");
                site.make_hard_link(&target_directory, OsStr::from_bytes(&target))
            }
            EntryKind::Symlink => site.make_symlink(entry),
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => site.make_node(entry),
        }
    }

    /// Hides `name` of the layers below; what this layer has under that name stays.
    pub(super) fn whiteout(&mut self, path: &EntryPath, parent: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        let directory = self.cursor.enter(parent, path)?;
        let name = OsStr::from_bytes(name);
        match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0).map_err(|errno| path.failed("make a whiteout", errno))
            }
            Err(errno) => Err(path.failed("stat what it hides", errno)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                tree::open_child(directory, name).and_then(make_opaque).map_err(|errno| path.failed("make a directory opaque", errno))
            }
            // A file of this layer hides the lower one by being there.
            Ok(_) => Ok(()),
        }
    }

    /// Hides everything the layers below have in `parent`.
    pub(super) fn opaque(&mut self, path: &EntryPath, parent: &[u8]) -> Result<(), UnpackError> {
        let directory = self.cursor.enter(parent, path)?;
        make_opaque(directory).map_err(|errno| path.failed("make its directory opaque", errno))?;
        self.unpacked.has_opaque_root |= parent.is_empty();
        Ok(())
    }

    /// The directory and name that a hard link points to, which must exist in this layer.
    fn open_link_target(&self, entry: &Entry, path: &EntryPath) -> Result<(OwnedFd, Vec<u8>), UnpackError> {
        let target = EntryPath::parse(&entry.link)?;
        match target.split_last() {
            Some((parent, last)) if matches!(Name::of(last), Name::Entry(_)) => {
                let directory = self.cursor.open(parent).map_err(|errno| path.failed("open what it links to", errno))?;
                Ok((directory, last.to_vec()))
            }
            _ => Err(path.refused("a hard link to something that is not a file")),
        }
    }
}

/// Where an entry goes.
struct Site<'a> {
    directory: BorrowedFd<'a>,
    name: &'a OsStr,
    path: &'a EntryPath,
    scratch: BorrowedFd<'a>,
}

impl Site<'_> {
    /// Tells its inode.
    fn make_directory(&self, entry: &Entry) -> Result<u64, UnpackError> {
        let make = || mkdirat(self.directory, self.name, Mode::RWXU);
        let mut opaque = false;
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = self.stat()?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    opaque = is_whiteout(&there);
                    self.remove()?;
                    make().map_err(|errno| self.path.failed("make the directory", errno))?;
                }
            }
            Err(errno) => return Err(self.path.failed("make the directory", errno)),
        }
        let directory = tree::open_child(self.directory, self.name).map_err(|errno| self.path.failed("open the directory", errno))?;
        if opaque {
            make_opaque(&directory).map_err(|errno| self.path.failed("make the directory opaque", errno))?;
        }
        attributes::apply(directory.as_fd(), entry, self.path)?;
        fstat(&directory).map(|stat| stat.st_ino).map_err(|errno| self.path.failed("stat the directory", errno))
    }

    fn write_file<R: Skip>(&self, stream: &mut TarStream<R>, entry: &Entry, buffer: &mut [u8]) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.replacing("create the file", || openat(self.directory, self.name, flags, Mode::RUSR | Mode::WUSR))?;
        match &entry.segments {
            None => self.copy(stream, &file, u64::MAX, buffer)?,
            Some(segments) => {
                for segment in segments {
                    seek(&file, SeekFrom::Start(segment.offset)).map_err(|errno| self.path.failed("skip a hole", errno))?;
                    self.copy(stream, &file, segment.len, buffer)?;
                }
                ftruncate(&file, entry.size_bytes).map_err(|errno| self.path.failed("set its size", errno))?;
            }
        }
        attributes::apply(file.as_fd(), entry, self.path)
    }

    fn copy<R: Skip>(&self, stream: &mut TarStream<R>, file: &OwnedFd, mut left: u64, buffer: &mut [u8]) -> Result<(), UnpackError> {
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = stream.read_data(&mut buffer[..wanted])?;
            if count == 0 {
                break;
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let written = rustix::io::write(file, rest).map_err(|errno| self.path.failed("write the file", errno))?;
                rest = &rest[written..];
            }
            left -= count as u64;
        }
        Ok(())
    }

    fn make_hard_link(&self, target_directory: &OwnedFd, target: &OsStr) -> Result<(), UnpackError> {
        let failed = |errno| self.path.failed("link to another file of the layer", errno);
        let stat = statat(target_directory, target, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if is_whiteout(&stat) || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(self.path.refused("a hard link to something that is not a file"));
        }
        if let Ok(there) = self.stat()
            && (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)
        {
            return Ok(());
        }
        // Without AT_SYMLINK_FOLLOW a link to a symbolic link links the link itself.
        self.replacing("link to another file of the layer", || {
            linkat(target_directory, target, self.directory, self.name, AtFlags::empty())
        })
    }

    fn make_symlink(&self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.link.is_empty() || entry.link.len() > SYMLINK_LEN_MAX || entry.link.contains(&0) {
            return Err(self.path.refused("its symbolic link target is empty, too long or contains a NUL byte"));
        }
        self.replacing("make the symbolic link", || symlinkat(entry.link.as_slice(), self.directory, self.name))?;
        attributes::apply_at(self.directory, self.name, entry, self.path)
    }

    fn make_node(&self, entry: &Entry) -> Result<(), UnpackError> {
        let (kind, device) = match entry.kind {
            EntryKind::CharDevice => (FileType::CharacterDevice, makedev(entry.device_major, entry.device_minor)),
            EntryKind::BlockDevice => (FileType::BlockDevice, makedev(entry.device_major, entry.device_minor)),
            _ => (FileType::Fifo, 0),
        };
        if kind == FileType::CharacterDevice && device == 0 {
            return Err(UnpackError::WhiteoutDevice { entry: self.path.excerpt() });
        }
        self.replacing("make the node", || mknodat(self.directory, self.name, kind, Mode::empty(), device))?;
        attributes::apply_at(self.directory, self.name, entry, self.path)
    }

    /// Runs a creating system call; if the name is taken, once more after removing what has it.
    fn replacing<T>(&self, step: &'static str, create: impl Fn() -> rustix::io::Result<T>) -> Result<T, UnpackError> {
        match create() {
            Err(Errno::EXIST) => {
                self.remove()?;
                create()
            }
            result => result,
        }
        .map_err(|errno| self.path.failed(step, errno))
    }

    fn stat(&self) -> Result<Stat, UnpackError> {
        statat(self.directory, self.name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| self.path.failed("stat what has its name", errno))
    }

    fn remove(&self) -> Result<(), UnpackError> {
        tree::remove(self.scratch, self.directory, self.name).map_err(|source| UnpackError::Replace { entry: self.path.excerpt(), source })
    }
}
