//! Verbose answers: the key `info` with a JSON object, as `crictl inspect` and `inspectp` read it.

use super::{Cri, status};
use crate::effects::{Node, SandboxCgroups, kept_profile};
use crate::plan::{Layout, pause_spec, spec_json};
use crate::request::NetworkMode;
use crate::store::{ContainerRecord, PauseRecord, SandboxPhase, SandboxRecord};
use oci_spec::runtime::Spec;
use podbox_cgroup::Controller;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tonic::Status;

type Info = BTreeMap<String, String>;

fn as_info(value: &Value) -> Info {
    BTreeMap::from([("info".to_owned(), value.to_string())])
}

/// Pause, while there is one.
fn running_pause(record: &SandboxRecord) -> Option<&PauseRecord> {
    record.pause.as_ref().filter(|_| record.phase == SandboxPhase::Ready)
}

/// Where the network namespace of a sandbox is found; empty in the node's network, and once pause is gone.
fn netns(record: &SandboxRecord) -> String {
    let pause = running_pause(record).filter(|_| record.config.network == NetworkMode::Pod);
    pause.map(|pause| format!("/proc/{}/ns/net", pause.pid)).unwrap_or_default()
}

/// A spec with the seccomp profile that its filter is of. That stands beside the filter and not in the record, which would be several times
/// as large.
fn runtime_spec(spec: &Spec, filter: &Path) -> Result<Value, Status> {
    let mut json = spec_json(spec);
    let profile = kept_profile(filter).map_err(|error| status::of_pod(error.into()))?;
    if let (Some(profile), Some(linux)) = (profile, json.get_mut("linux").and_then(Value::as_object_mut)) {
        linux.insert("seccomp".to_owned(), profile);
    }
    Ok(json)
}

/// Pause, cgroup, network namespace, the sandbox as it was asked for, and the OCI runtime spec that pause runs by.
pub(super) fn of_sandbox(node: &Node, record: &SandboxRecord) -> Result<Info, Status> {
    let pause = running_pause(record);
    let cgroup = SandboxCgroups::new(&record.cgroup, &record.id).pause();
    let spec = pause_spec(&record.config, &node.facts, &record.hostname, &cgroup).map_err(|error| status::of_pod(error.into()))?;
    Ok(as_info(&json!({
        "sandboxID": record.id,
        "pid": pause.map_or(0, |pause| pause.pid),
        "monitorPid": pause.map_or(0, |pause| pause.monitor_pid),
        "processStatus": if pause.is_some() { "running" } else { "stopped" },
        "netns": netns(record),
        "namedNetns": Layout::named_netns(&record.id),
        "cgroup": record.cgroup,
        "slice": record.slice,
        "hostname": record.hostname,
        "addresses": record.addresses,
        "networkReleased": record.network_released,
        "config": record.config,
        "runtimeSpec": runtime_spec(&spec, &node.layout.pause_filter(&record.id))?,
    })))
}

/// Its init, cgroup, layers, and the OCI runtime spec that it runs by.
pub(super) fn of_container(cri: &Cri, record: &ContainerRecord) -> Result<Info, Status> {
    let sandbox = cri.store.sandbox(record.sandbox_id.as_str()).ok();
    let filter = cri.node.layout.container_filter(&record.sandbox_id, &record.id);
    let spec = record.made.as_ref().map(|made| runtime_spec(&made.plan.spec, &filter)).transpose()?;
    Ok(as_info(&json!({
        "sandboxID": record.sandbox_id,
        "pid": record.pid().unwrap_or_default(),
        "netns": sandbox.map(|sandbox| netns(&sandbox)).unwrap_or_default(),
        "cgroup": record.cgroup,
        "image": record.made.as_ref().map(|made| &made.image),
        "config": record.config,
        "runtimeSpec": spec,
        "confinement": record.made.as_ref().map(|made| &made.plan.confinement),
        "stopSignal": record.made.as_ref().map(|made| made.plan.stop_signal),
    })))
}

/// The node: its configuration and what was found out about it. What keeps the network from something is known to the caller.
pub(super) fn of_node(node: &Node, network: &[String]) -> Info {
    as_info(&json!({
        "config": node.config,
        "facts": node.facts,
        "subnets": node.network.subnets(),
        "limits": limits(node).iter().chain(network).collect::<Vec<_>>(),
    }))
}

/// What this host keeps podbox from doing.
fn limits(node: &Node) -> Vec<String> {
    let mut limits = Vec::new();
    if node.facts.oom_score_adj_min > -1000 {
        limits.push(format!("no CAP_SYS_RESOURCE: an oom_score_adj below {0} is set to {0}", node.facts.oom_score_adj_min));
    }
    if let Some(missing) = node.facts.missing_capabilities() {
        limits.push(format!("no {missing}: containers cannot have them either"));
    }
    if let Some(reason) = &node.facts.no_user_namespaces {
        limits.push(format!("no users of a pod's own (userns_options): {reason}"));
    }
    if !node.facts.cgroup_v2 {
        limits.push("cgroup v1: settings of v2 files (unified) other than pids.max, and weights of block I/O, cannot be set".to_owned());
    }
    for (is_there, what) in [
        (node.facts.seccomp, "seccomp filters: every seccomp profile is refused"),
        (node.facts.apparmor, "AppArmor: its profiles are refused"),
        (node.facts.selinux, "SELinux: its labels are refused"),
    ] {
        if !is_there {
            limits.push(format!("the kernel has no {what}"));
        }
    }
    if let Some(reason) = node.confining.lacks_default_profile() {
        limits.push(format!("AppArmor: podbox's own profile is not loaded: {reason}"));
    }
    let present = node.hierarchies.controllers();
    let limiting = [Controller::Cpu, Controller::Cpuset, Controller::Memory, Controller::Pids, Controller::Hugetlb];
    for missing in limiting.into_iter().filter(|controller| !present.contains(controller)) {
        limits.push(format!("no {missing} controller: what it limits is refused"));
    }
    limits
}
