//! A container: request, image and sandbox become one OCI runtime spec and what it cannot hold.

use super::process::{arguments, environment, working_directory};
use super::spec::{SpecInputs, runtime_spec};
use super::user_namespace::{check_ids, check_users_of_container};
use super::{HostDevice, ImageDefaults, Layout, NodeFacts, PlanError, PodUser, ProcessConfinement, capability};
use crate::request::{
    ContainerConfig, IpcMode, NetworkMode, PidMode, Restrictions, SandboxConfig, SandboxPidMode, SecurityContext, StopSignal, UserMode,
    signal_number,
};
use oci_spec::runtime::Spec;
use podbox_plan::{ByteString, PidNamespace, SandboxId};
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};

/// `SIGTERM`
const DEFAULT_STOP_SIGNAL: i32 = 15;

/// All that a container's plan is made of.
#[derive(Debug, Clone, Copy)]
pub struct ContainerInputs<'a> {
    /// What was asked for.
    pub config: &'a ContainerConfig,
    /// Its sandbox.
    pub sandbox_id: &'a SandboxId,
    /// What was asked of the sandbox.
    pub sandbox: &'a SandboxConfig,
    /// The sandbox's hostname.
    pub hostname: &'a str,
    /// Pause's process id.
    pub pause_pid: i32,
    /// The PID namespace, with a target resolved.
    pub pid: &'a PidNamespace,
    /// The process id of the target, if there is one.
    pub target_pid: Option<i32>,
    /// What its image says.
    pub image: &'a ImageDefaults,
    /// Who it runs as.
    pub user: &'a PodUser,
    /// Its cgroup, below the hierarchies' roots.
    pub cgroup: &'a str,
    /// The images that it sees as volumes, as the store has them.
    pub image_volumes: &'a [PlannedVolume],
    /// Devices of the node that it is given.
    pub devices: &'a [HostDevice],
    /// The node.
    pub node: &'a NodeFacts,
    /// Where things stand.
    pub layout: &'a Layout,
}

/// An image that a container sees as a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedVolume {
    /// Where in the container; no two are at one place.
    pub container_path: PathBuf,
    /// `sha256:…` of the image's config.
    pub image_id: String,
    /// Its layers on disk, top-most first.
    pub lower_dirs: Vec<PathBuf>,
    /// Only this directory of it.
    pub sub_path: Option<PathBuf>,
    /// What its files cannot be.
    #[serde(default)]
    pub restrictions: Restrictions,
}

/// A container as it will be started. It stands in the container's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// The OCI runtime spec. Its `process.env` is for people: `environment` is what counts.
    pub spec: Spec,
    /// The environment, byte for byte.
    pub environment: Vec<ByteString>,
    /// The PID namespace.
    pub pid: PidNamespace,
    /// Who it runs as.
    pub user: PodUser,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// Its log file.
    pub log_path: Option<PathBuf>,
    /// Standard input is kept open.
    pub stdin: bool,
    /// What stands behind the spec's mounts of type `overlay`.
    #[serde(default)]
    pub image_volumes: Vec<PlannedVolume>,
    /// Directories of its root that its image declares as volumes: they are there, and can be written to.
    #[serde(default)]
    pub declared_volumes: Vec<PathBuf>,
    /// What confines its processes, beside what the spec says.
    #[serde(default)]
    pub confinement: ProcessConfinement,
    /// Whose users it has: the pod's.
    #[serde(default)]
    pub users: UserMode,
}

/// Plans a container.
///
/// # Errors
/// What is well-formed and makes no sense: see [`PlanError`].
pub fn plan_container(inputs: &ContainerInputs<'_>) -> Result<ContainerPlan, PlanError> {
    let ContainerInputs { config, sandbox, image, user, .. } = *inputs;
    if config.security.privileged && !sandbox.privileged {
        return Err(PlanError::PrivilegeNotGranted);
    }
    check_namespaces(&config.security, sandbox)?;
    check_users_of_container(config, &sandbox.users)?;
    check_ids(user, &sandbox.users)?;
    let of_host = config.mounts.iter().map(|mount| (mount.selinux_relabel, &mount.container_path));
    let of_images = config.image_volumes.iter().map(|volume| (volume.selinux_relabel, &volume.container_path));
    if inputs.node.selinux
        && let Some((_, path)) = of_host.chain(of_images).find(|(relabel, _)| *relabel)
    {
        return Err(PlanError::Relabel { path: path.clone() });
    }
    let environment = environment(config, image, inputs.hostname, user);
    let spec = runtime_spec(&SpecInputs {
        container: inputs,
        arguments: arguments(config, image)?,
        environment: &environment,
        working_directory: working_directory(config, image),
        capabilities: capability::requested(&config.security.capabilities, config.security.privileged, inputs.node.capabilities)?,
    })?;
    Ok(ContainerPlan {
        spec,
        environment,
        pid: inputs.pid.clone(),
        user: user.clone(),
        stop_signal: stop_signal(&config.stop_signal, &image.stop_signal)?,
        log_path: log_path(sandbox, config),
        stdin: config.stdin,
        image_volumes: inputs.image_volumes.to_vec(),
        declared_volumes: declared_volumes(config, image),
        confinement: ProcessConfinement::default(),
        users: sandbox.users,
    })
}

/// The kubelet says the same of a pod and of each of its containers; most others say nothing of the containers. One that asks for
/// more than its pod has would not get it. `POD` is the protocol's zero and means the pod's, whatever that is; a PID namespace of its
/// own, or another container's, is every container's to have.
fn check_namespaces(security: &SecurityContext, sandbox: &SandboxConfig) -> Result<(), PlanError> {
    let field = match () {
        () if security.network == NetworkMode::Node && sandbox.network != NetworkMode::Node => "network",
        () if security.ipc == IpcMode::Node && sandbox.ipc != IpcMode::Node => "ipc",
        () if security.pid == PidMode::Node && sandbox.pid != SandboxPidMode::Node => "pid",
        () => return Ok(()),
    };
    Err(PlanError::NotThePodsNamespace { field })
}

/// Those that the request mounts nothing at; a path that is none, or is the root itself, declares nothing.
fn declared_volumes(config: &ContainerConfig, image: &ImageDefaults) -> Vec<PathBuf> {
    let is_mounted = |path: &Path| {
        config.mounts.iter().any(|mount| mount.container_path == path)
            || config.image_volumes.iter().any(|volume| volume.container_path == path)
    };
    let is_usable = |path: &&PathBuf| {
        let mut parts = path.components();
        parts.next() == Some(Component::RootDir)
            && parts.clone().next().is_some()
            && parts.all(|part| matches!(part, Component::Normal(_)))
            && !is_mounted(path)
    };
    image.volumes.iter().filter(is_usable).cloned().collect()
}

fn stop_signal(request: &StopSignal, image: &str) -> Result<i32, PlanError> {
    match request {
        StopSignal::Signal { number, .. } => Ok(*number),
        StopSignal::FromImage if image.is_empty() => Ok(DEFAULT_STOP_SIGNAL),
        StopSignal::FromImage => signal_number(image).ok_or_else(|| PlanError::StopSignal { name: image.chars().take(64).collect() }),
    }
}

/// The log file's path, where both halves of it were given.
fn log_path(sandbox: &SandboxConfig, config: &ContainerConfig) -> Option<PathBuf> {
    Some(sandbox.log_directory.as_ref()?.join(config.log_path.as_ref()?))
}
