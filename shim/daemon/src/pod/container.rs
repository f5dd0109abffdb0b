//! A container's making, launch and removal: what the driver hands to tasks.

use super::PodError;
use super::ending::state_name;
use super::retry::now_or_later;
use super::teardown::blocking;
use crate::chain::Chain;
use crate::effects::{
    MonitorError, MonitorLink, Node, SandboxCgroups, Started, cgroup_entry, check_limits, find_image, find_volume_images, image_defaults,
    make_container_cgroup, node_devices, now_ns, plan_volumes, remove_cgroup, requested_devices, resolve_user,
};
use crate::plan::{ContainerInputs, ContainerPlan, LaunchInputs, capability_names, device_policy, is_for_everybody, lower, plan_container};
use crate::request::{ContainerConfig, PidMode, UserMode};
use crate::store::{ContainerPhase, ContainerRecord, ImageIdentity, MadeContainer, RECORD_VERSION, SandboxRecord, Store};
use podbox_image::Snapshot;
use podbox_plan::{ContainerId, Overlay, PidNamespace, ProcessRef, SandboxId};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The PID namespace that a container asks for, with its target found in the pod.
#[derive(Debug, Clone)]
pub(super) struct PidChoice {
    pub namespace: PidNamespace,
    pub target_pid: Option<i32>,
}

/// The record that stands before anything of a container does.
pub(super) fn intent(sandbox: &SandboxRecord, id: ContainerId, config: ContainerConfig) -> ContainerRecord {
    ContainerRecord {
        version: RECORD_VERSION,
        cgroup: SandboxCgroups::new(&sandbox.cgroup, &sandbox.id).container(&id),
        id,
        sandbox_id: sandbox.id.clone(),
        config,
        created_at_ns: now_ns(),
        phase: ContainerPhase::Creating,
        made: None,
    }
}

/// What a pod lets its makers do: open until the pod is stopped, then closed for ever.
///
/// A maker may be held up for any time, by a volume that does not answer say, and nothing waits for it: what it does to the pod's
/// folder and cgroups it does within [`Door::pass`], so that nothing of that comes after the stop.
#[derive(Debug, Clone, Default)]
pub(super) struct Door(Arc<Mutex<bool>>);

impl Door {
    /// Waits for the step that is being done, which is one that ends, and lets nobody in any more.
    pub fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn pass<T>(&self, sandbox: &SandboxId, step: impl FnOnce() -> Result<T, PodError>) -> Result<T, PodError> {
        let is_closed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_closed { Err(PodError::SandboxNotReady { id: sandbox.clone() }) } else { step() }
    }
}

/// Makes a container whose intent is on record; nothing of it is left if that fails.
pub(super) async fn make_container(
    node: Arc<Node>,
    store: Arc<Store>,
    sandbox: SandboxRecord,
    intent: ContainerRecord,
    pid: PidChoice,
    door: Door,
) -> Result<ContainerRecord, PodError> {
    let (host, records, record) = (node.clone(), store.clone(), intent.clone());
    let made = blocking(move || {
        door.pass(&sandbox.id, || Ok(records.save_container(&record)?))?;
        make(&host, &sandbox, &record, &pid, &door)
    });
    let made = made.await;
    if made.is_err() {
        undo_until_done(&node, &store, intent).await;
    }
    made
}

/// Undoes a container's making; what cannot be undone at once is tried again until it can, since nobody else knows of it.
pub(super) async fn undo_until_done(node: &Arc<Node>, store: &Arc<Store>, record: ContainerRecord) {
    let (node, store, id) = (node.clone(), store.clone(), record.id.to_string());
    now_or_later("an unfinished container cannot be undone", id, move || {
        let (node, store, record) = (node.clone(), store.clone(), record.clone());
        blocking(move || undo_container(&node, &store, &record))
    })
    .await;
}

/// Undoes a container's making, or removes one that has ended, from its record. Its own layer is out of the way at once and
/// its files go afterwards: they may be many, and the kernel is still letting go of the mount.
pub(super) fn undo_container(node: &Node, store: &Store, record: &ContainerRecord) -> Result<(), PodError> {
    remove_cgroup(&node.hierarchies, &record.cgroup)?;
    let taken = node.images.take_snapshot_away(record.id.as_str());
    if let Some(taken) = taken.map_err(|source| PodError::Snapshot { id: record.id.clone(), source })? {
        let (images, id) = (node.images.clone(), record.id.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = images.finish_removal(taken) {
                tracing::warn!(container = %id, error = %Chain(&error), "the container's layer stays until the next start");
            }
        });
    }
    store.remove_container_folder(&record.sandbox_id, &record.id)?;
    store.forget_container(&record.id);
    Ok(())
}

