//! Stopping one container: asking, waiting, killing. It runs beside the driver, which goes on meanwhile.
//!
//! A signal goes to the monitor, which knows the process. While the monitor cannot be reached it goes to the process on record: what
//! happens to a connection takes nobody's grace away. What was killed past a monitor that hangs is gone although nobody tells of it.

use super::Container;
use crate::chain::Chain;
use crate::effects::{MonitorError, MonitorLink, Node, kill_cgroups, signal_member};
use crate::pod::PodError;
use crate::pod::teardown::blocking;
use crate::request::KILL;
use crate::store::ContainerPhase;
use podbox_plan::{ContainerId, ProcessRef};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a killed container may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the monitor may take to answer before a signal goes its own way. It takes microseconds where all is well.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a lost connection may take to be restored, likewise.
const RESTORE_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two looks for a process that is about to be born.
const BIRTH_PAUSE: Duration = Duration::from_millis(10);

/// A container's init, as those see it who wait for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Init {
    /// It was not started, has ended, or went with the container.
    Absent,
    /// It is being started.
    Coming,
    /// It runs, under this process id.
    Runs(i32),
}

impl From<&ContainerPhase> for Init {
    fn from(phase: &ContainerPhase) -> Self {
        match phase {
            ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Exited { .. } => Self::Absent,
            ContainerPhase::Starting => Self::Coming,
            ContainerPhase::Running { pid, .. } => Self::Runs(*pid),
        }
    }
}

/// How a container went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Its end is on record.
    Told,
    /// All of it was killed, and the monitor does not tell.
    Untold,
}

/// The stopping of one container.
pub(super) struct Stop {
    node: Arc<Node>,
    id: ContainerId,
    cgroup: String,
    init: watch::Receiver<Init>,
    /// None: the monitor cannot be reached, or is gone and the kill of what it left is under way.
    link: watch::Receiver<Option<MonitorLink>>,
    /// Raised before the container is killed: what it ends with then is not its own doing.
    kill_asked: Arc<AtomicBool>,
    killed_directly: bool,
    /// A launch of this daemon's is under way. One of an earlier daemon's went with its connection.
    may_come: bool,
}

impl Stop {
    pub fn new(node: Arc<Node>, container: &Container, link: watch::Receiver<Option<MonitorLink>>) -> Self {
        Self {
            node,
            id: container.record.id.clone(),
            cgroup: container.record.cgroup.clone(),
            init: container.init.subscribe(),
            link,
            kill_asked: container.kill_asked.clone(),
            killed_directly: false,
            may_come: container.start.is_some(),
        }
    }

    /// Asks the container to end, waits, kills it, and waits until it is gone.
    pub async fn run(mut self, signal: i32, grace: Duration) -> Result<Stopped, PodError> {
        if !grace.is_zero() {
            let patience = ANSWER_TIMEOUT.min(grace / 2);
            match timeout(grace, self.end_by(signal, patience)).await {
                Ok(Ok(())) => return Ok(Stopped::Told),
                Ok(Err(PodError::Stopping)) => return Err(PodError::Stopping),
                // One that cannot be asked is killed.
                Ok(Err(error)) => tracing::warn!(container = %self.id, error = %Chain(&error), "the container cannot be asked to stop"),
                Err(_) => {}
            }
        }
        match timeout(KILL_TIMEOUT, self.end_by(KILL, ANSWER_TIMEOUT)).await {
            Ok(ended) => ended.map(|()| Stopped::Told),
            Err(_) if self.killed_directly => Ok(Stopped::Untold),
            Err(_) => Err(PodError::DidNotStop { id: self.id, seconds: KILL_TIMEOUT.as_secs() }),
        }
    }

    /// Sends a signal and waits for the end.
    async fn end_by(&mut self, signal: i32, patience: Duration) -> Result<(), PodError> {
        let mut init = self.init.clone();
        tokio::select! {
            biased;
            ended = until_absent(&mut init) => return ended,
            sent = self.send(signal, patience) => sent?,
        }
        until_absent(&mut init).await
    }

    /// Sends a signal as soon as there is somebody to take it; past the monitor, if that does not answer for so long.
    async fn send(&mut self, signal: i32, patience: Duration) -> Result<(), PodError> {
        if signal == KILL {
            self.kill_asked.store(true, Ordering::Relaxed);
        }
        loop {
            let link = self.link.borrow_and_update().clone();
            let answer = match &link {
                Some(link) => {
                    let sent = link.signal(ProcessRef::Container(self.id.clone()), signal, false);
                    timeout(patience, sent).await.unwrap_or(Err(MonitorError::Silent { seconds: patience.as_secs() }))
                }
                None => Err(MonitorError::Gone),
            };
            let is_out_of_reach = match answer {
                Ok(()) => return Ok(()),
                // Not born yet; or ended already, and the news is on its way to the driver.
                Err(MonitorError::NotRunning { .. }) => {
                    tokio::time::sleep(BIRTH_PAUSE).await;
                    false
                }
                Err(MonitorError::Gone) => match timeout(RESTORE_TIMEOUT.min(patience), self.link.changed()).await {
                    Ok(changed) => changed.map(|()| false).map_err(|_| PodError::Stopping)?,
                    Err(_) => true,
                },
                Err(MonitorError::Silent { .. }) => true,
                Err(source) => return Err(PodError::Signal { id: self.id.clone(), source }),
            };
            if is_out_of_reach && self.send_directly(signal).await? {
                self.killed_directly = signal == KILL;
                return Ok(());
            }
        }
    }

    /// Sends a signal past the monitor. A kill goes to all that is in the container, of which nothing is left then. False: there is
    /// nobody to take it.
    async fn send_directly(&self, signal: i32) -> Result<bool, PodError> {
        let (node, cgroup, init, may_come) = (self.node.clone(), self.cgroup.clone(), *self.init.borrow(), self.may_come);
        tracing::warn!(container = %self.id, signal, "the pod's monitor cannot be reached: the signal goes to the process itself");
        blocking(move || match init {
            // One that is being started may come yet.
            _ if signal == KILL => Ok(kill_cgroups(&node.hierarchies, &[cgroup]).map(|()| !(init == Init::Coming && may_come))?),
            Init::Runs(pid) => Ok(signal_member(&node.hierarchies, &cgroup, pid, signal)?),
            Init::Coming | Init::Absent => Ok(false),
        })
        .await
    }
}

/// Waits for a container's end. The sender goes with the driver: then there is nobody left who would hear of it.
async fn until_absent(init: &mut watch::Receiver<Init>) -> Result<(), PodError> {
    init.wait_for(|init| *init == Init::Absent).await.map(drop).map_err(|_| PodError::Stopping)
}
