//! `Mount`: host paths and images that a container sees.

use super::RequestError;
use super::common::{absolute_path, checked_path, enum_value, has_parent_component, shortened};
use super::image::ImageRequest;
use super::user_namespace::mount_mappings;
use podbox_plan::UserMappings;
use podbox_proto::v1;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a mount passes on (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Nothing either way.
    Private,
    /// The host's new mounts appear in the container.
    HostToContainer,
    /// And the container's on the host.
    Bidirectional,
}

/// What files of a mount cannot be (`mount(8)`, `nosuid` and its like); the default restricts nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restrictions {
    /// Programs that run as their owner.
    pub no_suid: bool,
    /// Devices.
    pub no_dev: bool,
    /// Programs.
    pub no_exec: bool,
}

/// A host path that the container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where in the container.
    pub container_path: PathBuf,
    /// What of the host.
    pub host_path: PathBuf,
    /// Not writable.
    pub read_only: bool,
    /// Nor are the mounts below it.
    pub recursive_read_only: bool,
    /// What it passes on.
    pub propagation: Propagation,
    /// What its files, and those of the mounts below it, cannot be.
    #[serde(default)]
    pub restrictions: Restrictions,
    /// The volume is to get the container's SELinux label: nothing to do on a host without SELinux.
    pub selinux_relabel: bool,
    /// Its files have their ids on disk in the pod's user namespace; `None`: outside.
    #[serde(default)]
    pub mappings: Option<UserMappings>,
}

/// An image whose files the container sees, read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// Where in the container.
    pub container_path: PathBuf,
    /// Which image.
    pub image: ImageRequest,
    /// Of the image only this directory; relative to its root, without `..`.
    pub sub_path: Option<PathBuf>,
    /// As it was asked for; echoed. Nothing is mounted in it, so that it is read-only anyway.
    pub recursive_read_only: bool,
    /// As it was asked for; echoed.
    pub selinux_relabel: bool,
    /// What its files cannot be; they are no devices anyway.
    #[serde(default)]
    pub restrictions: Restrictions,
    /// As it was asked for; echoed. An image's files have their ids in the pod's user namespace anyway.
    #[serde(default)]
    pub mappings: Option<UserMappings>,
}

/// Sorts mounts into those of host paths and those of images.
pub(super) fn mounts(mounts: Vec<v1::Mount>) -> Result<(Vec<Mount>, Vec<ImageVolume>), RequestError> {
    let (mut of_host, mut of_images) = (Vec::new(), Vec::new());
    for mut mount in mounts {
        match mount.image.take() {
            // A client that sends the empty message means none.
            Some(image) if image != v1::ImageSpec::default() => {
                let volume = image_volume(image, &mount)?;
                if of_images.iter().any(|other: &ImageVolume| other.container_path == volume.container_path) {
                    let reason = format!("two images are to be at {}", volume.container_path.display());
                    return Err(RequestError::invalid("config.mounts.container_path", reason));
                }
                of_images.push(volume);
            }
            _ => of_host.push(Mount::try_from(mount)?),
        }
    }
    Ok((of_host, of_images))
}

/// What both kinds have in common.
struct Common {
    container_path: PathBuf,
    propagation: Propagation,
    restrictions: Restrictions,
    mappings: Option<UserMappings>,
}

fn common(mount: &v1::Mount) -> Result<Common, RequestError> {
    let propagation = match enum_value("config.mounts.propagation", mount.propagation)? {
        v1::MountPropagation::PropagationPrivate => Propagation::Private,
        v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if mount.recursive_read_only && (!mount.readonly || propagation != Propagation::Private) {
        let reason = "it needs readonly and private propagation";
        return Err(RequestError::invalid("config.mounts.recursive_read_only", reason));
    }
    let container_path = absolute_path("config.mounts.container_path", &mount.container_path)?;
    if has_parent_component(&container_path) || container_path == Path::new("/") {
        return Err(RequestError::invalid("config.mounts.container_path", "a path below the root, without `..`, is due"));
    }
    let restrictions = restrictions(&mount.mount_options)?;
    Ok(Common { container_path, propagation, restrictions, mappings: mount_mappings(mount)? })
}

fn restrictions(options: &[String]) -> Result<Restrictions, RequestError> {
    let mut restrictions = Restrictions::default();
    for option in options {
        match option.as_str() {
            "nosuid" => restrictions.no_suid = true,
            "nodev" => restrictions.no_dev = true,
            "noexec" => restrictions.no_exec = true,
            other => {
                let reason = format!("{:?} is none of noexec, nodev and nosuid", shortened(other));
                return Err(RequestError::invalid("config.mounts.mount_options", reason));
            }
        }
    }
    Ok(restrictions)
}

fn image_volume(image: v1::ImageSpec, mount: &v1::Mount) -> Result<ImageVolume, RequestError> {
    let Common { container_path, propagation, restrictions, mappings } = common(mount)?;
    if !mount.host_path.is_empty() {
        return Err(RequestError::invalid("config.mounts.host_path", "a mount is of a host path or of an image, not of both"));
    }
    if !mount.readonly {
        return Err(RequestError::invalid("config.mounts.readonly", "an image is mounted read-only"));
    }
    if propagation != Propagation::Private {
        return Err(RequestError::invalid("config.mounts.propagation", "nothing is mounted in an image: private propagation is due"));
    }
    Ok(ImageVolume {
        container_path,
        image: ImageRequest::new("config.mounts.image", image)?,
        sub_path: sub_path(&mount.image_sub_path)?,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        restrictions,
        mappings,
    })
}

fn sub_path(text: &str) -> Result<Option<PathBuf>, RequestError> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = checked_path("config.mounts.image_sub_path", text)?;
    if path.is_absolute() || has_parent_component(&path) {
        return Err(RequestError::invalid("config.mounts.image_sub_path", "a path below the image's root, without `..`, is due"));
    }
    Ok(Some(path))
}

impl TryFrom<v1::Mount> for Mount {
    type Error = RequestError;

    fn try_from(mount: v1::Mount) -> Result<Self, RequestError> {
        if !mount.image_sub_path.is_empty() {
            return Err(RequestError::invalid("config.mounts.image_sub_path", "it needs an image"));
        }
        let Common { container_path, propagation, restrictions, mappings } = common(&mount)?;
        Ok(Self {
            container_path,
            host_path: absolute_path("config.mounts.host_path", &mount.host_path)?,
            read_only: mount.readonly,
            recursive_read_only: mount.recursive_read_only,
            propagation,
            restrictions,
            selinux_relabel: mount.selinux_relabel,
            mappings,
        })
    }
}
