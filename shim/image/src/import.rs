//! Reads image archives and works out what to import: which images, under which names, with which layers.
//!
//! Three forms, told apart by what they contain: an OCI image layout, as a directory or a tar archive; a docker archive
//! (`docker save`), an archive with a `manifest.json`. Newer docker archives are both, and count as OCI.
//!
//! Planning verifies every document by digest; layers are verified by the store while it unpacks them.

mod docker;
mod oci;

use std::path::Path;

use crate::Error;
use crate::archive::{Object, Source};
use crate::digest::Digest;
use crate::document::{Blob, PlannedImage};
use crate::reference::Reference;
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
