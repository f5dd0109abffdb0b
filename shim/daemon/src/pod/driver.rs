//! The driver of one pod: the only one who changes what is known of it.
//!
//! `on_…` takes what comes in, `begin_…` hands something that takes time to a task, `record_…` changes what is known: saved, then shown,
//! then told.

mod containers;
mod monitor;
mod sandbox;
mod stop;
mod streams;
mod updates;

use super::PodError;
use super::admission::{Admissions, Waiter};
use super::container::{Door, undo_until_done};
use super::make::MadeSandbox;
use super::monitor::Found;
use super::retry::Pauses;
use super::update::Updated;
use crate::chain::Chain;
use crate::effects::{ExecOutput, MonitorEvent, MonitorLink, Node, Started};
use crate::request::{ContainerConfig, ContainerMetadata, Resources};
use crate::store::{ContainerPhase, ContainerRecord, SandboxRecord, Store};
use podbox_plan::{ContainerId, ExitRecord, ProcessRef};
use podbox_stream::{Process, StandardStreams};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stop::Init;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use updates::Updates;

/// Commands that wait their turn; more callers wait outside.
pub(super) const INBOX: usize = 64;

/// Where an outcome goes. A caller that gave up is not there any more, and need not be told.
pub(super) type Reply<T> = oneshot::Sender<Result<T, PodError>>;
type SharedReply = oneshot::Sender<Result<ContainerId, Arc<PodError>>>;

impl<I> Waiter<I, Arc<PodError>> for oneshot::Sender<Result<I, Arc<PodError>>> {
    fn tell(self, outcome: Result<I, Arc<PodError>>) -> bool {
        self.send(outcome).is_ok()
    }
}

/// What a pod is asked to do.
pub(super) enum Command {
    Create { config: Box<ContainerConfig>, reply: SharedReply },
    Start { id: ContainerId, reply: Reply<()> },
    Stop { id: ContainerId, grace: Duration, reply: Reply<()> },
    Remove { id: ContainerId, reply: Reply<()> },
    Exec { id: ContainerId, command: Vec<String>, timeout: Option<Duration>, reply: Reply<ExecOutput> },
    ExecConnected { id: ContainerId, command: Vec<String>, streams: StandardStreams, reply: Reply<Process> },
    Attach { id: ContainerId, streams: StandardStreams, reply: Reply<Process> },
    OpenNetwork { reply: Reply<OwnedFd> },
    ReopenLog { id: ContainerId, reply: Reply<()> },
    Update { id: ContainerId, asked: Box<Resources>, reply: Reply<()> },
    UpdateSandbox { overhead: Box<Resources>, resources: Box<Resources>, reply: Reply<()> },
    StopSandbox { reply: Reply<()> },
    RemoveSandbox { reply: Reply<()> },
}

/// What a task of the driver's came to.
enum Done {
    Made { id: ContainerId, outcome: Result<Box<ContainerRecord>, PodError> },
    Launched { id: ContainerId, outcome: Result<Started, PodError> },
    StoppedUntold { id: ContainerId, reply: Reply<()> },
    Removed { id: ContainerId, outcome: Result<(), PodError> },
    Updated { id: ContainerId, outcome: Result<Box<Updated>, PodError>, reply: Reply<()> },
    UpdateUndone { id: ContainerId, error: Box<PodError>, reply: Reply<()> },
    Killed { containers: Vec<ContainerId>, outcome: Result<(), PodError> },
    Searched(Found),
    SandboxStopped(Result<(), PodError>),
    SandboxRemoved(Result<(), PodError>),
    Tidied,
}

/// A container and who waits for it.
pub(super) struct Container {
    record: ContainerRecord,
    /// What its record says of its init, for those who wait.
    init: watch::Sender<Init>,
    /// It is to be killed, or was: what a monitor tells of that may not know who asked.
    kill_asked: Arc<AtomicBool>,
    /// Its end, heard of before the news of its start.
    early_end: Option<ExitRecord>,
    start: Option<Reply<()>>,
    removal: Vec<Reply<()>>,
    updates: Updates,
}

impl Container {
    pub(super) fn new(record: ContainerRecord) -> Self {
        let init = watch::Sender::new(Init::from(&record.phase));
        Self { record, init, kill_asked: Arc::default(), early_end: None, start: None, removal: Vec::new(), updates: Updates::default() }
    }

    fn ask_kill(&self) {
        self.kill_asked.store(true, Ordering::Relaxed);
    }

