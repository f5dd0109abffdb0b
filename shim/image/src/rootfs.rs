//! Reads files of an image as its containers will see them, without mounting anything.
//!
//! The layers are looked through the way overlayfs does it: the top-most object of a name counts, directories of one name
//! are merged, whiteouts hide what is below, an opaque directory ends the merge. Symbolic links are resolved within the
//! image: absolute ones start at its root and `..` stops there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fgetxattr, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::tree::{open_child, open_directory};
use crate::unpack::{OPAQUE_XATTR, is_whiteout};

/// As many symbolic links as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;
const COMPONENTS_MAX: usize = 4096;

/// The layers of an image, top-most first, as one file system to read from.
#[derive(Debug, Clone)]
pub struct RootFs {
    lower_dirs: Vec<PathBuf>,
}

/// Why a file of an image could not be read. That there is no such file is not an error.
#[derive(Debug, thiserror::Error)]
pub enum RootFsError {
    /// Something else has the file's name: a directory, a device, a pipe.
    #[error("{path} in the image is not a regular file", path = path.display())]
    NotRegular {
        /// The path in the image.
        path: PathBuf,
    },
    /// The file is larger than the caller takes.
    #[error("{path} in the image is larger than {limit_bytes} bytes", path = path.display())]
    TooLarge {
        /// The path in the image.
        path: PathBuf,
        /// The caller's limit.
        limit_bytes: u64,
    },
    /// The path leads through too many symbolic links or components.
    #[error("{path} in the image leads through too many symbolic links", path = path.display())]
    TooManyLinks {
        /// The path in the image.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("read {path} in the image", path = path.display())]
    Read {
        /// The path in the image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A directory as merged from the layers that have it, top-most first.
struct MergedDirectory {
    parts: Vec<OwnedFd>,
}

enum Found {
    Absent,
    Directory(MergedDirectory),
    Link(Vec<u8>),
    /// The layer's directory that holds it.
    Regular(OwnedFd),
    Other,
}

/// Where a path leads, all links followed.
enum Located {
    Absent,
    Directory,
    Regular {
        /// The layer's directory that holds it.
        part: OwnedFd,
        name: Vec<u8>,
    },
    Other,
}

impl RootFs {
    /// An image's root, given its lower directories, top-most first.
    #[must_use]
    pub fn new(lower_dirs: Vec<PathBuf>) -> Self {
        Self { lower_dirs }
    }

    /// The content of the regular file at `path`, or `None` if there is none.
    ///
    /// # Errors
    /// If it is not a regular file, is larger than `limit_bytes`, or cannot be read. Nothing but regular files is opened.
    pub fn read_regular(&self, path: &Path, limit_bytes: u64) -> Result<Option<Vec<u8>>, RootFsError> {
        match self.locate(path)? {
            Located::Absent => Ok(None),
            Located::Regular { part, name } => read_file(part.as_fd(), OsStr::from_bytes(&name), path, limit_bytes).map(Some),
            Located::Directory | Located::Other => Err(RootFsError::NotRegular { path: path.to_owned() }),
        }
    }

    /// Whether there is a directory at `path`, or a symbolic link that leads to one within the image.
    ///
    /// # Errors
    /// If the layers cannot be read or the path leads through too many links.
    pub fn is_directory(&self, path: &Path) -> Result<bool, RootFsError> {
        Ok(matches!(self.locate(path)?, Located::Directory))
    }

    fn locate(&self, path: &Path) -> Result<Located, RootFsError> {
        let failed = |source: io::Error| RootFsError::Read { path: path.to_owned(), source };
        let too_many = || RootFsError::TooManyLinks { path: path.to_owned() };
        // Components still to go, last first; and those behind us, free of links.
        let mut ahead = Vec::new();
        push_components(&mut ahead, path.as_os_str().as_bytes());
        let mut behind: Vec<Vec<u8>> = Vec::new();
        let mut directory = self.root().map_err(failed)?;
        let (mut links, mut components) = (0, 0);
        while let Some(component) = ahead.pop() {
            components += 1;
            if components > COMPONENTS_MAX || ahead.len() > COMPONENTS_MAX {
                return Err(too_many());
            }
            if component == b".." {
                behind.pop();
                directory = self.walk(&behind).map_err(failed)?;
                continue;
            }
            match directory.look_up(OsStr::from_bytes(&component)).map_err(failed)? {
                Found::Absent => return Ok(Located::Absent),
                Found::Directory(child) => {
                    behind.push(component);
                    directory = child;
                }
                Found::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(too_many());
                    }
                    if target.starts_with(b"/") {
                        behind.clear();
                        directory = self.root().map_err(failed)?;
                    }
                    push_components(&mut ahead, &target);
                }
                // A file in the place of a directory: what was asked for cannot be below it.
                Found::Regular(_) | Found::Other if !ahead.is_empty() => return Ok(Located::Absent),
                Found::Regular(part) => return Ok(Located::Regular { part, name: component }),
                Found::Other => return Ok(Located::Other),
            }
        }
        Ok(Located::Directory)
    }

    fn root(&self) -> io::Result<MergedDirectory> {
        let mut parts = Vec::with_capacity(self.lower_dirs.len());
        for path in &self.lower_dirs {
            parts.push(open_directory(path)?);
            if is_opaque(parts.last().expect("pushed just above"))? {
                break;
            }
        }
        Ok(MergedDirectory { parts })
    }

    /// The merged directory at components that were walked before and have no links among them.
    fn walk(&self, components: &[Vec<u8>]) -> io::Result<MergedDirectory> {
        let mut directory = self.root()?;
        for component in components {
            match directory.look_up(OsStr::from_bytes(component))? {
                Found::Directory(child) => directory = child,
                _ => return Err(io::ErrorKind::NotFound.into()),
            }
        }
        Ok(directory)
    }
}

impl MergedDirectory {
    fn look_up(&self, name: &OsStr) -> io::Result<Found> {
        let mut merged = Vec::new();
        for part in &self.parts {
            let stat = match statat(part, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let directory = open_child(part, name)?;
                    let opaque = is_opaque(&directory)?;
                    merged.push(directory);
                    if opaque {
                        break;
                    }
                }
                // Under a directory, anything else is hidden and ends the merge.
                _ if !merged.is_empty() => break,
                _ if is_whiteout(&stat) => break,
                FileType::Symlink => return Ok(Found::Link(readlinkat(part, name, Vec::new())?.into_bytes())),
                FileType::RegularFile => return Ok(Found::Regular(part.try_clone()?)),
                _ => return Ok(Found::Other),
            }
        }
        Ok(if merged.is_empty() { Found::Absent } else { Found::Directory(MergedDirectory { parts: merged }) })
    }
}

fn is_opaque(directory: &OwnedFd) -> io::Result<bool> {
    let mut value = [0u8; 1];
    match fgetxattr(directory, OPAQUE_XATTR, &mut value) {
        Ok(1) => Ok(value == *b"y"),
        Ok(_) | Err(Errno::NODATA | Errno::RANGE | Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Pushes the components of `path` so that the first is on top.
fn push_components(ahead: &mut Vec<Vec<u8>>, path: &[u8]) {
    let components = path.split(|&b| b == b'/').rev().filter(|part| !part.is_empty() && *part != b".");
    ahead.extend(components.map(<[u8]>::to_vec));
}

fn read_file(directory: BorrowedFd<'_>, name: &OsStr, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, RootFsError> {
    let failed = |source: io::Error| RootFsError::Read { path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(RootFsError::NotRegular { path: path.to_owned() });
    }
    let too_large = || RootFsError::TooLarge { path: path.to_owned(), limit_bytes };
    if metadata.len() > limit_bytes {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(too_large());
    }
    Ok(bytes)
}
