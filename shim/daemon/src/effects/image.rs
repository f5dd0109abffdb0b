//! A container's image and what it says of its user.

use crate::plan::{ImageDefaults, PlannedVolume, PodUser};
use crate::request::{GroupsPolicy, ImageVolume, SecurityContext, UserRequest};
use podbox_image::user::{UserError, UserSpec, resolve};
use podbox_image::{Error as ImageError, ImageRecord, ImageStore, RootFs, RootFsError};
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
    /// An image that is to be mounted. The beginning is what the kubelet looks for (cri-api, `ErrImageVolumeMountFailed`).
    #[error("ImageVolumeMountFailed: the image {reference:?} for {path}", path = path.display())]
    Volume {
        /// As it was asked for.
        reference: String,
        /// Where in the container.
        path: PathBuf,
        /// Why.
        source: VolumeError,
    },
    /// Its user cannot be made out.
    #[error("the container's user")]
    User(#[from] UserError),
}

/// Why an image cannot be mounted as a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It is not there, or its name is none.
    #[error(transparent)]
    Image(#[from] Box<RootfsError>),
    /// It has no such directory.
    #[error("the image has no directory {}", path.display())]
    NoDirectory {
        /// The sub path.
        path: PathBuf,
    },
    /// Its files cannot be looked through.
    #[error("look for the sub path")]
    Look(#[from] RootFsError),
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

/// The images that a container wants mounted, in the order asked for.
///
/// # Errors
/// One is not there, or its name is none.
pub fn find_volume_images(images: &ImageStore, volumes: &[ImageVolume]) -> Result<Vec<Arc<ImageRecord>>, RootfsError> {
    let find = |volume: &ImageVolume| {
        let found = find_image(images, &volume.image.image);
        found.map_err(|error| volume_failed(volume, VolumeError::Image(Box::new(error))))
    };
    volumes.iter().map(find).collect()
}

/// Volumes as they will be mounted: `layers` are those of each image, top-most first. A missing sub path is told here, where the CRI
/// wants it told, and not when the container starts.
///
/// # Errors
/// A sub path is no directory of its image.
pub fn plan_volumes(
    volumes: &[ImageVolume],
    images: &[Arc<ImageRecord>],
    layers: Vec<Vec<PathBuf>>,
) -> Result<Vec<PlannedVolume>, RootfsError> {
    let plan = |((volume, image), lower_dirs): ((&ImageVolume, &Arc<ImageRecord>), Vec<PathBuf>)| {
        let root = RootFs::new(lower_dirs.clone());
        if let Some(path) = &volume.sub_path
            && !root.is_directory(path).map_err(|error| volume_failed(volume, error.into()))?
        {
            return Err(volume_failed(volume, VolumeError::NoDirectory { path: path.clone() }));
        }
        Ok(PlannedVolume {
            container_path: volume.container_path.clone(),
            image_id: image.id.to_string(),
            lower_dirs,
            sub_path: volume.sub_path.clone(),
            restrictions: volume.restrictions,
        })
    };
    volumes.iter().zip(images).zip(layers).map(plan).collect()
}

fn volume_failed(volume: &ImageVolume, source: VolumeError) -> RootfsError {
    RootfsError::Volume { reference: volume.image.image.clone(), path: volume.container_path.clone(), source }
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
        volumes: config.volumes.iter().map(PathBuf::from).collect(),
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