    fn is_kill_asked(&self) -> bool {
        self.kill_asked.load(Ordering::Relaxed)
    }

    /// Takes a new record, and tells those who wait for what it says.
    fn keep(&mut self, record: ContainerRecord) {
        self.record = record;
        self.init.send_replace(Init::from(&self.record.phase));
    }
}

/// What a daemon starts a driver with.
pub(super) struct Pod {
    pub record: SandboxRecord,
    pub link: Option<MonitorLink>,
    pub events: Option<mpsc::Receiver<MonitorEvent>>,
    /// There is a monitor, and no way to it yet.
    pub is_out_of_reach: bool,
    pub containers: Vec<ContainerRecord>,
}

impl From<MadeSandbox> for Pod {
    fn from(made: MadeSandbox) -> Self {
        Self { record: made.record, link: Some(made.link), events: Some(made.events), is_out_of_reach: false, containers: Vec::new() }
    }
}

/// What a driver leaves: a pod that is gone, and who is to hear of it once its name is free.
pub(super) struct Ended {
    pub record: SandboxRecord,
    pub removal: Vec<Reply<()>>,
}

/// The search for a monitor whose connection was lost.
struct Search {
    task: AbortHandle,
    /// Commands wait for its outcome. Only those of a first search do, which takes no time where the monitor is well.
    holds_commands: bool,
    /// Its outcome, where launches that went out over the lost connection have yet to come back.
    found: Option<Found>,
}

/// One pod.
pub(super) struct Driver {
    node: Arc<Node>,
    store: Arc<Store>,
    record: SandboxRecord,
    /// The way to the monitor, and what comes from it; none while it cannot be reached, and once it is gone.
    link: watch::Sender<Option<MonitorLink>>,
    events: Option<mpsc::Receiver<MonitorEvent>>,
    search: Option<Search>,
    search_pauses: Pauses,
    /// When the monitor was found again last.
    found_at: Option<Instant>,
    containers: HashMap<ContainerId, Container>,
    names: Admissions<ContainerMetadata, ContainerConfig, ContainerId, SharedReply>,
    work: JoinSet<Done>,
    /// Containers that are being made, and whose callers wait.
    making: HashMap<ContainerId, ContainerMetadata>,
    /// Lets makers in until the pod is stopped.
    door: Door,
    /// Launches that are under way.
    launching: usize,
    /// Who waits for the stop that is under way; `None`: none is.
    stopping: Option<Vec<Reply<()>>>,
    /// Who waits for the removal that is due or under way.
    removal: Vec<Reply<()>>,
    removed: bool,
}

/// Something for the driver to do.
enum Next {
    Event(Option<MonitorEvent>),
    Done(Done),
    Command(Option<Command>),
}

impl Driver {
    /// Runs until the pod is removed or the daemon goes away.
    pub(super) async fn run(node: Arc<Node>, store: Arc<Store>, pod: Pod, mut inbox: mpsc::Receiver<Command>) -> Ended {
        let mut names = Admissions::default();
        for record in &pod.containers {
            let (config, id) = (record.config.clone(), record.id.clone());
            match record.phase {
                ContainerPhase::Created => names.offer(config.metadata.clone(), config, id),
                _ => names.take(config.metadata),
            }
        }
        let containers = pod.containers.into_iter().map(|record| (record.id.clone(), Container::new(record))).collect();
        let mut driver = Self {
            node,
            store,
            record: pod.record,
            link: watch::Sender::new(pod.link),
            events: pod.events,
            search: None,
            search_pauses: Pauses::of_at_most(monitor::SEARCH_PAUSE_MAX),
            found_at: None,
            containers,
            names,
            work: JoinSet::new(),
            making: HashMap::new(),
            door: Door::default(),
            launching: 0,
            stopping: None,
            removal: Vec::new(),
            removed: false,
        };
        if pod.is_out_of_reach && !driver.is_stopped() {
            driver.begin_search(false);
        }
        while !driver.removed {
            match driver.next(&mut inbox).await {
                Next::Event(Some(MonitorEvent::Exited { process, record })) => driver.on_exit(process, record),
                Next::Event(None) => driver.on_connection_lost(),
                Next::Done(done) => driver.on_done(done),
                Next::Command(Some(command)) => driver.on_command(command),
                Next::Command(None) => break,
            }
        }
        driver.end()
    }

