//! Layers on disk: unpacked in `tmp/`, put in place when their digests matched, collected when nothing uses them.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};
use rustix::io::Errno;

use super::folders::IMPLIED_RECORD;
use super::lock::{LAYERS, Lock, TMP};
use super::record::{LayerFile, SnapshotFile, is_damage, write_json};
use super::{ImageStore, LAYER_RECORD, SNAPSHOT_RECORD, UPPER};
use crate::archive::Source;
use crate::decompress::Decompressed;
use crate::digest::{Digest, Hashing};
use crate::document::PlannedLayer;
use crate::import::Progress;
use crate::tarstream::TarStream;
use crate::tree::Usage;
use crate::{Error, tree, unpack};

/// Layers that are unpacked and verified but not in their place yet; what is never put in place is removed.
pub(super) struct StagedLayers<'a> {
    store: &'a ImageStore,
    layers: BTreeMap<Digest, PathBuf>,
}

impl<'a> StagedLayers<'a> {
    pub(super) fn new(store: &'a ImageStore) -> Self {
        Self { store, layers: BTreeMap::new() }
    }

    /// Whether it is staged, or in its place.
    pub(super) fn has(&self, diff_id: &Digest) -> bool {
        self.layers.contains_key(diff_id) || self.store.layer_record(diff_id).is_ok()
    }

    /// Unpacks a layer, unless it is in the store or staged already.
    pub(super) fn stage(&mut self, source: &Source, layer: &PlannedLayer, observe: &mut dyn FnMut(Progress)) -> Result<(), Error> {
        let diff_id = &layer.diff_id;
        if self.has(diff_id) {
            observe(Progress::LayerPresent { diff_id: diff_id.clone() });
            return Ok(());
        }
        let failed = |source| Error::StoreLayer { diff_id: diff_id.clone(), source };
        let staging = self.store.make_tmp("layer").map_err(failed)?;
        self.layers.insert(diff_id.clone(), staging.clone());
        let result = self.unpack_into(&staging, source, layer, observe);
        if result.is_err() {
            self.layers.remove(diff_id);
            self.store.discard_tmp(&staging);
        }
        result
    }

    fn unpack_into(&self, staging: &Path, source: &Source, layer: &PlannedLayer, observe: &mut dyn FnMut(Progress)) -> Result<(), Error> {
        let diff_id = layer.diff_id.clone();
        let object = source.required(&layer.object)?;
        let stored_bytes = object.len_bytes();
        if let Some(blob) = &layer.blob
            && blob.size_bytes != stored_bytes
        {
            return Err(Error::SizeMismatch { object: object.name, expected_bytes: blob.size_bytes, actual_bytes: stored_bytes });
        }
        observe(Progress::LayerStarted { diff_id: diff_id.clone(), stored_bytes });
        let usage = unpack_layer(self.store, staging, layer, object.into_reader(), &|| true)?;
        observe(Progress::LayerUnpacked { diff_id, usage });
        Ok(())
    }

    /// Writes them to the disk: their content is there before their names are, so that a layer that is there after a power failure is
    /// whole.
    pub(super) fn sync(&self) -> Result<(), Error> {
        if self.layers.is_empty() {
            return Ok(());
        }
        syncfs(&self.store.scratch).map_err(|errno| Error::Sync { source: errno.into() })
    }

    /// Puts all layers in their places.
    pub(super) fn install(&mut self) -> Result<(), Error> {
        while let Some((diff_id, staging)) = self.layers.pop_first() {
            let result = self.store.install_layer(&diff_id, &staging);
            self.store.discard_tmp(&staging);
            result.map_err(|source| Error::StoreLayer { diff_id, source })?;
        }
        Ok(())
    }
}

impl Drop for StagedLayers<'_> {
    fn drop(&mut self) {
        for staging in self.layers.values() {
            self.store.discard_tmp(staging);
        }
    }
}

