//! Snapshots: a container's own upper and work directory on top of an image's layers.
//!
//! A snapshot appears whole, by a rename, and disappears the same way; what is renamed away is removed afterwards. Its
//! record keeps the layers it stands on from being collected when the image is removed. Nothing is mounted here: the
//! container's overlay exists only in its own mount namespace.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::lock::{LAYERS, Lock, TMP};
use super::record::{ImageRecord, SnapshotFile, write_json};
use super::{EMPTY, EMPTY_BELOW, ImageStore, SNAPSHOT_RECORD, UPPER, WORK};
use crate::Error;
use crate::digest::Digest;
use crate::tree;

const CONTAINER_ID_LEN_MAX: usize = 200;

/// The directories of a container's overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Lower directories, top-most first; never empty.
    pub lower_dirs: Vec<PathBuf>,
    /// The upper directory, where the container's changes go.
    pub upper: PathBuf,
    /// overlayfs's work directory, on the same file system as `upper`.
    pub work: PathBuf,
    /// The layers of each image that the container mounts as a volume, top-most first, in the order asked for. At least two each, since
    /// overlayfs wants that many where nothing is written.
    pub volumes: Vec<Vec<PathBuf>>,
}

/// A snapshot on its way out.
#[derive(Debug)]
pub struct TakenSnapshot {
    container_id: String,
    moved: PathBuf,
    images: Vec<Digest>,
}

impl ImageStore {
    /// Makes the snapshot of a new container that mounts no other image.
    ///
    /// # Errors
    /// As [`create_snapshot_with`](Self::create_snapshot_with).
    pub fn create_snapshot(&self, container_id: &str, image: &ImageRecord) -> Result<Snapshot, Error> {
        self.create_snapshot_with(container_id, image, &[])
    }

    /// Makes the snapshot of a new container that mounts the images of `volumes` as well: their layers stay as long as it does. If the
    /// container has one of these images already, that one is returned.
    ///
    /// # Errors
    /// [`Error::MissingLayer`] if an image was removed meanwhile; [`Error::SnapshotExists`] if the container has a
    /// snapshot of other images.
    pub fn create_snapshot_with(&self, container_id: &str, image: &ImageRecord, volumes: &[Arc<ImageRecord>]) -> Result<Snapshot, Error> {
        let place = self.snapshot_dir(container_id)?;
        let _tmp = Lock::shared(self.root(), TMP)?;
        let _layers = Lock::shared(self.root(), LAYERS)?;
        let failed = |source| Error::CreateSnapshot { container_id: container_id.to_owned(), source };
        let record = SnapshotFile::new(image, volumes);
        let (mut snapshot, root_like) = self.stands_on(&place, &record)?;
        let staging = self.make_tmp("snapshot").map_err(failed)?;
        let result =
            fill(&staging, &record, &root_like).and_then(|()| Ok(renameat_with(CWD, &staging, CWD, &place, RenameFlags::NOREPLACE)?));
        if let Err(error) = result {
            self.discard_tmp(&staging);
            if error.raw_os_error() != Some(Errno::EXIST.raw_os_error()) {
                return Err(failed(error));
            }
            let there = SnapshotFile::read(&place.join(SNAPSHOT_RECORD)).map_err(failed)?;
            if !there.images().eq(record.images()) {
                return Err(Error::SnapshotExists { container_id: container_id.to_owned() });
            }
            // What it stands on is kept for it, whatever the images have come to stand on since.
            (snapshot, _) = self.stands_on(&place, &there)?;
        }
        Ok(snapshot)
    }

