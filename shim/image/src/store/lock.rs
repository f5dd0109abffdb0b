//! Locks between processes, with `flock(2)` on files in the store's root. A lock ends with its value, or its process.
//!
//! | file | shared by | exclusively by |
//! |---|---|---|
//! | `tmp.lock` | whoever has something in `tmp/` | the collector of leftovers, if it gets it at once |
//! | `layers.lock` | whoever puts layers in place until a record names them, never for long | the collector of unused layers, while it moves them away |
//! | `images.lock` | – | whoever writes or removes image records |
//!
//! They are taken in this order; the index's mutex comes last.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Error;

pub(super) const TMP: &str = "tmp.lock";
pub(super) const LAYERS: &str = "layers.lock";
pub(super) const IMAGES: &str = "images.lock";

/// A held lock.
#[derive(Debug)]
#[must_use = "the lock ends with this value"]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn shared(root: &Path, name: &str) -> Result<Self, Error> {
        Self::take(root, name, FlockOperation::LockShared)
    }

    pub(super) fn exclusive(root: &Path, name: &str) -> Result<Self, Error> {
        Self::take(root, name, FlockOperation::LockExclusive)
    }

    /// The exclusive lock, or `None` if somebody holds it.
    pub(super) fn try_exclusive(root: &Path, name: &str) -> Result<Option<Self>, Error> {
        match Self::take(root, name, FlockOperation::NonBlockingLockExclusive) {
            Err(Error::Lock { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        }
    }

    fn take(root: &Path, name: &str, operation: FlockOperation) -> Result<Self, Error> {
        let path = root.join(name);
        let lock = || {
            let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            loop {
                match flock(&file, operation) {
                    Err(Errno::INTR) => {}
                    result => break result?,
                }
            }
            Ok(Self { _file: file })
        };
        lock().map_err(|source| Error::Lock { path: path.clone(), source })
    }
}
