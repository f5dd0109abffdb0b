//! The making of a sandbox, as phases that each consume the one before.
//!
//! ```text
//! Reserved ─► Prepared ─► PauseRunning ─► Networked ─► committed
//!    └───────────┴─────────────┴──────────────┴──► undone
//! ```
//!
//! The record that is written first names everything that will be done: the cgroups that are absent, the addresses, the id from
//! which link and file names follow. So one undo, from the record alone, fits every phase and a crash in any of them; it is the
//! same that stops and removes a pod.
//!
//! Pause comes before the network: its namespace is born with it, and each end of the veth pair where it belongs.

use super::PodError;
use super::retry::now_or_later;
use super::teardown::{StopOrder, disconnect, end_processes};
use crate::effects::{
    MonitorError, MonitorEvent, MonitorLink, NetworkError, Node, SandboxCgroups, connect_monitor, link_netns, make_scope, now_ns,
    spawn_monitor, spawn_unborn_monitor, write_pod_files,
};
use crate::plan::{MONITOR_SOCKET, ProcessConfinement, check_users_of_pod, pause_launch, plan_files, pod_cgroup, sandbox_hostname};
use crate::request::{AppArmorProfile, NetworkMode, SandboxConfig};
use crate::store::{PauseRecord, RECORD_VERSION, SandboxPhase, SandboxRecord, Store};
use podbox_cgroup::Made;
use podbox_cgroup::systemd::Slice;
use podbox_netns::HostPortError;
use podbox_plan::{CgroupEntry, ProcessRef, SandboxId};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A sandbox that is ready, and the way to its monitor.
pub(super) struct MadeSandbox {
    pub record: SandboxRecord,
    pub link: MonitorLink,
    pub events: mpsc::Receiver<MonitorEvent>,
}

/// Makes a sandbox, or leaves nothing.
pub(super) async fn make_sandbox(
    node: &Arc<Node>,
    store: &Arc<Store>,
    id: SandboxId,
    config: SandboxConfig,
) -> Result<MadeSandbox, PodError> {
    let reserved = Reserved::begin(node, store, id, config)?;
    let intent = reserved.record.clone();
    match reserved.bring_up().await {
        Ok(made) => Ok(made),
        Err(error) => {
            undo(node, store, &intent).await;
            Err(error)
        }
    }
}

/// Undoes a making that did not end, from its record. What cannot be undone at once is tried again until it can: nobody else
/// knows of it.
pub(super) async fn undo(node: &Arc<Node>, store: &Arc<Store>, record: &SandboxRecord) {
    let (node, store, record) = (node.clone(), store.clone(), record.clone());
    let id = record.id.to_string();
    now_or_later("an unfinished sandbox cannot be undone", id, move || {
        let (node, store, record) = (node.clone(), store.clone(), record.clone());
        async move { try_undo(&node, &store, &record).await }
    })
    .await;
}

async fn try_undo(node: &Arc<Node>, store: &Arc<Store>, record: &SandboxRecord) -> Result<(), PodError> {
    let order = StopOrder { link: None, containers: Vec::new() };
    end_processes(node, store, record, order).await?;
    // The link and the addresses come last: until then they are this pod's, and nobody else is given them.
    store.remove_sandbox_folder(&record.id)?;
    disconnect(node, record).await?;
    store.forget_sandbox(&record.id);
    Ok(())
}

/// A pod knows others by their names.
fn name_holder(store: &Store, error: NetworkError) -> PodError {
    match &error {
        NetworkError::HostPorts { source: HostPortError::Taken { port, owner }, .. } => {
            let holder = store.sandbox(owner.as_str()).map_or_else(
                |_| owner.to_string(),
                |holder| format!("{}/{} ({owner})", holder.config.metadata.namespace, holder.config.metadata.name),
            );
            PodError::HostPortTaken { port: port.to_string(), holder }
        }
        _ => error.into(),
    }
}

/// The record stands; nothing was done yet.
struct Reserved<'a> {
    node: &'a Arc<Node>,
    store: &'a Arc<Store>,
    record: SandboxRecord,
}

/// Cgroups and files are there, and the monitor runs.
struct Prepared<'a> {
    reserved: Reserved<'a>,
    pause_cgroup: CgroupEntry,
    pause_confinement: ProcessConfinement,
    link: MonitorLink,
    events: mpsc::Receiver<MonitorEvent>,
}

struct PauseRunning<'a> {
    reserved: Reserved<'a>,
    link: MonitorLink,
    events: mpsc::Receiver<MonitorEvent>,
    /// Absent in the node's network.
    netns: Option<OwnedFd>,
}

struct Networked<'a>(PauseRunning<'a>);

