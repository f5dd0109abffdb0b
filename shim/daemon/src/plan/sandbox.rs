//! A sandbox's cgroup, its files and its pause process.

use super::limits::standard_limits;
use super::user_namespace::pause_in_user_namespace;
use super::{Layout, NodeFacts, PlanError};
use crate::request::{IpcMode, NetworkMode, SandboxConfig, SandboxPidMode, UserMode};
use podbox_cgroup::Driver;
use podbox_cgroup::systemd::{InvalidSlice, Scope, Slice};
use podbox_plan::{
    CapabilitySets, CgroupEntry, FileSystem, IdRange, LaunchPlan, MountAttributes, NewNamespaces, Op, PidNamespace, Program, SandboxId,
    Stdio, UserNamespace,
};
use std::net::IpAddr;
use std::path::PathBuf;

/// Pause's user and group: nobody's, and no file's.
pub(super) const PAUSE_ID: u32 = 65535;
/// What the kubelet gives sandboxes: among the last to be killed, before system services.
pub(super) const PAUSE_OOM_SCORE_ADJ: i32 = -998;
/// Where pause keeps the pod's shared memory, in its own root.
pub(super) const POD_SHM: &str = "/dev/shm";
/// As Docker and containerd have it.
pub(super) const SHM_SIZE: &str = "67108864";

/// The contents of the files that are bound into a pod's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFiles {
    /// `/etc/resolv.conf`
    pub resolv_conf: String,
    /// `/etc/hostname`
    pub hostname: String,
    /// `/etc/hosts`
    pub hosts: String,
}

/// The pod's hostname: as asked for; the node's in the node's network; else the pod's name where it can be one.
#[must_use]
pub fn sandbox_hostname(config: &SandboxConfig, node: &NodeFacts, id: &SandboxId) -> String {
    if !config.hostname.is_empty() {
        return config.hostname.clone();
    }
    if config.network == NetworkMode::Node {
        return node.hostname.clone();
    }
    let name = &config.metadata.name;
    let is_hostname = name.len() <= 63 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
    if is_hostname { name.clone() } else { id.as_str()[..12].to_owned() }
}

/// Where pods go whose request does not say: what it is follows from the cgroup driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodParent {
    /// A directory, for cgroups that podbox makes itself.
    Directory(String),
    /// A slice, for scopes that systemd makes.
    Slice(Slice),
}

impl PodParent {
    /// From the configuration's `cgroup.parent`.
    ///
    /// # Errors
    /// It can be no slice and has to be one.
    pub fn new(driver: Driver, path: &str) -> Result<Self, InvalidSlice> {
        match driver {
            Driver::Cgroupfs => Ok(Self::Directory(path.trim_end_matches('/').to_owned())),
            Driver::Systemd => Slice::from_path(path).map(Self::Slice),
        }
    }
}

/// The cgroup of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCgroup {
    /// Below the hierarchies' roots.
    pub path: String,
    /// The slice in which it is a scope of systemd's; `None`: podbox makes it itself.
    pub slice: Option<Slice>,
}

/// The pod's cgroup. With cgroupfs, the request's cgroup_parent *is* it; with systemd, that is a slice and the pod a scope in it.
///
/// # Errors
/// The parent is not what the node's driver takes: a kubelet with another driver sent it.
pub fn pod_cgroup(config: &SandboxConfig, parent: &PodParent, id: &SandboxId) -> Result<PodCgroup, PlanError> {
    match (parent, config.cgroup_parent.as_deref()) {
        (PodParent::Directory(_), Some(asked)) if asked.ends_with(".slice") => {
            Err(PlanError::SliceWithCgroupfs { parent: asked.to_owned() })
        }
        (PodParent::Directory(_), Some(asked)) => Ok(PodCgroup { path: asked.to_owned(), slice: None }),
        (PodParent::Directory(default), None) => Ok(PodCgroup { path: format!("{default}/{id}"), slice: None }),
        (PodParent::Slice(default), None) => scope_in(default.clone(), id),
        (PodParent::Slice(_), Some(asked)) => {
            let slice = Slice::from_cgroup_parent(asked);
            scope_in(slice.map_err(|source| PlanError::NoSlice { parent: asked.to_owned(), source })?, id)
        }
    }
}

