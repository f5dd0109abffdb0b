//! Stopping a pod: everything ends, the network is given back, the cgroups go. From the record, whatever is left of it.

use super::PodError;
use crate::chain::Chain;
use crate::effects::{
    MonitorError, MonitorLink, Node, SandboxCgroups, connect_monitor, kill_monitor, kill_pod_cgroups, remove_container_cgroup, remove_made,
    unlink_netns,
};
use crate::plan::MONITOR_SOCKET;
use crate::store::{SandboxRecord, Store};
use podbox_plan::SandboxId;
use rustix::io::Errno;
use std::sync::Arc;
use std::time::Duration;

/// The monitor reaps within microseconds of a kill; this many looks, each twice as late as the one before, is seconds.
const SHUTDOWN_TRIES: u32 = 13;

/// Between attempts to take away a link that the kernel would not let go of.
const DETACH_PAUSE: Duration = Duration::from_secs(1);
const DETACH_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What is to be stopped beside pause.
pub(super) struct StopOrder {
    /// The way to the monitor; `None`: look whether there is one.
    pub link: Option<MonitorLink>,
    /// Cgroups of containers.
    pub containers: Vec<String>,
}

/// Stops a pod. Every step tolerates that there is nothing to do; after an error the caller may try again.
///
/// The pod's link is taken away after this returns: the kernel waits out a grace period for that, which is no caller's
/// business. Its addresses become free when the link is gone. A link that a crash leaves belongs to no pod that is ready,
/// and is collected at the next start.
pub(super) async fn stop_pod(node: &Arc<Node>, store: &Arc<Store>, record: &SandboxRecord, order: StopOrder) -> Result<(), PodError> {
    end_processes(node, store, record, order).await?;
    disconnect(node, record)
}

pub(super) fn disconnect(node: &Arc<Node>, record: &SandboxRecord) -> Result<(), PodError> {
    if record.addresses.is_none() || record.network_released {
        return Ok(());
    }
    let (node, id) = (node.clone(), record.id.clone());
    unlink_netns(&id).map_err(|source| PodError::Files { id: id.clone(), source })?;
    tokio::spawn(async move {
        let mut pause = DETACH_PAUSE;
        while let Err(error) = node.network.detach(id.as_str()).await {
            tracing::error!(sandbox = %id, error = %Chain(&error), "the pod's link stays, and its addresses with it; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(DETACH_PAUSE_MAX);
        }
        node.network.release(id.as_str());
    });
    Ok(())
}

/// Ends everything that runs in a pod, and gives its cgroups back.
pub(super) async fn end_processes(node: &Arc<Node>, store: &Arc<Store>, record: &SandboxRecord, order: StopOrder) -> Result<(), PodError> {
    let link = match order.link.clone() {
        Some(link) => Some(link),
        None => find_monitor(node, record).await?,
    };
    let cgroups = SandboxCgroups::new(&record.cgroup, &record.id);
    let mut paths = order.containers.clone();
    paths.push(cgroups.pause());
    let host = node.clone();
    blocking(move || Ok(kill_pod_cgroups(&host.hierarchies, &paths)?)).await?;
    if let Some(link) = link {
        end_monitor(&record.id, &link).await?;
    }
    let (host, store, made) = (node.clone(), store.clone(), record.cgroup_made.clone().unwrap_or_default());
    blocking(move || {
        order.containers.iter().try_for_each(|path| remove_container_cgroup(&host.hierarchies, path))?;
        cgroups.remove_pause(&host.hierarchies)?;
        store.remove_cgroups(made, |made| Ok::<_, PodError>(remove_made(made)?))
    })
    .await
}

/// The monitor of a pod whose link is not at hand; `None` if it is gone.
async fn find_monitor(node: &Arc<Node>, record: &SandboxRecord) -> Result<Option<MonitorLink>, PodError> {
    match connect_monitor(&node.layout.pod(&record.id), MONITOR_SOCKET).await {
        Ok((link, _events)) => Ok(Some(link)),
        Err(MonitorError::Connect(Errno::CONNREFUSED | Errno::NOENT) | MonitorError::Gone) => Ok(None),
        Err(error @ (MonitorError::Silent { .. } | MonitorError::NoCommonVersion)) => {
            end_silent_monitor(&record.id, &error);
            Ok(None)
        }
        Err(source) => Err(PodError::Monitor { id: record.id.clone(), source }),
    }
}

/// Ends the monitor. It refuses until it has reaped, and recorded, what was just killed; one that does not answer is killed itself.
pub(super) async fn end_monitor(id: &SandboxId, link: &MonitorLink) -> Result<(), PodError> {
    let mut pause = Duration::from_micros(500);
    let mut outcome = link.shutdown().await;
    for _ in 1..SHUTDOWN_TRIES {
        if !matches!(outcome, Err(MonitorError::Refused { .. })) {
            break;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
        outcome = link.shutdown().await;
    }
    match outcome {
        Err(error @ MonitorError::Silent { .. }) => {
            end_silent_monitor(id, &error);
            Ok(())
        }
        other => other.map_err(|source| PodError::Monitor { id: id.clone(), source }),
    }
}

/// A monitor that is stopped or hangs holds up its pod for ever; everything it could still tell of is killed already.
pub(super) fn end_silent_monitor(id: &SandboxId, error: &MonitorError) {
    match kill_monitor(id) {
        0 => tracing::error!(sandbox = %id, error = %Chain(error), "the pod's monitor is gone"),
        _ => tracing::error!(sandbox = %id, error = %Chain(error), "the pod's monitor did not answer and is killed"),
    }
}

/// Work that waits for the kernel, away from the tasks that serve.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, PodError> + Send + 'static) -> Result<T, PodError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PodError::CutOff)?
}
