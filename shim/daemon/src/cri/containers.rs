//! Containers as the CRI shows them.

use super::{Cri, info};
use crate::request::{ImageRequest, ImageVolume, Mount, Propagation, Resources, Restrictions, StopSignal};
use crate::store::{ContainerPhase, ContainerRecord};
use podbox_plan::{IdRange, UserMappings};
use podbox_proto::v1;
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::Status;

/// Its name as the CRI has it.
pub(super) fn metadata(record: &ContainerRecord) -> v1::ContainerMetadata {
    v1::ContainerMetadata { name: record.config.metadata.name.clone(), attempt: record.config.metadata.attempt }
}

fn state(record: &ContainerRecord) -> v1::ContainerState {
    match record.phase {
        // A container whose start has not ended has no process that anybody could count on.
        ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Starting => v1::ContainerState::ContainerCreated,
        ContainerPhase::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerPhase::Exited { .. } => v1::ContainerState::ContainerExited,
    }
}

fn image(image: &ImageRequest) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image.image.clone(),
        annotations: image.annotations.clone(),
        user_specified_image: image.user_specified_image.clone(),
        image_ref: image.image_ref.clone(),
        ..Default::default()
    }
}

fn image_id(record: &ContainerRecord) -> String {
    record.made.as_ref().map(|made| made.image.id.clone()).unwrap_or_default()
}

fn entry(record: &ContainerRecord) -> v1::Container {
    v1::Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.sandbox_id.to_string(),
        metadata: Some(metadata(record)),
        image: Some(image(&record.config.image)),
        image_ref: image_id(record),
        state: state(record).into(),
        created_at: record.created_at_ns,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: image_id(record),
    }
}

/// Everything that passes the filter: all its conditions hold.
pub(super) fn list(cri: &Cri, filter: Option<v1::ContainerFilter>) -> Vec<v1::Container> {
    let filter = filter.unwrap_or_default();
    let wanted = |record: &Arc<ContainerRecord>| {
        record.id.as_str().starts_with(&filter.id)
            && record.sandbox_id.as_str().starts_with(&filter.pod_sandbox_id)
            && filter.state.as_ref().is_none_or(|wanted| wanted.state == i32::from(state(record)))
            && filter.label_selector.iter().all(|(key, value)| record.config.labels.get(key) == Some(value))
    };
    cri.store.containers().iter().filter(|record| wanted(record)).map(|record| entry(record)).collect()
}

/// A range of ids as the CRI has it.
pub(super) fn id_mappings(range: &IdRange) -> Vec<v1::IdMapping> {
    vec![v1::IdMapping { host_id: range.first_host_id, container_id: 0, length: range.length }]
}

/// As they came, none or one.
fn mappings_of(mappings: Option<&UserMappings>) -> (Vec<v1::IdMapping>, Vec<v1::IdMapping>) {
    mappings.map(|mappings| (id_mappings(&mappings.uids), id_mappings(&mappings.gids))).unwrap_or_default()
}

fn mount(mount: &Mount) -> v1::Mount {
    let (uid_mappings, gid_mappings) = mappings_of(mount.mappings.as_ref());
    let propagation = match mount.propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: mount.container_path.to_string_lossy().into_owned(),
        host_path: mount.host_path.to_string_lossy().into_owned(),
        readonly: mount.read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        recursive_read_only: mount.recursive_read_only,
        mount_options: mount_options(mount.restrictions),
        uid_mappings,
        gid_mappings,
        ..Default::default()
    }
}

fn image_volume(volume: &ImageVolume) -> v1::Mount {
    let (uid_mappings, gid_mappings) = mappings_of(volume.mappings.as_ref());
    v1::Mount {
        container_path: volume.container_path.to_string_lossy().into_owned(),
        readonly: true,
        selinux_relabel: volume.selinux_relabel,
        recursive_read_only: volume.recursive_read_only,
        uid_mappings,
        gid_mappings,
        image: Some(image(&volume.image)),
        image_sub_path: volume.sub_path.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        mount_options: mount_options(volume.restrictions),
        ..Default::default()
    }
}

