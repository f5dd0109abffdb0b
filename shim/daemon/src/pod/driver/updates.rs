//! What the driver does with new limits. A container's updates come one after the other: each begins with what the one before left.

use super::{Container, Done, Driver, Reply};
use crate::pod::PodError;
use crate::pod::ending::state_name;
use crate::pod::update::{Updated, undo_update, update_container, with_resources};
use crate::request::Resources;
use crate::store::{ContainerPhase, ContainerRecord, LookupError};
use podbox_plan::ContainerId;
use std::collections::VecDeque;

/// A container's updates.
#[derive(Default)]
pub(super) struct Updates {
    under_way: bool,
    waiting: VecDeque<(Resources, Reply<()>)>,
}

impl Driver {
    pub(super) fn update(&mut self, id: &ContainerId, asked: Resources, reply: Reply<()>) {
        match self.containers.get_mut(id) {
            Some(container) => {
                container.updates.waiting.push_back((asked, reply));
                self.next_update(id);
            }
            None => {
                let _ = reply.send(Err(absent(id)));
            }
        }
    }

    fn next_update(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        while !container.updates.under_way
            && let Some((asked, reply)) = container.updates.waiting.pop_front()
        {
            // What a removal has taken away must not come again.
            let is_going = !self.removal.is_empty();
            let updatable =
                if is_going { Err(PodError::SandboxNotReady { id: self.record.id.clone() }) } else { check_updatable(container) };
            if let Err(error) = updatable {
                let _ = reply.send(Err(error));
                continue;
            }
            if let Err(error) = self.store.begin_update(&container.record, &asked) {
                let _ = reply.send(Err(error.into()));
                continue;
            }
            container.updates.under_way = true;
            let (node, record, id) = (self.node.clone(), container.record.clone(), id.clone());
            self.work.spawn(async move { Done::Updated { outcome: update_container(node, record, asked).await.map(Box::new), id, reply } });
        }
    }

    pub(super) fn on_updated(&mut self, id: &ContainerId, outcome: Result<Box<Updated>, PodError>, reply: Reply<()>) {
        let Some(container) = self.containers.get_mut(id) else {
            let _ = reply.send(Err(absent(id)));
            return;
        };
        let recorded = match outcome {
            // A cgroup that went away under the update refuses it in words that nobody would understand.
            Err(error) => Err((check_updatable(container).err().unwrap_or(error), None)),
            Ok(updated) => {
                let Updated { resources, changes } = *updated;
                // What is being removed has no record any more to write to.
                let outcome = check_not_removed(container).and_then(|()| {
                    let record = with_resources(&container.record, resources)?;
                    self.store.save_container(&record)?;
                    container.keep(record);
                    Ok(())
                });
                outcome.map_err(|error| (error, Some(changes)))
            }
        };
        let record = container.record.clone();
        match recorded {
            Ok(()) => self.update_over(id, Ok(()), reply),
            Err((error, None)) => self.update_over(id, Err(error), reply),
            Err((error, Some(changes))) => {
                let id = id.clone();
                self.work.spawn(async move {
                    undo_update(record, changes).await;
                    Done::UpdateUndone { id, error: Box::new(error), reply }
                });
            }
        }
    }

    pub(super) fn on_update_undone(&mut self, id: &ContainerId, error: PodError, reply: Reply<()>) {
        self.update_over(id, Err(error), reply);
    }

    /// Answers, and lets the container's next update begin.
    fn update_over(&mut self, id: &ContainerId, outcome: Result<(), PodError>, reply: Reply<()>) {
        if let Some(container) = self.containers.get(id) {
            self.store.end_update(&container.record);
        }
        // A caller that gave up need not be told.
        let _ = reply.send(outcome);
        if let Some(container) = self.containers.get_mut(id) {
            container.updates.under_way = false;
        }
        self.next_update(id);
    }

    /// What all containers have together, and what the sandbox costs: the pod's cgroup is the kubelet's, so these are only kept.
    pub(super) fn update_sandbox(&mut self, overhead: &Resources, resources: &Resources, reply: Reply<()>) {
        let outcome = self.check_ready().and_then(|()| {
            let mut record = self.record.clone();
            record.config.overhead = record.config.overhead.merged_with(overhead);
            record.config.resources = record.config.resources.merged_with(resources);
            self.store.save_sandbox(&record)?;
            self.record = record;
            Ok(())
        });
        let _ = reply.send(outcome);
    }
}

fn absent(id: &ContainerId) -> PodError {
    PodError::Lookup(LookupError::NotFound { object: "container", id: id.to_string() })
}

fn check_not_removed(container: &Container) -> Result<(), PodError> {
    if container.removal.is_empty() { Ok(()) } else { Err(wrong_state(&container.record, "being removed")) }
}

fn check_updatable(container: &Container) -> Result<(), PodError> {
    check_not_removed(container)?;
    match container.record.phase {
        ContainerPhase::Created | ContainerPhase::Starting | ContainerPhase::Running { .. } => Ok(()),
        ContainerPhase::Creating | ContainerPhase::Exited { .. } => Err(wrong_state(&container.record, state_name(&container.record))),
    }
}

fn wrong_state(record: &ContainerRecord, state: &'static str) -> PodError {
    PodError::WrongState { id: record.id.clone(), state, due: "created or running" }
}