    /// Leaves the pod. What is still being made, since it hangs, is waited for behind everybody's back, and undone when it comes.
    fn end(mut self) -> Ended {
        if self.removed {
            for container in self.containers.values() {
                container.init.send_replace(Init::Absent);
            }
        }
        if self.removed && !self.work.is_empty() {
            tokio::spawn(async move {
                while let Some(done) = self.work.join_next().await {
                    if let Ok(Done::Made { outcome: Ok(record), .. }) = done {
                        undo_until_done(&self.node, &self.store, *record).await;
                    }
                }
            });
        }
        Ended { record: self.record, removal: self.removal }
    }

    /// Ends of processes come first, then what our own tasks finished, then new wishes.
    async fn next(&mut self, inbox: &mut mpsc::Receiver<Command>) -> Next {
        let events = &mut self.events;
        let event = async {
            match events {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        let takes_commands = !self.search.as_ref().is_some_and(|search| search.holds_commands);
        tokio::select! {
            biased;
            event = event => Next::Event(event),
            Some(done) = self.work.join_next() => Next::Done(done.unwrap_or(Done::Tidied)),
            command = inbox.recv(), if takes_commands => Next::Command(command),
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Made { id, outcome } => self.on_made(id, outcome),
            Done::Launched { id, outcome } => self.on_launched(&id, outcome),
            Done::StoppedUntold { id, reply } => self.on_stopped_untold(&id, reply),
            Done::Removed { id, outcome } => self.on_container_removed(&id, outcome),
            Done::Updated { id, outcome, reply } => self.on_updated(&id, outcome, reply),
            Done::UpdateUndone { id, error, reply } => self.on_update_undone(&id, *error, reply),
            Done::Killed { containers, outcome } => self.on_killed(&containers, outcome),
            Done::Searched(found) => self.on_searched(found),
            Done::SandboxStopped(outcome) => self.on_sandbox_stopped(outcome),
            Done::SandboxRemoved(outcome) => self.on_sandbox_removed(outcome),
            Done::Tidied => {}
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Create { config, reply } => self.create(*config, reply),
            Command::Start { id, reply } => self.start(&id, reply),
            Command::Stop { id, grace, reply } => self.stop(&id, grace, reply),
            Command::Remove { id, reply } => self.remove(&id, reply),
            Command::Exec { id, command, timeout, reply } => self.exec(&id, &command, timeout, reply),
            Command::ExecConnected { id, command, streams, reply } => self.exec_connected(&id, &command, streams, reply),
            Command::Attach { id, streams, reply } => self.attach(&id, streams, reply),
            Command::OpenNetwork { reply } => self.open_network(reply),
            Command::ReopenLog { id, reply } => self.reopen_log(&id, reply),
            Command::Update { id, asked, reply } => self.update(&id, *asked, reply),
            Command::UpdateSandbox { overhead, resources, reply } => self.update_sandbox(&overhead, &resources, reply),
            Command::StopSandbox { reply } => self.stop_sandbox(reply),
            Command::RemoveSandbox { reply } => self.remove_sandbox(reply),
        }
    }

    fn on_exit(&mut self, process: ProcessRef, end: ExitRecord) {
        match process {
            ProcessRef::Pause => self.record_not_ready(),
            ProcessRef::Container(id) => self.on_container_exit(&id, end),
            // The connection tells those who wait for it.
            ProcessRef::Exec(_) => {}
        }
    }

    /// Saves the sandbox's record. What happened is shown even where it cannot be written.
    fn record_sandbox(&self) {
        if let Err(error) = self.store.save_sandbox(&self.record) {
            tracing::error!(sandbox = %self.record.id, error = %Chain(&error), "the sandbox's record is behind");
            self.store.show_sandbox(&self.record);
        }
    }

    /// Saves a container's new record, likewise.
    fn record_container(&mut self, record: ContainerRecord) {
        if let Err(error) = self.store.save_container(&record) {
            tracing::error!(container = %record.id, error = %Chain(&error), "the container's record is behind");
            self.store.show_container(&record);
        }
        if let Some(container) = self.containers.get_mut(&record.id) {
            container.keep(record);
        }
    }
}

/// Sends an outcome to everyone who waits for it.
pub(super) fn tell_all(waiters: Vec<Reply<()>>, outcome: Result<(), PodError>) {
    let outcome = outcome.map_err(Arc::new);
    for waiter in waiters {
        // A caller that gave up need not be told.
        let _ = waiter.send(outcome.clone().map_err(PodError::from));
    }
}