fn mount_options(restrictions: Restrictions) -> Vec<String> {
    let applies = [("noexec", restrictions.no_exec), ("nodev", restrictions.no_dev), ("nosuid", restrictions.no_suid)];
    applies.into_iter().filter(|(_, applies)| *applies).map(|(option, _)| option.to_owned()).collect()
}

/// The resources as they were asked for, the last time each.
fn resources(resources: &Resources) -> v1::LinuxContainerResources {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let hugepages = resources.hugepage_limits_bytes.iter();
    v1::LinuxContainerResources {
        cpu_period: signed(resources.cpu_period_us),
        cpu_quota: resources.cpu_quota_us,
        cpu_shares: signed(resources.cpu_shares),
        memory_limit_in_bytes: signed(resources.memory_limit_bytes),
        oom_score_adj: i64::from(resources.oom_score_adj),
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: hugepages.map(|(size, limit)| v1::HugepageLimit { page_size: size.to_string(), limit: *limit }).collect(),
        unified: resources.unified.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_bytes,
    }
}

fn user(record: &ContainerRecord) -> Option<v1::ContainerUser> {
    let user = &record.made.as_ref()?.plan.user;
    Some(v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser {
            uid: i64::from(user.uid),
            gid: i64::from(user.gid),
            supplemental_groups: user.groups.iter().copied().map(i64::from).collect(),
        }),
    })
}

/// The signal that will ask it to stop, by the CRI's enumeration.
fn stop_signal(record: &ContainerRecord) -> v1::Signal {
    match &record.config.stop_signal {
        StopSignal::Signal { cri_number, .. } => v1::Signal::try_from(*cri_number).unwrap_or_default(),
        StopSignal::FromImage => {
            let number = record.made.as_ref().map(|made| made.plan.stop_signal);
            number.and_then(signal_of_number).unwrap_or_default()
        }
    }
}

/// The enumeration's value for a number of the kernel's; where two names have one number, the usual one.
fn signal_of_number(number: i32) -> Option<v1::Signal> {
    let unusual = ["SIGCLD", "SIGIOT", "SIGPOLL"];
    (1..=65).filter_map(|value| v1::Signal::try_from(value).ok()).find(|signal| {
        let name = signal.as_str_name().trim_start_matches("SIGNAL_");
        !unusual.contains(&name) && crate::request::signal_number(name) == Some(number)
    })
}

/// A container's status.
pub(super) fn status_of(record: &ContainerRecord) -> v1::ContainerStatus {
    let mut status = v1::ContainerStatus {
        id: record.id.to_string(),
        metadata: Some(metadata(record)),
        state: state(record).into(),
        created_at: record.created_at_ns,
        image: Some(image(&record.config.image)),
        image_ref: image_id(record),
        image_id: image_id(record),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record.config.mounts.iter().map(mount).chain(record.config.image_volumes.iter().map(image_volume)).collect(),
        log_path: log_path(record),
        resources: Some(v1::ContainerResources { linux: Some(resources(&record.config.resources)), ..Default::default() }),
        user: user(record),
        stop_signal: stop_signal(record).into(),
        ..Default::default()
    };
    match &record.phase {
        ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Starting => {}
        ContainerPhase::Running { started_at_ns, .. } => status.started_at = *started_at_ns,
        ContainerPhase::Exited { record: end, reason, message } => {
            status.started_at = end.started_at_ns;
            status.finished_at = end.finished_at_ns;
            status.exit_code = end.exit_code;
            status.reason = reason.as_str().to_owned();
            status.message = message.clone();
        }
    }
    status
}

fn log_path(record: &ContainerRecord) -> String {
    let path = record.made.as_ref().and_then(|made| made.plan.log_path.as_ref());
    path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The answer to ContainerStatus.
pub(super) fn status(cri: &Cri, request: &v1::ContainerStatusRequest) -> Result<v1::ContainerStatusResponse, Status> {
    let record = cri.container(&request.container_id)?;
    let info = if request.verbose { info::of_container(cri, &record)? } else { BTreeMap::new() };
    Ok(v1::ContainerStatusResponse { status: Some(status_of(&record)), info })
}
