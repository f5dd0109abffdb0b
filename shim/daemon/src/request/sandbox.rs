//! `PodSandboxConfig`.

use super::common::{absolute_path, bounded_text, enum_value, has_parent_component, kernel_id, labels, name, shortened};
use super::confinement::ConfinementFields;
use super::host_port::host_ports;
use super::user_namespace::{UserMode, pod_user_mode};
use super::{Confinement, Labels, RequestError, Resources, required};
use podbox_netns::HostPort;
use podbox_proto::v1;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What makes a sandbox unique: no two live sandboxes have the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxMetadata {
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Counts the sandboxes of one pod.
    pub attempt: u32,
}

/// Whose network the pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NetworkMode {
    /// One of its own.
    #[default]
    Pod,
    /// That of the daemon's network namespace.
    Node,
}

/// Whose System V and POSIX IPC objects the pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum IpcMode {
    /// Its own.
    #[default]
    Pod,
    /// The node's.
    Node,
}

/// The sandbox's PID mode; a container's own request decides for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxPidMode {
    /// Containers share the sandbox's.
    Pod,
    /// Each container has its own.
    Container,
    /// The node's.
    Node,
}

/// `DNSConfig`: what goes into resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

impl Dns {
    /// Nothing is asked for: the node's resolv.conf is taken.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.searches.is_empty() && self.options.is_empty()
    }
}

/// A sandbox as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Its name.
    pub metadata: SandboxMetadata,
    /// Empty only in the node's network: then the node's name is taken.
    pub hostname: String,
    /// Where its containers' logs go; none if empty.
    pub log_directory: Option<PathBuf>,
    /// For resolv.conf.
    pub dns: Dns,
    /// Returned as they came.
    pub labels: Labels,
    /// Returned as they came.
    pub annotations: Labels,
    /// The pod's cgroup, below the hierarchies' roots; `None`: one below `cgroup.parent`.
    pub cgroup_parent: Option<String>,
    /// Namespaced sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// Whose network.
    pub network: NetworkMode,
    /// Ports of the node that lead into the pod; none in the node's network.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// Whose IPC objects.
    pub ipc: IpcMode,
    /// Whose process ids.
    pub pid: SandboxPidMode,
    /// Whose users.
    #[serde(default)]
    pub users: UserMode,
    /// Its containers may be privileged.
    pub privileged: bool,
    /// What confines pause, which has no capability and sees no file; a privileged pod's is not confined.
    #[serde(default)]
    pub confinement: Confinement,
    /// The sum of the containers' resources: for information, the kubelet sets the pod's cgroup itself.
    pub resources: Resources,
    /// What the sandbox itself costs: for information.
    pub overhead: Resources,
    /// The runtime handler; empty is the only one.
    pub runtime_handler: String,
}

impl TryFrom<v1::RunPodSandboxRequest> for SandboxConfig {
    type Error = RequestError;

    fn try_from(request: v1::RunPodSandboxRequest) -> Result<Self, RequestError> {
        if !request.runtime_handler.is_empty() {
            let handler = shortened(&request.runtime_handler);
            return Err(RequestError::invalid("runtime_handler", format!("there is no runtime handler {handler:?}")));
        }
        let config = required("config", request.config)?;
        let metadata = required("config.metadata", config.metadata)?;
        let linux = config.linux.unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        let namespaces = security.namespace_options.clone().unwrap_or_default();
        let (network, ipc, pid) = namespace_modes(&namespaces)?;
        check_user(&security)?;
        Ok(Self {
            metadata: SandboxMetadata {
                name: name("config.metadata.name", metadata.name)?,
                uid: name("config.metadata.uid", metadata.uid)?,
                namespace: name("config.metadata.namespace", metadata.namespace)?,
                attempt: metadata.attempt,
            },
            hostname: hostname(config.hostname)?,
            log_directory: log_directory(&config.log_directory)?,
            dns: dns(config.dns_config.unwrap_or_default())?,
            labels: labels("config.labels", config.labels)?,
            annotations: labels("config.annotations", config.annotations)?,
            cgroup_parent: cgroup_parent(linux.cgroup_parent)?,
            sysctls: sysctls(linux.sysctls, network, ipc)?,
            // In the node's network every port is the node's.
            host_ports: if network == NetworkMode::Pod { host_ports(&config.port_mappings)? } else { Vec::new() },
            network,
            ipc,
            pid,
            users: pod_user_mode(&namespaces)?,
            privileged: security.privileged,
            confinement: confinement(&security)?,
            resources: Resources::of_pod("config.linux.resources", linux.resources)?,
            overhead: Resources::of_pod("config.linux.overhead", linux.overhead)?,
            runtime_handler: request.runtime_handler,
        })
    }
}

const NAMESPACES: &str = "config.linux.security_context.namespace_options";

fn namespace_modes(options: &v1::NamespaceOption) -> Result<(NetworkMode, IpcMode, SandboxPidMode), RequestError> {
    use v1::NamespaceMode as Mode;
    let network = match enum_value(NAMESPACES, options.network)? {
        Mode::Pod => NetworkMode::Pod,
        Mode::Node => NetworkMode::Node,
        Mode::Container | Mode::Target => return Err(RequestError::invalid(NAMESPACES, "network: POD or NODE is due")),
    };
    let ipc = match enum_value(NAMESPACES, options.ipc)? {
        Mode::Pod => IpcMode::Pod,
        Mode::Node => IpcMode::Node,
        Mode::Container | Mode::Target => return Err(RequestError::invalid(NAMESPACES, "ipc: POD or NODE is due")),
    };
    let pid = match enum_value(NAMESPACES, options.pid)? {
        Mode::Pod => SandboxPidMode::Pod,
        Mode::Container => SandboxPidMode::Container,
        Mode::Node => SandboxPidMode::Node,
        Mode::Target => return Err(RequestError::invalid(NAMESPACES, "pid: TARGET is for containers")),
    };
    Ok((network, ipc, pid))
}

