//! What pods and containers use.

use super::Cri;
use crate::effects::{Usage, now_ns, read_usage};
use crate::store::ContainerRecord;
use podbox_proto::v1;
use std::sync::Arc;
use tonic::Status;

fn value(number: Option<u64>) -> Option<v1::UInt64Value> {
    number.map(|value| v1::UInt64Value { value })
}

fn cpu(usage: &Usage, timestamp: i64) -> v1::CpuUsage {
    v1::CpuUsage { timestamp, usage_core_nano_seconds: value(usage.cpu_ns), ..Default::default() }
}

fn memory(usage: &Usage, timestamp: i64) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(usage.working_set_bytes),
        usage_bytes: value(usage.memory_bytes),
        ..Default::default()
    }
}

fn of_container(record: &ContainerRecord, usage: &Usage, timestamp: i64) -> v1::ContainerStats {
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: record.id.to_string(),
            metadata: Some(v1::ContainerMetadata { name: record.config.metadata.name.clone(), attempt: record.config.metadata.attempt }),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: Some(cpu(usage, timestamp)),
        memory: Some(memory(usage, timestamp)),
        ..Default::default()
    }
}

/// Files are read on a thread that may wait for them.
async fn measured(cri: &Cri, records: Vec<Arc<ContainerRecord>>) -> Result<Vec<(Arc<ContainerRecord>, Usage)>, Status> {
    let node = cri.node.clone();
    let reading = tokio::task::spawn_blocking(move || {
        records
            .into_iter()
            .map(|record| (read_usage(&node.hierarchies, &record.cgroup), record))
            .map(|(usage, record)| (record, usage))
            .collect()
    });
    reading.await.map_err(|_| Status::internal("reading the usage was cut off"))
}

fn running(cri: &Cri) -> Vec<Arc<ContainerRecord>> {
    cri.store.containers().into_iter().filter(|record| record.pid().is_some()).collect()
}

/// Stats of the running containers that pass the filter.
pub(super) async fn containers(cri: &Cri, filter: Option<v1::ContainerStatsFilter>) -> Result<Vec<v1::ContainerStats>, Status> {
    let filter = filter.unwrap_or_default();
    let wanted = |record: &Arc<ContainerRecord>| {
        record.id.as_str().starts_with(&filter.id)
            && record.sandbox_id.as_str().starts_with(&filter.pod_sandbox_id)
            && filter.label_selector.iter().all(|(key, value)| record.config.labels.get(key) == Some(value))
    };
    let records = running(cri).into_iter().filter(wanted).collect();
    let timestamp = now_ns();
    Ok(measured(cri, records).await?.iter().map(|(record, usage)| of_container(record, usage, timestamp)).collect())
}

/// Stats of the sandboxes that pass the filter: their containers' sums.
pub(super) async fn sandboxes(cri: &Cri, filter: Option<v1::PodSandboxStatsFilter>) -> Result<Vec<v1::PodSandboxStats>, Status> {
    let filter = filter.unwrap_or_default();
    let measured = measured(cri, running(cri)).await?;
    let timestamp = now_ns();
    let sandboxes = cri.store.sandboxes().into_iter().filter(|record| {
        record.id.as_str().starts_with(&filter.id)
            && filter.label_selector.iter().all(|(key, value)| record.config.labels.get(key) == Some(value))
    });
    Ok(sandboxes
        .map(|sandbox| {
            let of_pod: Vec<_> = measured.iter().filter(|(record, _)| record.sandbox_id == sandbox.id).collect();
            let total = of_pod.iter().fold(Usage::default(), |sum, (_, usage)| add(sum, *usage));
            let metadata = &sandbox.config.metadata;
            v1::PodSandboxStats {
                attributes: Some(v1::PodSandboxAttributes {
                    id: sandbox.id.to_string(),
                    metadata: Some(v1::PodSandboxMetadata {
                        name: metadata.name.clone(),
                        uid: metadata.uid.clone(),
                        namespace: metadata.namespace.clone(),
                        attempt: metadata.attempt,
                    }),
                    labels: sandbox.config.labels.clone(),
                    annotations: sandbox.config.annotations.clone(),
                }),
                linux: Some(v1::LinuxPodSandboxStats {
                    cpu: Some(cpu(&total, timestamp)),
                    memory: Some(memory(&total, timestamp)),
                    containers: of_pod.iter().map(|(record, usage)| of_container(record, usage, timestamp)).collect(),
                    ..Default::default()
                }),
                ..Default::default()
            }
        })
        .collect())
}

fn add(sum: Usage, more: Usage) -> Usage {
    let add = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or_default().saturating_add(b.unwrap_or_default())),
    };
    Usage {
        cpu_ns: add(sum.cpu_ns, more.cpu_ns),
        memory_bytes: add(sum.memory_bytes, more.memory_bytes),
        working_set_bytes: add(sum.working_set_bytes, more.working_set_bytes),
    }
}

fn gauge(name: &str, timestamp: i64, record: &ContainerRecord, number: Option<u64>) -> Option<v1::Metric> {
    Some(v1::Metric {
        name: name.to_owned(),
        timestamp,
        metric_type: v1::MetricType::Gauge.into(),
        label_values: vec![record.id.to_string(), record.config.metadata.name.clone(), record.config.image.image.clone()],
        value: Some(v1::UInt64Value { value: number? }),
    })
}

/// Metrics of every sandbox's containers, by cAdvisor's names.
pub(super) async fn metrics(cri: &Cri) -> Result<Vec<v1::PodSandboxMetrics>, Status> {
    let measured = measured(cri, running(cri)).await?;
    let timestamp = now_ns();
    let of_container = |(record, usage): &(Arc<ContainerRecord>, Usage)| v1::ContainerMetrics {
        container_id: record.id.to_string(),
        metrics: [
            gauge("container_memory_usage_bytes", timestamp, record, usage.memory_bytes),
            gauge("container_memory_working_set_bytes", timestamp, record, usage.working_set_bytes),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    let sandboxes = cri.store.sandboxes();
    Ok(sandboxes
        .iter()
        .map(|sandbox| v1::PodSandboxMetrics {
            pod_sandbox_id: sandbox.id.to_string(),
            metrics: Vec::new(),
            container_metrics: measured.iter().filter(|(record, _)| record.sandbox_id == sandbox.id).map(of_container).collect(),
        })
        .collect())
}
