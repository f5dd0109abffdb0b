//! Layers that come from a registry, and the images they make. They go the way of an import's layers, several at once.

use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::syncfs;

use super::ImageStore;
use super::layers::unpack_layer;
use super::lock::{LAYERS, Lock, TMP};
use super::record::ImageRecord;
use crate::Error;
use crate::digest::{Digest, Hashing};
use crate::import::{PlannedImage, PlannedLayer};
use crate::reference::Reference;
use crate::unpack::Limits;

const READ_BUFFER_LEN: usize = 128 * 1024;

/// Keeps collectors away, from what is in `tmp/` and from layers that no record names yet.
#[derive(Clone)]
pub(crate) struct WorkLocks {
    _held: Arc<[Lock; 2]>,
}

/// A layer that is unpacked and verified. It is removed with its value unless it was put in its place.
pub(crate) struct PulledLayer {
    store: Arc<ImageStore>,
    diff_id: Digest,
    /// Where it is until it is put in its place.
    staging: Mutex<Option<PathBuf>>,
    _locks: WorkLocks,
}

impl Drop for PulledLayer {
    fn drop(&mut self) {
        if let Some(staging) = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            self.store.discard_tmp(&staging);
        }
    }
}

impl ImageStore {
    pub(crate) fn default_registry(&self) -> &str {
        &self.options.default_registry
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.options.limits
    }

    pub(crate) fn lock_work(&self) -> Result<WorkLocks, Error> {
        let tmp = Lock::shared(&self.root, TMP)?;
        let layers = Lock::shared(&self.root, LAYERS)?;
        Ok(WorkLocks { _held: Arc::new([tmp, layers]) })
    }

    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer_record(diff_id).is_ok()
    }

    /// Unpacks a layer from its stream. `reader` fails where the stream breaks off.
    pub(crate) fn unpack_pulled(self: Arc<Self>, layer: &PlannedLayer, reader: impl Read, locks: WorkLocks) -> Result<PulledLayer, Error> {
        let diff_id = layer.diff_id.clone();
        let staging = self.make_tmp("layer").map_err(|source| Error::StoreLayer { diff_id: diff_id.clone(), source })?;
        // From here on its end removes what is there.
        let pulled = PulledLayer { store: self.clone(), diff_id, staging: Mutex::new(Some(staging.clone())), _locks: locks };
        let limit_bytes = layer.blob.as_ref().map_or(u64::MAX, |blob| blob.size_bytes);
        let reader = BufReader::with_capacity(READ_BUFFER_LEN, Hashing::new(reader, limit_bytes));
        unpack_layer(&self, &staging, layer, reader)?;
        Ok(pulled)
    }

    /// Puts an image's layers in place and records it.
    pub(crate) fn record_pulled(&self, image: PlannedImage, layers: &[Arc<PulledLayer>]) -> Result<Arc<ImageRecord>, Error> {
        if !layers.is_empty() {
            syncfs(&self.scratch).map_err(|errno| Error::Sync { source: errno.into() })?;
        }
        for layer in layers {
            // Whoever shares the layer may have put it in place; nobody collects it meanwhile.
            let mut staging = layer.staging.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(path) = staging.take() else { continue };
            let result = self.install_layer(&layer.diff_id, &path);
            self.discard_tmp(&path);
            result.map_err(|source| Error::StoreLayer { diff_id: layer.diff_id.clone(), source })?;
        }
        self.record(image)
    }

    /// The image that this repository's digest is known to mean, under the name given.
    pub(crate) fn name_known(&self, name: &Reference, digest: &Digest) -> Result<Option<Arc<ImageRecord>>, Error> {
        let Some(known) = self.index()?.by_name(&name.repo_digest(digest)).cloned() else { return Ok(None) };
        if name.repo_tag().is_none_or(|tag| known.repo_tags.contains(&tag)) {
            return Ok(Some(known));
        }
        let Some(config_json) = self.config_json(&known.id)? else { return Ok(None) };
        let layers = known.layers.iter().map(|diff_id| PlannedLayer { diff_id: diff_id.clone(), object: diff_id.to_string(), blob: None });
        let image = PlannedImage {
            id: known.id.clone(),
            names: vec![name.clone()],
            manifest_digest: known.manifest_digest.clone(),
            target_digest: Some(digest.clone()),
            config: known.config.clone(),
            config_json,
            layers: layers.collect(),
        };
        self.record(image).map(Some)
    }
}
