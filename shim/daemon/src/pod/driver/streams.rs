//! What the driver does for clients that are connected to processes of the pod.

use super::stop::Init;
use super::{Driver, Reply};
use crate::effects::{attach_connected, cgroup_entry, connected_stdio, exec_connected};
use crate::plan::plan_exec;
use crate::pod::PodError;
use crate::pod::container::parts_of;
use podbox_plan::ContainerId;
use podbox_stream::{Process, StandardStreams};
use std::os::fd::OwnedFd;

impl Driver {
    pub(super) fn exec_connected(&mut self, id: &ContainerId, command: &[String], streams: StandardStreams, mut reply: Reply<Process>) {
        let planned = self.running(id).and_then(|record| {
            let made = parts_of(&record)?;
            let cgroup = cgroup_entry(&self.node.hierarchies, &record.cgroup)?;
            Ok(plan_exec(id, &made.plan, command, cgroup, connected_stdio(streams))?)
        });
        let (link, id) = (self.restored_link(), id.clone());
        tokio::spawn(async move {
            let outcome = async {
                let (plan, link) = (planned?, link.await?);
                exec_connected(&link, plan, streams).await.map_err(|source| PodError::Exec { id, source })
            };
            // A caller that goes away takes the command with it.
            tokio::select! {
                outcome = outcome => drop(reply.send(outcome)),
                () = reply.closed() => {}
            }
        });
    }

    pub(super) fn attach(&mut self, id: &ContainerId, streams: StandardStreams, mut reply: Reply<Process>) {
        let running = self.running(id);
        let init = self.containers.get(id).map(|container| container.init.subscribe());
        let (link, id) = (self.restored_link(), id.clone());
        tokio::spawn(async move {
            let outcome = async {
                let (record, link) = (running?, link.await?);
                let end = async move {
                    if let Some(mut init) = init {
                        // Whoever would tell goes with the container.
                        let _ = init.wait_for(|init| !matches!(init, Init::Runs(_))).await;
                    }
                };
                let attached = attach_connected(&link, &id, streams, record.config.stdin_once, end).await;
                attached.map_err(|source| PodError::Attach { id, source })
            };
            tokio::select! {
                outcome = outcome => drop(reply.send(outcome)),
                () = reply.closed() => {}
            }
        });
    }

    /// The pod's network namespace, as the monitor has it of a pause that lives.
    pub(super) fn open_network(&mut self, reply: Reply<OwnedFd>) {
        let (ready, link, id) = (self.check_ready(), self.restored_link(), self.record.id.clone());
        tokio::spawn(async move {
            let outcome = async {
                ready?;
                link.await?.open_network().await.map_err(|source| PodError::Monitor { id, source })
            };
            let _ = reply.send(outcome.await);
        });
    }
}
