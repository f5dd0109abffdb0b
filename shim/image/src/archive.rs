//! Where the objects of an image come from: a directory, or a tar archive whose members are found by an index of
//! offsets. Nothing is extracted: objects are read in place, so an archive may list them in any order.
//!
//! An archive that is compressed or not a regular file (a pipe) is first copied, decompressed, into a temporary file
//! without a name. Objects are verified while they are used, so a source that changes meanwhile does no harm.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::Error;
use crate::decompress::Decompressed;
use crate::digest::Hashing;
use crate::tarstream::{EntryKind, Skip, TarError, TarStream};
use crate::tree;
use crate::unpack::Limits;

const READ_BUFFER_LEN: usize = 256 * 1024;
const COPY_BUFFER_LEN: usize = 1 << 20;
/// Names longer than this are not those of an image's objects and are passed over.
const MEMBER_NAME_LEN_MAX: usize = 512;
/// How many links one member name may lead through; `docker save` once used links between layers.
const MEMBER_LINKS_MAX: usize = 8;

/// A source of named objects.
pub(crate) enum Source {
    Directory(OwnedFd),
    Archive { file: File, members: HashMap<String, Member> },
}

pub(crate) enum Member {
    Data { offset: u64, len: u64 },
    Link(String),
}

/// One object, readable from its start.
pub(crate) struct Object {
    pub(crate) name: String,
    region: Region,
}

/// A stretch of a file.
pub(crate) struct Region {
    file: File,
    offset: u64,
    end: u64,
}

impl Source {
    /// Opens the directory or archive at `path`. `scratch` is a directory for a temporary copy.
    pub(crate) fn open(path: &Path, scratch: &Path, limits: &Limits) -> Result<Self, Error> {
        let failed = |source| Error::OpenSource { path: path.to_owned(), source };
        if path.is_dir() {
            return Ok(Self::Directory(tree::open_directory(path).map_err(failed)?));
        }
        let file = File::open(path).map_err(failed)?;
        let file = if is_plain_file(&file).map_err(failed)? {
            file
        } else {
            copy_decompressed(file, scratch, limits.archive_bytes).map_err(|source| Error::CopySource { path: path.to_owned(), source })?
        };
        let len = file.metadata().map_err(failed)?.len();
        let region = Region { file: file.try_clone().map_err(failed)?, offset: 0, end: len };
        let members = index(region, path, limits)?;
        Ok(Self::Archive { file, members })
    }

    /// The object called `name`, or `None` if there is none. `name` never leads out of the source.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Object>, Error> {
        let failed = |source: io::Error| Error::ReadObject { object: name.to_owned(), source };
        let (file, offset, len) = match self {
            Self::Directory(root) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let file = match openat2(root, name, flags, Mode::empty(), resolve) {
                    Ok(file) => File::from(file),
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    Err(errno) => return Err(failed(errno.into())),
                };
                let metadata = file.metadata().map_err(failed)?;
                if !metadata.is_file() {
                    return Err(failed(io::Error::other("not a regular file")));
                }
                (file, 0, metadata.len())
            }
            Self::Archive { file, members } => match find_member(members, name) {
                Some((offset, len)) => (file.try_clone().map_err(failed)?, offset, len),
                None => return Ok(None),
            },
        };
        Ok(Some(Object { name: name.to_owned(), region: Region { file, offset, end: offset + len } }))
    }

    /// Like [`Self::object`], but its absence is an error.
    pub(crate) fn required(&self, name: &str) -> Result<Object, Error> {
        self.object(name)?.ok_or_else(|| Error::MissingObject { object: name.to_owned() })
    }
}

impl Object {
    pub(crate) fn len_bytes(&self) -> u64 {
        self.region.end - self.region.offset
    }

    /// The whole object, if it is not larger than `limit_bytes`.
    pub(crate) fn read(mut self, limit_bytes: u64) -> Result<Vec<u8>, Error> {
        let size_bytes = self.len_bytes();
        if size_bytes > limit_bytes {
            return Err(Error::ObjectTooLarge { object: self.name, size_bytes, limit_bytes });
        }
        let mut bytes = vec![0; size_bytes as usize];
        self.region.read_exact(&mut bytes).map_err(|source| Error::ReadObject { object: self.name, source })?;
        Ok(bytes)
    }

