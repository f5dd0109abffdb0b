//! Docker archives: `manifest.json` lists the images with configuration, layers and `RepoTags`.
//!
//! There are no digests for the stored layers; what they unpack to is verified by the configuration's diff IDs, and the
//! configuration defines the image's ID. Where the configuration's file name is a digest, it must be the right one.

use serde::Deserialize;

use super::PlanOptions;
use crate::Error;
use crate::archive::{Object, Source};
use crate::bounded::{List, Weigh};
use crate::digest::Digest;
use crate::document::{PlannedImage, parse, planned_image};
use crate::excerpt::excerpt;
use crate::reference::Reference;

/// A [`Source`] passes over longer ones.
const OBJECT_NAME_LEN_MAX: usize = 512;

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    repo_tags: Option<List<String>>,
    #[serde(rename = "Layers")]
    layers: Option<List<String>>,
}

impl Weigh for Item {}

pub(super) fn plan(source: &Source, manifest: Object, options: &PlanOptions<'_>) -> Result<Vec<PlannedImage>, Error> {
    items(manifest, options)?
        .into_iter()
        .map(|item| {
            let config = source.required(&item.config)?.read(options.limits.document_bytes)?;
            if let Some(expected) = digest_in_name(&item.config) {
                let actual = Digest::of(&config);
                if actual != expected {
                    return Err(Error::DigestMismatch { object: item.config, expected, actual });
                }
            }
            let layers = item.layers.unwrap_or_default().0.into_iter().map(|layer| (layer, None)).collect();
            let mut image = planned_image(&item.config, config, layers, options.limits)?;
            image.names = names(item.repo_tags, options)?;
            Ok(image)
        })
        .collect()
}

/// Names images that an OCI index left nameless, by the configuration that `manifest.json` gives for its `RepoTags`.
pub(super) fn adopt_names(images: &mut [PlannedImage], manifest: Object, options: &PlanOptions<'_>) -> Result<(), Error> {
    for item in items(manifest, options)? {
        let id = digest_in_name(&item.config);
        if let Some(image) = images.iter_mut().find(|image| Some(&image.id) == id.as_ref()) {
            image.names = names(item.repo_tags, options)?;
        }
    }
    Ok(())
}

fn items(manifest: Object, options: &PlanOptions<'_>) -> Result<Vec<Item>, Error> {
    let object = manifest.name.clone();
    let List(items): List<Item> = parse(&object, &manifest.read(options.limits.document_bytes)?)?;
    if items.len() > options.limits.manifests {
        return Err(Error::TooManyManifests { object, limit: options.limits.manifests });
    }
    let objects = items.iter().flat_map(|item| item.layers.iter().flat_map(|layers| &layers.0).chain([&item.config]));
    if let Some(object) = { objects }.find(|name| !is_object_name(name)) {
        return Err(Error::MissingObject { object: excerpt(object) });
    }
    Ok(items)
}

/// What an archive calls its objects is in the errors about them.
fn is_object_name(name: &str) -> bool {
    name.len() <= OBJECT_NAME_LEN_MAX && !name.contains(char::is_control)
}

fn names(repo_tags: Option<List<String>>, options: &PlanOptions<'_>) -> Result<Vec<Reference>, Error> {
    let parse = |tag: String| Reference::parse(&tag, options.default_registry).map_err(Error::from);
    repo_tags.unwrap_or_default().0.into_iter().map(parse).collect()
}

/// The digest that `<hex>.json` or `blobs/sha256/<hex>` states.
fn digest_in_name(object: &str) -> Option<Digest> {
    let base = object.rsplit('/').next()?;
    Digest::from_hex(base.strip_suffix(".json").unwrap_or(base)).ok()
}
