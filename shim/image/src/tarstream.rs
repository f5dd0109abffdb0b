//! Reads tar archives as a stream: framing, headers, and the extensions that images use.
//!
//! Understood are the POSIX ustar format, PAX local headers (path, linkpath, size, uid, gid, mtime, `SCHILY.xattr.*`),
//! GNU long names, base-256 numbers, and sparse files in the GNU and PAX forms. Global PAX headers are skipped, as
//! Docker and containerd do.
//!
//! This is a reader of its own because the input is hostile: every extension header is bounded before it is read, PAX
//! records are taken apart by their lengths (an attribute's value may hold a newline), and a stream that ends early is an
//! error, not an end. Nothing here touches a file system.

mod fields;
mod pax;
mod sparse;

use std::collections::BTreeMap;
use std::io::{self, Read};

use pax::PaxRecords;
pub(crate) use sparse::Segment;

const BLOCK_LEN: usize = 512;
/// Upper bound of one long name or PAX header. Go's reader, which Docker and containerd use, has the same.
const EXTENSION_LEN_MAX: u64 = 1 << 20;
/// Upper bound of one entry's extended attributes: each is a system call and more, and real files have a handful.
const XATTRS_MAX: usize = 512;

/// What is wrong with a tar stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The underlying stream failed, or its decompression.
    #[error("read tar stream")]
    Read(#[source] io::Error),
    /// The stream ended inside a header or inside an entry's data.
    #[error("tar stream ends in the middle of an entry")]
    Truncated,
    /// A header's checksum does not match.
    #[error("tar header checksum mismatch at byte {at}")]
    Checksum {
        /// Offset of the header.
        at: u64,
    },
    /// A field of a header is not a number, or does not fit.
    #[error("tar header field {field} at byte {at} is not a valid number")]
    Number {
        /// Which field.
        field: &'static str,
        /// Offset of the header.
        at: u64,
    },
    /// A long name or PAX header exceeds its bound.
    #[error("tar extension header of {len} bytes at byte {at} is too long")]
    ExtensionTooLong {
        /// Its length.
        len: u64,
        /// Offset of the header.
        at: u64,
    },
    /// A PAX header is not a list of `length key=value` records.
    #[error("malformed PAX header before byte {at}")]
    Pax {
        /// Offset of the header the records belong to.
        at: u64,
    },
    /// An entry with more extended attributes than any real file.
    #[error("PAX header before byte {at} has {count} extended attributes, more than {XATTRS_MAX}")]
    TooManyXattrs {
        /// How many it has.
        count: usize,
        /// Offset of the header the records belong to.
        at: u64,
    },
    /// Two extension headers of one kind for one entry, or one with no entry to follow.
    #[error("stray tar extension header at byte {at}")]
    StrayExtension {
        /// Offset of the header.
        at: u64,
    },
    /// A sparse file's map is out of order, out of bounds or too long.
    #[error("malformed sparse file map at byte {at}")]
    Sparse {
        /// Offset of the header.
        at: u64,
    },
    /// An entry type that does not occur in images.
    #[error("tar entry type {kind:?} at byte {at} is not supported")]
    Kind {
        /// The type flag.
        kind: char,
        /// Offset of the header.
        at: u64,
    },
}

