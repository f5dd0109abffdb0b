//! The store of images on disk, shared by all processes that open the same root directory.
//!
//! ```text
//! images/<hex of the image ID>.json   an image: names, configuration (see record)
//! layers/<hex of the diff ID>/fs      an unpacked layer, an overlayfs lower directory; layer.json beside it, and implied.json (see
//!                                     folders, which makes layers of its own too, named by a digest of what is in them)
//! containers/<container ID>/fs, work  a container's upper and work directory; snapshot.json beside them
//! tmp/                                work in progress; everything here may be deleted when nobody holds tmp.lock
//! empty/                              the lower directory of an image without layers
//! empty-below/                        the second lower directory of a volume whose image has fewer than two layers
//! *.lock                              see lock
//! ```
//!
//! What holds at every instant, also after `kill -9`:
//!
//! - What is under its final name is whole and was verified; it got there by a rename.
//! - A record names only layers that are there; layers are put in place before the record and removed after it.
//! - A damaged record is renamed aside. It costs one image, never the store. One of another version, or that cannot be read, is
//!   an error of whoever looks, and nothing is collected.
//!
//! Images come by [`ImageStore::import`] or from a registry ([`crate::Puller`]); layers of both go the same way.

mod folders;
mod index;
mod layers;
mod lock;
pub(crate) mod pulled;
pub(crate) mod record;
pub(crate) mod snapshot;
pub(crate) mod usage;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::archive::Source;
use crate::digest::{Digest, is_hex};
use crate::document::PlannedImage;
use crate::import::{self, PlanOptions, Progress};
use crate::reference::Reference;
use crate::unpack::Limits;
use crate::{Error, tree};
use index::Index;
use layers::StagedLayers;
use lock::{IMAGES, LAYERS, Lock, TMP};
use record::{ImageFile, ImageRecord, replace_json};

/// The registry of names that have none.
pub const DEFAULT_REGISTRY: &str = "docker.io";

const UPPER: &str = "fs";
const WORK: &str = "work";
const EMPTY: &str = "empty";
/// Another one, since overlayfs takes none twice.
const EMPTY_BELOW: &str = "empty-below";
const LAYER_RECORD: &str = "layer.json";
const SNAPSHOT_RECORD: &str = "snapshot.json";
/// How often the record of an image is tried whose layers are taken away at that moment, by removals of other images.
pub(crate) const RECORD_ATTEMPTS_MAX: u32 = 5;
/// Shorter prefixes of an image ID are not looked up.
const ID_PREFIX_LEN_MIN: usize = 4;

static TMP_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Choices that do not change while the store is open.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The registry of names that have none.
    pub default_registry: String,
    /// What an import accepts.
    pub limits: Limits,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { default_registry: DEFAULT_REGISTRY.to_owned(), limits: Limits::default() }
    }
}

/// The store of images below one root directory.
pub struct ImageStore {
    root: PathBuf,
    /// `tmp/`, for removals.
    scratch: OwnedFd,
    options: StoreOptions,
    index: Mutex<Index>,
}

