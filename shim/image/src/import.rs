//! Reads image archives and works out what to import: which images, under which names, with which layers.
//!
//! Three forms, told apart by what they contain: an OCI image layout, as a directory or a tar archive; a docker archive
//! (`docker save`), an archive with a `manifest.json`. Newer docker archives are both, and count as OCI.
//!
//! Planning verifies every document by digest; layers are verified by the store while it unpacks them.

mod docker;
mod oci;
mod platform;

pub(crate) use oci::{Content, Descriptor, INDEX_DEPTH_MAX, accepted_manifests, content, for_this_machine, manifest_parts};

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::Error;
use crate::archive::{Object, Source};
use crate::digest::Digest;
use crate::excerpt::{excerpt, shorten_json};
use crate::reference::Reference;
use crate::store::record::ImageConfig;
use crate::tree::Usage;
use crate::unpack::Limits;

/// What an import is doing, for whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// An image was found and its documents are verified.
    Image {
        /// Its ID.
        id: Digest,
        /// The names it will have.
        names: Vec<String>,
        /// How many layers it has.
        layers: usize,
    },
    /// A layer is already in the store.
    LayerPresent {
        /// Its diff ID.
        diff_id: Digest,
    },
    /// A layer is being unpacked.
    LayerStarted {
        /// Its diff ID.
        diff_id: Digest,
        /// Its size in the archive.
        stored_bytes: u64,
    },
    /// A layer is unpacked and verified.
    LayerUnpacked {
        /// Its diff ID.
        diff_id: Digest,
        /// What it occupies.
        usage: Usage,
    },
}

/// An image to import.
#[derive(Debug, Clone)]
pub(crate) struct PlannedImage {
    pub(crate) id: Digest,
    pub(crate) names: Vec<Reference>,
    /// Digest of the manifest the layers come from.
    pub(crate) manifest_digest: Option<Digest>,
    /// Digest of what the archive's names point to: the manifest, or an index that lists it.
    pub(crate) target_digest: Option<Digest>,
    pub(crate) config: ImageConfig,
    pub(crate) config_json: String,
    pub(crate) layers: Vec<PlannedLayer>,
}

/// A layer to import.
#[derive(Debug, Clone)]
pub(crate) struct PlannedLayer {
    pub(crate) diff_id: Digest,
    /// Its name in the source.
    pub(crate) object: String,
    /// What the stored, possibly compressed, blob must be; a docker archive does not say.
    pub(crate) blob: Option<Blob>,
}

/// The promise of a descriptor.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
}

/// A manifest's layers: each one's name in the source, and its descriptor's promise where there is one.
pub(crate) type NamedLayers = Vec<(String, Option<Blob>)>;

/// Names to give and bounds to keep.
pub(crate) struct PlanOptions<'a> {
    pub(crate) default_registry: &'a str,
    pub(crate) limits: &'a Limits,
}

/// Everything importable in `source`. With `name`, the one image in it gets that name and no other.
pub(crate) fn plan(source: &Source, path: &Path, name: Option<&Reference>, options: &PlanOptions<'_>) -> Result<Vec<PlannedImage>, Error> {
    let mut images = match source.object("index.json")? {
        Some(index) => oci::plan(source, index, options)?,
        None => Vec::new(),
    };
    if let Some(manifest) = source.object("manifest.json")? {
        if images.is_empty() {
            images = docker::plan(source, manifest, options)?;
        } else if images.iter().all(|image| image.names.is_empty()) {
            docker::adopt_names(&mut images, manifest, options)?;
        }
    }
    if images.is_empty() {
        return Err(Error::UnknownFormat { path: path.to_owned() });
    }
    if let Some(name) = name {
        rename(&mut images, name)?;
    }
    Ok(images)
}

fn rename(images: &mut [PlannedImage], name: &Reference) -> Result<(), Error> {
    let [image] = images else {
        return Err(Error::NameForSeveral { name: name.clone(), images: images.len() });
    };
    if let Some(digest) = name.digest() {
        if image.manifest_digest.as_ref() != Some(digest) && image.target_digest.as_ref() != Some(digest) {
            return Err(Error::NameDigest { name: name.clone(), manifest: image.manifest_digest.clone() });
        }
        image.target_digest = Some(digest.clone());
    }
    image.names = vec![name.clone()];
    Ok(())
}

/// Reads a document and compares it with what its descriptor promised.
fn read_verified(object: Object, blob: &Blob, limits: &Limits) -> Result<Vec<u8>, Error> {
    let name = object.name.clone();
    if object.len_bytes() != blob.size_bytes {
        return Err(Error::SizeMismatch { object: name, expected_bytes: blob.size_bytes, actual_bytes: object.len_bytes() });
    }
    let bytes = object.read(limits.document_bytes)?;
    let actual = Digest::of(&bytes);
    if actual != blob.digest {
        return Err(Error::DigestMismatch { object: name, expected: blob.digest.clone(), actual });
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(object: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| malformed(object, error))
}

fn malformed(object: &str, error: serde_json::Error) -> Error {
    Error::Json { object: object.to_owned(), source: shorten_json(error) }
}

/// Parses an image configuration, whose digest is the image's ID, and pairs its diff IDs with the manifest's layers.
pub(crate) fn planned_image(
    config_object: &str,
    config_bytes: Vec<u8>,
    layers: NamedLayers,
    limits: &Limits,
) -> Result<PlannedImage, Error> {
    let id = Digest::of(&config_bytes);
    let (config, diff_ids) = ImageConfig::parse(&config_bytes).map_err(|error| malformed(config_object, error))?;
    if !platform::is_for_this_machine(&config.os, &config.architecture) {
        let said = format!("{}/{}", excerpt(&config.os), excerpt(&config.architecture));
        return Err(Error::OtherPlatform { id, said, os: platform::OS, architecture: platform::ARCHITECTURE });
    }
    if layers.len() > limits.layers {
        return Err(Error::TooManyLayers { id, layers: layers.len(), limit: limits.layers });
    }
    if layers.len() != diff_ids.len() {
        return Err(Error::LayerCount { id, layers: layers.len(), diff_ids: diff_ids.len() });
    }
    let layers = layers.into_iter().zip(diff_ids).map(|((object, blob), diff_id)| PlannedLayer { diff_id, object, blob }).collect();
    let config_json = String::from_utf8(config_bytes).expect("parsed as JSON above, which is UTF-8");
    Ok(PlannedImage { id, names: Vec::new(), manifest_digest: None, target_digest: None, config, config_json, layers })
}
