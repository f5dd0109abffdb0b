//! Sandboxes as the CRI shows them.

use super::{Cri, containers, info};
use crate::effects::now_ns;
use crate::request::{IpcMode, NetworkMode, SandboxPidMode};
use crate::store::{SandboxPhase, SandboxRecord};
use podbox_plan::UserMappings;
use podbox_proto::v1;
use std::sync::Arc;
use tonic::Status;

/// Its name as the CRI has it.
pub(super) fn metadata(record: &SandboxRecord) -> v1::PodSandboxMetadata {
    let metadata = &record.config.metadata;
    v1::PodSandboxMetadata {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        attempt: metadata.attempt,
    }
}

fn state(record: &SandboxRecord) -> v1::PodSandboxState {
    match record.phase {
        SandboxPhase::Ready => v1::PodSandboxState::SandboxReady,
        SandboxPhase::Creating | SandboxPhase::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

/// A list's entry.
fn entry(record: &SandboxRecord) -> v1::PodSandbox {
    v1::PodSandbox {
        id: record.id.to_string(),
        metadata: Some(metadata(record)),
        state: state(record).into(),
        created_at: record.created_at_ns,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.config.runtime_handler.clone(),
    }
}

/// Everything that passes the filter: all its conditions hold.
pub(super) fn list(cri: &Cri, filter: Option<v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
    let filter = filter.unwrap_or_default();
    let wanted = |record: &Arc<SandboxRecord>| {
        record.id.as_str().starts_with(&filter.id)
            && filter.state.as_ref().is_none_or(|wanted| wanted.state == i32::from(state(record)))
            && filter.label_selector.iter().all(|(key, value)| record.config.labels.get(key) == Some(value))
    };
    cri.store.sandboxes().iter().filter(|record| wanted(record)).map(|record| entry(record)).collect()
}

/// The namespace modes that were asked for.
fn namespaces(record: &SandboxRecord) -> v1::NamespaceOption {
    use v1::NamespaceMode as Mode;
    let network = match record.config.network {
        NetworkMode::Pod => Mode::Pod,
        NetworkMode::Node => Mode::Node,
    };
    let ipc = match record.config.ipc {
        IpcMode::Pod => Mode::Pod,
        IpcMode::Node => Mode::Node,
    };
    let pid = match record.config.pid {
        SandboxPidMode::Pod => Mode::Pod,
        SandboxPidMode::Container => Mode::Container,
        SandboxPidMode::Node => Mode::Node,
    };
    let mapped = |mappings: &UserMappings| v1::UserNamespace {
        mode: Mode::Pod.into(),
        uids: containers::id_mappings(&mappings.uids),
        gids: containers::id_mappings(&mappings.gids),
    };
    let userns_options = record.config.users.mappings().map(mapped);
    v1::NamespaceOption { network: network.into(), pid: pid.into(), ipc: ipc.into(), userns_options, ..Default::default() }
}

/// The pod's addresses: none in the node's network, and none once they were given back.
fn network(record: &SandboxRecord) -> v1::PodSandboxNetworkStatus {
    let held = record.addresses.as_ref().filter(|_| !record.network_released);
    let mut ips = held.iter().flat_map(|addresses| addresses.as_slice()).map(|address| address.ip().to_string());
    v1::PodSandboxNetworkStatus { ip: ips.next().unwrap_or_default(), additional_ips: ips.map(|ip| v1::PodIp { ip }).collect() }
}

/// A sandbox's status.
pub(super) fn status_of(record: &SandboxRecord) -> v1::PodSandboxStatus {
    v1::PodSandboxStatus {
        id: record.id.to_string(),
        metadata: Some(metadata(record)),
        state: state(record).into(),
        created_at: record.created_at_ns,
        network: Some(network(record)),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options: Some(namespaces(record)) }) }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.config.runtime_handler.clone(),
    }
}

/// The answer to PodSandboxStatus.
pub(super) fn status(cri: &Cri, request: &v1::PodSandboxStatusRequest) -> Result<v1::PodSandboxStatusResponse, Status> {
    let record = cri.sandbox(&request.pod_sandbox_id)?;
    let in_pod = cri.store.containers();
    let in_pod = in_pod.iter().filter(|container| container.sandbox_id == record.id);
    Ok(v1::PodSandboxStatusResponse {
        status: Some(status_of(&record)),
        info: if request.verbose { info::of_sandbox(&cri.node, &record)? } else { Default::default() },
        containers_statuses: in_pod.map(|container| containers::status_of(container)).collect(),
        timestamp: now_ns(),
    })
}