impl ImageStore {
    /// Opens the store at `root`, with default options. Makes its directories (mode 0700), removes what a crash left in
    /// `tmp/`, and puts damaged records aside.
    ///
    /// # Errors
    /// If the directories cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, Error> {
        Self::open_with(root, StoreOptions::default())
    }

    /// Opens the store with the options given.
    ///
    /// # Errors
    /// As [`ImageStore::open`].
    pub fn open_with(root: &Path, options: StoreOptions) -> Result<Self, Error> {
        let make = |path: &Path| {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::OpenStore { path: path.to_owned(), source })
        };
        for name in ["images", "layers", "containers", "tmp", EMPTY, EMPTY_BELOW] {
            make(&root.join(name))?;
        }
        let root = std::path::absolute(root).map_err(|source| Error::OpenStore { path: root.to_owned(), source })?;
        let tmp = root.join("tmp");
        let scratch = tree::open_directory(&tmp).map_err(|source| Error::OpenStore { path: tmp, source })?;
        let store = Self { root, scratch, options, index: Mutex::new(Index::default()) };
        store.collect_tmp()?;
        store.collect_layers()?;
        Ok(store)
    }

    /// The directory the store is in, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Imports the image archive or OCI layout directory at `source`. With `name`, the one image in it gets that name
    /// instead of those the archive gives.
    ///
    /// Importing what is there already changes nothing; a name moves here from the image that had it.
    ///
    /// # Errors
    /// Names the object and the step that failed. Nothing of the failed import stays.
    pub fn import(&self, source: &Path, name: Option<&Reference>) -> Result<Vec<Arc<ImageRecord>>, Error> {
        self.import_observed(source, name, &mut |_| {})
    }

    /// [`ImageStore::import`] that tells `observe` what it is doing.
    ///
    /// # Errors
    /// As [`ImageStore::import`].
    pub fn import_observed(
        &self,
        source: &Path,
        name: Option<&Reference>,
        observe: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Arc<ImageRecord>>, Error> {
        let _tmp = Lock::shared(&self.root, TMP)?;
        let limits = &self.options.limits;
        let archive = Source::open(source, &self.root.join("tmp"), limits)?;
        let options = PlanOptions { default_registry: &self.options.default_registry, limits };
        let images = import::plan(&archive, source, name, &options)?;
        let mut staged = StagedLayers::new(self);
        for image in &images {
            observe(Progress::Image {
                id: image.id.clone(),
                names: image.names.iter().map(Reference::to_string).collect(),
                layers: image.layers.len(),
            });
        }
        // Once more if a layer that was there is collected meanwhile.
        for _ in 1..RECORD_ATTEMPTS_MAX {
            self.stage_all(&mut staged, &archive, &images, observe)?;
            match self.install_and_record(&mut staged, &images) {
                Err(Error::MissingLayer { .. }) => {}
                outcome => return outcome,
            }
        }
        self.stage_all(&mut staged, &archive, &images, observe)?;
        self.install_and_record(&mut staged, &images)
    }

    fn stage_all(
        &self,
        staged: &mut StagedLayers<'_>,
        archive: &Source,
        images: &[PlannedImage],
        observe: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        images.iter().flat_map(|image| &image.layers).try_for_each(|layer| staged.stage(archive, layer, observe))?;
        staged.sync()
    }

    fn install_and_record(&self, staged: &mut StagedLayers<'_>, images: &[PlannedImage]) -> Result<Vec<Arc<ImageRecord>>, Error> {
        self.with_layers_kept(|| {
            // Before anything is put in place: what is staged is then there for another attempt.
            for image in images {
                if let Some(layer) = image.layers.iter().find(|layer| !staged.has(&layer.diff_id)) {
                    return Err(Error::MissingLayer { image: image.id.clone(), diff_id: layer.diff_id.clone() });
                }
            }
            staged.install()?;
            images.iter().map(|image| self.record(image.clone())).collect()
        })
    }

    /// Puts layers in place and records what uses them, while nothing is collected. Where that fails, layers that nothing uses are
    /// collected afterwards.
    fn with_layers_kept<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let outcome = {
            let _layers = Lock::shared(&self.root, LAYERS)?;
            work()
        };
        if outcome.is_err() {
            // The failure matters more than this one.
            let _ = self.collect_layers();
        }
        outcome
    }

    /// All images, ordered by ID.
    ///
    /// # Errors
    /// If the records cannot be listed.
    pub fn list(&self) -> Result<Vec<Arc<ImageRecord>>, Error> {
        Ok(self.index()?.images().cloned().collect())
    }

    /// The image that `reference` means: an ID (`sha256:…` or bare), a name, a name with a digest, or an unambiguous
    /// prefix of an ID of at least four digits. A name goes before a prefix.
    ///
    /// # Errors
    /// [`Error::AmbiguousId`] if a prefix fits several images; [`Error::Reference`] if it is none of these.
    pub fn find(&self, reference: &str) -> Result<Option<Arc<ImageRecord>>, Error> {
        let index = self.index()?;
        self.find_in(&index, reference)
    }

    /// Removes the image that `reference` means, with all its names, and the layers that nothing else uses. Its absence is
    /// success. Containers made from it keep their layers until their snapshots are removed.
    ///
    /// # Errors
    /// As [`ImageStore::find`], or if the record or layers cannot be removed.
    pub fn remove(&self, reference: &str) -> Result<Option<Arc<ImageRecord>>, Error> {
        let removed = {
            let lock = Lock::exclusive(&self.root, IMAGES)?;
            let found = self.find_in(&*self.index_locked(&lock)?, reference)?;
            let Some(image) = found else { return Ok(None) };
            // What a crash left them would come back to them otherwise.
            let others: Vec<_> = self.index_locked(&lock)?.images().filter(|other| other.id != image.id).cloned().collect();
            self.take_tags(&others, &image.repo_tags);
            let remove = || {
                std::fs::remove_file(self.image_path(&image.id))?;
                File::open(self.images_dir())?.sync_all()
            };
            remove().map_err(|source| Error::RemoveRecord { id: image.id.clone(), source })?;
            drop(self.index_locked(&lock)?);
            image
        };
        self.collect_layers()?;
        Ok(Some(removed))
    }

    /// The image's configuration exactly as its builder wrote it; `None` if the image is gone.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn config_json(&self, id: &Digest) -> Result<Option<String>, Error> {
        let path = self.image_path(id);
        match ImageFile::read(&path) {
            Ok(file) => Ok(Some(file.config)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::ReadRecords { path, source }),
        }
    }

    fn find_in(&self, index: &Index, reference: &str) -> Result<Option<Arc<ImageRecord>>, Error> {
        let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
        if let Ok(id) = Digest::from_hex(hex) {
            return Ok(index.by_id(&id).cloned());
        }
        let is_prefix = is_hex(hex) && (ID_PREFIX_LEN_MIN..64).contains(&hex.len());
        let is_marked = hex.len() != reference.len();
        let parsed = Reference::parse(reference, &self.options.default_registry);
        if !(is_marked && is_prefix) {
            match parsed {
                Ok(name) => {
                    if let Some(image) = find_name(index, &name) {
                        return Ok(Some(image));
                    }
                }
                Err(_) if is_prefix => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !is_prefix {
            return Ok(None);
        }
        let mut matches = index.by_hex_prefix(hex);
        let first = matches.next().cloned();
        match matches.count() {
            0 => Ok(first),
            more => Err(Error::AmbiguousId { prefix: reference.to_owned(), matches: more + 1 }),
        }
    }

    /// Writes the record of an image whose layers are in place, and takes its names from other images.
    fn record(&self, image: PlannedImage) -> Result<Arc<ImageRecord>, Error> {
        let folders = self.make_folders(&image)?;
        let lock = Lock::exclusive(&self.root, IMAGES)?;
        let id = image.id.clone();
        // The lock keeps others from writing; who looks something up does not wait for the disk.
        let others: Vec<Arc<ImageRecord>> = self.index_locked(&lock)?.images().cloned().collect();
        let (record, file) = self.new_record(image, folders, others.iter().find(|other| other.id == id))?;
        let is_loser = |other: &Arc<ImageRecord>| other.id != id && other.repo_tags.iter().any(|tag| record.repo_tags.contains(tag));
        let losers: Vec<_> = others.into_iter().filter(is_loser).collect();
        self.write_record(&id, &file)?;
        self.take_tags(&losers, &record.repo_tags);
        self.index_locked(&lock)?.by_id(&id).cloned().ok_or_else(|| Error::WriteRecord { id, source: io::ErrorKind::NotFound.into() })
    }

    /// Takes tags away from the records of images. Where one cannot be written, the later claim counts whenever records are read, and
    /// [`ImageStore::remove`] comes here again before that claim goes.
    fn take_tags(&self, losers: &[Arc<ImageRecord>], tags: &[String]) {
        for loser in losers {
            let rewritten = ImageFile::read(&self.image_path(&loser.id))
                .map_err(|source| Error::ReadRecords { path: self.image_path(&loser.id), source });
            let rewritten = rewritten.and_then(|mut file| {
                let claims = file.repo_tags.len();
                file.repo_tags.retain(|tag| !tags.contains(tag));
                if file.repo_tags.len() == claims { Ok(()) } else { self.write_record(&loser.id, &file) }
            });
            if let Err(error) = rewritten {
                tracing::warn!(image = %loser.id, error = &error as &dyn std::error::Error, "the record still has a tag that another image has now");
            }
        }
    }

    fn new_record(
        &self,
        image: PlannedImage,
        folders: Option<Digest>,
        known: Option<&Arc<ImageRecord>>,
    ) -> Result<(ImageRecord, ImageFile), Error> {
        let mut repo_tags = known.map(|known| known.repo_tags.clone()).unwrap_or_default();
        let mut repo_digests = known.map(|known| known.repo_digests.clone()).unwrap_or_default();
        for name in &image.names {
            let repo_digest = image.target_digest.as_ref().map(|digest| name.repo_digest(digest));
            repo_tags.extend(name.repo_tag().filter(|tag| !repo_tags.contains(tag)));
            repo_digests.extend(repo_digest.filter(|digest| !repo_digests.contains(digest)));
        }
        let mut size_bytes = image.config_json.len() as u64;
        let diff_ids: Vec<Digest> = image.layers.into_iter().map(|layer| layer.diff_id).collect();
        for diff_id in &diff_ids {
            let layer =
                self.layer_record(diff_id).map_err(|_| Error::MissingLayer { image: image.id.clone(), diff_id: diff_id.clone() })?;
            size_bytes += layer.usage.bytes;
        }
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let record = ImageRecord {
            id: image.id,
            repo_tags,
            repo_digests,
            manifest_digest: image.manifest_digest.or_else(|| known.and_then(|known| known.manifest_digest.clone())),
            size_bytes,
            layers: diff_ids,
            folders,
            config: image.config,
            named_at_unix_nanos: u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX),
        };
        let file = ImageFile::new(&record, image.config_json);
        Ok((record, file))
    }

    fn write_record(&self, id: &Digest, file: &ImageFile) -> Result<(), Error> {
        // The lock on image records makes this staging name ours alone.
        let staging = self.root.join("tmp").join(format!("record-{}", id.hex()));
        replace_json(&self.image_path(id), &staging, file).map_err(|source| Error::WriteRecord { id: id.clone(), source })
    }

    fn is_image(&self, id: &Digest) -> Result<bool, Error> {
        Ok(self.index()?.by_id(id).is_some())
    }

    /// The index, up to date.
    fn index(&self) -> Result<MutexGuard<'_, Index>, Error> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if self.refresh(&mut index, None)? {
            return Ok(index);
        }
        // The order of locks: the records' before the index's.
        drop(index);
        let lock = Lock::exclusive(&self.root, IMAGES)?;
        self.index_locked(&lock)
    }

    fn index_locked(&self, lock: &Lock) -> Result<MutexGuard<'_, Index>, Error> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut index, Some(lock))?;
        Ok(index)
    }

    /// Brings the index up to date. With the lock on records, damaged ones are put aside; without it, `false` says that
    /// there are some.
    fn refresh(&self, index: &mut Index, lock: Option<&Lock>) -> Result<bool, Error> {
        let failed = |source| Error::ReadRecords { path: self.images_dir(), source };
        let damaged = index.refresh(&self.images_dir(), &self.layers_dir())?;
        if lock.is_some() {
            for path in &damaged {
                quarantine(path).map_err(failed)?;
            }
        }
        Ok(damaged.is_empty() || lock.is_some())
    }

    /// Removes everything in `tmp/`, unless somebody is at work there.
    fn collect_tmp(&self) -> Result<(), Error> {
        let Some(_lock) = Lock::try_exclusive(&self.root, TMP)? else {
            return Ok(());
        };
        let path = self.root.join("tmp");
        let failed = |source| Error::OpenStore { path: path.clone(), source };
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // It is in nobody's way, and the next start tries again.
            if let Err(error) = tree::remove(self.scratch.as_fd(), self.scratch.as_fd(), &name) {
                tracing::warn!(path = %path.join(&name).display(), %error, "what is left of interrupted work stays");
            }
        }
        Ok(())
    }

    /// A new directory in `tmp/`, mode 0700.
    fn make_tmp(&self, purpose: &str) -> io::Result<PathBuf> {
        loop {
            let path = self.tmp_name(purpose);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves what is at `path` to `tmp/`, at once and whole; `None` if there is nothing.
    fn move_to_tmp(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        loop {
            let target = self.tmp_name("removed");
            match renameat_with(CWD, path, CWD, &target, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(Some(target)),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn tmp_name(&self, purpose: &str) -> PathBuf {
        let number = TMP_NUMBER.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(format!("{purpose}-{}-{number}", std::process::id()))
    }

    /// Removes something in `tmp/`.
    fn remove_tmp(&self, path: &Path) -> io::Result<()> {
        match path.file_name() {
            Some(name) => tree::remove(self.scratch.as_fd(), self.scratch.as_fd(), name),
            None => Ok(()),
        }
    }

    /// Removes something in `tmp/` on the way out of a failure, which matters more than this one.
    fn discard_tmp(&self, path: &Path) {
        if let Err(error) = self.remove_tmp(path) {
            tracing::warn!(path = %path.display(), %error, "what is left of a failure stays until the store is opened next");
        }
    }

    fn images_dir(&self) -> PathBuf {
        self.root.join("images")
    }

    fn image_path(&self, id: &Digest) -> PathBuf {
        self.images_dir().join(format!("{}.json", id.hex()))
    }

    fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.layers_dir().join(diff_id.hex())
    }

    fn containers_dir(&self) -> PathBuf {
        self.root.join("containers")
    }
}

/// The image with this name; with a digest, the tag does not matter.
fn find_name(index: &Index, name: &Reference) -> Option<Arc<ImageRecord>> {
    let Some(digest) = name.digest() else {
        return index.by_name(&name.repo_tag()?).cloned();
    };
    index.by_name(&name.repo_digest(digest)).cloned().or_else(|| {
        // The name may stand for an index; the manifest for this machine is as good.
        let prefix = format!("{}:", name.name());
        let same_name = |image: &&Arc<ImageRecord>| image.repo_tags.iter().any(|tag| tag.starts_with(&prefix));
        index.images().find(|image| image.manifest_digest.as_ref() == Some(digest) && same_name(image)).cloned()
    })
}

/// Renames a damaged record so that it is kept for inspection but never read again.
fn quarantine(path: &Path) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    match std::fs::rename(path, aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