impl<'a> Reserved<'a> {
    fn begin(node: &'a Arc<Node>, store: &'a Arc<Store>, id: SandboxId, config: SandboxConfig) -> Result<Self, PodError> {
        check_users_of_pod(&config, &node.facts)?;
        let cgroup = pod_cgroup(&config, &node.pod_parent, &id)?;
        let addresses = match config.network {
            NetworkMode::Pod => Some(node.network.reserve(id.as_str(), &config.host_ports).map_err(|error| name_holder(store, error))?),
            NetworkMode::Node => None,
        };
        let record = SandboxRecord {
            version: RECORD_VERSION,
            hostname: sandbox_hostname(&config, &node.facts, &id),
            created_at_ns: now_ns(),
            boot_id: node.facts.boot_id.clone(),
            phase: SandboxPhase::Creating,
            cgroup_made: None,
            network_released: false,
            pause: None,
            id,
            config,
            cgroup: cgroup.path,
            slice: cgroup.slice,
            addresses,
        };
        let reserved = Self { node, store, record };
        match reserved.write_down() {
            Ok(record) => Ok(Self { record, ..reserved }),
            Err(error) => {
                node.network.release(reserved.record.id.as_str());
                // A folder without a record is nothing; the next start would remove it too.
                let _ = store.remove_sandbox_folder(&reserved.record.id);
                Err(error)
            }
        }
    }

    fn write_down(&self) -> Result<SandboxRecord, PodError> {
        tracing::debug!(sandbox = %self.record.id, "begins");
        let absent = match self.record.slice {
            None => SandboxCgroups::new(&self.record.cgroup, &self.record.id).absent(&self.node.hierarchies)?,
            // systemd makes and removes them all.
            Some(_) => Made::default(),
        };
        let record = SandboxRecord { cgroup_made: Some(absent), ..self.record.clone() };
        self.store.save_sandbox(&record)?;
        Ok(record)
    }

    async fn bring_up(self) -> Result<MadeSandbox, PodError> {
        self.prepare().await?.start_pause().await?.connect().await?.commit()
    }

    /// Cgroups and files on one side, the monitor on the other: neither needs the other, and both wait for the kernel. Where
    /// systemd makes the pod's cgroup, it makes it with the process that the monitor comes from.
    async fn prepare(self) -> Result<Prepared<'a>, PodError> {
        let (made, monitor) = match &self.record.slice {
            None => tokio::join!(self.make_cgroups_and_files(), self.start_monitor()),
            Some(slice) => {
                let monitor = self.start_monitor_in_scope(slice).await?;
                (self.make_cgroups_and_files().await, Ok(monitor))
            }
        };
        let (link, events) = monitor?;
        let (pause_cgroup, pause_confinement) = made?;
        Ok(Prepared { pause_cgroup, pause_confinement, link, events, reserved: self })
    }

    async fn make_cgroups_and_files(&self) -> Result<(CgroupEntry, ProcessConfinement), PodError> {
        let (node, store, record) = (self.node.clone(), self.store.clone(), self.record.clone());
        let made = tokio::task::spawn_blocking(move || {
            write_files(&node, &record)?;
            let confinement = confine_pause(&node, &record)?;
            let cgroups = SandboxCgroups::new(&record.cgroup, &record.id);
            let absent = || match &record.cgroup_made {
                Some(_) if record.slice.is_none() => Ok(cgroups.absent(&node.hierarchies)?),
                // systemd makes and removes them all.
                _ => Ok(Made::default()),
            };
            let noted = record.cgroup_made.clone().unwrap_or_default();
            let entry = store.make_cgroups(&noted, absent, || Ok::<_, PodError>(cgroups.make(&node.hierarchies)?))?;
            Ok::<_, PodError>((entry, confinement))
        });
        let made = made.await.map_err(|_| PodError::CutOff)??;
        tracing::debug!(sandbox = %self.record.id, "cgroups and files are there");
        Ok(made)
    }

    async fn start_monitor(&self) -> Result<(MonitorLink, mpsc::Receiver<MonitorEvent>), PodError> {
        let id = &self.record.id;
        let failed = |source| PodError::Monitor { id: id.clone(), source };
        let (node, of) = (self.node.clone(), id.clone());
        let spawned = tokio::task::spawn_blocking(move || spawn_monitor(&node.programs, &node.layout.pod(&of), MONITOR_SOCKET, &of));
        spawned.await.map_err(|_| PodError::CutOff)?.map_err(failed)?;
        self.connect_monitor().await
    }

    async fn start_monitor_in_scope(&self, slice: &Slice) -> Result<(MonitorLink, mpsc::Receiver<MonitorEvent>), PodError> {
        let id = &self.record.id;
        let failed = |source| PodError::Monitor { id: id.clone(), source };
        let (node, of) = (self.node.clone(), id.clone());
        let spawned = tokio::task::spawn_blocking(move || spawn_unborn_monitor(&node.programs, &node.layout.pod(&of), MONITOR_SOCKET, &of));
        let unborn = spawned.await.map_err(|_| PodError::CutOff)?.map_err(failed)?;
        let pid = unborn.pid().ok_or_else(|| failed(MonitorError::Gone))?;
        let leaf = make_scope(&self.node.hierarchies, slice, id, pid).await?;
        unborn.be_born_in(&leaf).await.map_err(failed)?;
        self.connect_monitor().await
    }

    async fn connect_monitor(&self) -> Result<(MonitorLink, mpsc::Receiver<MonitorEvent>), PodError> {
        self.node.metrics.count_started_monitor();
        let id = &self.record.id;
        let failed = |source| PodError::Monitor { id: id.clone(), source };
        let folder = self.node.layout.pod(id);
        let (link, events) = connect_monitor(&folder, MONITOR_SOCKET).await.map_err(failed)?;
        tracing::debug!(sandbox = %id, pid = link.pid, "the monitor runs");
        Ok((link, events))
    }
}

