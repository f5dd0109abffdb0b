//! OCI image layouts: `index.json`, and blobs below `blobs/sha256/` (OCI image specification, "Image Layout").
//!
//! An index that lists several platforms stands for the image of this machine. A descriptor's name is its annotation
//! `io.containerd.image.name`, else `org.opencontainers.image.ref.name` if that is more than a bare tag.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{PlanOptions, read_verified};
use crate::Error;
use crate::archive::{Object, Source};
use crate::document::{
    Content, Descriptor, Fit, INDEX_DEPTH_MAX, MANIFEST_TYPES, PlannedImage, content, for_this_machine, is_known, manifest_parts,
    no_platform, parse, planned_image, unsupported,
};
use crate::excerpt::excerpt;
use crate::reference::Reference;

#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
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
        image.names = names(descriptor, options)?;
        image.target_digest = Some(descriptor.digest.clone());
        // One image under several names has a descriptor for each.
        match images.iter_mut().find(|known| known.id == image.id && known.target_digest == image.target_digest) {
            Some(known) => known.names.append(&mut image.names),
            None => images.push(image),
        }
    }
    Ok(images)
}

fn names(descriptor: &Descriptor, options: &PlanOptions<'_>) -> Result<Vec<Reference>, Error> {
    descriptor.name().map(|name| Reference::parse(name, options.default_registry).map_err(Error::from)).into_iter().collect()
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
        if !is_known(&descriptor.media_type) && !descriptor.media_type.is_empty() {
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
