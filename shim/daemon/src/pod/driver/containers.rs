//! What the driver does with containers.

use super::{Container, Done, Driver, Reply, SharedReply, tell_all};
use crate::chain::Chain;
use crate::effects::{ExecOutput, MonitorError, MonitorLink, Started, cgroup_entry, exec_sync, now_ns, remove_container_cgroup};
use crate::plan::plan_exec;
use crate::pod::PodError;
use crate::pod::admission::Verdict;
use crate::pod::container::{choose_pid, intent, launch_container, make_container, undo_container, undo_until_done};
use crate::pod::ending::{reason_of, state_name, unseen_end};
use crate::pod::pods::random_id;
use crate::pod::teardown::blocking;
use crate::request::{ContainerConfig, ContainerMetadata};
use crate::store::{ContainerPhase, ContainerRecord, ExitReason, LookupError, SandboxPhase};
use podbox_plan::{ContainerId, ExitRecord, ProcessRef};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// `SIGKILL`
const KILL: i32 = 9;
/// How long a killed container may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// The exit code of a container whose program could not be started, as other runtimes report it.
const START_ERROR_CODE: i32 = 128;

impl Driver {
    pub(super) fn create(&mut self, config: ContainerConfig, reply: SharedReply) {
        let pid = self.check_ready().and_then(|()| {
            choose_pid(&config.security.pid, |asked: &str| {
                let mut fitting = self.containers.values().filter(|other| other.record.id.as_str().starts_with(asked));
                let found = fitting.next()?;
                let pid = found.record.pid()?;
                fitting.next().is_none().then(|| (found.record.id.clone(), pid))
            })
        });
        let pid = match pid {
            Ok(pid) => pid,
            Err(error) => {
                let _ = reply.send(Err(Arc::new(error)));
                return;
            }
        };
        let metadata = config.metadata.clone();
        match self.names.admit(metadata.clone(), config.clone(), reply) {
            Verdict::Joined => {}
            Verdict::Refused(reply) => {
                let name = format!("{} (attempt {})", metadata.name, metadata.attempt);
                let _ = reply.send(Err(Arc::new(PodError::NameTaken { object: "container", name })));
            }
            Verdict::Begin => {
                let id = ContainerId::from_random(random_id());
                let intent = intent(&self.record, id.clone(), config);
                let making = make_container(self.node.clone(), self.store.clone(), self.record.clone(), intent, pid);
                self.making += 1;
                self.work.spawn(async move { Done::Made { metadata, id, outcome: making.await.map(Box::new) } });
            }
        }
    }

    /// The pod takes containers.
    pub(super) fn check_ready(&self) -> Result<(), PodError> {
        let ready = self.record.phase == SandboxPhase::Ready && self.stopping.is_none() && self.removal.is_empty();
        if ready { Ok(()) } else { Err(PodError::SandboxNotReady { id: self.record.id.clone() }) }
    }

    pub(super) fn made(&mut self, metadata: ContainerMetadata, id: ContainerId, outcome: Result<Box<ContainerRecord>, PodError>) {
        self.making -= 1;
        let outcome = outcome.and_then(|record| match self.store.save_container(&record) {
            Ok(()) => {
                self.containers.insert(id.clone(), Container::new(*record));
                Ok(id)
            }
            Err(error) => {
                let (node, store) = (self.node.clone(), self.store.clone());
                self.work.spawn(async move {
                    let _ = tokio::task::spawn_blocking(move || undo_until_done(&node, &store, &record)).await;
                    Done::Tidied
                });
                Err(error.into())
            }
        });
        self.names.finish(metadata, outcome.map_err(Arc::new));
        self.go_on_stopping();
    }

    fn find(&mut self, id: &ContainerId) -> Result<&mut Container, PodError> {
        let missing = || PodError::Lookup(LookupError::NotFound { object: "container", id: id.to_string() });
        self.containers.get_mut(id).ok_or_else(missing)
    }

    fn link(&self) -> Result<MonitorLink, PodError> {
        self.link.clone().ok_or_else(|| PodError::SandboxNotReady { id: self.record.id.clone() })
    }

