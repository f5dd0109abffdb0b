//! Security contexts, as far as they are honoured; the rest is refused by name.

use super::common::{absolute_path, bounded_text, enum_value, has_parent_component, kernel_id, shortened};
use super::confinement::ConfinementFields;
use super::user_namespace::{UserMode, user_mode};
use super::{Confinement, IpcMode, NetworkMode, RequestError};
use podbox_proto::v1;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The PID namespace a container asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// The sandbox's: shared by all that ask for it.
    Pod,
    /// Its own.
    Container,
    /// The node's.
    Node,
    /// That of the container with this id, or unique beginning of one.
    Target(String),
}

/// What `supplemental_groups` do to the image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// They add to those of the user in the image's `/etc/group`.
    Merge,
    /// They are all there are.
    Strict,
}

/// Capabilities by name, without `CAP_` and in capitals; `ALL` is possible.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Added to the default set.
    pub add: Vec<String>,
    /// Taken from it, after the adding; `ALL` first empties it.
    pub drop: Vec<String>,
    /// Added, and kept over `execve(2)` also where the program has none and the user is not root.
    #[serde(default)]
    pub ambient: Vec<String>,
}

/// Who the container runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserRequest {
    /// As the image says.
    FromImage,
    /// This user, and this group instead of the user's own.
    Id {
        /// User id.
        uid: u32,
        /// Group id.
        gid: Option<u32>,
    },
    /// The user of this name in the image's `/etc/passwd`.
    Name {
        /// The name.
        name: String,
        /// Group id instead of the user's own.
        gid: Option<u32>,
    },
}

/// Paths that are hidden or made read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathLists {
    /// podbox's own: none were named.
    Standard,
    /// Exactly these.
    Exactly {
        /// Hidden.
        masked: Vec<PathBuf>,
        /// Read-only.
        read_only: Vec<PathBuf>,
    },
}

/// `LinuxContainerSecurityContext`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityContext {
    /// Capabilities.
    pub capabilities: Capabilities,
    /// All capabilities, all devices, nothing hidden.
    pub privileged: bool,
    /// The PID namespace.
    pub pid: PidMode,
    /// `Node` if the node's network was asked for by name; `Pod`, the protocol's zero, is whatever the pod has.
    #[serde(default)]
    pub network: NetworkMode,
    /// The same of IPC.
    #[serde(default)]
    pub ipc: IpcMode,
    /// Whose users; it must be the pod's.
    #[serde(default)]
    pub users: UserMode,
    /// The user.
    pub user: UserRequest,
    /// The root is not writable.
    pub read_only_root: bool,
    /// Further groups.
    pub supplemental_groups: Vec<u32>,
    /// And what becomes of the image's.
    pub groups_policy: GroupsPolicy,
    /// `execve(2)` gives no privileges.
    pub no_new_privileges: bool,
    /// Hidden and read-only paths.
    pub paths: PathLists,
    /// Seccomp, AppArmor and SELinux; nobody is confined who is privileged.
    #[serde(default)]
    pub confinement: Confinement,
}

/// Masked paths, and read-only ones, of one container; the kubelet's lists have some hundred on machines with many processors.
const PATHS_MAX: usize = 4096;
/// `NGROUPS_MAX` (`setgroups(2)`)
const GROUPS_MAX: usize = 65536;

impl TryFrom<v1::LinuxContainerSecurityContext> for SecurityContext {
    type Error = RequestError;

    // The deprecated fields are ones that callers may still send.
    #[allow(deprecated)]
    fn try_from(context: v1::LinuxContainerSecurityContext) -> Result<Self, RequestError> {
        if context.supplemental_groups.len() > GROUPS_MAX {
            let reason = format!("{} groups are over the kernel's limit of {GROUPS_MAX}", context.supplemental_groups.len());
            return Err(RequestError::invalid("config.linux.security_context.supplemental_groups", reason));
        }
        let mut groups = Vec::with_capacity(context.supplemental_groups.len());
        for group in &context.supplemental_groups {
            groups.push(kernel_id("config.linux.security_context.supplemental_groups", *group)?);
        }
        let namespaces = context.namespace_options.clone().unwrap_or_default();
        let policy = enum_value("config.linux.security_context.supplemental_groups_policy", context.supplemental_groups_policy)?;
        Ok(Self {
            capabilities: capabilities(context.capabilities.clone().unwrap_or_default()),
            privileged: context.privileged,
            pid: pid_mode(&namespaces)?,
            network: shared_namespace("network", namespaces.network, NetworkMode::Pod, NetworkMode::Node)?,
            ipc: shared_namespace("ipc", namespaces.ipc, IpcMode::Pod, IpcMode::Node)?,
            users: user_mode(context.namespace_options.as_ref())?,
            user: user(&context)?,
            read_only_root: context.readonly_rootfs,
            supplemental_groups: groups,
            groups_policy: match policy {
                v1::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
                v1::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
            },
            no_new_privileges: context.no_new_privs,
            paths: path_lists(&context)?,
            confinement: ConfinementFields {
                seccomp: context.seccomp.as_ref(),
                seccomp_path: &context.seccomp_profile_path,
                apparmor: context.apparmor.as_ref(),
                apparmor_name: &context.apparmor_profile,
                selinux: context.selinux_options.as_ref(),
            }
            .try_into()?,
        })
    }
}

