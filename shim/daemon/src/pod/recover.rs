//! What a daemon makes of the pods that are on record when it starts.
//!
//! | on record | and in truth | becomes |
//! |---|---|---|
//! | sandbox `Creating` | anything | undone: nobody knows its id |
//! | another boot's | gone with the machine | `NotReady`, containers `Exited` (255, `Unknown`) |
//! | the monitor answers | runs | as it was; ends of meanwhile from the exit records |
//! | the monitor is gone | killed | `NotReady`, containers `Exited` by their exit records, or killed |
//! | container `Creating` | anything | undone |
//! | container `Starting` | the monitor runs it | `Running`; ended: `Exited`; never heard of: `Created` again |
//!
//! A record that cannot be understood is set aside, and what ran by it is ended: nobody could stop it any more.
//!
//! Then what belongs to no pod is collected: links on the bridge, layers of containers, names of network namespaces.

use super::PodError;
use super::container::undo_until_done;
use super::driver::Pod;
use super::ending::{reason_of, unseen_end};
use super::make::undo;
use super::teardown::{blocking, end_monitor, end_silent_monitor};
use crate::chain::Chain;
use crate::effects::{
    MonitorError, MonitorEvent, MonitorLink, Node, SandboxCgroups, collect_netns_names, connect_monitor, kill_pod_cgroups, now_ns,
    remove_container_cgroup, unlink_netns,
};
use crate::plan::MONITOR_SOCKET;
use crate::store::{
    ContainerPhase, ContainerRecord, DamagedPod, ExitReason, Loaded, LoadedPod, SandboxPhase, SandboxRecord, Store, read_record,
};
use futures_util::future::join_all;
use podbox_plan::wire::RunningProcess;
use podbox_plan::{ContainerId, ExitRecord, ProcessRef, SandboxId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The exit code of a container whose end nobody saw.
const UNKNOWN_CODE: i32 = 255;
/// 128 + SIGKILL
const KILLED: i32 = 137;
/// `SIGKILL`
const KILL: i32 = 9;

/// Reads the records and brings each pod into a state that is true.
pub(super) async fn recover(node: &Arc<Node>, store: &Arc<Store>) -> Result<Vec<Pod>, PodError> {
    store.empty_trash();
    let Loaded { pods, damaged } = store.load()?;
    let (begun, loaded): (Vec<LoadedPod>, Vec<LoadedPod>) = pods.into_iter().partition(|pod| pod.sandbox.phase == SandboxPhase::Creating);
    // Side by side: a monitor that does not answer is waited for, and must not keep the others waiting.
    join_all(damaged.iter().map(|pod| end_damaged(node, pod))).await;
    let pods = join_all(loaded.into_iter().map(|pod| recover_pod(node, store, pod))).await;
    // Before anything is given or given back. Of two pods on record with the same address, the one that lives has it.
    let (live, ended): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| pod.link.is_some());
    let records = live.into_iter().chain(ended).map(|pod| &pod.record).chain(begun.iter().map(|pod| &pod.sandbox));
    records.for_each(|record| restore_addresses(node, record));
    join_all(begun.iter().map(|pod| undo(node, store, &pod.sandbox))).await;
    collect(node, &pods).await;
    Ok(pods)
}

/// A pod whose record is of no use: nothing can be asked of it any more, so nothing of it may run on. Its folder is kept for people.
async fn end_damaged(node: &Arc<Node>, pod: &DamagedPod) {
    let path = format!("{}/{}", node.config.cgroup.parent.as_str().trim_end_matches('/'), pod.id);
    let (host, killed) = (node.clone(), path.clone());
    let killed = blocking(move || Ok(kill_pod_cgroups(&host.hierarchies, &[killed])?)).await;
    let ended = match connect_monitor(&pod.folder, MONITOR_SOCKET).await {
        Ok((link, _events)) => end_all(&pod.id, &link).await,
        Err(error) => {
            // Gone, most likely; if not, it does not answer.
            end_silent_monitor(&pod.id, &error);
            Ok(())
        }
    };
    let host = node.clone();
    let removed = blocking(move || Ok(remove_container_cgroup(&host.hierarchies, &path)?)).await;
    if let Err(error) = killed.and(ended).and(removed) {
        tracing::error!(sandbox = %pod.id, error = %Chain(&error), "something of a damaged pod remains");
    }
    let _ = unlink_netns(&pod.id);
}

/// Kills all that a monitor watches, and ends it.
async fn end_all(id: &SandboxId, link: &MonitorLink) -> Result<(), PodError> {
    let failed = |source| PodError::Monitor { id: id.clone(), source };
    for process in link.state().await.map_err(failed)? {
        match link.signal(process.process, KILL, false).await {
            Ok(()) | Err(MonitorError::NotRunning { .. }) => {}
            Err(source) => return Err(failed(source)),
        }
    }
    end_monitor(id, link).await
}

fn restore_addresses(node: &Node, sandbox: &SandboxRecord) {
    let Some(addresses) = sandbox.addresses.as_ref().filter(|_| !sandbox.network_released) else { return };
    if let Err(error) = node.network.restore(sandbox.id.as_str(), addresses) {
        tracing::error!(sandbox = %sandbox.id, error = %Chain(&error), "two pods on record have the same address");
    }
}

/// What is known of the monitor's processes; `None`: it is gone.
type Monitor = Option<(MonitorLink, mpsc::Receiver<MonitorEvent>, Vec<RunningProcess>)>;

