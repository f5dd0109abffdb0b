//! What the driver does with the sandbox itself.

use super::containers::runs;
use super::{Done, Driver, Reply, tell_all};
use crate::chain::Chain;
use crate::effects::{SandboxCgroups, Subject, kill_pod_cgroups, now_ns};
use crate::pod::PodError;
use crate::pod::container::undo_container;
use crate::pod::ending::{reason_of, unseen_end};
use crate::pod::teardown::{StopOrder, blocking, stop_pod};
use crate::store::{ContainerRecord, ExitReason, SandboxPhase, read_record};
use podbox_plan::{ContainerId, ExitRecord};

/// 128 + SIGKILL
const KILLED: i32 = 137;

impl Driver {
    /// Pause is gone: the pod takes no new containers. Those with a PID namespace of their own run on.
    pub(super) fn pause_ended(&mut self) {
        if self.record.phase == SandboxPhase::Ready {
            self.record.phase = SandboxPhase::NotReady;
            self.save();
            self.node.meters.close(&Subject::Pod(self.record.id.clone()));
        }
    }

    /// The monitor is gone, and with it the parent of everything in the pod: nothing that still runs could be watched any more.
    pub(super) fn monitor_gone(&mut self) {
        self.link = None;
        // Stopping a pod ends its monitor.
        if self.stopping.is_some() || self.is_stopped() {
            return;
        }
        self.pause_ended();
        let lost: Vec<ContainerRecord> =
            self.containers.values().map(|container| &container.record).filter(|record| runs(record)).cloned().collect();
        self.node.metrics.count_lost_monitor();
        tracing::error!(sandbox = %self.record.id, containers = lost.len(), "the pod's monitor is gone: the pod is killed");
        let mut paths: Vec<String> = lost.iter().map(|record| record.cgroup.clone()).collect();
        paths.push(SandboxCgroups::new(&self.record.cgroup, &self.record.id).pause());
        let containers = lost.into_iter().map(|record| record.id).collect();
        let node = self.node.clone();
        self.work.spawn(async move {
            let outcome = blocking(move || Ok(kill_pod_cgroups(&node.hierarchies, &paths)?)).await;
            Done::Killed { containers, outcome }
        });
    }

    /// Containers whose monitor went first: what it still wrote down is the truth, the rest was killed.
    pub(super) fn killed(&mut self, containers: &[ContainerId], outcome: Result<(), PodError>) {
        if let Err(error) = outcome {
            tracing::error!(sandbox = %self.record.id, error = %Chain(&error), "processes of a lost pod remain");
        }
        for id in containers {
            match read_record::<ExitRecord>(&self.node.layout.container_exit(&self.record.id, id)) {
                Ok(end) => {
                    let reason = reason_of(&end);
                    self.set_ended(id, end, reason, String::new());
                }
                Err(_) => {
                    let message = "the pod's monitor was killed, and its containers with it".to_owned();
                    self.set_ended(id, unseen_end(KILLED, now_ns()), ExitReason::Error, message);
                }
            }
        }
    }

    pub(super) fn stop_sandbox(&mut self, reply: Reply<()>) {
        if let Some(waiters) = &mut self.stopping {
            waiters.push(reply);
            return;
        }
        if self.is_stopped() {
            let _ = reply.send(Ok(()));
            return;
        }
        self.stopping = Some(vec![reply]);
        self.go_on_stopping();
    }

    /// Containers that are being made when the stop comes are made first: their undoing is then the same as the others'.
    pub(super) fn go_on_stopping(&mut self) {
        if self.stopping.is_none() || self.making > 0 {
            return;
        }
        let (node, store, record) = (self.node.clone(), self.store.clone(), self.record.clone());
        let order = StopOrder {
            link: self.link.clone(),
            containers: self.containers.values().map(|container| container.record.cgroup.clone()).collect(),
        };
        self.work.spawn(async move { Done::SandboxStopped(stop_pod(&node, &store, &record, order).await) });
    }

    /// Everything is stopped and given back already.
    fn is_stopped(&self) -> bool {
        self.record.phase == SandboxPhase::NotReady && self.record.network_released
    }

    pub(super) fn sandbox_stopped(&mut self, outcome: Result<(), PodError>) {
        if outcome.is_ok() {
            self.link = None;
            self.record.network_released = true;
            self.record.phase = SandboxPhase::NotReady;
            self.save();
            self.node.meters.close(&Subject::Pod(self.record.id.clone()));
            // The monitor told of every end before its own. What it could not tell of, since it was killed, was killed too.
            let lost = self.containers.values().filter(|container| runs(&container.record));
            let lost: Vec<ContainerId> = lost.map(|container| container.record.id.clone()).collect();
            self.killed(&lost, Ok(()));
        }
        let failed = outcome.is_err();
        tell_all(self.stopping.take().unwrap_or_default(), outcome);
        if self.removal.is_empty() {
            return;
        }
        if failed {
            let waiters = std::mem::take(&mut self.removal);
            tell_all(waiters, Err(PodError::SandboxNotStopped { id: self.record.id.clone() }));
        } else {
            self.begin_removal();
        }
    }

    pub(super) fn remove_sandbox(&mut self, reply: Reply<()>) {
        self.removal.push(reply);
        if self.removal.len() > 1 || self.stopping.is_some() {
            return;
        }
        if self.is_stopped() {
            self.begin_removal();
        } else {
            self.stopping = Some(Vec::new());
            self.go_on_stopping();
        }
    }

    fn begin_removal(&mut self) {
        let (node, store, id) = (self.node.clone(), self.store.clone(), self.record.id.clone());
        let containers: Vec<ContainerRecord> = self.containers.values().map(|container| container.record.clone()).collect();
        self.work.spawn(async move {
            let outcome = blocking(move || {
                containers.iter().try_for_each(|record| undo_container(&node, &store, record))?;
                store.remove_sandbox_folder(&id)?;
                store.forget_sandbox(&id);
                Ok(())
            });
            Done::SandboxRemoved(outcome.await)
        });
    }

    pub(super) fn sandbox_removed(&mut self, outcome: Result<(), PodError>) {
        self.removed = outcome.is_ok();
        if outcome.is_err() {
            tell_all(std::mem::take(&mut self.removal), outcome);
        }
    }
}
