//! Verbose answers: the key `info` with a JSON object, as `crictl inspect` and `inspectp` read it.

use super::Cri;
use crate::effects::Node;
use crate::plan::{Layout, spec_json};
use crate::request::NetworkMode;
use crate::store::{ContainerRecord, SandboxPhase, SandboxRecord};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tonic::Status;

type Info = BTreeMap<String, String>;

fn as_info(value: &Value) -> Info {
    BTreeMap::from([("info".to_owned(), value.to_string())])
}

/// Pause, cgroup, network namespace, and the sandbox as it was asked for.
pub(super) fn of_sandbox(record: &SandboxRecord) -> Result<Info, Status> {
    let pause = record.pause.as_ref().filter(|_| record.phase == SandboxPhase::Ready);
    let netns = match record.config.network {
        NetworkMode::Pod => pause.map(|pause| format!("/proc/{}/ns/net", pause.pid)),
        NetworkMode::Node => None,
    };
    Ok(as_info(&json!({
        "sandboxID": record.id,
        "pid": pause.map_or(0, |pause| pause.pid),
        "monitorPid": pause.map_or(0, |pause| pause.monitor_pid),
        "processStatus": if pause.is_some() { "running" } else { "stopped" },
        "netns": netns.unwrap_or_default(),
        "namedNetns": Layout::named_netns(&record.id),
        "cgroup": record.cgroup,
        "hostname": record.hostname,
        "addresses": record.addresses,
        "networkReleased": record.network_released,
        "config": record.config,
    })))
}

/// Its init, cgroup, layers, and the OCI runtime spec that it runs by.
pub(super) fn of_container(cri: &Cri, record: &ContainerRecord) -> Result<Info, Status> {
    let sandbox = cri.store.sandbox(record.sandbox_id.as_str()).ok();
    let pause = sandbox.as_ref().and_then(|sandbox| sandbox.pause.as_ref());
    Ok(as_info(&json!({
        "sandboxID": record.sandbox_id,
        "pid": record.pid().unwrap_or_default(),
        "netns": pause.map(|pause| format!("/proc/{}/ns/net", pause.pid)).unwrap_or_default(),
        "cgroup": record.cgroup,
        "image": record.image,
        "config": record.config,
        "runtimeSpec": record.plan.as_ref().map(|plan| spec_json(&plan.spec)),
        "stopSignal": record.plan.as_ref().map(|plan| plan.stop_signal),
    })))
}

/// The node: its configuration and what was found out about it.
pub(super) fn of_node(node: &Node) -> Info {
    as_info(&json!({
        "config": node.config,
        "facts": node.facts,
        "subnets": node.network.subnets(),
        "limits": limits(node),
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
    if !node.facts.cgroup_v2 {
        limits.push("cgroup v1: no v2 controllers on this host".to_owned());
    }
    limits
}
