//! Stopping a pod: everything ends, the network is given back, the cgroups go. From the record, whatever is left of it.

use super::PodError;
use crate::chain::Chain;
use crate::effects::{
    CgroupsError, MonitorError, MonitorLink, Node, SandboxCgroups, connect_monitor, kill_pod_cgroups, remove_container_cgroup, unlink_netns,
};
use crate::plan::MONITOR_SOCKET;
use crate::store::SandboxRecord;
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
pub(super) async fn stop_pod(node: &Arc<Node>, record: &SandboxRecord, order: StopOrder) -> Result<(), PodError> {
    end_processes(node, record, order).await?;
    disconnect(node, record)
}

fn disconnect(node: &Arc<Node>, record: &SandboxRecord) -> Result<(), PodError> {
    let Some(addresses) = record.addresses.clone().filter(|_| !record.network_released) else { return Ok(()) };
    let (node, id) = (node.clone(), record.id.clone());
    unlink_netns(&id).map_err(|source| PodError::Files { id: id.clone(), source })?;
    tokio::spawn(async move {
        let mut pause = DETACH_PAUSE;
        while let Err(error) = node.network.detach(id.as_str()).await {
            tracing::error!(sandbox = %id, error = %Chain(&error), "the pod's link stays, and its addresses with it; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(DETACH_PAUSE_MAX);
        }
        node.network.release(&addresses);
    });
    Ok(())
}

async fn end_processes(node: &Arc<Node>, record: &SandboxRecord, order: StopOrder) -> Result<(), PodError> {
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
        end_monitor(record, &link).await?;
    }
    let (host, made) = (node.clone(), record.cgroup_made.clone().unwrap_or_default());
    blocking(move || {
        order.containers.iter().try_for_each(|path| remove_container_cgroup(&host.hierarchies, path))?;
        cgroups.remove(&host.hierarchies, &made)?;
        // The parent of all pods goes with the last one; before, it is in use, and stays.
        host.cgroup_parent_made.remove().map_err(|source| CgroupsError::Cgroup { path: host.config.cgroup.parent.to_string(), source })?;
        Ok(())
    })
    .await
}

/// The monitor of a pod whose link is not at hand; `None` if it is gone.
async fn find_monitor(node: &Arc<Node>, record: &SandboxRecord) -> Result<Option<MonitorLink>, PodError> {
    match connect_monitor(&node.layout.pod(&record.id), MONITOR_SOCKET).await {
        Ok((link, _events)) => Ok(Some(link)),
        Err(MonitorError::Connect(Errno::CONNREFUSED | Errno::NOENT) | MonitorError::Gone) => Ok(None),
        Err(source) => Err(PodError::Monitor { id: record.id.clone(), source }),
    }
}

/// Ends the monitor. It refuses until it has reaped, and recorded, what was just killed.
async fn end_monitor(record: &SandboxRecord, link: &MonitorLink) -> Result<(), PodError> {
    let mut pause = Duration::from_micros(500);
    for _ in 1..SHUTDOWN_TRIES {
        match link.shutdown().await {
            Err(MonitorError::Refused { .. }) => tokio::time::sleep(pause).await,
            other => return other.map_err(|source| PodError::Monitor { id: record.id.clone(), source }),
        }
        pause *= 2;
    }
    link.shutdown().await.map_err(|source| PodError::Monitor { id: record.id.clone(), source })
}

/// Work that waits for the kernel, away from the tasks that serve.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, PodError> + Send + 'static) -> Result<T, PodError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PodError::CutOff)?
}
