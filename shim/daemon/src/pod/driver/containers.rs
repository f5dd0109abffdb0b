//! What the driver does with containers.

use super::stop::{Init, Stop, Stopped};
use super::{Container, Done, Driver, Reply, SharedReply, tell_all};
use crate::chain::Chain;
use crate::effects::{
    CAPTURED_STDIO, ExecOutput, MonitorError, MonitorLink, Started, Subject, cgroup_entry, exec_sync, now_ns, remove_cgroup,
};
use crate::plan::plan_exec;
use crate::pod::PodError;
use crate::pod::admission::Verdict;
use crate::pod::container::{choose_pid, intent, launch_container, make_container, parts_of, undo_container, undo_until_done};
use crate::pod::ending::{KILLED_CODE, START_ERROR_CODE, reason_of, runs, state_name, unseen_end};
use crate::pod::pods::random_id;
use crate::pod::teardown::blocking;
use crate::request::{ContainerConfig, KILL};
use crate::store::{ContainerPhase, ContainerRecord, ExitReason, LookupError, SandboxPhase};
use podbox_plan::{ContainerId, ExitRecord};
use std::sync::Arc;
use std::time::Duration;

/// How long a command waits for the monitor: longer than the driver rests between two looks for it.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(5);

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
                let (node, store, door) = (self.node.clone(), self.store.clone(), self.door.clone());
                let making = make_container(node, store, self.record.clone(), intent, pid, door);
                self.making.insert(id.clone(), metadata);
                self.work.spawn(async move { Done::Made { id, outcome: making.await.map(Box::new) } });
            }
        }
    }

    /// The pod takes containers.
    pub(super) fn check_ready(&self) -> Result<(), PodError> {
        let ready = self.record.phase == SandboxPhase::Ready && self.stopping.is_none() && self.removal.is_empty();
        if ready { Ok(()) } else { Err(PodError::SandboxNotReady { id: self.record.id.clone() }) }
    }

    pub(super) fn on_made(&mut self, id: ContainerId, outcome: Result<Box<ContainerRecord>, PodError>) {
        // Those who waited for one that comes after the stop were told then.
        let awaited = self.making.remove(&id);
        let ready = awaited.as_ref().ok_or(PodError::Stopping).and_then(|_| self.check_ready());
        let outcome = outcome.and_then(|record| match ready.and_then(|()| Ok(self.store.save_container(&record)?)) {
            Ok(()) => {
                self.containers.insert(id.clone(), Container::new(*record));
                Ok(id)
            }
            Err(error) => {
                let (node, store) = (self.node.clone(), self.store.clone());
                self.work.spawn(async move {
                    undo_until_done(&node, &store, *record).await;
                    Done::Tidied
                });
                Err(error)
            }
        });
        if let Some(metadata) = awaited {
            self.names.finish(metadata, outcome.map_err(Arc::new));
        }
    }

    /// Tells those who wait for containers that they will not come. What is made of them all the same is undone when it does.
    pub(super) fn give_makers_up(&mut self) {
        for (_, metadata) in std::mem::take(&mut self.making) {
            self.names.finish(metadata, Err(Arc::new(PodError::SandboxNotReady { id: self.record.id.clone() })));
        }
    }

    fn find(&mut self, id: &ContainerId) -> Result<&mut Container, PodError> {
        let missing = || PodError::Lookup(LookupError::NotFound { object: "container", id: id.to_string() });
        self.containers.get_mut(id).ok_or_else(missing)
    }

    fn link(&self) -> Result<MonitorLink, PodError> {
        self.link.borrow().clone().ok_or_else(|| match self.record.phase {
            SandboxPhase::Ready => PodError::OutOfReach { id: self.record.id.clone() },
            SandboxPhase::Creating | SandboxPhase::NotReady => PodError::SandboxNotReady { id: self.record.id.clone() },
        })
    }

    pub(super) fn start(&mut self, id: &ContainerId, reply: Reply<()>) {
        match self.begin_start(id) {
            Ok((record, link)) => {
                let (node, sandbox, id) = (self.node.clone(), self.record.clone(), id.clone());
                if let Some(container) = self.containers.get_mut(&id) {
                    container.start = Some(reply);
                }
                self.launching += 1;
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
        self.find(id)?.keep(starting.clone());
        Ok((starting, link))
    }

    pub(super) fn on_launched(&mut self, id: &ContainerId, outcome: Result<Started, PodError>) {
        self.launching -= 1;
        match outcome {
            Ok(started) => self.record_running(id, started.pid, started.started_at_ns),
            // Whether it was born is seen when the monitor is found again, or gone.
            Err(PodError::Start { source: MonitorError::Gone, .. }) if self.stopping.is_none() && !self.is_stopped() => {}
            Err(PodError::Start { source: MonitorError::Gone, .. }) => {
                let error = PodError::SandboxNotReady { id: self.record.id.clone() };
                self.answer_start(id, Err(error));
            }
            Err(error) => {
                self.record_end(id, unseen_end(START_ERROR_CODE, now_ns()), ExitReason::StartError, Chain(&error).to_string());
                self.answer_start(id, Err(error));
            }
        }
        self.settle_search();
    }

    fn answer_start(&mut self, id: &ContainerId, answer: Result<(), PodError>) {
        if let Some(reply) = self.containers.get_mut(id).and_then(|container| container.start.take()) {
            let _ = reply.send(answer);
        }
    }

    /// A container's init runs; whoever waits for its start is told, and its end, if that was heard of first, is recorded.
    pub(super) fn record_running(&mut self, id: &ContainerId, pid: i32, started_at_ns: i64) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.record.phase != ContainerPhase::Starting {
            return;
        }
        let early_end = container.early_end.take();
        let record = ContainerRecord { phase: ContainerPhase::Running { pid, started_at_ns }, ..container.record.clone() };
        self.record_container(record);
        if let Some(end) = early_end {
            self.on_container_exit(id, end);
        }
        self.answer_start(id, Ok(()));
    }

    pub(super) fn on_container_exit(&mut self, id: &ContainerId, end: ExitRecord) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let end = ExitRecord { killed_on_request: end.killed_on_request || container.is_kill_asked(), ..end };
        match container.record.phase {
            ContainerPhase::Starting => container.early_end = Some(end),
            ContainerPhase::Running { .. } => {
                let reason = reason_of(&end);
                self.record_end(id, end, reason, String::new());
            }
            ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Exited { .. } => {}
        }
    }

    /// Writes a container's end down, tells who waits for it, and gives its cgroup back.
    pub(super) fn record_end(&mut self, id: &ContainerId, end: ExitRecord, reason: ExitReason, message: String) {
        let Some(container) = self.containers.get(id) else { return };
        let record = ContainerRecord { phase: ContainerPhase::Exited { record: end, reason, message }, ..container.record.clone() };
        // Saved first: who hears of the end may ask for the state, or remove the container, at once.
        self.record_container(record.clone());
        self.node.meters.close(&Subject::Container(id.clone()));
        self.node.metrics.count_end(matches!(reason, ExitReason::OomKilled));
        let node = self.node.clone();
        self.work.spawn(async move {
            let removed = blocking(move || Ok(remove_cgroup(&node.hierarchies, &record.cgroup)?)).await;
            if let Err(error) = removed {
                tracing::warn!(container = %record.id, error = %Chain(&error), "the cgroup stays until the container is removed");
            }
            Done::Tidied
        });
    }

    pub(super) fn stop(&mut self, id: &ContainerId, grace: Duration, reply: Reply<()>) {
        let Some(container) = self.containers.get(id).filter(|container| runs(&container.record)) else {
            let _ = reply.send(Ok(()));
            return;
        };
        let signal = container.record.made.as_ref().map_or(KILL, |made| made.plan.stop_signal);
        let stop = self.stop_of(container).run(signal, grace);
        let id = id.clone();
        self.work.spawn(async move {
            match stop.await {
                Ok(Stopped::Untold) => Done::StoppedUntold { id, reply },
                outcome => {
                    let _ = reply.send(outcome.map(drop));
                    Done::Tidied
                }
            }
        });
    }

    fn stop_of(&self, container: &Container) -> Stop {
        Stop::new(self.node.clone(), container, self.link.subscribe())
    }

    /// A container was killed whose monitor hangs: what it may tell later is nothing new.
    pub(super) fn on_stopped_untold(&mut self, id: &ContainerId, reply: Reply<()>) {
        if self.containers.get(id).is_some_and(|container| runs(&container.record)) {
            let message = "it was killed, and the pod's monitor does not answer".to_owned();
            self.record_end(id, unseen_end(KILLED_CODE, now_ns()), ExitReason::Error, message);
        }
        let _ = reply.send(Ok(()));
    }

    pub(super) fn remove(&mut self, id: &ContainerId, reply: Reply<()>) {
        let Some(container) = self.containers.get_mut(id) else {
            let _ = reply.send(Ok(()));
            return;
        };
        container.removal.push(reply);
        if container.removal.len() > 1 {
            return;
        }
        let record = container.record.clone();
        // One that runs out of the monitor's reach is ended by its undoing.
        let is_reached = runs(&record) && self.link.borrow().is_some();
        let stop = self.containers.get(id).filter(|_| is_reached).map(|container| self.stop_of(container));
        let (node, store, id) = (self.node.clone(), self.store.clone(), id.clone());
        self.work.spawn(async move {
            let stopped = match stop {
                Some(stop) => stop.run(KILL, Duration::ZERO).await,
                None => Ok(Stopped::Told),
            };
            let outcome = match stopped {
                Ok(Stopped::Told | Stopped::Untold) => blocking(move || undo_container(&node, &store, &record)).await,
                Err(error) => Err(error),
            };
            Done::Removed { id, outcome }
        });
    }

    pub(super) fn on_container_removed(&mut self, id: &ContainerId, outcome: Result<(), PodError>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let waiters = std::mem::take(&mut container.removal);
        if outcome.is_ok() {
            let metadata = container.record.config.metadata.clone();
            container.init.send_replace(Init::Absent);
            self.containers.remove(id);
            // Its end may have come, and been saved, after the folder went.
            if let Err(error) = self.store.remove_container_folder(&self.record.id, id) {
                tracing::warn!(container = %id, error = %Chain(&error), "a record of a container that is gone stays");
            }
            self.store.forget_container(id);
            self.names.release(&metadata);
        }
        tell_all(waiters, outcome);
    }

    pub(super) fn exec(&mut self, id: &ContainerId, command: &[String], timeout: Option<Duration>, mut reply: Reply<ExecOutput>) {
        let planned = self.running(id).and_then(|record| {
            let made = parts_of(&record)?;
            Ok(plan_exec(id, &made.plan, command, cgroup_entry(&self.node.hierarchies, &record.cgroup)?, CAPTURED_STDIO)?)
        });
        let (node, link, id) = (self.node.clone(), self.restored_link(), id.clone());
        tokio::spawn(async move {
            let outcome = async {
                let (plan, link) = (planned?, link.await?);
                exec_sync(&link, plan, timeout, &node.captures).await.map_err(|source| PodError::Exec { id, source })
            };
            // A caller that goes away takes the command with it.
            tokio::select! {
                outcome = outcome => drop(reply.send(outcome)),
                () = reply.closed() => {}
            }
        });
    }

    pub(super) fn reopen_log(&mut self, id: &ContainerId, reply: Reply<()>) {
        let (running, link, id) = (self.running(id), self.restored_link(), id.clone());
        tokio::spawn(async move {
            let outcome = async {
                running?;
                link.await?.reopen_log(id.clone()).await.map_err(|source| PodError::ReopenLog { id, source })
            };
            let _ = reply.send(outcome.await);
        });
    }

    /// The way to the monitor, which is waited for a little: it may be restored at this moment.
    pub(super) fn restored_link(&self) -> impl Future<Output = Result<MonitorLink, PodError>> + use<> {
        let (now, mut link, is_ready) = (self.link(), self.link.subscribe(), self.record.phase == SandboxPhase::Ready);
        async move {
            match now {
                Err(out_of_reach) if is_ready => {
                    let restored = tokio::time::timeout(RESTORE_TIMEOUT, link.wait_for(Option::is_some)).await;
                    restored.ok().and_then(|link| link.ok()?.clone()).ok_or(out_of_reach)
                }
                now => now,
            }
        }
    }

    pub(super) fn running(&mut self, id: &ContainerId) -> Result<ContainerRecord, PodError> {
        let record = &self.find(id)?.record;
        if record.pid().is_some() {
            return Ok(record.clone());
        }
        Err(PodError::WrongState { id: id.clone(), state: state_name(record), due: "running" })
    }
}
