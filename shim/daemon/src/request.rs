//! From wire to type: what a request says, checked once and here.
//!
//! Messages of the CRI come in and die here. What leaves are types whose values are all possible: paths are absolute, names
//! are bounded, a default is a value. Malformed input is [`RequestError::Invalid`]; a field that asks for something podbox
//! does not do yet is [`RequestError::Unsupported`], never passed over. Nothing here looks at the node or at other pods.

mod common;
mod confinement;
mod container;
mod device;
mod host_port;
mod image;
mod mount;
mod pull;
mod resources;
mod sandbox;
mod security;
mod signal;
mod subject;
mod user_namespace;

pub use common::Labels;
pub use confinement::{AppArmorProfile, Confinement, SeccompProfile, SelinuxContext};
pub use container::{ContainerConfig, ContainerMetadata, StopSignal};
pub use device::Device;
pub use image::ImageRequest;
pub use mount::{ImageVolume, Mount, Propagation, Restrictions};
pub use pull::PullConfig;
pub use resources::Resources;
pub use sandbox::{Dns, IpcMode, NetworkMode, SandboxConfig, SandboxMetadata, SandboxPidMode};
pub use security::{Capabilities, GroupsPolicy, PathLists, PidMode, SecurityContext, UserRequest};
pub use signal::{KILL, signal_number};
pub use subject::Subject;
pub use user_namespace::UserMode;

use std::borrow::Cow;

/// A request cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A value that is malformed, out of its range or in conflict with another.
    #[error("{field}: {reason}")]
    Invalid {
        /// As the CRI spells it, with dots: `config.metadata.name`.
        field: Cow<'static, str>,
        /// What is due.
        reason: Cow<'static, str>,
    },
    /// A value that the CRI allows and podbox does not honour yet.
    #[error("{field}: {what} not supported by podbox yet")]
    Unsupported {
        /// As the CRI spells it.
        field: Cow<'static, str>,
        /// What was asked for, with its verb: "host ports are".
        what: &'static str,
    },
}

impl RequestError {
    /// A malformed value.
    pub fn invalid(field: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    fn unsupported(field: impl Into<Cow<'static, str>>, what: &'static str) -> Self {
        Self::Unsupported { field: field.into(), what }
    }
}

/// A message that must be there.
///
/// # Errors
/// Names the field if it is not.
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, RequestError> {
    value.ok_or_else(|| RequestError::invalid(field, "is required"))
}