const NAMESPACES: &str = "config.linux.security_context.namespace_options";

fn pid_mode(options: &v1::NamespaceOption) -> Result<PidMode, RequestError> {
    use v1::NamespaceMode as Mode;
    Ok(match enum_value(NAMESPACES, options.pid)? {
        Mode::Pod => PidMode::Pod,
        Mode::Container => PidMode::Container,
        Mode::Node => PidMode::Node,
        Mode::Target if options.target_id.is_empty() => return Err(RequestError::invalid(NAMESPACES, "pid: TARGET needs a target_id")),
        Mode::Target => PidMode::Target(bounded_text(NAMESPACES, options.target_id.clone())?),
    })
}

/// A namespace that containers share with their pod, whosever it is.
fn shared_namespace<M>(what: &str, number: i32, pod: M, node: M) -> Result<M, RequestError> {
    match enum_value(NAMESPACES, number)? {
        v1::NamespaceMode::Pod => Ok(pod),
        v1::NamespaceMode::Node => Ok(node),
        v1::NamespaceMode::Container | v1::NamespaceMode::Target => {
            Err(RequestError::invalid(NAMESPACES, format!("{what}: POD or NODE is due")))
        }
    }
}

fn user(context: &v1::LinuxContainerSecurityContext) -> Result<UserRequest, RequestError> {
    let uid = match &context.run_as_user {
        Some(user) => Some(kernel_id("config.linux.security_context.run_as_user", user.value)?),
        None => None,
    };
    let gid = match &context.run_as_group {
        Some(group) => Some(kernel_id("config.linux.security_context.run_as_group", group.value)?),
        None => None,
    };
    let name = context.run_as_username.as_str();
    match (uid, name, gid) {
        (Some(_), name, _) if !name.is_empty() => {
            Err(RequestError::invalid("config.linux.security_context.run_as_username", "run_as_user is set as well: one is due"))
        }
        (Some(uid), _, gid) => Ok(UserRequest::Id { uid, gid }),
        (None, "", Some(_)) => Err(RequestError::invalid("config.linux.security_context.run_as_group", "a group needs a user")),
        (None, "", None) => Ok(UserRequest::FromImage),
        (None, name, gid) => {
            let name = bounded_text("config.linux.security_context.run_as_username", name.to_owned())?;
            Ok(UserRequest::Name { name, gid })
        }
    }
}

fn capabilities(capability: v1::Capability) -> Capabilities {
    let names = |names: Vec<String>| names.iter().map(|name| normal_capability(name)).collect();
    Capabilities {
        add: names(capability.add_capabilities),
        drop: names(capability.drop_capabilities),
        ambient: names(capability.add_ambient_capabilities),
    }
}

/// `cap_net_admin`, `CAP_NET_ADMIN` and `NET_ADMIN` are one. Whether there is such a capability is the planner's to know.
fn normal_capability(name: &str) -> String {
    let upper = shortened(name).to_ascii_uppercase();
    upper.strip_prefix("CAP_").map_or(upper.clone(), str::to_owned)
}

fn path_lists(context: &v1::LinuxContainerSecurityContext) -> Result<PathLists, RequestError> {
    if context.masked_paths.is_empty() && context.readonly_paths.is_empty() {
        return Ok(PathLists::Standard);
    }
    let paths = |field: &'static str, texts: &[String]| {
        if texts.len() > PATHS_MAX {
            return Err(RequestError::invalid(field, format!("{} paths are over the limit of {PATHS_MAX}", texts.len())));
        }
        texts
            .iter()
            .map(|text| {
                let path = absolute_path(field, text)?;
                if has_parent_component(&path) {
                    return Err(RequestError::invalid(field, "a path without `..` is due"));
                }
                Ok(path)
            })
            .collect::<Result<Vec<PathBuf>, RequestError>>()
    };
    Ok(PathLists::Exactly {
        masked: paths("config.linux.security_context.masked_paths", &context.masked_paths)?,
        read_only: paths("config.linux.security_context.readonly_paths", &context.readonly_paths)?,
    })
}