// The deprecated field is one that callers may still send.
#[allow(deprecated)]
fn confinement(security: &v1::LinuxSandboxSecurityContext) -> Result<Confinement, RequestError> {
    ConfinementFields {
        seccomp: security.seccomp.as_ref(),
        seccomp_path: &security.seccomp_profile_path,
        apparmor: security.apparmor.as_ref(),
        apparmor_name: "",
        selinux: security.selinux_options.as_ref(),
    }
    .try_into()
}

/// Pause has no image and no file system to read: it runs as an unprivileged user whatever is asked for. What is asked for
/// must still make sense.
fn check_user(security: &v1::LinuxSandboxSecurityContext) -> Result<(), RequestError> {
    if let Some(user) = &security.run_as_user {
        kernel_id("config.linux.security_context.run_as_user", user.value)?;
    }
    if let Some(group) = &security.run_as_group {
        kernel_id("config.linux.security_context.run_as_group", group.value)?;
        if security.run_as_user.is_none() {
            return Err(RequestError::invalid("config.linux.security_context.run_as_group", "a group needs a user"));
        }
    }
    for group in &security.supplemental_groups {
        kernel_id("config.linux.security_context.supplemental_groups", *group)?;
    }
    let policy = "config.linux.security_context.supplemental_groups_policy";
    enum_value::<v1::SupplementalGroupsPolicy>(policy, security.supplemental_groups_policy).map(drop)
}

/// `sethostname(2)` takes 64 bytes; the name also stands in files of lines, so that it must be one word.
fn hostname(name: String) -> Result<String, RequestError> {
    let begins = name.chars().next().is_none_or(|c| c.is_ascii_alphanumeric());
    let fits = begins && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if fits {
        Ok(name)
    } else {
        Err(RequestError::invalid("config.hostname", "at most 64 letters, digits, `-`, `.` and `_` are due, a letter or digit first"))
    }
}

fn log_directory(text: &str) -> Result<Option<PathBuf>, RequestError> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = absolute_path("config.log_directory", text)?;
    if has_parent_component(&path) {
        return Err(RequestError::invalid("config.log_directory", "a path without `..` is due"));
    }
    Ok(Some(path))
}

fn dns(dns: v1::DnsConfig) -> Result<Dns, RequestError> {
    let words = |field: &'static str, words: Vec<String>| {
        let plain = |word: &String| !word.is_empty() && word.len() <= 255 && word.chars().all(|c| c.is_ascii_graphic());
        if words.len() <= 64 && words.iter().all(plain) {
            return Ok(words);
        }
        Err(RequestError::invalid(field, "at most 64 words without white space are due"))
    };
    Ok(Dns {
        servers: words("config.dns_config.servers", dns.servers)?,
        searches: words("config.dns_config.searches", dns.searches)?,
        options: words("config.dns_config.options", dns.options)?,
    })
}

fn cgroup_parent(text: String) -> Result<Option<String>, RequestError> {
    const FIELD: &str = "config.linux.cgroup_parent";
    if text.is_empty() {
        return Ok(None);
    }
    // A slice of systemd's goes by its name alone, too.
    if text.ends_with(".slice") && !text.contains('/') {
        return name(FIELD, text).map(Some);
    }
    let path = absolute_path(FIELD, &text)?;
    if has_parent_component(&path) || path == Path::new("/") {
        return Err(RequestError::invalid(FIELD, "a cgroup below the root, without `..`, is due"));
    }
    Ok(Some(text))
}

/// More than a pod's namespaces have.
const SYSCTLS_MAX: usize = 1024;

/// Only sysctls that a namespace of the pod's own confines: one that is the node's too would change every other pod.
fn sysctls(sysctls: BTreeMap<String, String>, network: NetworkMode, ipc: IpcMode) -> Result<BTreeMap<String, String>, RequestError> {
    const FIELD: &str = "config.linux.sysctls";
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    if sysctls.len() > SYSCTLS_MAX {
        return Err(RequestError::invalid(FIELD, format!("{} sysctls are over the limit of {SYSCTLS_MAX}", sysctls.len())));
    }
    for (key, value) in &sysctls {
        let shown = shortened(key);
        let plain = key.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)));
        if !plain || key.len() > 255 {
            return Err(RequestError::invalid(FIELD, format!("{shown:?} is no sysctl's name")));
        }
        bounded_text(FIELD, value.clone())?;
        let is_ipc = IPC.contains(&key.as_str()) || key.starts_with("fs.mqueue.");
        let is_net = key.starts_with("net.");
        let reason = match () {
            () if !is_ipc && !is_net => "is not confined to a namespace of the pod",
            () if is_ipc && ipc == IpcMode::Node => "would change the node: the pod shares its IPC namespace",
            () if is_net && network == NetworkMode::Node => "would change the node: the pod shares its network namespace",
            () => continue,
        };
        return Err(RequestError::invalid(FIELD, format!("{shown} {reason}")));
    }
    Ok(sysctls)
}