/// Unpacks a layer's blob into `staging`, with its record, and compares what it was with what it should be.
pub(super) fn unpack_layer<R: Read>(
    store: &ImageStore,
    staging: &Path,
    layer: &PlannedLayer,
    blob: BufReader<Hashing<R>>,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Usage, Error> {
    let diff_id = layer.diff_id.clone();
    let failed = |source| Error::StoreLayer { diff_id: diff_id.clone(), source };
    let fs = staging.join(UPPER);
    std::fs::create_dir(&fs).map_err(failed)?;
    let root = tree::open_directory(&fs).map_err(failed)?;
    // What the layer does not say about its root is as Docker makes it.
    rustix::fs::fchmod(&root, rustix::fs::Mode::from_raw_mode(0o755)).map_err(|errno| failed(errno.into()))?;

    let read_failed = |source| Error::ReadObject { object: layer.object.clone(), source };
    let limits = &store.options.limits;
    let plain = Decompressed::new(blob, is_wanted).map_err(read_failed)?;
    let mut stream = TarStream::new(Hashing::new(plain, limits.layer_bytes));
    let unpacked = unpack::unpack(&mut stream, root.as_fd(), store.scratch.as_fd(), limits).map_err(|source| Error::Unpack {
        object: layer.object.clone(),
        diff_id: diff_id.clone(),
        source: Box::new(source),
    })?;
    let (actual_diff_id, _, decompressed) = stream.into_inner().finish().map_err(read_failed)?;
    let (actual_digest, _, _) = decompressed.into_compressed().into_inner().finish().map_err(read_failed)?;
    verify(layer, actual_digest, actual_diff_id)?;

    let usage = tree::usage(root.as_fd()).map_err(failed)?;
    let record = LayerFile::new(diff_id.clone(), usage, unpacked.has_root_entry, unpacked.has_opaque_root);
    write_json(&staging.join(LAYER_RECORD), &record).map_err(failed)?;
    if !unpacked.implied.is_empty() {
        write_json(&staging.join(IMPLIED_RECORD), &unpacked.implied).map_err(failed)?;
    }
    Ok(usage)
}

fn verify(layer: &PlannedLayer, digest: Digest, diff_id: Digest) -> Result<(), Error> {
    if let Some(blob) = &layer.blob
        && blob.digest != digest
    {
        return Err(Error::DigestMismatch { object: layer.object.clone(), expected: blob.digest.clone(), actual: digest });
    }
    if layer.diff_id != diff_id {
        return Err(Error::DiffIdMismatch { object: layer.object.clone(), expected: layer.diff_id.clone(), actual: diff_id });
    }
    Ok(())
}

impl ImageStore {
    pub(super) fn install_layer(&self, diff_id: &Digest, staging: &Path) -> io::Result<()> {
        let place = self.layer_dir(diff_id);
        loop {
            match renameat_with(CWD, staging, CWD, &place, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST | Errno::NOTEMPTY) => match self.layer_record(diff_id) {
                    Ok(_) => return Ok(()),
                    // A layer whose record is damaged makes way for the good one. One that is only out of sight may be in use.
                    Err(error) if is_damage(&error) => {
                        if let Some(moved) = self.move_to_tmp(&place)? {
                            self.remove_tmp(&moved)?;
                        }
                    }
                    Err(error) => return Err(error),
                },
                result => return Ok(result?),
            }
        }
    }

    pub(super) fn layer_record(&self, diff_id: &Digest) -> io::Result<LayerFile> {
        LayerFile::read(&self.layer_dir(diff_id).join(LAYER_RECORD), diff_id)
    }

    /// The diff IDs of all layers on disk.
    pub(super) fn stored_layers(&self) -> io::Result<Vec<Digest>> {
        let mut layers = Vec::new();
        for entry in std::fs::read_dir(self.layers_dir())? {
            layers.extend(entry?.file_name().to_str().and_then(|hex| Digest::from_hex(hex).ok()));
        }
        Ok(layers)
    }

    /// Removes layers that no image and no snapshot uses. What an import or a pull is at work on has no record yet and may go: it looks
    /// again when it records its image.
    pub(crate) fn collect_layers(&self) -> Result<(), Error> {
        let _tmp = Lock::shared(self.root(), TMP)?;
        let layers = Lock::exclusive(self.root(), LAYERS)?;
        let used_by_images: HashSet<Digest> = self.list()?.iter().flat_map(|image| image.stack().cloned().collect::<Vec<_>>()).collect();
        let failed = |source| Error::CollectLayers { source };
        let Some(used_by_snapshots) = self.layers_of_snapshots()? else {
            return Ok(());
        };
        let mut moved = Vec::new();
        for layer in self.stored_layers().map_err(failed)? {
            if !used_by_images.contains(&layer) && !used_by_snapshots.contains(&layer) {
                moved.extend(self.move_to_tmp(&self.layer_dir(&layer)).map_err(failed)?);
            }
        }
        // Out of the way; removing them need not keep others from importing.
        drop(layers);
        moved.iter().try_for_each(|path| self.remove_tmp(path)).map_err(failed)
    }

    /// `None` if a snapshot does not say what it uses: then nothing can be known to be unused.
    fn layers_of_snapshots(&self) -> Result<Option<HashSet<Digest>>, Error> {
        let mut used = HashSet::new();
        for container_id in self.snapshots()? {
            let path = self.snapshot_dir(&container_id)?.join(SNAPSHOT_RECORD);
            match SnapshotFile::read(&path) {
                Ok(record) => used.extend(record.all_layers().cloned()),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => {}
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(used))
    }
}