    /// A reader of the whole object that hashes what it reads.
    pub(crate) fn into_reader(self) -> BufReader<Hashing<Region>> {
        BufReader::with_capacity(READ_BUFFER_LEN, Hashing::new(self.region, u64::MAX))
    }
}

impl Read for Region {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = buf.len().min(usize::try_from(self.end - self.offset).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buf[..wanted], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl Skip for Region {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        if count > self.end - self.offset {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count;
        Ok(())
    }
}

impl<R: Read> Skip for Hashing<R> {}

fn is_plain_file(file: &File) -> io::Result<bool> {
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let region = Region { file: file.try_clone()?, offset: 0, end: 4 };
    Ok(Decompressed::new(BufReader::new(region), &|| true)?.is_plain())
}

/// Copies a source into an unnamed file that vanishes with its last descriptor.
fn copy_decompressed(source: File, scratch: &Path, limit_bytes: u64) -> io::Result<File> {
    const O_TMPFILE: i32 = OFlags::TMPFILE.bits() as i32;
    let mut copy = File::options().read(true).write(true).mode(0o600).custom_flags(O_TMPFILE).open(scratch)?;
    let reader = BufReader::with_capacity(READ_BUFFER_LEN, source);
    let mut reader = Decompressed::new(reader, &|| true)?;
    let mut buffer = vec![0; COPY_BUFFER_LEN];
    let mut copied_bytes = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(copy),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        copied_bytes += count as u64;
        if copied_bytes > limit_bytes {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, crate::digest::TooLong { limit_bytes }));
        }
        copy.write_all(&buffer[..count])?;
    }
}

fn index(region: Region, path: &Path, limits: &Limits) -> Result<HashMap<String, Member>, Error> {
    let failed = |source: TarError| Error::ReadArchive { path: path.to_owned(), source };
    let mut stream = TarStream::new(region);
    let mut members = HashMap::new();
    while let Some(entry) = stream.next_entry().map_err(failed)? {
        let Some(name) = member_name(&entry.path) else { continue };
        let member = match entry.kind {
            EntryKind::Regular if entry.segments.is_none() => Member::Data { offset: stream.position(), len: stream.stored_bytes() },
            EntryKind::Symlink | EntryKind::HardLink => {
                let target = PathBuf::from(String::from_utf8_lossy(&entry.link).into_owned());
                let from = if entry.kind == EntryKind::Symlink { Path::new(&name).parent() } else { None };
                match resolve(from, &target) {
                    Some(target) if target.len() <= MEMBER_NAME_LEN_MAX => Member::Link(target),
                    _ => continue,
                }
            }
            _ => continue,
        };
        if members.len() >= limits.archive_members {
            return Err(Error::TooManyMembers { path: path.to_owned(), limit: limits.archive_members });
        }
        members.insert(name, member);
    }
    Ok(members)
}

fn find_member(members: &HashMap<String, Member>, name: &str) -> Option<(u64, u64)> {
    let mut name = resolve(None, Path::new(name))?;
    for _ in 0..MEMBER_LINKS_MAX {
        match members.get(&name)? {
            Member::Data { offset, len } => return Some((*offset, *len)),
            Member::Link(target) => name.clone_from(target),
        }
    }
    None
}

fn member_name(raw: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(raw).ok().filter(|name| name.len() <= MEMBER_NAME_LEN_MAX)?;
    resolve(None, Path::new(name)).filter(|name| !name.is_empty())
}

/// A name in the archive, relative to its top; `None` if it leads above.
fn resolve(from: Option<&Path>, target: &Path) -> Option<String> {
    use std::path::Component;
    let mut parts: Vec<&str> = Vec::new();
    for component in from.unwrap_or(Path::new("")).components().chain(target.components()) {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir => parts.clear(),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(parts.join("/"))
}