async fn recover_pod(node: &Arc<Node>, store: &Arc<Store>, pod: LoadedPod) -> Pod {
    let LoadedPod { mut sandbox, containers } = pod;
    let monitor = find_monitor(node, &sandbox).await;
    let runs: HashMap<ContainerId, (i32, i64)> = match &monitor {
        Some((_, _, processes)) => processes.iter().filter_map(as_container).collect(),
        None => HashMap::new(),
    };
    let pause_runs = monitor.iter().any(|(_, _, processes)| processes.iter().any(|process| process.process == ProcessRef::Pause));
    if monitor.is_none() && sandbox.boot_id == node.facts.boot_id {
        kill_remains(node, &sandbox, &containers).await;
    }
    if sandbox.phase == SandboxPhase::Ready && !pause_runs {
        sandbox.phase = SandboxPhase::NotReady;
    }
    if let Err(error) = store.save_sandbox(&sandbox) {
        tracing::error!(sandbox = %sandbox.id, error = %Chain(&error), "the sandbox's record is behind");
        store.show_sandbox(&sandbox);
    }
    end_unknown(node, &sandbox, &containers, runs.keys()).await;
    let mut recovered = Vec::new();
    for mut record in containers {
        if record.phase == ContainerPhase::Creating {
            let (node, store) = (node.clone(), store.clone());
            let _ = tokio::task::spawn_blocking(move || undo_until_done(&node, &store, &record)).await;
            continue;
        }
        record.phase = true_phase(node, &sandbox, &record, runs.get(&record.id), monitor.is_some());
        if let Err(error) = store.save_container(&record) {
            tracing::error!(container = %record.id, error = %Chain(&error), "the container's record is behind");
            store.show_container(&record);
        }
        recovered.push(record);
    }
    let (link, events) = match monitor {
        Some((link, events, _)) => (Some(link), Some(events)),
        None => (None, None),
    };
    Pod { record: sandbox, link, events, containers: recovered }
}

/// Ends containers that run and are not on record: theirs was damaged, and nobody could stop them.
async fn end_unknown(node: &Arc<Node>, sandbox: &SandboxRecord, known: &[ContainerRecord], runs: impl Iterator<Item = &ContainerId>) {
    let cgroups = SandboxCgroups::new(&sandbox.cgroup, &sandbox.id);
    for id in runs.filter(|id| known.iter().all(|record| record.id != **id)) {
        let (host, path) = (node.clone(), cgroups.container(id));
        tracing::error!(sandbox = %sandbox.id, container = %id, "a container that is not on record is ended");
        if let Err(error) = blocking(move || Ok(remove_container_cgroup(&host.hierarchies, &path)?)).await {
            tracing::error!(container = %id, error = %Chain(&error), "a container that is not on record remains");
        }
    }
}

fn as_container(process: &RunningProcess) -> Option<(ContainerId, (i32, i64))> {
    match &process.process {
        ProcessRef::Container(id) => Some((id.clone(), (process.pid, process.started_at_ns))),
        ProcessRef::Pause | ProcessRef::Exec(_) => None,
    }
}

async fn find_monitor(node: &Node, sandbox: &SandboxRecord) -> Monitor {
    if sandbox.boot_id != node.facts.boot_id {
        return None;
    }
    let (link, events) = match connect_monitor(&node.layout.pod(&sandbox.id), MONITOR_SOCKET).await {
        Ok(connected) => connected,
        Err(error) => {
            if sandbox.phase == SandboxPhase::Ready {
                // One that is there and does not answer could never be asked to end its pod.
                end_silent_monitor(&sandbox.id, &error);
            }
            return None;
        }
    };
    let processes = link.state().await.ok()?;
    Some((link, events, processes))
}

/// Whatever the monitor left behind when it went.
async fn kill_remains(node: &Arc<Node>, sandbox: &SandboxRecord, containers: &[ContainerRecord]) {
    let mut paths: Vec<String> = containers.iter().map(|record| record.cgroup.clone()).collect();
    paths.push(SandboxCgroups::new(&sandbox.cgroup, &sandbox.id).pause());
    let host = node.clone();
    if let Err(error) = blocking(move || Ok(kill_pod_cgroups(&host.hierarchies, &paths)?)).await {
        tracing::error!(sandbox = %sandbox.id, error = %Chain(&error), "processes of a lost pod remain");
    }
}

/// The state that a container is in, by what runs and what stands on disk.
fn true_phase(
    node: &Node,
    sandbox: &SandboxRecord,
    record: &ContainerRecord,
    running: Option<&(i32, i64)>,
    has_monitor: bool,
) -> ContainerPhase {
    let started = matches!(record.phase, ContainerPhase::Starting | ContainerPhase::Running { .. });
    if !started {
        return record.phase.clone();
    }
    if let Some((pid, started_at_ns)) = running {
        return ContainerPhase::Running { pid: *pid, started_at_ns: *started_at_ns };
    }
    match read_record::<ExitRecord>(&node.layout.container_exit(&sandbox.id, &record.id)) {
        Ok(end) => ContainerPhase::Exited { reason: reason_of(&end), record: end, message: String::new() },
        // The monitor drops what it was starting for a daemon that is gone.
        Err(_) if record.phase == ContainerPhase::Starting && has_monitor => ContainerPhase::Created,
        Err(_) if sandbox.boot_id != node.facts.boot_id => ContainerPhase::Exited {
            record: unseen_end(UNKNOWN_CODE, now_ns()),
            reason: ExitReason::Unknown,
            message: "the machine was started anew".to_owned(),
        },
        Err(_) if has_monitor => ContainerPhase::Exited {
            record: unseen_end(UNKNOWN_CODE, now_ns()),
            reason: ExitReason::Unknown,
            message: "its end could not be recorded".to_owned(),
        },
        Err(_) => ContainerPhase::Exited {
            record: unseen_end(KILLED, now_ns()),
            reason: ExitReason::Error,
            message: "the pod's monitor was killed, and its containers with it".to_owned(),
        },
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
