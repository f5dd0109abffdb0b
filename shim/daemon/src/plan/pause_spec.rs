//! Pause as an OCI runtime spec (runtime-spec, `config.md`): what verbose PodSandboxStatus shows.
//!
//! Pause is not launched by it: [`pause_launch`](super::pause_launch) is, and says the same.

use super::sandbox::{PAUSE_OOM_SCORE_ADJ, POD_SHM, SHM_SIZE, pause_ids};
use super::spec::{id_mappings, missing, mount};
use super::{NodeFacts, PlanError, limits};
use crate::request::{IpcMode, NetworkMode, SandboxConfig, SandboxPidMode};
use oci_spec::runtime::{
    LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Process,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The spec of a sandbox's pause; `cgroup` is pause's own.
///
/// # Errors
/// [`PlanError::Spec`], which is a mistake of this function's.
pub fn pause_spec(config: &SandboxConfig, node: &NodeFacts, hostname: &str, cgroup: &str) -> Result<Spec, PlanError> {
    let mut mounts = Vec::new();
    if config.ipc == IpcMode::Pod {
        let size = format!("size={SHM_SIZE}");
        mounts.push(mount(POD_SHM, "tmpfs", Path::new("tmpfs"), &["nosuid", "nodev", "noexec", "mode=1777", &size])?);
    }
    let annotations: HashMap<String, String> = config.annotations.clone().into_iter().collect();
    let sysctls: HashMap<String, String> = config.sysctls.clone().into_iter().collect();
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(config)?)
        .cgroups_path(cgroup)
        .sysctl(sysctls)
        .masked_paths(Vec::new())
        .readonly_paths(Vec::new())
        .rootfs_propagation("private")
        .build()
        .map_err(missing("linux"))?;
    linux.set_resources(None);
    if let Some(mappings) = config.users.mappings() {
        linux.set_uid_mappings(Some(id_mappings(mappings.uids)?)).set_gid_mappings(Some(id_mappings(mappings.gids)?));
    }
    SpecBuilder::default()
        .version("1.2.1")
        .root(RootBuilder::default().path("rootfs").readonly(true).build().map_err(missing("root"))?)
        .hostname(hostname)
        .process(process(config, node)?)
        .mounts(mounts)
        .annotations(annotations)
        .linux(linux)
        .build()
        .map_err(missing("spec"))
}

fn process(config: &SandboxConfig, node: &NodeFacts) -> Result<Process, PlanError> {
    let (uid, gid) = pause_ids(&config.users);
    ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(uid).gid(gid).build().map_err(missing("process.user"))?)
        .args(vec!["pause".to_owned()])
        .env(Vec::new())
        .cwd("/")
        .capabilities(no_capabilities()?)
        .rlimits(limits::spec_limits(node)?)
        .no_new_privileges(true)
        .oom_score_adj(node.clamp_oom_score_adj(PAUSE_OOM_SCORE_ADJ))
        .build()
        .map_err(missing("process"))
}

fn no_capabilities() -> Result<LinuxCapabilities, PlanError> {
    LinuxCapabilitiesBuilder::default()
        .bounding(HashSet::new())
        .effective(HashSet::new())
        .permitted(HashSet::new())
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .map_err(missing("process.capabilities"))
}

/// All are new ones: pause is what holds them.
fn namespaces(config: &SandboxConfig) -> Result<Vec<LinuxNamespace>, PlanError> {
    let mut namespaces = vec![LinuxNamespaceType::Mount, LinuxNamespaceType::Uts];
    if config.network == NetworkMode::Pod {
        namespaces.push(LinuxNamespaceType::Network);
    }
    if config.ipc == IpcMode::Pod {
        namespaces.push(LinuxNamespaceType::Ipc);
    }
    if config.pid != SandboxPidMode::Node {
        namespaces.push(LinuxNamespaceType::Pid);
    }
    if config.users.mappings().is_some() {
        namespaces.push(LinuxNamespaceType::User);
    }
    let build = |typ| LinuxNamespaceBuilder::default().typ(typ).build().map_err(missing("linux.namespaces"));
    namespaces.into_iter().map(build).collect()
}
