//! What can go wrong with the store and with imports. Each variant names the operation and the object it failed on.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::reference::{Reference, ReferenceError};
use crate::tarstream::TarError;
use crate::unpack::UnpackError;

/// A failed operation of the image store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's directories could not be made or opened.
    #[error("open the image store at {path}", path = path.display())]
    OpenStore {
        /// The directory at fault.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One of the store's lock files could not be locked.
    #[error("lock {path}", path = path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store's records could not be listed or read.
    #[error("read the image records in {path}", path = path.display())]
    ReadRecords {
        /// The directory or file at fault.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record of an image could not be written.
    #[error("write the record of image {id}")]
    WriteRecord {
        /// The image.
        id: Digest,
        /// Why.
        source: io::Error,
    },
    /// The record of an image could not be removed.
    #[error("remove the record of image {id}")]
    RemoveRecord {
        /// The image.
        id: Digest,
        /// Why.
        source: io::Error,
    },
    /// A name is malformed.
    #[error("parse an image name")]
    Reference(#[from] ReferenceError),
    /// A prefix of an image ID fits several images.
    #[error("image ID prefix {prefix:?} is ambiguous: it fits {matches} images")]
    AmbiguousId {
        /// The prefix.
        prefix: String,
        /// How many images it fits.
        matches: usize,
    },
    /// The file or directory to import could not be opened.
    #[error("open {path} for import", path = path.display())]
    OpenSource {
        /// What was to be imported.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A compressed or piped archive could not be copied into the store's temporary directory.
    #[error("copy {path} for import", path = path.display())]
    CopySource {
        /// What was to be imported.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive is not a whole tar archive.
    #[error("read the archive {path}", path = path.display())]
    ReadArchive {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: TarError,
    },
    /// The archive has more members than an image archive has any use for.
    #[error("archive {path} has more than {limit} members", path = path.display())]
    TooManyMembers {
        /// The archive.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// Neither `index.json` nor `manifest.json` is there.
    #[error("{path} is neither an OCI image layout nor a docker archive", path = path.display())]
    UnknownFormat {
        /// What was to be imported.
        path: PathBuf,
    },
    /// The `oci-layout` file names a version that is not known.
    #[error("OCI image layout version \"{version}\" is not supported")]
    LayoutVersion {
        /// The version it names, an excerpt.
        version: String,
    },
    /// An object that a manifest names is not in the source.
    #[error("{object} is missing")]
    MissingObject {
        /// Its name in the source.
        object: String,
    },
    /// An object could not be read.
    #[error("read {object}")]
    ReadObject {
        /// Its name in the source.
        object: String,
        /// Why.
        source: io::Error,
    },
    /// A document is larger than allowed.
    #[error("{object} of {size_bytes} bytes exceeds the limit of {limit_bytes}")]
    ObjectTooLarge {
        /// Its name in the source.
        object: String,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// An object's size is not the one its descriptor gives.
    #[error("{object} has {actual_bytes} bytes, its descriptor says {expected_bytes}")]
    SizeMismatch {
        /// Its name in the source.
        object: String,
        /// What the descriptor says.
        expected_bytes: u64,
        /// What it is.
        actual_bytes: u64,
    },
    /// An object's content is not what its digest promises.
    #[error("{object} has digest {actual}, expected {expected}")]
    DigestMismatch {
        /// Its name in the source.
        object: String,
        /// What was promised.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A layer's uncompressed content is not what the image configuration promises.
    #[error("layer {object} unpacks to diff ID {actual}, the configuration says {expected}")]
    DiffIdMismatch {
        /// Its name in the source.
        object: String,
        /// What was promised.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A document is not the JSON it should be.
    #[error("parse {object}")]
    Json {
        /// Its name in the source.
        object: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document claims to be an index and a manifest at once.
    #[error("{object} has both manifests and layers; it could be read two ways")]
    AmbiguousDocument {
        /// Its name in the source.
        object: String,
    },
    /// A media type that is not one of an image's.
    #[error("{object} has media type \"{media_type}\", which is not supported")]
    MediaType {
        /// Its name in the source.
        object: String,
        /// The media type, an excerpt.
        media_type: String,
    },
    /// An index refers to indexes too deeply.
    #[error("{object} is an index nested too deeply")]
    NestedIndex {
        /// Its name in the source.
        object: String,
    },
    /// No image for this machine.
    #[error("{object} has no image for {os}/{architecture}")]
    NoPlatform {
        /// The index.
        object: String,
        /// This operating system.
        os: &'static str,
        /// This architecture, in Go's terms.
        architecture: &'static str,
    },
    /// The image's configuration says that it is for another machine.
    #[error("image {id} is for {said}, this machine is {os}/{architecture}")]
    OtherPlatform {
        /// The image.
        id: Digest,
        /// What it is for, as it says.
        said: String,
        /// This operating system.
        os: &'static str,
        /// This architecture, in Go's terms.
        architecture: &'static str,
    },
    /// More manifests or images than allowed.
    #[error("{object} lists more than {limit} manifests")]
    TooManyManifests {
        /// Its name in the source.
        object: String,
        /// The limit.
        limit: usize,
    },
    /// More layers than allowed.
    #[error("image {id} has {layers} layers, more than {limit}")]
    TooManyLayers {
        /// The image.
        id: Digest,
        /// How many it has.
        layers: usize,
        /// The limit.
        limit: usize,
    },
    /// Manifest and configuration disagree on the number of layers.
    #[error("image {id} has {layers} layers in its manifest and {diff_ids} in its configuration")]
    LayerCount {
        /// The image.
        id: Digest,
        /// Layers in the manifest.
        layers: usize,
        /// Layers in the configuration.
        diff_ids: usize,
    },
    /// One name was given for several images.
    #[error("{name} cannot name the {images} images of one archive")]
    NameForSeveral {
        /// The name given.
        name: Reference,
        /// How many images there are.
        images: usize,
    },
    /// The digest in the name given is not that of the manifest.
    #[error("{name} does not name this image: its manifest is {manifest}", manifest = manifest.as_ref().map_or("unknown", Digest::as_str))]
    NameDigest {
        /// The name given.
        name: Reference,
        /// The digest of the manifest, if the archive has one.
        manifest: Option<Digest>,
    },
    /// A layer could not be unpacked.
    #[error("unpack layer {object} (diff ID {diff_id})")]
    Unpack {
        /// Its name in the source.
        object: String,
        /// Its diff ID.
        diff_id: Digest,
        /// Why.
        #[source]
        source: Box<UnpackError>,
    },
    /// The directories of a layer could not be made, measured or put in place.
    #[error("store layer {diff_id}")]
    StoreLayer {
        /// Its diff ID.
        diff_id: Digest,
        /// Why.
        source: io::Error,
    },
    /// The folders that an image's layers share could not be looked at or made.
    #[error("make the folders of image {image}")]
    Folders {
        /// The image.
        image: Digest,
        /// Why.
        source: io::Error,
    },
    /// What was unpacked could not be written to disk for good.
    #[error("write unpacked layers to disk")]
    Sync {
        /// Why.
        source: io::Error,
    },
    /// Unused layers could not be removed.
    #[error("collect unused layers")]
    CollectLayers {
        /// Why.
        source: io::Error,
    },
    /// Disk usage could not be measured.
    #[error("measure the disk usage of {path}", path = path.display())]
    Usage {
        /// The tree at fault.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An image's layer is no longer in the store.
    #[error("layer {diff_id} of image {image} is not in the store")]
    MissingLayer {
        /// The image.
        image: Digest,
        /// The layer's diff ID.
        diff_id: Digest,
    },
    /// A container ID that cannot be a file name.
    #[error("container ID {container_id:?} cannot name a snapshot")]
    ContainerId {
        /// The ID.
        container_id: String,
    },
    /// The container already has a snapshot, of another image.
    #[error("container {container_id} already has a snapshot of another image")]
    SnapshotExists {
        /// The container.
        container_id: String,
    },
    /// A snapshot could not be made.
    #[error("make the snapshot of container {container_id}")]
    CreateSnapshot {
        /// The container.
        container_id: String,
        /// Why.
        source: io::Error,
    },
    /// The record of a snapshot could not be read.
    #[error("read the snapshot of container {container_id}")]
    ReadSnapshot {
        /// The container.
        container_id: String,
        /// Why.
        source: io::Error,
    },
    /// A snapshot could not be removed.
    #[error("remove the snapshot of container {container_id}")]
    RemoveSnapshot {
        /// The container.
        container_id: String,
        /// Why.
        source: io::Error,
    },
    /// The snapshots could not be listed.
    #[error("list the snapshots in {path}", path = path.display())]
    ListSnapshots {
        /// Their directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
