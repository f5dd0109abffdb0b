//! The driver of one pod: the only one who changes what is known of it.

mod containers;
mod sandbox;
mod updates;

use super::PodError;
use super::admission::{Admissions, Waiter};
use super::make::MadeSandbox;
use super::update::Updated;
use crate::chain::Chain;
use crate::effects::{ExecOutput, MonitorEvent, MonitorLink, Node, Started};
use crate::request::{ContainerConfig, ContainerMetadata, Resources};
use crate::store::{ContainerPhase, ContainerRecord, SandboxRecord, Store};
use podbox_plan::{ContainerId, ExitRecord, ProcessRef};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
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
    ReopenLog { id: ContainerId, reply: Reply<()> },
    Update { id: ContainerId, asked: Box<Resources>, reply: Reply<()> },
    UpdateSandbox { overhead: Box<Resources>, resources: Box<Resources>, reply: Reply<()> },
    StopSandbox { reply: Reply<()> },
    RemoveSandbox { reply: Reply<()> },
}

/// What a task of the driver's came to.
enum Done {
    Made { metadata: ContainerMetadata, id: ContainerId, outcome: Result<Box<ContainerRecord>, PodError> },
    Launched { id: ContainerId, outcome: Result<Started, PodError> },
    Removed { id: ContainerId, outcome: Result<(), PodError> },
    Updated { id: ContainerId, outcome: Result<Box<Updated>, PodError>, reply: Reply<()> },
    UpdateUndone { id: ContainerId, error: Box<PodError>, reply: Reply<()> },
    Killed { containers: Vec<ContainerId>, outcome: Result<(), PodError> },
    SandboxStopped(Result<(), PodError>),
    SandboxRemoved(Result<(), PodError>),
    Tidied,
}

/// A container and who waits for it.
pub(super) struct Container {
    record: ContainerRecord,
    /// True once its init has ended or could not be started.
    ended: watch::Sender<bool>,
    /// Its end, heard of before the news of its start.
    early_end: Option<ExitRecord>,
    start: Option<Reply<()>>,
    removal: Vec<Reply<()>>,
    updates: Updates,
}

impl Container {
    pub(super) fn new(record: ContainerRecord) -> Self {
        Self { record, ended: watch::Sender::new(false), early_end: None, start: None, removal: Vec::new(), updates: Updates::default() }
    }
}

/// What a daemon starts a driver with.
pub(super) struct Pod {
    pub record: SandboxRecord,
    pub link: Option<MonitorLink>,
    pub events: Option<mpsc::Receiver<MonitorEvent>>,
    pub containers: Vec<ContainerRecord>,
}

impl From<MadeSandbox> for Pod {
    fn from(made: MadeSandbox) -> Self {
        Self { record: made.record, link: Some(made.link), events: Some(made.events), containers: Vec::new() }
    }
}

/// What a driver leaves: a pod that is gone, and who is to hear of it once its name is free.
pub(super) struct Ended {
    pub record: SandboxRecord,
    pub removal: Vec<Reply<()>>,
}

/// One pod.
pub(super) struct Driver {
    node: Arc<Node>,
    store: Arc<Store>,
    record: SandboxRecord,
    link: Option<MonitorLink>,
    containers: HashMap<ContainerId, Container>,
    names: Admissions<ContainerMetadata, ContainerConfig, ContainerId, SharedReply>,
    work: JoinSet<Done>,
    /// Containers that are being made.
    making: usize,
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
            link: pod.link,
            containers,
            names,
            work: JoinSet::new(),
            making: 0,
            stopping: None,
            removal: Vec::new(),
            removed: false,
        };
        driver.mark_ended();
        let mut events = pod.events;
        while !driver.removed {
            match driver.next(&mut events, &mut inbox).await {
                Next::Event(Some(MonitorEvent::Exited { process, record })) => driver.ended(process, record),
                Next::Event(None) => {
                    events = None;
                    driver.monitor_gone();
                }
                Next::Done(done) => driver.take(done),
                Next::Command(Some(command)) => driver.obey(command),
                Next::Command(None) => break,
            }
        }
        Ended { record: driver.record, removal: driver.removal }
    }

    /// Ends of processes come first, then what our own tasks finished, then new wishes.
    async fn next(&mut self, events: &mut Option<mpsc::Receiver<MonitorEvent>>, inbox: &mut mpsc::Receiver<Command>) -> Next {
        let event = async {
            match events {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = event => Next::Event(event),
            Some(done) = self.work.join_next() => Next::Done(done.unwrap_or(Done::Tidied)),
            command = inbox.recv() => Next::Command(command),
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Made { metadata, id, outcome } => self.made(metadata, id, outcome),
            Done::Launched { id, outcome } => self.launched(&id, outcome),
            Done::Removed { id, outcome } => self.container_removed(&id, outcome),
            Done::Updated { id, outcome, reply } => self.updated(&id, outcome, reply),
            Done::UpdateUndone { id, error, reply } => self.update_over(&id, Err(*error), reply),
            Done::Killed { containers, outcome } => self.killed(&containers, outcome),
            Done::SandboxStopped(outcome) => self.sandbox_stopped(outcome),
            Done::SandboxRemoved(outcome) => self.sandbox_removed(outcome),
            Done::Tidied => {}
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Create { config, reply } => self.create(*config, reply),
            Command::Start { id, reply } => self.start(&id, reply),
            Command::Stop { id, grace, reply } => self.stop(&id, grace, reply),
            Command::Remove { id, reply } => self.remove(&id, reply),
            Command::Exec { id, command, timeout, reply } => self.exec(&id, &command, timeout, reply),
            Command::ReopenLog { id, reply } => self.reopen_log(&id, reply),
            Command::Update { id, asked, reply } => self.update(&id, *asked, reply),
            Command::UpdateSandbox { overhead, resources, reply } => self.update_sandbox(&overhead, &resources, reply),
            Command::StopSandbox { reply } => self.stop_sandbox(reply),
            Command::RemoveSandbox { reply } => self.remove_sandbox(reply),
        }
    }

    fn ended(&mut self, process: ProcessRef, record: ExitRecord) {
        match process {
            ProcessRef::Pause => self.pause_ended(),
            ProcessRef::Container(id) => self.container_ended(&id, record),
            // The connection tells those who wait for it.
            ProcessRef::Exec(_) => {}
        }
    }

    /// Saves the sandbox's record. What happened is shown even where it cannot be written.
    fn save(&self) {
        if let Err(error) = self.store.save_sandbox(&self.record) {
            tracing::error!(sandbox = %self.record.id, error = %Chain(&error), "the sandbox's record is behind");
            self.store.show_sandbox(&self.record);
        }
    }

    /// Saves a container's record, likewise.
    fn save_container(&self, record: &ContainerRecord) {
        if let Err(error) = self.store.save_container(record) {
            tracing::error!(container = %record.id, error = %Chain(&error), "the container's record is behind");
            self.store.show_container(record);
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
