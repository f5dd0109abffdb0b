//! Layers that come from a registry, and the images they make. They go the way of an import's layers, several at once.

use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::syncfs;

use super::ImageStore;
use super::layers::unpack_layer;
use super::lock::{Lock, TMP};
use super::record::ImageRecord;
use crate::Error;
use crate::digest::{Digest, Hashing};
use crate::document::{PlannedImage, PlannedLayer};
use crate::reference::Reference;
use crate::unpack::Limits;

const READ_BUFFER_LEN: usize = 128 * 1024;

/// Keeps collectors away from what is in `tmp/`.
#[derive(Clone)]
pub(crate) struct WorkLock {
    held: Arc<TmpLock>,
}

/// The lock itself.
pub(crate) struct TmpLock {
    _lock: Lock,
}

/// A layer that is unpacked and verified. It is removed with its value unless it was put in its place.
pub(crate) struct PulledLayer {
    store: Arc<ImageStore>,
    diff_id: Digest,
    /// Where it is until it is put in its place.
    staging: Mutex<Option<PathBuf>>,
    lock: WorkLock,
}

impl WorkLock {
    /// Something that tells how many hold it.
    pub(crate) fn holders(&self) -> Weak<TmpLock> {
        Arc::downgrade(&self.held)
    }
}

impl PulledLayer {
    pub(crate) fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// Whether it waits to be put in its place.
    pub(crate) fn is_staged(&self) -> bool {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Drop for PulledLayer {
    fn drop(&mut self) {
        let Some(staging) = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let discarded = Discarded { store: self.store.clone(), staging, _lock: self.lock.clone() };
        // Removing takes as long as the tree is large: not on a thread that serves others. Where there is none, it is done here.
        let _ = std::thread::Builder::new().name("discard".to_owned()).spawn(move || drop(discarded));
    }
}

/// What is in `tmp/` for nobody; it is removed with its value.
struct Discarded {
    store: Arc<ImageStore>,
    staging: PathBuf,
    _lock: WorkLock,
}

impl Drop for Discarded {
    fn drop(&mut self) {
        self.store.discard_tmp(&self.staging);
    }
}

impl ImageStore {
    pub(crate) fn default_registry(&self) -> &str {
        &self.options.default_registry
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.options.limits
    }

    pub(crate) fn lock_work(&self) -> Result<WorkLock, Error> {
        Ok(WorkLock { held: Arc::new(TmpLock { _lock: Lock::shared(&self.root, TMP)? }) })
    }

    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer_record(diff_id).is_ok()
    }

    /// Unpacks a layer from its stream. `reader` fails where the stream breaks off; what is not wanted any more waits for nothing.
    pub(crate) fn unpack_pulled(
        self: Arc<Self>,
        layer: &PlannedLayer,
        reader: impl Read,
        lock: WorkLock,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<PulledLayer, Error> {
        let diff_id = layer.diff_id.clone();
        let staging = self.make_tmp("layer").map_err(|source| Error::StoreLayer { diff_id: diff_id.clone(), source })?;
        // From here on its end removes what is there.
        let pulled = PulledLayer { store: self.clone(), diff_id, staging: Mutex::new(Some(staging.clone())), lock };
        let limit_bytes = layer.blob.as_ref().map_or(u64::MAX, |blob| blob.size_bytes);
        let reader = BufReader::with_capacity(READ_BUFFER_LEN, Hashing::new(reader, limit_bytes));
        unpack_layer(&self, &staging, layer, reader, is_wanted)?;
        Ok(pulled)
    }

    /// Puts an image's layers in place and records it.
    ///
    /// # Errors
    /// [`Error::MissingLayer`] if one that was there before is there no more: it has to be pulled, too.
    pub(crate) fn record_pulled(&self, image: PlannedImage, layers: &[Arc<PulledLayer>]) -> Result<Arc<ImageRecord>, Error> {
        if !layers.is_empty() {
            syncfs(&self.scratch).map_err(|errno| Error::Sync { source: errno.into() })?;
        }
        let mut superfluous = Vec::new();
        let recorded = self.with_layers_kept(|| {
            // Before anything is put in place: what is staged is then there for another attempt.
            for PlannedLayer { diff_id, .. } in &image.layers {
                if !self.has_layer(diff_id) && !layers.iter().any(|layer| layer.diff_id == *diff_id && layer.is_staged()) {
                    return Err(Error::MissingLayer { image: image.id.clone(), diff_id: diff_id.clone() });
                }
            }
            for layer in layers {
                // Whoever shares the layer may have put it in place.
                let Some(path) = layer.staging.lock().unwrap_or_else(PoisonError::into_inner).take() else { continue };
                let result = self.install_layer(&layer.diff_id, &path);
                superfluous.push(path);
                result.map_err(|source| Error::StoreLayer { diff_id: layer.diff_id.clone(), source })?;
            }
            self.record(image)
        });
        // What was there already when it was to be put in place. Removing it keeps nobody waiting.
        for path in superfluous {
            self.discard_tmp(&path);
        }
        recorded
    }

    /// The image that this repository's digest is known to mean, under the name given.
    pub(crate) fn name_known(&self, name: &Reference, digest: &Digest) -> Result<Option<Arc<ImageRecord>>, Error> {
        let Some(known) = self.index()?.by_name(&name.repo_digest(digest)).cloned() else { return Ok(None) };
        if known.layers.iter().any(|diff_id| !self.has_layer(diff_id)) {
            return Ok(None);
        }
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
        match self.with_layers_kept(|| self.record(image)) {
            // It was taken away since it was looked up.
            Err(Error::MissingLayer { .. }) => Ok(None),
            recorded => recorded.map(Some),
        }
    }
}
