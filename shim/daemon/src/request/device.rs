//! `Device`: what of the host's devices a container is given.

use super::RequestError;
use super::common::{absolute_path, has_parent_component, shortened};
use podbox_cgroup::DeviceAccess;
use podbox_proto::v1;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A device of the host, or a folder with devices, that a container is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where in the container.
    pub container_path: PathBuf,
    /// What of the host.
    pub host_path: PathBuf,
    /// What may be done with it.
    pub access: DeviceAccess,
}

/// Devices and folders of one request.
const DEVICES_MAX: usize = 256;

pub(super) fn devices(devices: Vec<v1::Device>) -> Result<Vec<Device>, RequestError> {
    if devices.len() > DEVICES_MAX {
        return Err(RequestError::invalid("config.devices", format!("at most {DEVICES_MAX} devices are taken")));
    }
    devices.into_iter().map(Device::try_from).collect()
}

impl TryFrom<v1::Device> for Device {
    type Error = RequestError;

    fn try_from(device: v1::Device) -> Result<Self, RequestError> {
        let access = device.permissions.parse().map_err(|error| {
            RequestError::invalid("config.devices.permissions", format!("{error}, not {:?}", shortened(&device.permissions)))
        })?;
        let container_path = absolute_path("config.devices.container_path", &device.container_path)?;
        if has_parent_component(&container_path) || container_path == Path::new("/") {
            return Err(RequestError::invalid("config.devices.container_path", "a path below the root, without `..`, is due"));
        }
        Ok(Self { container_path, host_path: absolute_path("config.devices.host_path", &device.host_path)?, access })
    }
}
