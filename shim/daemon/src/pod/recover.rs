//! What a daemon makes of the pods that are on record when it starts.
//!
//! | on record | and in truth | becomes |
//! |---|---|---|
//! | sandbox `Creating` | anything | undone: nobody knows its id |
//! | another boot's | gone with the machine | `NotReady`, containers `Exited` (255, `Unknown`) |
//! | the monitor answers | runs | as it was; ends of meanwhile from the exit records |
//! | the monitor is there and cannot be asked | runs, for all that is known | as it was; the driver goes on asking |
//! | the monitor is gone | killed | `NotReady`, containers `Exited` by their exit records, or killed |
//! | container `Creating` | anything | undone |
//! | container `Starting` | the monitor runs it | `Running`; ended: `Exited`; never heard of: `Created` again |
//!
//! Limits that were being changed are changed.
//!
//! A record that cannot be understood is set aside, and what ran by it is ended: nobody could stop it any more.
//!
//! Then what belongs to no pod is collected: links on the bridge, layers of containers, names of network namespaces.

use super::PodError;
use super::container::undo_until_done;
use super::driver::Pod;
use super::ending::{Watcher, end_of_lost, runs};
use super::make::undo;
use super::monitor::{Found, Monitor, end_orphaned_commands, end_silent_monitor, find_monitor};
use super::teardown::{blocking, end_monitor, end_unrecorded};
use super::update::{update_container, with_resources};
use crate::chain::Chain;
use crate::effects::{
    MonitorError, MonitorLink, Node, Remains, SandboxCgroups, collect_netns_names, end_damaged_scope, find_remains, kill_cgroups, now_ns,
    remove_cgroup, unlink_netns,
};
use crate::request::KILL;
use crate::store::{ContainerPhase, ContainerRecord, DamagedPod, Loaded, LoadedPod, SandboxPhase, SandboxRecord, Store};
use futures_util::future::join_all;
use podbox_cgroup::Driver;
use podbox_plan::ContainerId;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// A monitor answers in microseconds.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the records and brings each pod into a state that is true.
pub(super) async fn recover(node: &Arc<Node>, store: &Arc<Store>) -> Result<Vec<Pod>, PodError> {
    store.empty_trash();
    let Loaded { pods, damaged } = store.load()?;
    let (begun, loaded): (Vec<LoadedPod>, Vec<LoadedPod>) = pods.into_iter().partition(|pod| pod.sandbox.phase == SandboxPhase::Creating);
    // Side by side: a monitor that does not answer is waited for, and must not keep the others waiting.
    join_all(damaged.iter().map(|pod| end_damaged(node, pod))).await;
    let pods = join_all(loaded.into_iter().map(|pod| recover_pod(node, store, pod))).await;
    // Before anything is given or given back. Of two pods on record with the same address, the one that lives has it.
    let (live, ended): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| pod.link.is_some() || pod.is_out_of_reach);
    let records = live.into_iter().chain(ended).map(|pod| &pod.record).chain(begun.iter().map(|pod| &pod.sandbox));
    records.for_each(|record| restore_addresses(node, record));
    join_all(begun.iter().map(|pod| undo(node, store, &pod.sandbox))).await;
    collect(node, &pods).await;
    Ok(pods)
}

/// A pod whose record is of no use: nothing can be asked of it any more, so nothing of it may run on. Its folder is kept for people.
async fn end_damaged(node: &Arc<Node>, pod: &DamagedPod) {
    let remains = match find_damaged(node, pod).await {
        Ok(remains) => remains,
        Err(error) => {
            tracing::error!(sandbox = %pod.id, error = %Chain(&error), "a damaged pod cannot be looked for");
            return;
        }
    };
    let (host, killed) = (node.clone(), remains.cgroups.clone());
    let killed = blocking(move || Ok(kill_cgroups(&host.hierarchies, &killed)?)).await;
    let ended = match find_monitor(&pod.folder).await {
        Found::Answers(monitor) => end_all(pod, &monitor).await,
        Found::Gone => Ok(()),
        Found::Silent(error) | Found::Hindered(error) => {
            end_silent_monitor(&pod.id, None, &error).await;
            Ok(())
        }
    };
    let (host, found) = (node.clone(), remains.cgroups);
    let removed = blocking(move || {
        let removed = found.iter().map(|path| remove_cgroup(&host.hierarchies, path));
        Ok(removed.fold(Ok(()), Result::and)?)
    })
    .await;
    // Of a scope whose cgroup is gone the unit may still be there, for the driver that knows.
    let scope = if remains.has_scope || node.facts.cgroup_driver == Driver::Systemd {
        end_damaged_scope(&pod.id).await.map_err(PodError::from)
    } else {
        Ok(())
    };
    if let Err(error) = killed.and(ended).and(removed).and(scope) {
        tracing::error!(sandbox = %pod.id, error = %Chain(&error), "something of a damaged pod remains");
    }
    let _ = unlink_netns(&pod.id);
}