    pub(super) fn start(&mut self, id: &ContainerId, reply: Reply<()>) {
        match self.begin_start(id) {
            Ok((record, link)) => {
                let (node, sandbox, id) = (self.node.clone(), self.record.clone(), id.clone());
                if let Some(container) = self.containers.get_mut(&id) {
                    container.start = Some(reply);
                }
                self.work.spawn(async move { Done::Launched { outcome: launch_container(node, sandbox, record, link).await, id } });
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Writes down that the container is being started, before it is.
    fn begin_start(&mut self, id: &ContainerId) -> Result<(ContainerRecord, MonitorLink), PodError> {
        let container = self.find(id)?;
        if container.record.phase != ContainerPhase::Created || !container.removal.is_empty() {
            let state = state_name(&container.record);
            return Err(PodError::WrongState { id: id.clone(), state, due: "created and not started yet" });
        }
        let starting = ContainerRecord { phase: ContainerPhase::Starting, ..container.record.clone() };
        self.check_ready()?;
        let link = self.link()?;
        self.store.save_container(&starting)?;
        self.find(id)?.record = starting.clone();
        Ok((starting, link))
    }

    pub(super) fn launched(&mut self, id: &ContainerId, outcome: Result<Started, PodError>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let reply = container.start.take();
        let early_end = container.early_end.take();
        let answer = match outcome {
            Ok(started) => {
                container.record.phase = ContainerPhase::Running { pid: started.pid, started_at_ns: started.started_at_ns };
                let record = container.record.clone();
                self.save_container(&record);
                if let Some(end) = early_end {
                    self.container_ended(id, end);
                }
                Ok(())
            }
            // The monitor went with it: what becomes of its containers is decided where that is noticed.
            Err(PodError::Start { source: MonitorError::Gone, .. }) => Err(PodError::SandboxNotReady { id: self.record.id.clone() }),
            Err(error) => {
                self.set_ended(id, unseen_end(START_ERROR_CODE, now_ns()), ExitReason::StartError, Chain(&error).to_string());
                Err(error)
            }
        };
        if let Some(reply) = reply {
            let _ = reply.send(answer);
        }
    }

    pub(super) fn container_ended(&mut self, id: &ContainerId, end: ExitRecord) {
        let Some(container) = self.containers.get_mut(id) else { return };
        match container.record.phase {
            ContainerPhase::Starting => container.early_end = Some(end),
            ContainerPhase::Running { .. } => {
                let reason = reason_of(&end);
                self.set_ended(id, end, reason, String::new());
            }
            ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Exited { .. } => {}
        }
    }

    /// Writes a container's end down, tells who waits for it, and gives its cgroup back.
    pub(super) fn set_ended(&mut self, id: &ContainerId, end: ExitRecord, reason: ExitReason, message: String) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.record.phase = ContainerPhase::Exited { record: end, reason, message };
        let (record, ended) = (container.record.clone(), container.ended.clone());
        // Saved first: who hears of the end may ask for the state, or remove the container, at once.
        self.save_container(&record);
        ended.send_replace(true);
        let node = self.node.clone();
        self.work.spawn(async move {
            let removed = blocking(move || Ok(remove_container_cgroup(&node.hierarchies, &record.cgroup)?)).await;
            if let Err(error) = removed {
                tracing::warn!(container = %record.id, error = %Chain(&error), "the cgroup stays until the container is removed");
            }
            Done::Tidied
        });
    }

    /// Tells those that will come to wait for containers that ended before this driver was.
    pub(super) fn mark_ended(&mut self) {
        for container in self.containers.values() {
            if matches!(container.record.phase, ContainerPhase::Exited { .. }) {
                container.ended.send_replace(true);
            }
        }
    }

    pub(super) fn stop(&mut self, id: &ContainerId, grace: Duration, reply: Reply<()>) {
        let running = self.containers.get(id).filter(|container| runs(&container.record));
        let (Some(container), Some(link)) = (running, self.link.clone()) else {
            let _ = reply.send(Ok(()));
            return;
        };
        let signal = container.record.plan.as_ref().map_or(KILL, |plan| plan.stop_signal);
        let stop = end_container(link, id.clone(), signal, grace, container.ended.subscribe());
        tokio::spawn(async move { reply.send(stop.await) });
    }

    pub(super) fn remove(&mut self, id: &ContainerId, reply: Reply<()>) {
        let link = self.link.clone();
        let Some(container) = self.containers.get_mut(id) else {
            let _ = reply.send(Ok(()));
            return;
        };
        container.removal.push(reply);
        if container.removal.len() > 1 {
            return;
        }
        let (ended, record) = (container.ended.subscribe(), container.record.clone());
        let (node, store, id) = (self.node.clone(), self.store.clone(), id.clone());
        self.work.spawn(async move {
            let stopped = match link {
                Some(link) if runs(&record) => end_container(link, id.clone(), KILL, Duration::ZERO, ended).await,
                _ => Ok(()),
            };
            let outcome = match stopped {
                Ok(()) => blocking(move || undo_container(&node, &store, &record)).await,
                Err(error) => Err(error),
            };
            Done::Removed { id, outcome }
        });
    }

    pub(super) fn container_removed(&mut self, id: &ContainerId, outcome: Result<(), PodError>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let waiters = std::mem::take(&mut container.removal);
        if outcome.is_ok() {
            let metadata = container.record.config.metadata.clone();
            self.containers.remove(id);
            self.names.release(&metadata);
        }
        tell_all(waiters, outcome);
    }

    pub(super) fn exec(&mut self, id: &ContainerId, command: &[String], timeout: Option<Duration>, mut reply: Reply<ExecOutput>) {
        let planned = self.running(id).and_then(|record| {
            let plan = record.plan.as_ref().ok_or(PodError::CutOff)?;
            Ok((self.link()?, plan_exec(id, plan, command, cgroup_entry(&self.node.hierarchies, &record.cgroup)?)?))
        });
        let id = id.clone();
        match planned {
            Err(error) => {
                let _ = reply.send(Err(error));
            }
            Ok((link, plan)) => {
                tokio::spawn(async move {
                    // A caller that goes away takes the command with it.
                    tokio::select! {
                        outcome = exec_sync(&link, plan, timeout) => {
                            let _ = reply.send(outcome.map_err(|source| PodError::Exec { id, source }));
                        }
                        () = reply.closed() => {}
                    }
                });
            }
        }
    }

    pub(super) fn reopen_log(&mut self, id: &ContainerId, reply: Reply<()>) {
        let link = self.running(id).and_then(|_| self.link());
        let id = id.clone();
        tokio::spawn(async move {
            let outcome = match link {
                Ok(link) => link.reopen_log(id.clone()).await.map_err(|source| PodError::ReopenLog { id, source }),
                Err(error) => Err(error),
            };
            let _ = reply.send(outcome);
        });
    }

    fn running(&mut self, id: &ContainerId) -> Result<ContainerRecord, PodError> {
        let record = &self.find(id)?.record;
        if record.pid().is_some() {
            return Ok(record.clone());
        }
        Err(PodError::WrongState { id: id.clone(), state: state_name(record), due: "running" })
    }
}

pub(super) fn runs(record: &ContainerRecord) -> bool {
    matches!(record.phase, ContainerPhase::Running { .. } | ContainerPhase::Starting)
}

/// Asks a container to end, waits, kills it, and waits until it is gone.
async fn end_container(
    link: MonitorLink,
    id: ContainerId,
    signal: i32,
    grace: Duration,
    mut ended: watch::Receiver<bool>,
) -> Result<(), PodError> {
    if !grace.is_zero() {
        send_signal(&link, &id, signal).await?;
        if let Ok(ended) = tokio::time::timeout(grace, ended.wait_for(|ended| *ended)).await {
            // The other end closes only with the driver, when there is nothing left to wait for.
            return ended.map(drop).map_err(|_| PodError::Stopping);
        }
    }
    send_signal(&link, &id, KILL).await?;
    match tokio::time::timeout(KILL_TIMEOUT, ended.wait_for(|ended| *ended)).await {
        Ok(ended) => ended.map(drop).map_err(|_| PodError::Stopping),
        Err(_) => Err(PodError::DidNotStop { id, seconds: KILL_TIMEOUT.as_secs() }),
    }
}

async fn send_signal(link: &MonitorLink, id: &ContainerId, signal: i32) -> Result<(), PodError> {
    match link.signal(ProcessRef::Container(id.clone()), signal, false).await {
        // Gone already: its end is on its way to the driver.
        Ok(()) | Err(MonitorError::NotRunning { .. } | MonitorError::Gone) => Ok(()),
        Err(source) => Err(PodError::Signal { id: id.clone(), source }),
    }
}
