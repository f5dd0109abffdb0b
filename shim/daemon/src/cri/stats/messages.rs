//! Readings as the CRI's stats messages.

use crate::cri::{containers, sandboxes};
use crate::effects::{LayerUsage, Reading};
use crate::store::{ContainerRecord, SandboxRecord};
use podbox_cgroup::{Pressure, Stall};
use podbox_netns::LinkCounters;
use podbox_proto::v1;

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn psi(pressure: Option<Pressure>) -> Option<v1::PsiStats> {
    let data = |stall: Stall| v1::PsiData {
        total: stall.total_us.saturating_mul(1000),
        avg10: stall.percent_10s,
        avg60: stall.percent_60s,
        avg300: stall.percent_300s,
    };
    pressure.map(|pressure| v1::PsiStats { full: pressure.full.map(data), some: Some(data(pressure.some)) })
}

fn cpu(reading: &Reading) -> Option<v1::CpuUsage> {
    Some(v1::CpuUsage {
        timestamp: reading.at_ns,
        usage_core_nano_seconds: value(reading.usage.cpu_ns?),
        usage_nano_cores: reading.nano_cores.and_then(value),
        psi: psi(reading.usage.pressures.cpu),
    })
}

fn memory(reading: &Reading) -> Option<v1::MemoryUsage> {
    let memory = reading.usage.memory?;
    Some(v1::MemoryUsage {
        timestamp: reading.at_ns,
        working_set_bytes: value(memory.working_set_bytes()),
        available_bytes: memory.available_bytes().and_then(value),
        usage_bytes: value(memory.usage_bytes),
        rss_bytes: value(memory.rss_bytes),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: psi(reading.usage.pressures.memory),
    })
}

fn swap(reading: &Reading) -> Option<v1::SwapUsage> {
    let swap = reading.usage.swap?;
    Some(v1::SwapUsage {
        timestamp: reading.at_ns,
        swap_available_bytes: swap.available_bytes().and_then(value),
        swap_usage_bytes: value(swap.usage_bytes),
    })
}

/// The CRI's message has nothing but the pressure.
fn io(reading: &Reading) -> Option<v1::IoUsage> {
    reading.usage.pressures.io.map(|pressure| v1::IoUsage { timestamp: reading.at_ns, psi: psi(Some(pressure)) })
}

/// The CRI's message for a layer, on the file system that `mountpoint` is on.
pub(super) fn layer(mountpoint: &str, layer: &LayerUsage) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: layer.at_ns,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: mountpoint.to_owned() }),
        used_bytes: value(layer.usage.bytes),
        inodes_used: value(layer.usage.inodes),
    }
}

/// A container; one that does not run has no reading.
pub(super) fn of_container(
    record: &ContainerRecord,
    reading: Option<&Reading>,
    writable_layer: Option<v1::FilesystemUsage>,
) -> v1::ContainerStats {
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: record.id.to_string(),
            metadata: Some(containers::metadata(record)),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: reading.and_then(cpu),
        memory: reading.and_then(memory),
        writable_layer,
        swap: reading.and_then(swap),
        io: reading.and_then(io),
    }
}

fn interface(link: &LinkCounters) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: link.name.clone(),
        rx_bytes: value(link.received.bytes),
        rx_errors: value(link.received.errors),
        tx_bytes: value(link.sent.bytes),
        tx_errors: value(link.sent.errors),
    }
}

/// The default interface stands by itself, and is not among the others.
fn network(reading: &Reading) -> Option<v1::NetworkUsage> {
    if reading.links.is_empty() {
        return None;
    }
    let (default, others): (Vec<_>, Vec<_>) = reading.links.iter().partition(|link| link.is_default());
    Some(v1::NetworkUsage {
        timestamp: reading.at_ns,
        default_interface: default.first().map(|link| interface(link)),
        interfaces: others.into_iter().map(interface).collect(),
    })
}

/// A sandbox with its containers; one that is not ready has no reading.
pub(super) fn of_sandbox(record: &SandboxRecord, reading: Option<&Reading>, containers: Vec<v1::ContainerStats>) -> v1::PodSandboxStats {
    let linux = |reading: &Reading| v1::LinuxPodSandboxStats {
        cpu: cpu(reading),
        memory: memory(reading),
        network: network(reading),
        process: reading.usage.tasks.map(|tasks| v1::ProcessUsage { timestamp: reading.at_ns, process_count: value(tasks) }),
        containers,
        io: io(reading),
    };
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: record.id.to_string(),
            metadata: Some(sandboxes::metadata(record)),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        linux: reading.map(linux),
        windows: None,
    }
}
