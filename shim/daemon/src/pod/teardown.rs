//! Stopping a pod: everything ends, the network is given back, the cgroups go. From the record, whatever is left of it.

use super::PodError;
use super::monitor::{Found, end_silent_monitor, find_monitor};
use super::retry::until_done;
use crate::chain::Chain;
use crate::effects::{MonitorError, MonitorLink, Node, SandboxCgroups, end_scope, kill_cgroups, remove_cgroup, remove_made, unlink_netns};
use crate::store::{SandboxRecord, Store};
use podbox_plan::{ContainerId, SandboxId};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The monitor reaps within microseconds of a kill; this many looks, each twice as late as the one before, is seconds.
const SHUTDOWN_TRIES: u32 = 13;
/// So often all is killed once more in between: a launch that was under way may bring forth a process after the first time.
const TRIES_PER_KILL: u32 = 4;

/// What is to be stopped beside pause.
pub(super) struct StopOrder {
    /// The way to the monitor; `None`: it is looked for.
    pub link: Option<MonitorLink>,
    /// Cgroups of containers.
    pub containers: Vec<String>,
}

/// Ends a container that runs and is not on record: its record was damaged, and nobody could stop it.
pub(super) fn end_unrecorded(node: &Arc<Node>, sandbox: &SandboxRecord, id: &ContainerId) -> impl Future<Output = ()> + use<> {
    tracing::error!(sandbox = %sandbox.id, container = %id, "a container that is not on record is ended");
    let (node, id) = (node.clone(), id.clone());
    let path = SandboxCgroups::new(&sandbox.cgroup, &sandbox.id).container(&id);
    async move {
        if let Err(error) = blocking(move || Ok(remove_cgroup(&node.hierarchies, &path)?)).await {
            tracing::error!(container = %id, error = %Chain(&error), "a container that is not on record remains");
        }
    }
}

/// Stops a pod. Every step tolerates that there is nothing to do; after an error the caller may try again.
///
/// The pod's host ports are free when this returns. Its link is taken away later: the kernel waits out a grace period for that, which is no
/// caller's business. Its addresses become free when the link is gone. A link that a crash leaves belongs to no pod that is ready,
/// and is collected at the next start.
pub(super) async fn stop_pod(node: &Arc<Node>, store: &Arc<Store>, record: &SandboxRecord, order: StopOrder) -> Result<(), PodError> {
    end_processes(node, store, record, order).await?;
    disconnect(node, record).await
}

pub(super) async fn disconnect(node: &Arc<Node>, record: &SandboxRecord) -> Result<(), PodError> {
    if record.addresses.is_none() || record.network_released {
        return Ok(());
    }
    let (node, id) = (node.clone(), record.id.clone());
    node.network.withdraw(id.as_str()).await?;
    unlink_netns(&id).map_err(|source| PodError::Files { id: id.clone(), source })?;
    tokio::spawn(async move {
        until_done("the pod's link stays, and its addresses with it", id.as_str(), || node.network.detach(id.as_str())).await;
        node.network.release(id.as_str());
    });
    Ok(())
}

/// Ends everything that runs in a pod, and gives its cgroups back.
pub(super) async fn end_processes(node: &Arc<Node>, store: &Arc<Store>, record: &SandboxRecord, order: StopOrder) -> Result<(), PodError> {
    let cgroups = SandboxCgroups::new(&record.cgroup, &record.id);
    let mut paths = order.containers.clone();
    paths.push(cgroups.pause());
    let kill = || {
        let (host, paths) = (node.clone(), paths.clone());
        blocking(move || Ok(kill_cgroups(&host.hierarchies, &paths)?))
    };
    kill().await?;
    let pid = record.pause.as_ref().map(|pause| pause.monitor_pid);
    end_monitor(&node.layout.pod(&record.id), &record.id, pid, order.link, kill).await?;
    let (host, store, made) = (node.clone(), store.clone(), record.cgroup_made.clone().unwrap_or_default());
    blocking(move || {
        order.containers.iter().try_for_each(|path| remove_cgroup(&host.hierarchies, path))?;
        cgroups.remove_pause(&host.hierarchies)?;
        Ok(store.remove_cgroups(made, remove_made)?)
    })
    .await?;
    // A scope of another boot is gone with it, and systemd may be, too.
    if record.slice.is_some() && record.boot_id == node.facts.boot_id {
        end_scope(&node.hierarchies, &record.cgroup, &record.id).await?;
    }
    Ok(())
}

/// Ends a pod's monitor, which has been left nothing to watch, over the link that is at hand or else over a new one. It refuses
/// until it has reaped, and recorded, what was just killed, and `kill` kills again what it has begun since; one that does not answer
/// is killed itself. `pid` is what is known of it.
pub(super) async fn end_monitor<K: Future<Output = Result<(), PodError>>>(
    folder: &Path,
    id: &SandboxId,
    pid: Option<i32>,
    link: Option<MonitorLink>,
    kill: impl Fn() -> K,
) -> Result<(), PodError> {
    let failed = |source| PodError::Monitor { id: id.clone(), source };
    let mut outcome = match &link {
        Some(link) => shut_down(link, &kill).await?,
        None => Err(MonitorError::Gone),
    };
    if matches!(outcome, Err(MonitorError::Gone)) {
        // Gone is the connection: the monitor itself may be about its business.
        outcome = match find_monitor(folder).await {
            Found::Answers(monitor) => shut_down(&monitor.link, &kill).await?,
            Found::Gone => Ok(()),
            Found::Silent(error) => {
                end_silent_monitor(id, pid, &error).await;
                Ok(())
            }
            Found::Hindered(source) => return Err(failed(source)),
        };
    }
    match outcome {
        Err(error @ MonitorError::Silent { .. }) => {
            end_silent_monitor(id, pid, &error).await;
            Ok(())
        }
        // It ended before its answer was read.
        Err(MonitorError::Gone) => Ok(()),
        other => other.map_err(failed),
    }
}

/// What the monitor says in the end; an error is one of `kill`.
async fn shut_down<K: Future<Output = Result<(), PodError>>>(
    link: &MonitorLink,
    kill: &impl Fn() -> K,
) -> Result<Result<(), MonitorError>, PodError> {
    let mut pause = Duration::from_micros(500);
    let mut outcome = link.shutdown().await;
    for attempt in 1..SHUTDOWN_TRIES {
        if !matches!(outcome, Err(MonitorError::Refused { .. })) {
            break;
        }
        if attempt % TRIES_PER_KILL == 0 {
            kill().await?;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
        outcome = link.shutdown().await;
    }
    Ok(outcome)
}

/// Work that waits for the kernel, away from the tasks that serve.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, PodError> + Send + 'static) -> Result<T, PodError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PodError::CutOff)?
}
