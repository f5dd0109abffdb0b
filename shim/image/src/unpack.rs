//! Unpacks one layer's tar stream into a directory that overlayfs can use as a lower directory.
//!
//! Rules, in the order they matter:
//!
//! - Every name is resolved by the kernel with the layer's root as its root (`openat2`, `RESOLVE_IN_ROOT`): absolute
//!   names, `..` and symbolic links cannot lead out. Names that contain `..` are refused outright.
//! - A file, device or link is always created anew (`O_EXCL`), never opened or written through; a later entry replaces an
//!   earlier one, except that a directory over a directory only updates its metadata.
//! - `.wh.NAME` becomes overlayfs's whiteout and `.wh..wh..opq` its opaque mark (OCI image specification, "Whiteouts");
//!   both hide what lower layers hold, never what this layer holds. The image cannot make either by other means.
//! - Ownership, then mode, then extended attributes, then times: each of the former would undo the latter.
//! - Layers do not know each other: a missing parent is created with mode 0755, owned by root, and listed (see implied).

pub(crate) mod attributes;
mod create;
mod implied;
mod parent;
mod path;

use std::os::fd::BorrowedFd;

use rustix::fs::Timespec;

use crate::tarstream::{EntryKind, Skip, TarError, TarStream};
use parent::ParentCursor;
pub(crate) use parent::{OPAQUE_XATTR, is_whiteout};
use path::{EntryPath, Name};

/// Bounds on what an import accepts. The defaults are far above real images and far below what would hurt the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size of a manifest, index or image configuration.
    pub document_bytes: u64,
    /// Layers of an image. overlayfs takes 500 lower directories, Docker 127 layers.
    pub layers: usize,
    /// Manifests an index lists, or images an archive holds.
    pub manifests: usize,
    /// Entries of one layer.
    pub layer_entries: u64,
    /// Decompressed size of one layer, and the sum of the sizes of its files.
    pub layer_bytes: u64,
    /// Members of an image archive.
    pub archive_members: usize,
    /// Size of an image archive that has to be copied first, because it is compressed or comes through a pipe.
    pub archive_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document_bytes: 4 << 20,
            layers: 127,
            manifests: 1024,
            layer_entries: 4_000_000,
            layer_bytes: 256 << 30,
            archive_members: 32_768,
            archive_bytes: 512 << 30,
        }
    }
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tar stream itself is at fault.
    #[error("read the layer's tar stream")]
    Tar(#[from] TarError),
    /// An entry's name, or the name a hard link points to, leads out of the layer or is malformed.
    #[error("entry \"{entry}\": its name is refused: {reason}")]
    Name {
        /// The entry's name, an excerpt.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A system call failed for an entry.
    #[error("entry \"{entry}\": {step}")]
    Entry {
        /// The entry's name, an excerpt.
        entry: String,
        /// What was being done.
        step: &'static str,
        /// The system call's error.
        source: rustix::io::Errno,
    },
    /// Something in the way of an entry could not be removed.
    #[error("entry \"{entry}\": remove what it replaces")]
    Replace {
        /// The entry's name, an excerpt.
        entry: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A device that means something to overlayfs.
    #[error("entry \"{entry}\": a character device 0:0 is a whiteout and cannot be part of an image")]
    WhiteoutDevice {
        /// The entry's name, an excerpt.
        entry: String,
    },
    /// The layer has more entries than allowed.
    #[error("a layer of more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// The layer's files are larger than allowed.
    #[error("the layer's files are larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
}

/// What unpacking found out about a layer.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The stream said how its root directory looks.
    pub(crate) has_root_entry: bool,
    /// Its root directory hides everything below. overlayfs ignores the mark on a root, so the mounter must act on it.
    pub(crate) has_opaque_root: bool,
    /// Folders that the stream had no entry for, in the order of their names.
    pub(crate) implied: Vec<String>,
}

/// Unpacks `stream` into the empty directory `root`. `scratch` is a directory on the same file system for removals.
pub(crate) fn unpack<R: Skip>(
    stream: &mut TarStream<R>,
    root: BorrowedFd<'_>,
    scratch: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let mut layer = Layer {
        scratch,
        cursor: ParentCursor::new(root),
        buffer: vec![0; create::COPY_BUFFER_LEN],
        unpacked: Unpacked { has_root_entry: false, has_opaque_root: false, implied: Vec::new() },
    };
    let (mut entries, mut bytes) = (0u64, 0u64);
    while let Some(entry) = stream.next_entry()? {
        entries += 1;
        if entries > limits.layer_entries {
            return Err(UnpackError::TooManyEntries { limit: limits.layer_entries });
        }
        bytes = bytes.saturating_add(entry.size_bytes);
        if bytes > limits.layer_bytes {
            return Err(UnpackError::TooLarge { limit_bytes: limits.layer_bytes });
        }
        let path = EntryPath::parse(&entry.path)?;
        match path.split_last() {
            None if entry.kind == EntryKind::Directory => {
                layer.cursor.leave();
                attributes::apply(root, &entry, &path)?;
                layer.unpacked.has_root_entry = true;
            }
            None => return Err(path.refused("only a directory can be the root")),
            Some((parent, last)) => match Name::of(last) {
                Name::Entry(name) => layer.create(stream, &entry, &path, parent, name)?,
                Name::Whiteout(name) => layer.whiteout(&path, parent, name)?,
                Name::Opaque => layer.opaque(&path, parent)?,
                Name::Aufs => {}
                Name::Invalid => return Err(path.refused("a whiteout of nothing")),
            },
        }
    }
    layer.cursor.leave();
    layer.unpacked.implied = layer.cursor.implied();
    Ok(layer.unpacked)
}

/// A layer while it is being unpacked.
struct Layer<'a> {
    scratch: BorrowedFd<'a>,
    cursor: ParentCursor<'a>,
    buffer: Vec<u8>,
    unpacked: Unpacked,
}

/// Access and modification time alike: the access time of an image's file means nothing.
fn times(seconds: i64, nanos: u32) -> rustix::fs::Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    rustix::fs::Timestamps { last_access: time, last_modification: time }
}
