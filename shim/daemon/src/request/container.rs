//! `ContainerConfig`.

use super::common::{absolute_path, checked_path, enum_value, has_parent_component, labels, name, shortened};
use super::device::devices;
use super::mount::mounts;
use super::{Device, ImageRequest, ImageVolume, Labels, Mount, RequestError, Resources, SecurityContext, required};
use podbox_plan::ByteString;
use podbox_proto::v1;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What makes a container unique within its sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// The container's name in the pod.
    pub name: String,
    /// Counts the containers of that name.
    pub attempt: u32,
}

/// The signal that asks the container to stop, as the CRI names it: `SIGTERM`, `SIGRTMIN+3`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopSignal {
    /// The image's, or SIGTERM.
    FromImage,
    /// This value of the CRI's `Signal`.
    Signal {
        /// The enumeration's number.
        cri_number: i32,
        /// The kernel's number.
        number: i32,
    },
}

/// A container as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Its name.
    pub metadata: ContainerMetadata,
    /// Its image.
    pub image: ImageRequest,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's cmd.
    pub args: Vec<String>,
    /// Replaces the image's working directory.
    pub working_dir: Option<PathBuf>,
    /// Added to the image's environment; values are any bytes.
    pub envs: Vec<(String, ByteString)>,
    /// Mounts, in the order asked for.
    pub mounts: Vec<Mount>,
    /// Images that it sees as volumes, in the order asked for.
    #[serde(default)]
    pub image_volumes: Vec<ImageVolume>,
    /// Devices of the host, in the order asked for.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Returned as they came.
    pub labels: Labels,
    /// Returned as they came.
    pub annotations: Labels,
    /// Below the sandbox's log directory; none if empty.
    pub log_path: Option<PathBuf>,
    /// Standard input is kept open for attached clients.
    pub stdin: bool,
    /// The first client that goes closes it.
    pub stdin_once: bool,
    /// The standard streams are a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Who it runs as and what it may do.
    pub security: SecurityContext,
    /// How it is asked to stop.
    pub stop_signal: StopSignal,
}

impl TryFrom<v1::ContainerConfig> for ContainerConfig {
    type Error = RequestError;

    fn try_from(config: v1::ContainerConfig) -> Result<Self, RequestError> {
        if !config.cdi_devices.is_empty() {
            return Err(RequestError::unsupported("config.cdi_devices", "CDI devices are"));
        }
        if config.stdin_once && !config.stdin {
            return Err(RequestError::invalid("config.stdin_once", "it needs stdin"));
        }
        check_size(&config)?;
        let metadata = required("config.metadata", config.metadata)?;
        let linux = config.linux.unwrap_or_default();
        let (mounts, image_volumes) = mounts(config.mounts)?;
        Ok(Self {
            metadata: ContainerMetadata { name: name("config.metadata.name", metadata.name)?, attempt: metadata.attempt },
            image: ImageRequest::new("config.image", required("config.image", config.image)?)?,
            command: words("config.command", config.command)?,
            args: words("config.args", config.args)?,
            working_dir: working_dir(&config.working_dir)?,
            envs: envs(config.envs)?,
            mounts,
            image_volumes,
            devices: devices(config.devices)?,
            labels: labels("config.labels", config.labels)?,
            annotations: labels("config.annotations", config.annotations)?,
            log_path: log_path(&config.log_path)?,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            resources: Resources::of_container("config.linux.resources", linux.resources)?,
            security: linux.security_context.unwrap_or_default().try_into()?,
            stop_signal: stop_signal(config.stop_signal)?,
        })
    }
}

/// What the process is given: the kernel takes a few MiB of arguments and environment (`execve(2)`), records and plans are to stay
/// far below their own bounds.
const PROCESS_BYTES_MAX: usize = 1024 * 1024;
/// All paths of all mounts.
const MOUNT_BYTES_MAX: usize = 1024 * 1024;
/// Mounts of one container.
const MOUNTS_MAX: usize = 4096;

fn check_size(config: &v1::ContainerConfig) -> Result<(), RequestError> {
    let words = config.command.iter().chain(&config.args).map(|word| word.len() + 1);
    let envs = config.envs.iter().map(|env| env.key.len() + env.value.len() + 2);
    let bytes: usize = words.chain(envs).sum();
    if bytes > PROCESS_BYTES_MAX {
        let reason = format!("command, args and envs of {bytes} bytes are over the limit of {PROCESS_BYTES_MAX}");
        return Err(RequestError::invalid("config.envs", reason));
    }
    let bytes_of = |mount: &v1::Mount| mount.container_path.len() + mount.host_path.len() + mount.image_sub_path.len();
    let bytes: usize = config.mounts.iter().map(bytes_of).sum();
    if config.mounts.len() > MOUNTS_MAX || bytes > MOUNT_BYTES_MAX {
        let reason = format!("at most {MOUNTS_MAX} mounts with {MOUNT_BYTES_MAX} bytes of paths are taken");
        return Err(RequestError::invalid("config.mounts", reason));
    }
    Ok(())
}

/// Arguments: the kernel takes any bytes but NUL.
fn words(field: &'static str, words: Vec<String>) -> Result<Vec<String>, RequestError> {
    if words.iter().any(|word| word.contains('\0')) {
        return Err(RequestError::invalid(field, "holds a NUL byte"));
    }
    Ok(words)
}

fn working_dir(text: &str) -> Result<Option<PathBuf>, RequestError> {
    if text.is_empty() { Ok(None) } else { absolute_path("config.working_dir", text).map(Some) }
}

fn envs(envs: Vec<v1::KeyValue>) -> Result<Vec<(String, ByteString)>, RequestError> {
    envs.into_iter()
        .map(|env| {
            if env.key.is_empty() || env.key.contains(['=', '\0']) || env.value.contains(&0) {
                return Err(RequestError::invalid("config.envs", format!("{:?} is no variable", shortened(&env.key))));
            }
            Ok((env.key, ByteString(env.value)))
        })
        .collect()
}

fn log_path(text: &str) -> Result<Option<PathBuf>, RequestError> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = checked_path("config.log_path", text)?;
    if path.is_absolute() || has_parent_component(&path) || path.file_name().is_none() {
        return Err(RequestError::invalid("config.log_path", "a path below the sandbox's log directory, without `..`, is due"));
    }
    Ok(Some(path))
}

/// The CRI counts signals in an enumeration of its own that happens to be alphabetical, so the name leads to the number.
fn stop_signal(cri_number: i32) -> Result<StopSignal, RequestError> {
    let signal: v1::Signal = enum_value("config.stop_signal", cri_number)?;
    if signal == v1::Signal::RuntimeDefault {
        return Ok(StopSignal::FromImage);
    }
    let name = signal.as_str_name().trim_start_matches("SIGNAL_");
    let number = super::signal_number(name)
        .ok_or_else(|| RequestError::invalid("config.stop_signal", format!("{name} is no signal of this kernel")))?;
    Ok(StopSignal::Signal { cri_number, number })
}