fn scope_in(slice: Slice, id: &SandboxId) -> Result<PodCgroup, PlanError> {
    let scope = Scope::new(slice.clone(), id.as_str());
    let path = scope.path().map_err(|source| PlanError::DeepSlice { parent: slice.name(), source })?;
    Ok(PodCgroup { path: path.as_str().to_owned(), slice: Some(slice) })
}

/// What stands in the pod's files. `node_resolv_conf` and `node_hosts` are the node's own.
#[must_use]
pub fn plan_files(config: &SandboxConfig, hostname: &str, ips: &[IpAddr], node_resolv_conf: &str, node_hosts: &str) -> PodFiles {
    let resolv_conf = if config.dns.is_empty() { node_resolv_conf.to_owned() } else { resolv_conf(&config.dns) };
    let hosts = match config.network {
        NetworkMode::Node => node_hosts.to_owned(),
        NetworkMode::Pod => {
            let own: String = ips.iter().map(|ip| format!("{ip}\t{hostname}\n")).collect();
            format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}")
        }
    };
    PodFiles { resolv_conf, hostname: format!("{hostname}\n"), hosts }
}

/// `resolv.conf(5)`
fn resolv_conf(dns: &crate::request::Dns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

/// Who pause runs as: nobody, or the last whom the pod has.
pub(super) fn pause_ids(users: &UserMode) -> (u32, u32) {
    let last = |range: IdRange| PAUSE_ID.min(range.length.saturating_sub(1));
    users.mappings().map_or((PAUSE_ID, PAUSE_ID), |mappings| (last(mappings.uids), last(mappings.gids)))
}

/// How pause is born: with the pod's namespaces, in an empty read-only root, as nobody, without a capability.
/// Its program comes with the message as descriptor 0.
#[must_use]
pub fn pause_launch(
    config: &SandboxConfig,
    node: &NodeFacts,
    layout: &Layout,
    id: &SandboxId,
    hostname: &str,
    cgroup: CgroupEntry,
) -> LaunchPlan {
    let mut ops = vec![Op::SetHostname { name: hostname.to_owned() }];
    ops.extend(config.sysctls.iter().map(|(key, value)| Op::SetSysctl { key: key.clone(), value: value.clone() }));
    ops.push(Op::SetOomScoreAdj { value: node.clamp_oom_score_adj(PAUSE_OOM_SCORE_ADJ) });
    ops.push(Op::SetLimits { limits: standard_limits(node) });
    ops.push(Op::LeaveHostMounts);
    ops.push(Op::EmptyRoot { at: layout.pod(id) });
    if config.ipc == IpcMode::Pod {
        ops.push(Op::Mount { target: PathBuf::from(POD_SHM), fs: pod_shm() });
    }
    let (uid, gid) = pause_ids(&config.users);
    ops.extend([
        Op::ReadOnlyRoot,
        Op::PivotRoot,
        Op::ConnectStdio,
        Op::NoNewPrivileges,
        Op::Credentials { uid, gid, groups: Vec::new(), capabilities: CapabilitySets::default() },
        Op::Exec { program: Program::Passed(0), arguments: vec!["pause".into()], environment: Vec::new() },
    ]);
    let user = match config.users {
        UserMode::Node => UserNamespace::Host,
        UserMode::Pod(mappings) => {
            ops = pause_in_user_namespace(ops);
            UserNamespace::New(mappings)
        }
    };
    LaunchPlan {
        namespaces: NewNamespaces { mount: true, net: config.network == NetworkMode::Pod, ipc: config.ipc == IpcMode::Pod, uts: true },
        // A container may ask for the sandbox's PID namespace whatever the sandbox's own mode is, so there is one to join
        // unless the pod is in the node's.
        pid: if config.pid == SandboxPidMode::Node { PidNamespace::Host } else { PidNamespace::New },
        user,
        cgroup,
        stdio: Stdio::Closed,
        ops,
        exit_record: Some(layout.pause_exit(id)),
    }
}

fn pod_shm() -> FileSystem {
    FileSystem {
        kind: "tmpfs".to_owned(),
        options: vec![("mode".to_owned(), Some("1777".to_owned())), ("size".to_owned(), Some(SHM_SIZE.to_owned()))],
        attributes: MountAttributes { no_suid: true, no_dev: true, no_exec: true, ..MountAttributes::default() },
    }
}
