//! Indexes and manifests: what each lists, told apart by what it has.

use serde::Deserialize;

use super::platform::{ARCHITECTURE, Fit, OS, Platform};
use super::{Blob, NamedLayers, parse};
use crate::Error;
use crate::bounded::{List, Weigh};
use crate::digest::Digest;
use crate::excerpt::excerpt;
use crate::unpack::Limits;

/// How many indexes may lead to a manifest.
pub(crate) const INDEX_DEPTH_MAX: usize = 4;

const INDEX_TYPES: [&str; 2] = ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
pub(crate) const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIG_TYPES: [&str; 2] = ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Layer media types without compression; `+gzip`, `+zstd`, `.gzip` and `.zstd` may follow. What the compression really
/// is, the blob's first bytes say.
const LAYER_TYPES: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.container.image.rootfs.diff.tar",
];

/// An index or a manifest; which of the two is decided by what it has.
#[derive(Deserialize)]
struct Document {
    manifests: Option<List<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<List<Descriptor>>,
}

/// What a document says of another one, or of a blob.
#[derive(Deserialize, Clone)]
pub(crate) struct Descriptor {
    #[serde(rename = "mediaType", default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

impl Weigh for Descriptor {}

/// Those that name an image.
#[derive(Deserialize, Clone)]
struct Annotations {
    #[serde(rename = "io.containerd.image.name", default)]
    image_name: Option<String>,
    #[serde(rename = "org.opencontainers.image.ref.name", default)]
    ref_name: Option<String>,
}

/// A document, by what it has.
pub(crate) enum Content {
    Index(Vec<Descriptor>),
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
}

impl Descriptor {
    pub(crate) fn blob(&self) -> Blob {
        Blob { digest: self.digest.clone(), size_bytes: self.size }
    }

    /// What an archive calls it.
    pub(crate) fn object(&self) -> String {
        format!("blobs/sha256/{}", self.digest.hex())
    }

    /// How well it fits this machine; `None` if it is for another.
    pub(crate) fn fit(&self) -> Option<Fit> {
        self.platform.as_ref().map_or(Some(Fit::UNSAID), Platform::fit)
    }

    /// The name that an archive gives it.
    pub(crate) fn name(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        let image_name = annotations.image_name.as_deref().filter(|name| !name.is_empty());
        image_name.or_else(|| annotations.ref_name.as_deref().filter(|name| name.contains(['/', ':'])))
    }
}

/// The configuration and the layers that a manifest names, if they are an image's.
pub(crate) fn manifest_parts(config: &Descriptor, layers: &[Descriptor], limits: &Limits) -> Result<(Blob, NamedLayers), Error> {
    if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
        return Err(unsupported(config.object(), &config.media_type));
    }
    if layers.len() > limits.layers {
        return Err(Error::TooManyLayers { id: config.digest.clone(), layers: layers.len(), limit: limits.layers });
    }
    let layer = |layer: &Descriptor| match is_layer_type(&layer.media_type) {
        true => Ok((layer.object(), Some(layer.blob()))),
        false => Err(unsupported(layer.object(), &layer.media_type)),
    };
    let layers = layers.iter().map(layer).collect::<Result<_, _>>()?;
    Ok((config.blob(), layers))
}

/// The manifest of an index that fits this machine best; of several that do alike, the first.
pub(crate) fn for_this_machine(manifests: Vec<Descriptor>, object: String) -> Result<Descriptor, Error> {
    let fitting = manifests.into_iter().filter_map(|manifest| Some((manifest.fit()?, manifest)));
    fitting.min_by_key(|(fit, _)| *fit).map(|(_, manifest)| manifest).ok_or_else(|| no_platform(object))
}

/// Whether a media type is that of an index or a manifest.
pub(crate) fn is_known(media_type: &str) -> bool {
    INDEX_TYPES.iter().chain(&MANIFEST_TYPES).any(|known| *known == media_type)
}

/// The media types of what a name may point to, for an `Accept` header.
pub(crate) fn accepted_manifests() -> String {
    [INDEX_TYPES, MANIFEST_TYPES].concat().join(", ")
}

/// Decides what a document is by its content, refusing one that two readers could take for different things.
pub(crate) fn content(object: &str, bytes: &[u8], limits: &Limits) -> Result<Content, Error> {
    let document: Document = parse(object, bytes)?;
    match (document.manifests, document.config, document.layers) {
        (Some(List(manifests)), None, None) => {
            if manifests.len() > limits.manifests {
                return Err(Error::TooManyManifests { object: object.to_owned(), limit: limits.manifests });
            }
            Ok(Content::Index(manifests))
        }
        (None, Some(config), layers) => Ok(Content::Manifest { config, layers: layers.unwrap_or_default().0 }),
        (Some(_), _, _) => Err(Error::AmbiguousDocument { object: object.to_owned() }),
        (None, None, _) => Err(unsupported(object.to_owned(), "")),
    }
}

fn is_layer_type(media_type: &str) -> bool {
    LAYER_TYPES
        .iter()
        .any(|base| media_type.strip_prefix(base).is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd")))
}

pub(crate) fn unsupported(object: String, media_type: &str) -> Error {
    Error::MediaType { object, media_type: excerpt(media_type) }
}

pub(crate) fn no_platform(object: String) -> Error {
    Error::NoPlatform { object, os: OS, architecture: ARCHITECTURE }
}
