//! What images and containers occupy, for the CRI's `ImageFsInfo`.
//!
//! Layers were measured when they were unpacked, so images cost no disk access beyond a directory listing. Containers'
//! upper directories change under way and are walked; a caller that asks often should remember the answer for a while.

use std::path::PathBuf;

use super::ImageStore;
use crate::Error;
use crate::tree::{self, Usage};

/// Disk usage by what it is used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemUsage {
    /// Where the store is; the kubelet finds the file system by it.
    pub mountpoint: PathBuf,
    /// All unpacked layers, each once.
    pub images: Usage,
    /// The upper directories of all containers.
    pub containers: Usage,
}

impl ImageStore {
    /// Measures the store.
    ///
    /// # Errors
    /// If a directory of the store cannot be read.
    pub fn filesystem_usage(&self) -> Result<FilesystemUsage, Error> {
        let mut images = Usage::default();
        for layer in self.stored_layers().map_err(|source| Error::Usage { path: self.layers_dir(), source })? {
            if let Ok(record) = self.layer_record(&layer) {
                images += record.usage;
            }
        }
        let mut containers = Usage::default();
        for container_id in self.snapshots()? {
            containers += self.snapshot_usage(&container_id)?.unwrap_or_default();
        }
        Ok(FilesystemUsage { mountpoint: self.root().to_owned(), images, containers })
    }

    /// Measures what one container has written; `None` if it has no snapshot.
    ///
    /// # Errors
    /// If its upper directory cannot be read.
    pub fn snapshot_usage(&self, container_id: &str) -> Result<Option<Usage>, Error> {
        let path = self.snapshot_dir(container_id)?.join(super::UPPER);
        match tree::open_directory(&path).and_then(|upper| tree::usage(std::os::fd::AsFd::as_fd(&upper))) {
            Ok(usage) => Ok(Some(usage)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Usage { path, source }),
        }
    }
}
