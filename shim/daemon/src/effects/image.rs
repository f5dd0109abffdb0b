//! A container's image and what it says of its user.

use crate::plan::{ImageDefaults, PodUser};
use crate::request::{GroupsPolicy, SecurityContext, UserRequest};
use podbox_image::user::{UserError, UserSpec, resolve};
use podbox_image::{Error as ImageError, ImageRecord, ImageStore, RootFs};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// An image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// It is not there.
    #[error("image {reference:?} is not there")]
    NoImage {
        /// As it was asked for.
        reference: String,
    },
    /// The store failed.
    #[error("image {reference:?}")]
    Store {
        /// As it was asked for.
        reference: String,
        /// Why.
        source: ImageError,
    },
    /// Its user cannot be made out.
    #[error("the container's user")]
    User(#[from] UserError),
}

/// The image that a container asks for.
///
/// # Errors
/// It is not there, or its name is none.
pub fn find_image(images: &ImageStore, reference: &str) -> Result<Arc<ImageRecord>, RootfsError> {
    let shortened = || reference.chars().take(256).collect::<String>();
    match images.find(reference) {
        Ok(Some(image)) => Ok(image),
        Ok(None) => Err(RootfsError::NoImage { reference: shortened() }),
        Err(source) => Err(RootfsError::Store { reference: shortened(), source }),
    }
}

/// What the planner takes of an image.
#[must_use]
pub fn image_defaults(image: &ImageRecord) -> ImageDefaults {
    let config = &image.config;
    ImageDefaults {
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone(),
        working_dir: config.working_dir.clone(),
        user: config.user.clone(),
        stop_signal: config.stop_signal.clone(),
    }
}

/// Makes numbers of a container's user: those asked for, or the image's, by the image's own `/etc/passwd` and `/etc/group`.
///
/// # Errors
/// There is no such user or group, or the files are not to be trusted.
pub fn resolve_user(security: &SecurityContext, image_user: &str, lower_dirs: Vec<PathBuf>) -> Result<PodUser, RootfsError> {
    let (spec, gid) = match &security.user {
        UserRequest::FromImage => (UserSpec::Image(image_user.to_owned()), None),
        UserRequest::Id { uid, gid } => (UserSpec::Uid(i64::from(*uid)), *gid),
        UserRequest::Name { name, gid } => (UserSpec::Username(name.clone()), *gid),
    };
    let resolved = resolve(&spec, gid.map(i64::from), &RootFs::new(lower_dirs))?;
    let mut groups: BTreeSet<u32> = security.supplemental_groups.iter().copied().collect();
    groups.insert(resolved.gid);
    if security.groups_policy == GroupsPolicy::Merge {
        groups.extend(&resolved.supplementary_gids);
    }
    Ok(PodUser { uid: resolved.uid, gid: resolved.gid, groups: groups.into_iter().collect(), home: resolved.home })
}
