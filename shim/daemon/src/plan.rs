//! What a request becomes: pure functions from configuration and facts to plans.
//!
//! `sandbox` gives the pod's files, cgroup and pause; `container` merges request and image into an OCI runtime spec (the place
//! where later editors of containers have their say), and `lower` turns that spec into the ops that a newborn process
//! carries out. No function here makes a system call, reads a clock or a file: the same input gives the same plan.

mod capability;
mod cgroup_mount;
mod confinement;
mod container;
mod devices;
mod exec;
mod layout;
mod limits;
mod lower;
mod node;
mod pause_spec;
mod process;
mod sandbox;
mod spec;
mod user_namespace;

pub use capability::CapabilityError;
pub use confinement::{ProcessConfinement, SeccompFilter, capability_names};
pub use container::{ContainerInputs, ContainerPlan, PlannedVolume, plan_container};
pub use devices::{DevicePolicy, HostDevice, device_policy};
pub use exec::plan_exec;
pub use layout::{Layout, MONITOR_SOCKET};
pub use lower::{LaunchInputs, lower};
pub use node::NodeFacts;
pub use pause_spec::pause_spec;
pub use process::{ImageDefaults, PodUser};
pub use sandbox::{PodFiles, PodParent, pause_launch, plan_files, pod_cgroup, sandbox_hostname};
pub use spec::{set_spec_resources, spec_json};
pub use user_namespace::{check_users_of_pod, is_for_everybody};

#[cfg(test)]
mod tests;

use podbox_cgroup::InvalidPath;
use podbox_cgroup::systemd::InvalidSlice;
use std::path::PathBuf;

/// A request that is well-formed and still cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Neither request nor image says what to run.
    #[error("no command: neither the request nor the image names one")]
    NoCommand,
    /// A capability cannot be given.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// A privileged container in a sandbox that is not.
    #[error("a privileged container needs a privileged sandbox")]
    PrivilegeNotGranted,
    /// A container asks for the node's namespace in a pod that is not in it.
    #[error("config.linux.security_context.namespace_options.{field}: NODE was asked for, and the pod is not in the node's")]
    NotThePodsNamespace {
        /// "network", "ipc" or "pid".
        field: &'static str,
    },
    /// Users of its own for a pod, where that cannot be.
    #[error("config.linux.security_context.namespace_options.userns_options: this node can give no pod users of its own: {reason}")]
    NoUserNamespaces {
        /// What it lacks.
        reason: String,
    },
    /// A container that says otherwise of its users than its pod.
    #[error("config.linux.security_context.namespace_options.userns_options: it is not the pod's")]
    NotThePodsUsers,
    /// A mount that says otherwise.
    #[error("config.mounts.uid_mappings and gid_mappings of {}: they are not the pod's userns_options", path.display())]
    NotThePodsMappings {
        /// Where the mount is in the container.
        path: PathBuf,
    },
    /// A mount by which a pod with users of its own would mount for the node.
    #[error(
        "config.mounts.propagation of {}: what a pod with users of its own mounts is not for the node: PRIVATE or HOST_TO_CONTAINER is due",
        path.display()
    )]
    MountsForTheNode {
        /// Where the mount is in the container.
        path: PathBuf,
    },
    /// Somebody whom the pod's user namespace does not have.
    #[error("the container's {what} {id} is not mapped: userns_options has ids up to {}", length.saturating_sub(1))]
    NotMapped {
        /// "user" or "group".
        what: &'static str,
        /// Who.
        id: u32,
        /// How many there are.
        length: u32,
    },
    /// A volume for SELinux, on a host that has it.
    #[error("the volume at {} is to be relabelled for SELinux, which podbox does not do yet", path.display())]
    Relabel {
        /// Where the volume is in the container.
        path: PathBuf,
    },
    /// The image's stop signal is none.
    #[error("the image's stop signal {name:?} is no signal")]
    StopSignal {
        /// What it says.
        name: String,
    },
    /// A systemd slice as parent, on a node whose cgroup driver is cgroupfs.
    #[error("config.linux.cgroup_parent {parent:?} is a slice of systemd's, and the cgroup driver is cgroupfs")]
    SliceWithCgroupfs {
        /// As it was asked for.
        parent: String,
    },
    /// No slice as parent, on a node whose cgroup driver is systemd.
    #[error("config.linux.cgroup_parent {parent:?}")]
    NoSlice {
        /// As it was asked for.
        parent: String,
        /// Why it is none.
        source: InvalidSlice,
    },
    /// A slice whose cgroup has too long a path.
    #[error("config.linux.cgroup_parent {parent:?}")]
    DeepSlice {
        /// The slice.
        parent: String,
        /// What is wrong with the path.
        source: InvalidPath,
    },
    /// The OCI spec could not be assembled.
    #[error("assemble the runtime spec")]
    Spec(#[from] SpecError),
}

/// A part of an OCI spec is missing: a mistake of the planner's own, never of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the part {part} is missing")]
pub struct SpecError {
    /// Which.
    pub part: &'static str,
}