    /// The snapshot that a container has, whether or not its image still exists.
    ///
    /// # Errors
    /// If its record cannot be read, or [`Error::MissingLayer`] if a layer it stands on is damaged.
    pub fn snapshot(&self, container_id: &str) -> Result<Option<Snapshot>, Error> {
        let place = self.snapshot_dir(container_id)?;
        let record = match SnapshotFile::read(&place.join(SNAPSHOT_RECORD)) {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::ReadSnapshot { container_id: container_id.to_owned(), source }),
        };
        Ok(Some(self.stands_on(&place, &record)?.0))
    }

    /// The directories of a snapshot at `place`, and the one whose owner and mode its root takes.
    fn stands_on(&self, place: &Path, record: &SnapshotFile) -> Result<(Snapshot, PathBuf), Error> {
        let (lower_dirs, root_like) = self.lower_dirs(&record.image, &record.layers)?;
        let mut volumes = Vec::with_capacity(record.volumes.len());
        for volume in &record.volumes {
            let (mut layers, _) = self.lower_dirs(&volume.image, &volume.layers)?;
            if layers.len() == 1 {
                layers.push(self.root().join(EMPTY_BELOW));
            }
            volumes.push(layers);
        }
        Ok((Snapshot { lower_dirs, upper: place.join(UPPER), work: place.join(WORK), volumes }, root_like))
    }

    /// Removes a container's snapshot; its absence is success. Layers that nothing else uses any more go with it.
    ///
    /// # Errors
    /// As [`take_snapshot_away`](Self::take_snapshot_away) and [`finish_removal`](Self::finish_removal).
    pub fn remove_snapshot(&self, container_id: &str) -> Result<(), Error> {
        match self.take_snapshot_away(container_id)? {
            Some(taken) => self.finish_removal(taken),
            None => Ok(()),
        }
    }

    /// The quick half of a removal: the container has no snapshot any more. What is left of it is in the way of nobody, and is
    /// collected when the store is opened next, if [`finish_removal`](Self::finish_removal) does not come to it.
    ///
    /// # Errors
    /// It cannot be moved away, and stands as it stood.
    pub fn take_snapshot_away(&self, container_id: &str) -> Result<Option<TakenSnapshot>, Error> {
        let place = self.snapshot_dir(container_id)?;
        let record = SnapshotFile::read(&place.join(SNAPSHOT_RECORD));
        let _tmp = Lock::shared(self.root(), TMP)?;
        let moved = self.move_to_tmp(&place);
        let moved = moved.map_err(|source| Error::RemoveSnapshot { container_id: container_id.to_owned(), source })?;
        // What a damaged record stood on is not known: then nothing of it is in use any more, and all is looked through.
        let images = record.map(|record| record.images().cloned().collect()).unwrap_or_default();
        Ok(moved.map(|moved| TakenSnapshot { container_id: container_id.to_owned(), moved, images }))
    }

    /// The slow half: removes the files, and the layers that nothing else uses any more.
    ///
    /// # Errors
    /// If something in it cannot be removed, for instance because it is still mounted; what is left is collected when the store
    /// is opened next.
    pub fn finish_removal(&self, taken: TakenSnapshot) -> Result<(), Error> {
        let tmp = Lock::shared(self.root(), TMP)?;
        let removed = match self.remove_tmp(&taken.moved) {
            // Another process opened the store meanwhile, and collected it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| Error::RemoveSnapshot { container_id: taken.container_id, source }),
        };
        drop(tmp);
        let mut all_are_images = !taken.images.is_empty();
        for image in &taken.images {
            all_are_images &= self.is_image(image)?;
        }
        if !all_are_images {
            self.collect_layers()?;
        }
        removed
    }

    /// The IDs of all containers that have a snapshot. What else is there, a file system's `lost+found`, is none of ours.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn snapshots(&self) -> Result<Vec<String>, Error> {
        let path = self.containers_dir();
        let list = || -> io::Result<Vec<String>> {
            let mut ids = Vec::new();
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                let id = entry.file_name().into_string().ok().filter(|name| is_container_id(name));
                if let Some(id) = id
                    && entry.file_type()?.is_dir()
                {
                    ids.push(id);
                }
            }
            Ok(ids)
        };
        list().map_err(|source| Error::ListSnapshots { path: path.clone(), source })
    }

    /// The image's layers as lower directories, and the directory whose owner and mode the root takes.
    fn lower_dirs(&self, image: &Digest, layers: &[Digest]) -> Result<(Vec<PathBuf>, PathBuf), Error> {
        let mut lower_dirs = Vec::with_capacity(layers.len().max(1));
        let mut root_like = None;
        for diff_id in layers.iter().rev() {
            let record = self.layer_record(diff_id).map_err(|_| Error::MissingLayer { image: image.clone(), diff_id: diff_id.clone() })?;
            let directory = self.layer_dir(diff_id).join(UPPER);
            if record.has_root_entry {
                root_like.get_or_insert_with(|| directory.clone());
            }
            // A layer listed twice would make overlayfs refuse the mount, and adds nothing.
            if !lower_dirs.contains(&directory) {
                lower_dirs.push(directory);
            }
            if record.has_opaque_root {
                break;
            }
        }
        if lower_dirs.is_empty() {
            lower_dirs.push(self.root().join(EMPTY));
        }
        let root_like = root_like.unwrap_or_else(|| lower_dirs[0].clone());
        Ok((lower_dirs, root_like))
    }

    pub(super) fn snapshot_dir(&self, container_id: &str) -> Result<PathBuf, Error> {
        if !is_container_id(container_id) {
            return Err(Error::ContainerId { container_id: container_id.to_owned() });
        }
        Ok(self.containers_dir().join(container_id))
    }
}

fn is_container_id(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=CONTAINER_ID_LEN_MAX).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.')
}

/// Makes what is in a snapshot. The upper directory is what the container sees as `/`, so it looks like the image's.
fn fill(staging: &Path, record: &SnapshotFile, root_like: &Path) -> io::Result<()> {
    write_json(&staging.join(SNAPSHOT_RECORD), record)?;
    let upper = staging.join(UPPER);
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(staging.join(WORK))?;
    let like = std::fs::symlink_metadata(root_like)?;
    let upper = tree::open_directory(&upper)?;
    std::os::unix::fs::fchown(upper.as_fd(), Some(like.uid()), Some(like.gid()))?;
    let mode = rustix::fs::Mode::from_raw_mode(like.permissions().mode() & 0o7777);
    Ok(rustix::fs::fchmod(&upper, mode)?)
}
