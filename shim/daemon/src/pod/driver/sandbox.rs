//! What the driver does with the sandbox itself.

use super::{Container, Done, Driver, Reply, tell_all};
use crate::effects::{SandboxCgroups, Subject};
use crate::pod::PodError;
use crate::pod::container::undo_container;
use crate::pod::teardown::{StopOrder, blocking, stop_pod};
use crate::store::{ContainerRecord, SandboxPhase};

impl Driver {
    /// Pause is gone: the pod takes no new containers. Those with a PID namespace of their own run on.
    pub(super) fn record_not_ready(&mut self) {
        if self.record.phase == SandboxPhase::Ready {
            self.record.phase = SandboxPhase::NotReady;
            self.record_sandbox();
            self.node.meters.close(&Subject::Pod(self.record.id.clone()));
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
        self.begin_stop(vec![reply]);
    }

    /// Containers that are being made are not waited for: their making may hang for ever, and is undone if it ends.
    fn begin_stop(&mut self, waiters: Vec<Reply<()>>) {
        self.stopping = Some(waiters);
        self.end_search();
        self.containers.values().for_each(Container::ask_kill);
        let cgroups = SandboxCgroups::new(&self.record.cgroup, &self.record.id);
        let containers = self.containers.keys().chain(self.making.keys()).map(|id| cgroups.container(id)).collect();
        self.give_makers_up();
        let (node, store, record, door) = (self.node.clone(), self.store.clone(), self.record.clone(), self.door.clone());
        let order = StopOrder { link: self.link.borrow().clone(), containers };
        self.work.spawn(async move {
            let closed = blocking(move || {
                door.close();
                Ok(())
            });
            let stopped = match closed.await {
                Ok(()) => stop_pod(&node, &store, &record, order).await,
                Err(error) => Err(error),
            };
            Done::SandboxStopped(stopped)
        });
    }

    /// Everything is stopped and given back already.
    pub(super) fn is_stopped(&self) -> bool {
        self.record.phase == SandboxPhase::NotReady && self.record.network_released
    }

    pub(super) fn on_sandbox_stopped(&mut self, outcome: Result<(), PodError>) {
        let waiters = self.stopping.take().unwrap_or_default();
        if outcome.is_ok() {
            self.link.send_replace(None);
            self.record.network_released = true;
            self.record.phase = SandboxPhase::NotReady;
            self.record_sandbox();
            self.node.meters.close(&Subject::Pod(self.record.id.clone()));
            // The monitor told of every end before its own. What it could not tell of, since it was killed, was killed too.
            let lost = self.running_containers();
            self.on_killed(&lost, Ok(()));
        } else if self.events.is_none() {
            // The connection went meanwhile: what is left of the pod is looked at as at any other time.
            self.link.send_replace(None);
            self.begin_search(true);
        }
        let failed = outcome.is_err();
        tell_all(waiters, outcome);
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
            self.begin_stop(Vec::new());
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

    pub(super) fn on_sandbox_removed(&mut self, outcome: Result<(), PodError>) {
        self.removed = outcome.is_ok();
        if outcome.is_err() {
            tell_all(std::mem::take(&mut self.removal), outcome);
        }
    }
}
