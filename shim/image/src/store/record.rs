//! Records: what the store knows about an image, a layer and a snapshot, one versioned JSON file each.
//!
//! A file is written beside its place, synced and renamed, so a reader sees the old one or the new one. An image's record
//! holds the configuration verbatim: its digest must be the image's ID, which shows damage.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::document::ImageConfig;
use crate::tree::Usage;

/// Version of all record formats.
const VERSION: u32 = 1;
const RECORD_LEN_MAX: u64 = 32 << 20;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Digest of the image's configuration.
    pub id: Digest,
    /// Normalised names with tags, `docker.io/library/busybox:latest`; may be empty.
    pub repo_tags: Vec<String>,
    /// Normalised names with digests, `docker.io/library/busybox@sha256:…`; may be empty.
    pub repo_digests: Vec<String>,
    /// Digest of the manifest it came from, if the source had one.
    pub manifest_digest: Option<Digest>,
    /// Configuration and unpacked layers, in bytes on disk; shared layers count for each image.
    pub size_bytes: u64,
    /// Diff IDs, lowest layer first.
    pub layers: Vec<Digest>,
    /// A layer of folders alone that goes on top of the others, if the image needs one.
    pub(crate) folders: Option<Digest>,
    /// What containers of this image inherit.
    pub config: ImageConfig,
    /// When the record last gained a name, in nanoseconds since the epoch; the later of two claims to a name counts.
    pub(crate) named_at_unix_nanos: u64,
}

impl ImageRecord {
    /// What containers stand on, lowest first: the layers, and the folders above them.
    pub(crate) fn stack(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().chain(&self.folders)
    }
}

/// The file behind an [`ImageRecord`].
#[derive(Serialize, Deserialize)]
pub(super) struct ImageFile {
    version: u32,
    pub(super) id: Digest,
    pub(super) repo_tags: Vec<String>,
    pub(super) repo_digests: Vec<String>,
    pub(super) manifest_digest: Option<Digest>,
    pub(super) size_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) folders: Option<Digest>,
    pub(super) named_at_unix_nanos: u64,
    /// The configuration as it came.
    pub(super) config: String,
}

impl ImageFile {
    pub(super) fn new(record: &ImageRecord, config: String) -> Self {
        Self {
            version: VERSION,
            id: record.id.clone(),
            repo_tags: record.repo_tags.clone(),
            repo_digests: record.repo_digests.clone(),
            manifest_digest: record.manifest_digest.clone(),
            size_bytes: record.size_bytes,
            folders: record.folders.clone(),
            named_at_unix_nanos: record.named_at_unix_nanos,
            config,
        }
    }

    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let file: Self = read_json(path)?;
        if Digest::of(file.config.as_bytes()) != file.id {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the record is not what it says it is"));
        }
        Ok(file)
    }

    pub(super) fn record(self) -> io::Result<ImageRecord> {
        let (config, layers) = ImageConfig::parse(self.config.as_bytes())?;
        Ok(ImageRecord {
            id: self.id,
            repo_tags: self.repo_tags,
            repo_digests: self.repo_digests,
            manifest_digest: self.manifest_digest,
            size_bytes: self.size_bytes,
            layers,
            folders: self.folders,
            config,
            named_at_unix_nanos: self.named_at_unix_nanos,
        })
    }
}

/// What is known about an unpacked layer, beside its tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayerFile {
    version: u32,
    pub(super) diff_id: Digest,
    pub(super) usage: Usage,
    /// The layer says how the root directory looks.
    pub(super) has_root_entry: bool,
    /// The layer hides all layers below it.
    pub(super) has_opaque_root: bool,
}

impl LayerFile {
    pub(super) fn new(diff_id: Digest, usage: Usage, has_root_entry: bool, has_opaque_root: bool) -> Self {
        Self { version: VERSION, diff_id, usage, has_root_entry, has_opaque_root }
    }

    pub(super) fn read(path: &Path, diff_id: &Digest) -> io::Result<Self> {
        let file: Self = read_json(path)?;
        if file.diff_id != *diff_id {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the record is not what it says it is"));
        }
        Ok(file)
    }
}

/// Which layers a container's snapshot stands on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotFile {
    version: u32,
    pub(super) image: Digest,
    /// The image's stack, lowest layer first.
    pub(super) layers: Vec<Digest>,
    /// Images that the container mounts beside its own, in the order asked for.
    #[serde(default)]
    pub(super) volumes: Vec<VolumeImage>,
}

/// An image that a container mounts as a volume.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VolumeImage {
    pub(super) image: Digest,
    /// The image's stack, lowest layer first.
    pub(super) layers: Vec<Digest>,
}

impl SnapshotFile {
    pub(super) fn new(image: &ImageRecord, volumes: &[Arc<ImageRecord>]) -> Self {
        let stack = |image: &ImageRecord| image.stack().cloned().collect();
        let volume = |image: &Arc<ImageRecord>| VolumeImage { image: image.id.clone(), layers: stack(image) };
        Self { version: VERSION, image: image.id.clone(), layers: stack(image), volumes: volumes.iter().map(volume).collect() }
    }

    /// The images that it keeps layers of.
    pub(super) fn images(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.image).chain(self.volumes.iter().map(|volume| &volume.image))
    }

    /// Every layer that it stands on.
    pub(super) fn all_layers(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().chain(self.volumes.iter().flat_map(|volume| &volume.layers))
    }

    pub(super) fn read(path: &Path) -> io::Result<Self> {
        read_json(path)
    }
}

/// Writes a record into a directory that is itself renamed into place later; it needs no care of its own.
pub(super) fn write_json(path: &Path, record: &impl Serialize) -> io::Result<()> {
    File::options().write(true).create_new(true).open(path)?.write_all(&serde_json::to_vec(record)?)
}

/// Replaces a record for good: old or new, never half, also after a power failure. `staging` is on the same file system.
pub(super) fn replace_json(path: &Path, staging: &Path, record: &impl Serialize) -> io::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).open(staging)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        std::fs::rename(staging, path)
    };
    if let Err(error) = write() {
        // Half of it takes room on a disk that may be full.
        let _ = std::fs::remove_file(staging);
        return Err(error);
    }
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether a record could not be read because of what is in it, or since what it names is gone: it will not be better the next
/// time. Everything else, a failing disk or another version of podbox, says nothing about the record.
pub(super) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(error.kind(), E::InvalidData | E::UnexpectedEof | E::FileTooLarge | E::NotFound)
}

/// A record of another version of podbox.
#[derive(Debug, thiserror::Error)]
#[error("written by another version of podbox: the record's version is {version}, this podbox reads {VERSION}")]
struct OtherVersion {
    version: u32,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    if std::fs::metadata(path)?.len() > RECORD_LEN_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let bytes = std::fs::read(path)?;
    // First of all: what else is in a record of another version is not for this one to judge.
    let Versioned { version } = serde_json::from_slice(&bytes)?;
    if version != VERSION {
        return Err(io::Error::new(io::ErrorKind::Unsupported, OtherVersion { version }));
    }
    Ok(serde_json::from_slice(&bytes)?)
}
