//! What images and containers occupy.
//!
//! Layers were measured when they were unpacked, so images cost no disk access beyond a directory listing. Containers'
//! upper directories change under way and are walked; a caller that asks often should remember the answer for a while.

use super::ImageStore;
use crate::Error;
use crate::tree::{self, Usage};

impl ImageStore {
    /// What all unpacked layers occupy, each once.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn images_usage(&self) -> Result<Usage, Error> {
        let mut images = Usage::default();
        for layer in self.stored_layers().map_err(|source| Error::Usage { path: self.layers_dir(), source })? {
            if let Ok(record) = self.layer_record(&layer) {
                images += record.usage;
            }
        }
        Ok(images)
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
