//! OCI image layouts: `index.json`, and blobs below `blobs/sha256/` (OCI image specification, "Image Layout").
//!
//! An index that lists several platforms stands for the image of this machine. A descriptor's name is its annotation
//! `io.containerd.image.name`, else `org.opencontainers.image.ref.name` if that is more than a bare tag.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::platform::{ARCHITECTURE, Fit, OS, Platform};
use super::{Blob, NamedLayers, PlanOptions, PlannedImage, parse, planned_image, read_verified};
use crate::Error;
use crate::archive::{Object, Source};
use crate::bounded::{List, Weigh};
use crate::digest::Digest;
use crate::excerpt::excerpt;
use crate::reference::Reference;
use crate::unpack::Limits;

/// How many indexes may lead to a manifest.
pub(crate) const INDEX_DEPTH_MAX: usize = 4;

const INDEX_TYPES: [&str; 2] = ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST_TYPES: [&str; 2] = ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
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

#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

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
    media_type: String,
    digest: Digest,
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

    fn object(&self) -> String {
        format!("blobs/sha256/{}", self.digest.hex())
    }

    /// How well it fits this machine; `None` if it is for another.
    fn fit(&self) -> Option<Fit> {
        self.platform.as_ref().map_or(Some(Fit::UNSAID), Platform::fit)
    }

    fn name(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        let image_name = annotations.image_name.as_deref().filter(|name| !name.is_empty());
        image_name.or_else(|| annotations.ref_name.as_deref().filter(|name| name.contains(['/', ':'])))
    }

    fn names(&self, options: &PlanOptions<'_>) -> Result<Vec<Reference>, Error> {
        self.name().map(|name| Reference::parse(name, options.default_registry).map_err(Error::from)).into_iter().collect()
    }
}

pub(super) fn plan(source: &Source, index: Object, options: &PlanOptions<'_>) -> Result<Vec<PlannedImage>, Error> {
    if let Some(layout) = source.object("oci-layout")? {
        let layout: Layout = parse("oci-layout", &layout.read(options.limits.document_bytes)?)?;
        if !layout.version.starts_with("1.") {
            return Err(Error::LayoutVersion { version: excerpt(layout.version) });
        }
    }
    let object = index.name.clone();
    let bytes = index.read(options.limits.document_bytes)?;
    let Content::Index(descriptors) = content(&object, &bytes, options.limits)? else {
        return Err(unsupported(object, MANIFEST_TYPES[0]));
    };
    let fitting = best_of_each_name(&descriptors);
    if fitting.is_empty() {
        return Err(no_platform(object));
    }
    let mut images: Vec<PlannedImage> = Vec::new();
    for descriptor in fitting {
        let mut image = image(source, descriptor, options)?;
        image.names = descriptor.names(options)?;
        image.target_digest = Some(descriptor.digest.clone());
        // One image under several names has a descriptor for each.
        match images.iter_mut().find(|known| known.id == image.id && known.target_digest == image.target_digest) {
            Some(known) => known.names.append(&mut image.names),
            None => images.push(image),
        }
    }
    Ok(images)
}

/// Every image of an archive, but of those that differ in nothing but how well they fit, the best.
fn best_of_each_name(descriptors: &[Descriptor]) -> Vec<&Descriptor> {
    let mut best: BTreeMap<Option<&str>, Fit> = BTreeMap::new();
    let fitting: Vec<_> = descriptors.iter().filter_map(|descriptor| Some((descriptor, descriptor.fit()?))).collect();
    for (descriptor, fit) in &fitting {
        let known = best.entry(descriptor.name()).or_insert(*fit);
        *known = (*known).min(*fit);
    }
    let is_best = |descriptor: &Descriptor, fit: Fit| {
        let has_no_rival = descriptor.name().is_none() && fit == Fit::UNSAID;
        has_no_rival || best.get(&descriptor.name()).is_none_or(|best| fit <= *best)
    };
    fitting.into_iter().filter(|(descriptor, fit)| is_best(descriptor, *fit)).map(|(descriptor, _)| descriptor).collect()
}

/// Follows a descriptor, through indexes, to the manifest for this machine.
fn image(source: &Source, target: &Descriptor, options: &PlanOptions<'_>) -> Result<PlannedImage, Error> {
    let mut descriptor = target.clone();
    for _ in 0..INDEX_DEPTH_MAX {
        let object = descriptor.object();
        let known = INDEX_TYPES.iter().chain(&MANIFEST_TYPES).any(|known| *known == descriptor.media_type);
        if !known && !descriptor.media_type.is_empty() {
            return Err(unsupported(object, &descriptor.media_type));
        }
        let bytes = read_verified(source.required(&object)?, &descriptor.blob(), options.limits)?;
        match content(&object, &bytes, options.limits)? {
            Content::Index(manifests) => {
                descriptor = for_this_machine(manifests, object)?;
            }
            Content::Manifest { config, layers } => {
                let mut image = manifest_image(source, &config, &layers, options)?;
                image.manifest_digest = Some(descriptor.digest);
                return Ok(image);
            }
        }
    }
    Err(Error::NestedIndex { object: descriptor.object() })
}

fn manifest_image(source: &Source, config: &Descriptor, layers: &[Descriptor], options: &PlanOptions<'_>) -> Result<PlannedImage, Error> {
    let object = config.object();
    let (blob, layers) = manifest_parts(config, layers, options.limits)?;
    let bytes = read_verified(source.required(&object)?, &blob, options.limits)?;
    planned_image(&object, bytes, layers, options.limits)
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

fn unsupported(object: String, media_type: &str) -> Error {
    Error::MediaType { object, media_type: excerpt(media_type) }
}

fn no_platform(object: String) -> Error {
    Error::NoPlatform { object, os: OS, architecture: ARCHITECTURE }
}