/// A reader that can also pass over bytes, cheaply where it is able to.
pub(crate) trait Skip: Read {
    /// Moves forward by exactly `count` bytes; [`io::ErrorKind::UnexpectedEof`] if there are fewer.
    fn skip(&mut self, count: u64) -> io::Result<()>
    where
        Self: Sized,
    {
        let passed = io::copy(&mut self.by_ref().take(count), &mut io::sink())?;
        if passed == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry's metadata; its data follows through [`TarStream::read_data`].
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Permission bits including set-user-ID, set-group-ID and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime_seconds: i64,
    pub(crate) mtime_nanos: u32,
    pub(crate) device_major: u32,
    pub(crate) device_minor: u32,
    /// Size of the file when written out, holes included.
    pub(crate) size_bytes: u64,
    /// Where the stored data goes, if the file has holes; otherwise it is one piece.
    pub(crate) segments: Option<Vec<Segment>>,
    /// Extended attributes, value by name.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The entries of a tar archive, in order.
pub(crate) struct TarStream<R> {
    reader: R,
    position: u64,
    data_left: u64,
    padding: u64,
}

#[derive(Default)]
struct Extensions {
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<PaxRecords>,
}

impl<R: Skip> TarStream<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, position: 0, data_left: 0, padding: 0 }
    }

    /// Offset of the next unread byte: right after [`Self::next_entry`], where the entry's data begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of data stored for the current entry that were not read yet.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.data_left
    }

    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    /// The next entry, after passing over what is left of the last one. `None` at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip(self.data_left + self.padding)?;
            (self.data_left, self.padding) = (0, 0);
            let at = self.position;
            let Some(block) = self.read_header()? else {
                if extensions.is_empty() {
                    return Ok(None);
                }
                return Err(TarError::StrayExtension { at });
            };
            let size = fields::number(&block[124..136]).ok_or(TarError::Number { field: "size", at })?;
            match block[156] {
                b'L' => self.read_extension(&mut extensions.long_path, size, at)?,
                b'K' => self.read_extension(&mut extensions.long_link, size, at)?,
                b'x' => {
                    let mut bytes = None;
                    self.read_extension(&mut bytes, size, at)?;
                    let records = PaxRecords::parse(&bytes.unwrap_or_default()).ok_or(TarError::Pax { at })?;
                    let count = records.xattrs.len();
                    if count > XATTRS_MAX {
                        return Err(TarError::TooManyXattrs { count, at });
                    }
                    if extensions.pax.replace(records).is_some() {
                        return Err(TarError::StrayExtension { at });
                    }
                }
                b'g' => self.set_data(size, at)?,
                _ => return self.entry(&block, size, extensions, at).map(Some),
            }
        }
    }

    /// Reads stored data of the current entry; 0 at its end.
    pub(crate) fn read_data(&mut self, buf: &mut [u8]) -> Result<usize, TarError> {
        let wanted = buf.len().min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buf[..wanted]).map_err(TarError::Read)?;
        if count == 0 {
            return Err(TarError::Truncated);
        }
        self.position += count as u64;
        self.data_left -= count as u64;
        Ok(count)
    }

    fn read_data_exact(&mut self, mut buf: &mut [u8]) -> Result<(), TarError> {
        while !buf.is_empty() {
            match self.read_data(buf)? {
                0 => return Err(TarError::Truncated),
                count => buf = &mut buf[count..],
            }
        }
        Ok(())
    }

    fn entry(&mut self, block: &[u8; BLOCK_LEN], header_size: u64, extensions: Extensions, at: u64) -> Result<Entry, TarError> {
        let pax = extensions.pax.unwrap_or_default();
        let mut entry = fields::entry(block, at)?;
        if let Some(path) = pax.path.or(extensions.long_path) {
            entry.path = path;
        }
        if let Some(link) = pax.link.or(extensions.long_link) {
            entry.link = link;
        }
        entry.uid = pax.uid.unwrap_or(entry.uid);
        entry.gid = pax.gid.unwrap_or(entry.gid);
        (entry.mtime_seconds, entry.mtime_nanos) = pax.mtime.unwrap_or((entry.mtime_seconds, entry.mtime_nanos));
        entry.xattrs = pax.xattrs;
        // Like Go's reader: anything but a file has no data, whatever its size field says.
        let stored = if entry.kind == EntryKind::Regular { pax.size.unwrap_or(header_size) } else { 0 };
        if entry.kind == EntryKind::Regular && entry.path.ends_with(b"/") {
            // Archives older than ustar mark directories only by the slash.
            entry.kind = EntryKind::Directory;
        }
        self.set_data(stored, at)?;
        entry.size_bytes = stored;
        if entry.kind == EntryKind::Regular {
            if block[156] == b'S' {
                let (segments, size) = self.read_gnu_sparse(block, at)?;
                (entry.segments, entry.size_bytes) = (Some(segments), size);
            } else if let Some(map) = pax.sparse {
                let (segments, size) = self.read_pax_sparse(&map, at)?;
                (entry.segments, entry.size_bytes) = (Some(segments), size);
                entry.path = map.name.unwrap_or(entry.path);
            }
        }
        Ok(entry)
    }

    fn set_data(&mut self, size: u64, at: u64) -> Result<(), TarError> {
        let padded = size.checked_next_multiple_of(BLOCK_LEN as u64).ok_or(TarError::Number { field: "size", at })?;
        (self.data_left, self.padding) = (size, padded - size);
        Ok(())
    }

    fn read_extension(&mut self, slot: &mut Option<Vec<u8>>, len: u64, at: u64) -> Result<(), TarError> {
        if slot.is_some() {
            return Err(TarError::StrayExtension { at });
        }
        if len > EXTENSION_LEN_MAX {
            return Err(TarError::ExtensionTooLong { len, at });
        }
        self.set_data(len, at)?;
        let mut bytes = vec![0; len as usize];
        self.read_data_exact(&mut bytes)?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        *slot = Some(bytes);
        Ok(())
    }

    /// The next header, or `None` at a block of zeros or at the end of the stream.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK_LEN]>, TarError> {
        let at = self.position;
        let mut block = [0; BLOCK_LEN];
        if !self.read_block(&mut block)? || block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let sum = fields::checksum(&block);
        if fields::number(&block[148..156]) != Some(sum) {
            return Err(TarError::Checksum { at });
        }
        Ok(Some(block))
    }

    /// Fills a block; `false` if the stream ended before its first byte.
    fn read_block(&mut self, block: &mut [u8; BLOCK_LEN]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK_LEN {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Truncated),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        self.position += BLOCK_LEN as u64;
        Ok(true)
    }

    fn skip(&mut self, count: u64) -> Result<(), TarError> {
        self.reader.skip(count).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => TarError::Truncated,
            _ => TarError::Read(error),
        })?;
        self.position += count;
        Ok(())
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.long_path.is_none() && self.long_link.is_none() && self.pax.is_none()
    }
}
