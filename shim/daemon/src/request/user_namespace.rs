//! `UserNamespace` and `IDMapping`: whose users a pod's are.

use super::RequestError;
use super::common::enum_value;
use podbox_plan::{IdRange, UserMappings};
use podbox_proto::v1;
use serde::{Deserialize, Serialize};

/// Whose users and groups the pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UserMode {
    /// The node's.
    #[default]
    Node,
    /// Its own: those from 0 on are others for the node.
    Pod(UserMappings),
}

impl UserMode {
    /// What a user namespace of the pod's own has.
    #[must_use]
    pub fn mappings(&self) -> Option<&UserMappings> {
        match self {
            Self::Node => None,
            Self::Pod(mappings) => Some(mappings),
        }
    }
}

const FIELD: &str = "config.linux.security_context.namespace_options.userns_options";
/// Terminals belong to this group (`devpts(5)`, `gid=5`).
const TTY_GROUP: u32 = 5;

/// Reads `userns_options`; none is the node's.
pub(super) fn user_mode(options: Option<&v1::NamespaceOption>) -> Result<UserMode, RequestError> {
    let Some(user) = options.and_then(|options| options.userns_options.as_ref()) else { return Ok(UserMode::Node) };
    match enum_value("config.linux.security_context.namespace_options.userns_options.mode", user.mode)? {
        v1::NamespaceMode::Node if user.uids.is_empty() && user.gids.is_empty() => Ok(UserMode::Node),
        v1::NamespaceMode::Node => Err(RequestError::invalid(FIELD, "the node's users are not mapped: NODE takes no uids and gids")),
        v1::NamespaceMode::Pod => {
            let mappings =
                UserMappings { uids: range(&format!("{FIELD}.uids"), &user.uids)?, gids: range(&format!("{FIELD}.gids"), &user.gids)? };
            if mappings.gids.has(TTY_GROUP) {
                return Ok(UserMode::Pod(mappings));
            }
            Err(RequestError::invalid(format!("{FIELD}.gids"), format!("group {TTY_GROUP}, which terminals belong to, is not mapped")))
        }
        v1::NamespaceMode::Container | v1::NamespaceMode::Target => Err(RequestError::invalid(FIELD, "POD or NODE is due")),
    }
}

/// The user namespace of a pod, as far as it goes together with the pod's other namespaces.
pub(super) fn pod_user_mode(options: &v1::NamespaceOption) -> Result<UserMode, RequestError> {
    let mode = user_mode(Some(options))?;
    if mode == UserMode::Node {
        return Ok(mode);
    }
    // What belongs to the node's user namespace cannot be mounted in another, and is not to be ruled from there.
    for (name, what, number) in [("pid", "process ids", options.pid), ("ipc", "IPC objects", options.ipc)] {
        if number == i32::from(v1::NamespaceMode::Node) {
            let field = format!("config.linux.security_context.namespace_options.{name}");
            let reason =
                format!("NODE and a user namespace of the pod's own exclude each other: the node's {what} belong to the node's users");
            return Err(RequestError::invalid(field, reason));
        }
    }
    Ok(mode)
}

/// The mappings of a mount; none: its files belong to the same users as on the node.
pub(super) fn mount_mappings(mount: &v1::Mount) -> Result<Option<UserMappings>, RequestError> {
    const UIDS: &str = "config.mounts.uid_mappings";
    const GIDS: &str = "config.mounts.gid_mappings";
    match (mount.uid_mappings.is_empty(), mount.gid_mappings.is_empty()) {
        (true, true) => Ok(None),
        (true, false) => Err(RequestError::invalid(UIDS, "is required where there are gid_mappings")),
        (false, true) => Err(RequestError::invalid(GIDS, "is required where there are uid_mappings")),
        (false, false) => Ok(Some(UserMappings { uids: range(UIDS, &mount.uid_mappings)?, gids: range(GIDS, &mount.gid_mappings)? })),
    }
}

/// The one range that the CRI wants, which begins with root.
fn range(field: &str, mappings: &[v1::IdMapping]) -> Result<IdRange, RequestError> {
    let invalid = |reason: String| Err(RequestError::invalid(field.to_owned(), reason));
    let [mapping] = mappings else { return invalid(format!("exactly one mapping is due, not {}", mappings.len())) };
    let v1::IdMapping { host_id, container_id, length } = *mapping;
    if length == 0 {
        return invalid("a length of at least 1 is due".to_owned());
    }
    if container_id != 0 {
        return invalid(format!("id 0 of the container must be mapped: container_id is {container_id}"));
    }
    if host_id == 0 {
        return invalid("host_id 0 would make the container's root the node's".to_owned());
    }
    // The last number stands for no id (`setresuid(2)`).
    match host_id.checked_add(length) {
        Some(end) if end < u32::MAX => Ok(IdRange { first_host_id: host_id, length }),
        _ => invalid(format!("there are no {length} ids from {host_id} on")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_id: u32, container_id: u32, length: u32) -> v1::IdMapping {
        v1::IdMapping { host_id, container_id, length }
    }

    #[test]
    fn exactly_one_range_from_root_on_is_taken() {
        assert_eq!(range("f", &[mapping(100_000, 0, 65536)]), Ok(IdRange { first_host_id: 100_000, length: 65536 }));
        assert!(range("f", &[mapping(u32::MAX - 2, 0, 1)]).is_ok());
        for refused in [
            &[][..],
            &[mapping(1000, 0, 10), mapping(2000, 10, 10)],
            &[mapping(1000, 0, 0)],
            &[mapping(1000, 1, 10)],
            &[mapping(0, 0, 65536)],
            &[mapping(u32::MAX - 1, 0, 1)],
            &[mapping(u32::MAX, 0, 1)],
            &[mapping(4_000_000_000, 0, 400_000_000)],
        ] {
            assert!(range("f", refused).is_err(), "{refused:?}");
        }
    }
}
