//! The documents that make an image (OCI image specification): indexes, manifests and configurations, each as text of a stranger's,
//! parsed within bounds into what there is to be fetched and unpacked.
//!
//! Knows neither archives nor registries, which documents come from, nor the store, which images go to.

mod config;
mod manifest;
mod platform;

pub use config::ImageConfig;
pub(crate) use manifest::{
    Content, Descriptor, INDEX_DEPTH_MAX, MANIFEST_TYPES, accepted_manifests, content, for_this_machine, is_known, manifest_parts,
    no_platform, unsupported,
};
pub(crate) use platform::Fit;

use serde::de::DeserializeOwned;

use crate::Error;
use crate::digest::Digest;
use crate::excerpt::{excerpt, shorten_json};
use crate::reference::Reference;
use crate::unpack::Limits;

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

pub(crate) fn parse<T: DeserializeOwned>(object: &str, bytes: &[u8]) -> Result<T, Error> {
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
