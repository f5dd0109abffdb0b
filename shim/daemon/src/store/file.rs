//! One record, one file.

use super::RECORD_VERSION;
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Records are some kilobytes; this is where reading stops.
const RECORD_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// A record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file or folder cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The content is no such record.
    #[error("{} holds no such record", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Another podbox wrote it: what it says must not be guessed at, and its pods must not be ended.
    #[error("{} was written by another version of podbox (records of version {version}, not {RECORD_VERSION}): end its pods with that one", path.display())]
    OtherVersion {
        /// Which.
        path: PathBuf,
        /// The version of the record.
        version: u32,
    },
    /// The file cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl RecordError {
    /// There is no such file.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Reads a record.
///
/// # Errors
/// See [`RecordError`]; a file that is not there is `Read` with `NotFound`.
pub fn read_record<T: DeserializeOwned>(path: &Path) -> Result<T, RecordError> {
    parse(path, &read(path)?)
}

/// Reads a record of the version that this podbox writes. The version is looked at first: in a record of another, nothing need be as it
/// is in ours.
///
/// # Errors
/// As [`read_record`], and `OtherVersion`.
pub(super) fn read_versioned<T: DeserializeOwned>(path: &Path) -> Result<T, RecordError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let text = read(path)?;
    match parse::<Versioned>(path, &text)?.version {
        RECORD_VERSION => parse(path, &text),
        version => Err(RecordError::OtherVersion { path: path.to_owned(), version }),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, RecordError> {
    serde_json::from_slice(text).map_err(|source| RecordError::Content { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, RecordError> {
    let failed = |source| RecordError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    // Neither a link nor a pipe in its place leads anywhere, or keeps the reader waiting.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(std::io::ErrorKind::InvalidInput.into()));
    }
    file.take(RECORD_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a record to a temporary name beside its own and renames it. The folder is made if need be.
///
/// # Errors
/// The one before stands where it stood.
pub fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<(), RecordError> {
    let failed = |source| RecordError::Write { path: path.to_owned(), source };
    let text = serde_json::to_vec(record).map_err(|source| RecordError::Content { path: path.to_owned(), source })?;
    if text.len() as u64 > RECORD_BYTES_MAX {
        // What could not be read again must not be written.
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    let temporary = path.with_extension("tmp");
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| {
        // Best effort: what is left is overwritten by the next attempt or removed with the folder.
        let _ = std::fs::remove_file(&temporary);
        failed(source)
    })
}

/// Makes a folder for root alone.
pub(super) fn make_private(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// How many bytes a record takes as JSON.
pub(super) fn json_bytes<T: Serialize>(record: &T) -> usize {
    struct Counter(usize);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // What cannot be written as JSON is no record.
    let _ = serde_json::to_writer(&mut counter, record);
    counter.0
}