fn make(node: &Node, sandbox: &SandboxRecord, intent: &ContainerRecord, pid: &PidChoice, door: &Door) -> Result<ContainerRecord, PodError> {
    let config = &intent.config;
    check_limits(&config.resources, &config.resources)?;
    check_mount_sources(config)?;
    let image = find_image(&node.images, &config.image.image)?;
    let volume_images = find_volume_images(&node.images, &config.image_volumes)?;
    let snapshot = node.images.create_snapshot_with(intent.id.as_str(), &image, &volume_images);
    let snapshot = snapshot.map_err(|source| PodError::Snapshot { id: intent.id.clone(), source })?;
    let Snapshot { lower_dirs, upper, work, volumes } = snapshot;
    let image_volumes = plan_volumes(&config.image_volumes, &volume_images, volumes)?;
    let defaults = image_defaults(&image);
    let user = resolve_user(&config.security, &defaults.user, lower_dirs.clone())?;
    let mut devices = if config.security.privileged { node_devices()? } else { Vec::new() };
    if sandbox.config.users != UserMode::Node {
        devices.retain(is_for_everybody);
    }
    devices.extend(requested_devices(&config.devices)?);
    let mut plan = plan_container(&ContainerInputs {
        config,
        sandbox_id: &sandbox.id,
        sandbox: &sandbox.config,
        hostname: &sandbox.hostname,
        pause_pid: sandbox.pause.as_ref().map_or(0, |pause| pause.pid),
        pid: &pid.namespace,
        target_pid: pid.target_pid,
        image: &defaults,
        user: &user,
        cgroup: &intent.cgroup,
        image_volumes: &image_volumes,
        devices: &devices,
        node: &node.facts,
        layout: &node.layout,
    })?;
    confine(node, sandbox, intent, &mut plan, door)?;
    let allowed = device_policy(&plan.spec)?;
    door.pass(&sandbox.id, || Ok(make_container_cgroup(&node.hierarchies, &intent.cgroup, &config.resources, &allowed)?))?;
    // Last: folders that are made on the way belong to nobody, and would be left by a step that fails later.
    if let Some(folder) = plan.log_path.as_deref().and_then(Path::parent) {
        std::fs::create_dir_all(folder).map_err(|source| PodError::LogFolder { path: folder.to_owned(), source })?;
    }
    Ok(ContainerRecord {
        phase: ContainerPhase::Created,
        made: Some(MadeContainer { image: ImageIdentity { id: image.id.to_string(), lower_dirs, upper_dir: upper, work_dir: work }, plan }),
        ..intent.clone()
    })
}

/// Compiles the container's seccomp profile into its folder and finds its labels. Nobody is confined who is privileged (CRI).
fn confine(node: &Node, sandbox: &SandboxRecord, intent: &ContainerRecord, plan: &mut ContainerPlan, door: &Door) -> Result<(), PodError> {
    let security = &intent.config.security;
    if !security.privileged {
        let file = node.layout.container_filter(&intent.sandbox_id, &intent.id);
        let confined = node.confining.confine(&security.confinement, capability_names(&plan.spec), file)?;
        plan.confine(door.pass(&sandbox.id, || Ok(confined.written()?))?);
    }
    Ok(())
}

/// A missing source is told here, where the CRI wants it told, and not when the container starts.
fn check_mount_sources(config: &ContainerConfig) -> Result<(), PodError> {
    for mount in &config.mounts {
        std::fs::metadata(&mount.host_path).map_err(|source| PodError::MountSource { path: mount.host_path.clone(), source })?;
    }
    Ok(())
}

/// What a container was made of.
pub(super) fn parts_of(record: &ContainerRecord) -> Result<&MadeContainer, PodError> {
    let missing = || PodError::WrongState { id: record.id.clone(), state: state_name(record), due: "made" };
    record.made.as_ref().ok_or_else(missing)
}

/// Starts a container's init.
pub(super) async fn launch_container(
    node: Arc<Node>,
    sandbox: SandboxRecord,
    record: ContainerRecord,
    link: MonitorLink,
) -> Result<Started, PodError> {
    let MadeContainer { plan, image } = parts_of(&record)?;
    let launch = lower(&LaunchInputs {
        plan,
        sandbox: &sandbox.config,
        pause_pid: sandbox.pause.as_ref().map_or(0, |pause| pause.pid),
        cgroup: cgroup_entry(&node.hierarchies, &record.cgroup)?,
        overlay: Overlay { lower: image.lower_dirs.clone(), upper: image.upper_dir.clone(), work: image.work_dir.clone(), context: None },
        root_at: node.layout.container(&record.sandbox_id, &record.id),
        exit_record: node.layout.container_exit(&record.sandbox_id, &record.id),
    })?;
    let process = ProcessRef::Container(record.id.clone());
    link.launch(process, launch, Vec::new()).await.map_err(|source| match source {
        MonitorError::Launch { .. } => PodError::Launch(source),
        source => PodError::Start { id: record.id.clone(), source },
    })
}

/// The PID namespace for a request; `target` finds a running container of the pod by id or its beginning.
pub(super) fn choose_pid(mode: &PidMode, target: impl FnOnce(&str) -> Option<(ContainerId, i32)>) -> Result<PidChoice, PodError> {
    let (namespace, target_pid) = match mode {
        PidMode::Pod => (PidNamespace::Of(ProcessRef::Pause), None),
        PidMode::Container => (PidNamespace::New, None),
        PidMode::Node => (PidNamespace::Host, None),
        PidMode::Target(id) => {
            let (found, pid) = target(id).ok_or_else(|| PodError::NoTarget { id: id.chars().take(64).collect() })?;
            (PidNamespace::Of(ProcessRef::Container(found)), Some(pid))
        }
    };
    Ok(PidChoice { namespace, target_pid })
}