/// The pod's profiles hold for pause, too, which has no capability. A privileged pod's is not confined (CRI).
fn confine_pause(node: &Node, record: &SandboxRecord) -> Result<ProcessConfinement, PodError> {
    if record.config.privileged {
        return Ok(ProcessConfinement::default());
    }
    let mut asked = record.config.confinement.clone();
    if asked.apparmor == AppArmorProfile::Unspecified {
        // Nothing of an image runs in it.
        asked.apparmor = AppArmorProfile::Unconfined;
    }
    Ok(node.confining.confine(&asked, BTreeSet::new(), node.layout.pause_filter(&record.id))?.written()?)
}

fn write_files(node: &Node, record: &SandboxRecord) -> Result<(), PodError> {
    let failed = |source| PodError::Files { id: record.id.clone(), source };
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let ips: Vec<IpAddr> = record.addresses.iter().flat_map(|addresses| addresses.as_slice()).map(ipnetwork::IpNetwork::ip).collect();
    let files = plan_files(&record.config, &record.hostname, &ips, &read("/etc/resolv.conf"), &read("/etc/hosts"));
    write_pod_files(&node.layout.pod(&record.id), &files).map_err(failed)
}

impl<'a> Prepared<'a> {
    async fn start_pause(self) -> Result<PauseRunning<'a>, PodError> {
        let Self { mut reserved, pause_cgroup, pause_confinement, link, events } = self;
        let (node, id) = (reserved.node, reserved.record.id.clone());
        let failed = |source| PodError::Monitor { id: id.clone(), source };
        let mut plan = pause_launch(&reserved.record.config, &node.facts, &node.layout, &id, &reserved.record.hostname, pause_cgroup);
        pause_confinement.apply(&mut plan.ops);
        let program = node.programs.pause.try_clone().map_err(|source| PodError::Files { id: id.clone(), source })?;
        let started = link.launch(ProcessRef::Pause, plan, vec![program]).await.map_err(failed)?;
        tracing::debug!(sandbox = %id, pid = started.pid, "pause runs");
        reserved.record.pause = Some(PauseRecord { pid: started.pid, started_at_ns: started.started_at_ns, monitor_pid: link.pid });
        let netns = started.descriptors.into_iter().next().filter(|_| reserved.record.config.network == NetworkMode::Pod);
        Ok(PauseRunning { reserved, link, events, netns })
    }
}

impl<'a> PauseRunning<'a> {
    async fn connect(mut self) -> Result<Networked<'a>, PodError> {
        let Reserved { node, record, .. } = &self.reserved;
        if let (Some(netns), Some(addresses)) = (self.netns.take(), &record.addresses) {
            node.network.attach(record.id.as_str(), netns, addresses).await?;
            tracing::debug!(sandbox = %record.id, "the network is connected");
        }
        if let Some(pause) = record.pause.as_ref().filter(|_| record.config.network == NetworkMode::Pod)
            && let Err(error) = link_netns(&record.id, pause.pid)
        {
            // A convenience for people: a pod is no worse without it.
            tracing::warn!(sandbox = %record.id, %error, "the network namespace cannot be named");
        }
        Ok(Networked(self))
    }
}

impl Networked<'_> {
    fn commit(self) -> Result<MadeSandbox, PodError> {
        let PauseRunning { reserved, link, events, .. } = self.0;
        let record = SandboxRecord { phase: SandboxPhase::Ready, ..reserved.record };
        reserved.store.write_sandbox(&record)?;
        Ok(MadeSandbox { record, link, events })
    }
}
