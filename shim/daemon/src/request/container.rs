//! `ContainerConfig`.

use super::common::{absolute_path, bounded_text, checked_path, enum_value, has_parent_component, labels, name, shortened};
use super::device::devices;
use super::{Device, Labels, RequestError, Resources, SecurityContext, required};
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

/// The image that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRequest {
    /// A name or an id.
    pub image: String,
    /// As the pod's author wrote it; echoed.
    pub user_specified_image: String,
    /// Echoed.
    pub annotations: Labels,
}

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
    /// The volume is to get the container's SELinux label: nothing to do on a host without SELinux.
    pub selinux_relabel: bool,
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
        Ok(Self {
            metadata: ContainerMetadata { name: name("config.metadata.name", metadata.name)?, attempt: metadata.attempt },
            image: image(config.image)?,
            command: words("config.command", config.command)?,
            args: words("config.args", config.args)?,
            working_dir: working_dir(&config.working_dir)?,
            envs: envs(config.envs)?,
            mounts: config.mounts.into_iter().map(Mount::try_from).collect::<Result<_, _>>()?,
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
    let bytes: usize = config.mounts.iter().map(|mount| mount.container_path.len() + mount.host_path.len()).sum();
    if config.mounts.len() > MOUNTS_MAX || bytes > MOUNT_BYTES_MAX {
        let reason = format!("at most {MOUNTS_MAX} mounts with {MOUNT_BYTES_MAX} bytes of paths are taken");
        return Err(RequestError::invalid("config.mounts", reason));
    }
    Ok(())
}

fn image(image: Option<v1::ImageSpec>) -> Result<ImageRequest, RequestError> {
    let image = required("config.image", image)?;
    if !image.runtime_handler.is_empty() {
        let handler = shortened(&image.runtime_handler);
        return Err(RequestError::invalid("config.image.runtime_handler", format!("there is no runtime handler {handler:?}")));
    }
    Ok(ImageRequest {
        image: name("config.image.image", image.image)?,
        user_specified_image: bounded_text("config.image.user_specified_image", image.user_specified_image)?,
        annotations: labels("config.image.annotations", image.annotations)?,
    })
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

impl TryFrom<v1::Mount> for Mount {
    type Error = RequestError;

    fn try_from(mount: v1::Mount) -> Result<Self, RequestError> {
        if mount.image.is_some() || !mount.image_sub_path.is_empty() {
            return Err(RequestError::unsupported("config.mounts.image", "image volumes are"));
        }
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            return Err(RequestError::unsupported("config.mounts.uid_mappings", "id-mapped mounts are"));
        }
        if !mount.mount_options.is_empty() {
            return Err(RequestError::unsupported("config.mounts.mount_options", "mount options are"));
        }
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
        if has_parent_component(&container_path) || container_path == std::path::Path::new("/") {
            return Err(RequestError::invalid("config.mounts.container_path", "a path below the root, without `..`, is due"));
        }
        Ok(Self {
            container_path,
            host_path: absolute_path("config.mounts.host_path", &mount.host_path)?,
            read_only: mount.readonly,
            recursive_read_only: mount.recursive_read_only,
            propagation,
            selinux_relabel: mount.selinux_relabel,
        })
    }
}
