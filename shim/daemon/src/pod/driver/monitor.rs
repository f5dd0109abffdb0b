//! What the driver does when the connection to the pod's monitor is lost.
//!
//! ```text
//! lost ─► search ─┬─ answers ──► as it was: ends of meanwhile from the exit records
//!           ▲     ├─ nobody listens ──► the pod is killed
//!           └─────┴─ it does not answer, or we cannot ask
//! ```

use super::{Done, Driver, Search};
use crate::chain::Chain;
use crate::effects::{SandboxCgroups, kill_cgroups, now_ns};
use crate::pod::PodError;
use crate::pod::ending::{Watcher, end_of_lost, runs};
use crate::pod::monitor::{Found, Monitor, end_orphaned_commands, find_monitor};
use crate::pod::retry::Pauses;
use crate::pod::teardown::{blocking, end_unrecorded};
use crate::store::{ContainerPhase, ContainerRecord};
use podbox_plan::ContainerId;
use std::time::Duration;
use tokio::time::Instant;

/// A connection that is lost again sooner is not restored at once: whatever takes it may go on doing so.
const KEPT_AT_LEAST: Duration = Duration::from_secs(1);

/// Ends of containers are not heard of in between, and callers of StopContainer wait for them.
pub(super) const SEARCH_PAUSE_MAX: Duration = Duration::from_secs(2);

impl Driver {
    pub(super) fn on_connection_lost(&mut self) {
        self.link.send_replace(None);
        self.events = None;
        // A stop finds the monitor by itself.
        if self.stopping.is_none() && !self.is_stopped() {
            let is_first = self.found_at.is_none_or(|at| at.elapsed() >= KEPT_AT_LEAST);
            self.begin_search(is_first);
        }
    }

    /// Looks for the monitor, at once or after a pause.
    pub(super) fn begin_search(&mut self, is_first: bool) {
        if is_first {
            self.search_pauses = Pauses::of_at_most(SEARCH_PAUSE_MAX);
        }
        let pause = if is_first { Duration::ZERO } else { self.search_pauses.next() };
        let folder = self.node.layout.pod(&self.record.id);
        let task = self.work.spawn(async move {
            tokio::time::sleep(pause).await;
            Done::Searched(find_monitor(&folder).await)
        });
        self.search = Some(Search { task, holds_commands: is_first, found: None });
    }

    /// A stop looks for itself.
    pub(super) fn end_search(&mut self) {
        if let Some(search) = self.search.take() {
            search.task.abort();
        }
    }

    pub(super) fn on_searched(&mut self, found: Found) {
        // One that was ended may have had its outcome already.
        if let Some(search) = &mut self.search {
            search.found = Some(found);
            self.settle_search();
        }
    }

    /// Acts on what was found, once every launch over the lost connection has come back: what became of it is decided here alone.
    pub(super) fn settle_search(&mut self) {
        if self.launching > 0 {
            return;
        }
        let Some(found) = self.search.as_mut().and_then(|search| search.found.take()) else { return };
        self.search = None;
        match found {
            Found::Answers(monitor) => self.record_found(monitor),
            Found::Gone => self.on_monitor_gone(),
            Found::Silent(error) | Found::Hindered(error) => {
                tracing::warn!(sandbox = %self.record.id, error = %Chain(&error), "the pod's monitor cannot be reached: trying again");
                self.begin_search(false);
            }
        }
    }

    /// The monitor is well: what it watches runs on, and what ended meanwhile stands on disk.
    fn record_found(&mut self, monitor: Monitor) {
        tracing::info!(sandbox = %self.record.id, "the connection to the pod's monitor is restored");
        self.found_at = Some(Instant::now());
        self.link.send_replace(Some(monitor.link.clone()));
        if !monitor.watches_pause() {
            self.record_not_ready();
        }
        for id in monitor.containers().filter(|id| !self.containers.contains_key(id)) {
            let ended = end_unrecorded(&self.node, &self.record, id);
            self.work.spawn(async move {
                ended.await;
                Done::Tidied
            });
        }
        for id in self.running_containers() {
            match monitor.init_of(&id) {
                Some(init) => self.record_running(&id, init.pid, init.started_at_ns),
                None => self.record_lost(&id, Watcher::Alive),
            }
        }
        let Monitor { link, events, processes } = monitor;
        self.events = Some(events);
        self.work.spawn(async move {
            end_orphaned_commands(&link, &processes).await;
            Done::Tidied
        });
    }

    /// The monitor is gone, and with it the parent of everything in the pod: nothing that still runs could be watched any more.
    fn on_monitor_gone(&mut self) {
        self.record_not_ready();
        let containers = self.running_containers();
        self.node.metrics.count_lost_monitor();
        tracing::error!(sandbox = %self.record.id, containers = containers.len(), "the pod's monitor is gone: the pod is killed");
        let cgroups = SandboxCgroups::new(&self.record.cgroup, &self.record.id);
        let mut paths: Vec<String> = containers.iter().map(|id| cgroups.container(id)).collect();
        paths.push(cgroups.pause());
        let node = self.node.clone();
        self.work.spawn(async move {
            let outcome = blocking(move || Ok(kill_cgroups(&node.hierarchies, &paths)?)).await;
            Done::Killed { containers, outcome }
        });
    }

    /// Containers whose monitor went first: what it still wrote down is the truth, the rest was killed.
    pub(super) fn on_killed(&mut self, containers: &[ContainerId], outcome: Result<(), PodError>) {
        if let Err(error) = outcome {
            tracing::error!(sandbox = %self.record.id, error = %Chain(&error), "processes of a lost pod remain");
        }
        for id in containers {
            self.record_lost(id, Watcher::Gone);
        }
    }

    pub(super) fn running_containers(&self) -> Vec<ContainerId> {
        let records = self.containers.values().map(|container| &container.record);
        records.filter(|record| runs(record)).map(|record| record.id.clone()).collect()
    }

    /// A container that was started and does not run: it has ended, or was never born.
    fn record_lost(&mut self, id: &ContainerId, watcher: Watcher) {
        let Some(container) = self.containers.get_mut(id).filter(|container| runs(&container.record)) else { return };
        container.early_end = None;
        let end = end_of_lost(&self.node.layout, &container.record, watcher, container.is_kill_asked(), now_ns());
        let reply = container.start.take();
        let answer = match &end {
            Some(_) if watcher == Watcher::Alive => Ok(()),
            Some(_) => Err(PodError::SandboxNotReady { id: self.record.id.clone() }),
            None => Err(PodError::OutOfReach { id: self.record.id.clone() }),
        };
        match end {
            Some(ContainerPhase::Exited { record, reason, message }) => self.record_end(id, record, reason, message),
            Some(_) | None => {
                let record = ContainerRecord { phase: ContainerPhase::Created, ..container.record.clone() };
                self.record_container(record);
            }
        }
        if let Some(reply) = reply {
            let _ = reply.send(answer);
        }
    }
}