/// Its cgroups, of whichever driver the node had when they were made.
async fn find_damaged(node: &Arc<Node>, pod: &DamagedPod) -> Result<Remains, PodError> {
    let (host, id, folder) = (node.clone(), pod.id.clone(), pod.folder.join("containers"));
    blocking(move || {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let containers: Vec<ContainerId> = names.filter_map(|name| ContainerId::try_from(name).ok()).collect();
        Ok(find_remains(&host.hierarchies, &id, containers.iter()))
    })
    .await
}

/// Kills all that a monitor watches, and what it has begun since, and ends it.
async fn end_all(pod: &DamagedPod, monitor: &Monitor) -> Result<(), PodError> {
    let kill = || async {
        let killed = kill_all(&monitor.link).await;
        killed.map_err(|source| PodError::Monitor { id: pod.id.clone(), source })
    };
    kill().await?;
    end_monitor(&pod.folder, &pod.id, Some(monitor.link.pid), Some(monitor.link.clone()), kill).await
}

async fn kill_all(link: &MonitorLink) -> Result<(), MonitorError> {
    for running in link.state().await? {
        match link.signal(running.process, KILL, false).await {
            Ok(()) | Err(MonitorError::NotRunning { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn restore_addresses(node: &Node, sandbox: &SandboxRecord) {
    let Some(addresses) = sandbox.addresses.as_ref().filter(|_| !sandbox.network_released) else { return };
    if let Err(error) = node.network.restore(sandbox.id.as_str(), addresses, &sandbox.config.host_ports) {
        tracing::error!(sandbox = %sandbox.id, error = %Chain(&error), "two pods on record have the same address, or the same host port");
    }
}

async fn recover_pod(node: &Arc<Node>, store: &Arc<Store>, pod: LoadedPod) -> Pod {
    let LoadedPod { mut sandbox, containers } = pod;
    let taken = take_over_monitor(node, &sandbox).await;
    let is_out_of_reach = matches!(taken, TakenOver::OutOfReach);
    if let TakenOver::Gone = taken {
        kill_remains(node, &sandbox, &containers).await;
    }
    if sandbox.phase == SandboxPhase::Ready && !is_out_of_reach && !taken.monitor().is_some_and(Monitor::watches_pause) {
        sandbox.phase = SandboxPhase::NotReady;
    }
    if let Err(error) = store.save_sandbox(&sandbox) {
        tracing::error!(sandbox = %sandbox.id, error = %Chain(&error), "the sandbox's record is behind");
        store.show_sandbox(&sandbox);
    }
    for id in taken.monitor().into_iter().flat_map(Monitor::containers) {
        if containers.iter().all(|record| record.id != *id) {
            end_unrecorded(node, &sandbox, id).await;
        }
    }
    let mut recovered = Vec::new();
    for mut record in containers {
        if record.phase == ContainerPhase::Creating {
            undo_until_done(node, store, record).await;
            continue;
        }
        record.phase = true_phase(node, &record, &taken);
        finish_update(node, store, &mut record).await;
        if let Err(error) = store.save_container(&record) {
            tracing::error!(container = %record.id, error = %Chain(&error), "the container's record is behind");
            store.show_container(&record);
        }
        recovered.push(record);
    }
    let (link, events) = match taken {
        TakenOver::Monitor(monitor) => (Some(monitor.link), Some(monitor.events)),
        TakenOver::OutOfReach | TakenOver::Gone | TakenOver::OtherBoot => (None, None),
    };
    Pod { record: sandbox, link, events, is_out_of_reach, containers: recovered }
}

/// What a daemon that starts finds of a pod's monitor.
enum TakenOver {
    Monitor(Monitor),
    /// The pod's driver goes on looking: for all that is known, what runs is well.
    OutOfReach,
    Gone,
    OtherBoot,
}

impl TakenOver {
    fn monitor(&self) -> Option<&Monitor> {
        match self {
            Self::Monitor(monitor) => Some(monitor),
            Self::OutOfReach | Self::Gone | Self::OtherBoot => None,
        }
    }
}

async fn take_over_monitor(node: &Node, sandbox: &SandboxRecord) -> TakenOver {
    if sandbox.boot_id != node.facts.boot_id {
        return TakenOver::OtherBoot;
    }
    let folder = node.layout.pod(&sandbox.id);
    // One that hangs holds up nobody's start.
    let found = tokio::time::timeout(TAKE_OVER_TIMEOUT, find_monitor(&folder)).await;
    match found.unwrap_or(Found::Silent(MonitorError::Silent { seconds: TAKE_OVER_TIMEOUT.as_secs() })) {
        Found::Answers(monitor) => {
            end_orphaned_commands(&monitor.link, &monitor.processes).await;
            TakenOver::Monitor(monitor)
        }
        Found::Gone => TakenOver::Gone,
        Found::Silent(error) | Found::Hindered(error) => {
            tracing::warn!(sandbox = %sandbox.id, error = %Chain(&error), "the pod's monitor cannot be reached: trying again");
            TakenOver::OutOfReach
        }
    }
}

/// Whatever the monitor left behind when it went.
async fn kill_remains(node: &Arc<Node>, sandbox: &SandboxRecord, containers: &[ContainerRecord]) {
    let mut paths: Vec<String> = containers.iter().map(|record| record.cgroup.clone()).collect();
    paths.push(SandboxCgroups::new(&sandbox.cgroup, &sandbox.id).pause());
    let host = node.clone();
    if let Err(error) = blocking(move || Ok(kill_cgroups(&host.hierarchies, &paths)?)).await {
        tracing::error!(sandbox = %sandbox.id, error = %Chain(&error), "processes of a lost pod remain");
    }
}

/// The state that a container is in, by what runs and what stands on disk.
fn true_phase(node: &Node, record: &ContainerRecord, taken: &TakenOver) -> ContainerPhase {
    let watcher = match taken {
        _ if !runs(record) => return record.phase.clone(),
        TakenOver::OutOfReach => return record.phase.clone(),
        TakenOver::Monitor(monitor) => match monitor.init_of(&record.id) {
            Some(init) => return ContainerPhase::Running { pid: init.pid, started_at_ns: init.started_at_ns },
            None => Watcher::Alive,
        },
        TakenOver::Gone => Watcher::Gone,
        TakenOver::OtherBoot => Watcher::OtherBoot,
    };
    end_of_lost(&node.layout, record, watcher, false, now_ns()).unwrap_or(ContainerPhase::Created)
}

/// An update that was cut off is carried out: nobody was told how it ended, and parts of it may hold already.
async fn finish_update(node: &Arc<Node>, store: &Arc<Store>, record: &mut ContainerRecord) {
    let Some(asked) = store.begun_update(record) else { return };
    let outcome = match record.phase {
        ContainerPhase::Created | ContainerPhase::Starting | ContainerPhase::Running { .. } => {
            let updated = update_container(node.clone(), record.clone(), asked).await;
            updated.and_then(|updated| Ok(with_resources(record, updated.resources)?)).map(|updated| *record = updated)
        }
        ContainerPhase::Creating | ContainerPhase::Exited { .. } => Ok(()),
    };
    match outcome {
        Ok(()) => tracing::info!(container = %record.id, "an update of its limits that was cut off is carried out"),
        Err(error) => {
            tracing::error!(container = %record.id, error = %Chain(&error), "an update that was cut off cannot be carried out");
            let recorded = record.config.resources.clone();
            if let Err(error) = update_container(node.clone(), record.clone(), recorded).await {
                // Kept for the next start.
                tracing::error!(container = %record.id, error = %Chain(&error), "nor can the limits on record be set again");
                return;
            }
        }
    }
    // Written before it is forgotten: to be carried out twice does no harm.
    if store.save_container(record).is_ok() {
        store.end_update(record);
    }
}

/// Collects what belongs to no pod. What cannot be collected is no reason not to serve.
async fn collect(node: &Arc<Node>, pods: &[Pod]) {
    if let Err(error) = collect_netns_names() {
        tracing::warn!(%error, "names of network namespaces that are gone stay");
    }
    let connected: HashSet<&str> = pods.iter().filter(|pod| !pod.record.network_released).map(|pod| pod.record.id.as_str()).collect();
    match node.network.collect(|id| connected.contains(id)).await {
        Ok(stale) if stale.is_empty() => {}
        Ok(stale) => tracing::info!(links = stale.len(), "links of pods that are gone were collected"),
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the pod network cannot be looked through");
        }
    }
    if pods.iter().any(|pod| pod.is_out_of_reach) {
        // A container whose record is damaged may run there, until its monitor is found. The next start collects its layer.
        return;
    }
    let known: HashSet<String> = pods.iter().flat_map(|pod| &pod.containers).map(|record| record.id.as_str().to_owned()).collect();
    let images = node.images.clone();
    let collected = tokio::task::spawn_blocking(move || {
        for id in images.snapshots()?.into_iter().filter(|id| !known.contains(id)) {
            images.remove_snapshot(&id)?;
        }
        Ok::<_, podbox_image::Error>(())
    });
    if let Ok(Err(error)) = collected.await {
        tracing::error!(error = %Chain(&error), "layers of containers that are gone cannot be collected");
    }
}
