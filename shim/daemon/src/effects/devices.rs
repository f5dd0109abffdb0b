//! The node's device files: those that a request names, and for a privileged container all of them.

use crate::plan::HostDevice;
use crate::request::Device;
use podbox_cgroup::{DeviceAccess, DeviceKind};
use rustix::fs::{FileType, major, minor};
use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders of `/dev` that are file systems of the container's own.
const OWN: [&str; 4] = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/hugepages"];
/// Made in every container.
const STANDARD: [&str; 8] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/console"];
/// More device files than any node has; a bound on what one plan can hold.
const DEVICES_MAX: usize = 4096;
/// Folders that are looked through for one plan.
const FOLDERS_MAX: usize = 4096;

/// A device that a request names cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It cannot be looked at.
    #[error("the device {}", path.display())]
    Look {
        /// On the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is neither a device nor a folder with devices", path.display())]
    NoDevice {
        /// On the host.
        path: PathBuf,
    },
    /// The folder holds more than a container can be given.
    #[error("{} holds more than {DEVICES_MAX} devices or folders", path.display())]
    TooMany {
        /// On the host.
        path: PathBuf,
    },
}

/// Every device file below `/dev` that a container does not have anyway.
///
/// # Errors
/// `/dev` cannot be listed.
pub fn node_devices() -> Result<Vec<HostDevice>, DeviceError> {
    let dev = Path::new("/dev");
    devices_below(dev, dev, DeviceAccess::ALL, |path| OWN.iter().chain(&STANDARD).any(|own| path == Path::new(own)))
}

/// What a request names: a device, or all that are in a folder and below it. Symbolic links are followed to what was named, not within it.
///
/// # Errors
/// One of them is not there, or no device.
pub fn requested_devices(asked: &[Device]) -> Result<Vec<HostDevice>, DeviceError> {
    let mut found = Vec::new();
    for Device { container_path, host_path, access } in asked {
        let metadata = std::fs::metadata(host_path).map_err(|source| DeviceError::Look { path: host_path.clone(), source })?;
        let before = found.len();
        if metadata.is_dir() {
            found.extend(devices_below(host_path, container_path, *access, |path| OWN.iter().any(|own| path == Path::new(own)))?);
        } else {
            found.extend(device(container_path.clone(), &metadata, *access));
        }
        if found.len() == before {
            return Err(DeviceError::NoDevice { path: host_path.clone() });
        }
    }
    Ok(found)
}

/// The devices below a folder, as they are called below another.
fn devices_below(
    top: &Path,
    called: &Path,
    access: DeviceAccess,
    is_left_out: impl Fn(&Path) -> bool,
) -> Result<Vec<HostDevice>, DeviceError> {
    let mut devices = Vec::new();
    let mut folders = VecDeque::from([PathBuf::new()]);
    let mut visited = 0;
    while let Some(folder) = folders.pop_front() {
        let failed = |source| DeviceError::Look { path: top.join(&folder), source };
        for entry in std::fs::read_dir(top.join(&folder)).map_err(failed)? {
            let below = folder.join(entry.map_err(failed)?.file_name());
            let path = top.join(&below);
            // Whatever goes away between the listing and the look at it is not there.
            let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
            if is_left_out(&path) {
                continue;
            }
            if metadata.is_dir() {
                folders.push_back(below);
            } else {
                devices.extend(device(called.join(below), &metadata, access));
            }
        }
        visited += 1;
        if devices.len() > DEVICES_MAX || visited + folders.len() > FOLDERS_MAX {
            return Err(DeviceError::TooMany { path: top.to_owned() });
        }
    }
    Ok(devices)
}

fn device(path: PathBuf, metadata: &std::fs::Metadata, access: DeviceAccess) -> Option<HostDevice> {
    let kind = match FileType::from_raw_mode(metadata.mode()) {
        FileType::CharacterDevice => DeviceKind::Char,
        FileType::BlockDevice => DeviceKind::Block,
        _ => return None,
    };
    let numbers = (major(metadata.rdev()), minor(metadata.rdev()));
    Some(HostDevice { path, kind, numbers, mode: metadata.mode() & 0o7777, owner: (metadata.uid(), metadata.gid()), access })
}
