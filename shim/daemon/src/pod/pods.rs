//! All pods: which names are taken, and which driver has which pod.

use super::admission::{Admissions, Verdict};
use super::driver::{Command, Driver, INBOX, Pod, Reply, tell_all};
use super::make::make_sandbox;
use super::{PodError, recover};
use crate::effects::{ExecOutput, Node};
use crate::request::{ContainerConfig, Resources, SandboxConfig, SandboxMetadata};
use crate::store::{LookupError, SandboxPhase, Store};
use ipnetwork::IpNetwork;
use podbox_plan::{ContainerId, SandboxId};
use podbox_stream::{Process, StandardStreams};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

type SandboxReply = oneshot::Sender<Result<SandboxId, Arc<PodError>>>;

#[derive(Default)]
struct Table {
    names: Admissions<SandboxMetadata, SandboxConfig, SandboxId, SandboxReply>,
    drivers: HashMap<SandboxId, mpsc::Sender<Command>>,
}

/// The node's pods.
pub struct Pods {
    node: Arc<Node>,
    store: Arc<Store>,
    table: Mutex<Table>,
}

/// 32 bytes from the kernel.
pub(super) fn random_id() -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        // The pool was ready long before any daemon ran; what can come is a signal.
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
}

impl Pods {
    /// Takes over the pods that are on record: reconnects to those that live, ends those that do not, undoes those whose making
    /// was cut off, and collects what belongs to none.
    ///
    /// # Errors
    /// The records cannot be listed.
    pub async fn recover(node: Arc<Node>, store: Arc<Store>) -> Result<Arc<Self>, PodError> {
        let pods = Arc::new(Self { node: node.clone(), store: store.clone(), table: Mutex::default() });
        for pod in recover::recover(&node, &store).await? {
            let (config, id) = (pod.record.config.clone(), pod.record.id.clone());
            match pod.record.phase {
                SandboxPhase::Ready if pod.containers.is_empty() => pods.table().names.offer(config.metadata.clone(), config, id),
                _ => pods.table().names.take(config.metadata),
            }
            pods.drive(pod);
        }
        Ok(pods)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a pod a driver.
    fn drive(self: &Arc<Self>, pod: Pod) {
        let (commands, inbox) = mpsc::channel(INBOX);
        let id = pod.record.id.clone();
        self.table().drivers.insert(id.clone(), commands);
        // Shown only now: whoever sees it can also stop it. And before the driver runs, which may know better already.
        self.store.show_sandbox(&pod.record);
        let pods = self.clone();
        tokio::spawn(async move {
            let ended = Driver::run(pods.node.clone(), pods.store.clone(), pod, inbox).await;
            {
                let mut table = pods.table();
                table.drivers.remove(&id);
                table.names.release(&ended.record.config.metadata);
            }
            tell_all(ended.removal, Ok(()));
        });
    }

    /// Makes a sandbox; the same request coming again while that is under way joins it.
    ///
    /// # Errors
    /// Nothing is left of it.
    pub async fn run_sandbox(self: &Arc<Self>, config: SandboxConfig) -> Result<SandboxId, PodError> {
        let (reply, outcome) = oneshot::channel();
        let metadata = config.metadata.clone();
        let verdict = self.table().names.admit(metadata.clone(), config.clone(), reply);
        match verdict {
            Verdict::Joined => {}
            Verdict::Refused(_) => {
                let SandboxMetadata { name, namespace, uid, attempt } = metadata;
                let name = format!("{namespace}/{name} (uid {uid}, attempt {attempt})");
                return Err(PodError::NameTaken { object: "sandbox", name });
            }
            Verdict::Begin => {
                let pods = self.clone();
                // Its own task: a caller that goes away does not cut it off half-way.
                tokio::spawn(async move { pods.make(metadata, config).await });
            }
        }
        Ok(outcome.await.map_err(|_| PodError::CutOff)??)
    }

    async fn make(self: Arc<Self>, metadata: SandboxMetadata, config: SandboxConfig) {
        let id = SandboxId::from_random(random_id());
        let outcome = match make_sandbox(&self.node, &self.store, id.clone(), config).await {
            Ok(made) => {
                self.drive(made.into());
                Ok(id)
            }
            Err(error) => Err(Arc::new(error)),
        };
        self.table().names.finish(metadata, outcome);
    }

    async fn command<T>(&self, id: &SandboxId, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, PodError> {
        let missing = || PodError::Lookup(LookupError::NotFound { object: "sandbox", id: id.to_string() });
        let driver = self.table().drivers.get(id).cloned().ok_or_else(missing)?;
        let (reply, outcome) = oneshot::channel();
        driver.send(command(reply)).await.map_err(|_| missing())?;
        // A driver that ends has removed its pod, and whoever still waited for something in it.
        outcome.await.map_err(|_| missing())?
    }

    /// New pods get addresses of these subnets from now on, after a restart too.
    ///
    /// # Errors
    /// They are no use, or cannot be written down.
    pub async fn set_subnets(&self, subnets: &[IpNetwork]) -> Result<(), PodError> {
        self.node.network.set_subnets(subnets).await?;
        Ok(self.store.save_subnets(subnets)?)
    }

    /// Stops a sandbox and all in it; one that is gone is success.
    ///
    /// # Errors
    /// Something does not end. It can be tried again.
    pub async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), PodError> {
        absent_is_done(self.command(id, |reply| Command::StopSandbox { reply }).await)
    }

    /// Removes a sandbox and all in it; one that is gone is success.
    ///
    /// # Errors
    /// Something cannot be removed. It can be tried again.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), PodError> {
        absent_is_done(self.command(id, |reply| Command::RemoveSandbox { reply }).await)
    }

    /// Makes a container; the same request coming again while that is under way joins it.
    ///
    /// # Errors
    /// Nothing is left of it.
    pub async fn create_container(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<ContainerId, PodError> {
        let missing = || PodError::Lookup(LookupError::NotFound { object: "sandbox", id: sandbox.to_string() });
        let driver = self.table().drivers.get(sandbox).cloned().ok_or_else(missing)?;
        let (reply, outcome) = oneshot::channel();
        driver.send(Command::Create { config: Box::new(config), reply }).await.map_err(|_| missing())?;
        Ok(outcome.await.map_err(|_| missing())??)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// The container is `Exited` then, with the reason.
    pub async fn start_container(&self, sandbox: &SandboxId, id: &ContainerId) -> Result<(), PodError> {
        self.command(sandbox, |reply| Command::Start { id: id.clone(), reply }).await
    }

    /// Asks a container to stop and kills it after its grace; one that is gone is success.
    ///
    /// # Errors
    /// It does not even end after a kill.
    pub async fn stop_container(&self, sandbox: &SandboxId, id: &ContainerId, grace: Duration) -> Result<(), PodError> {
        absent_is_done(self.command(sandbox, |reply| Command::Stop { id: id.clone(), grace, reply }).await)
    }

    /// Removes a container, killing it if need be; one that is gone is success.
    ///
    /// # Errors
    /// Something of it cannot be removed. It can be tried again.
    pub async fn remove_container(&self, sandbox: &SandboxId, id: &ContainerId) -> Result<(), PodError> {
        absent_is_done(self.command(sandbox, |reply| Command::Remove { id: id.clone(), reply }).await)
    }

    /// Changes a container's limits: all that are asked for, or none.
    ///
    /// # Errors
    /// The kernel refused one, or the container has ended.
    pub async fn update_container(&self, sandbox: &SandboxId, id: &ContainerId, asked: Resources) -> Result<(), PodError> {
        self.command(sandbox, |reply| Command::Update { id: id.clone(), asked: Box::new(asked), reply }).await
    }

    /// Keeps what a pod's containers have together, and what its sandbox costs.
    ///
    /// # Errors
    /// The sandbox is stopped, or its record cannot be written.
    pub async fn update_sandbox(&self, id: &SandboxId, overhead: Resources, resources: Resources) -> Result<(), PodError> {
        let (overhead, resources) = (Box::new(overhead), Box::new(resources));
        self.command(id, |reply| Command::UpdateSandbox { overhead, resources, reply }).await
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// It could not be started, or took longer than its timeout.
    pub async fn exec_sync(
        &self,
        sandbox: &SandboxId,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, PodError> {
        self.command(sandbox, |reply| Command::Exec { id: id.clone(), command, timeout, reply }).await
    }

    /// Executes a command in a container for a client; dropped, it is ended.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn exec_connected(
        &self,
        sandbox: &SandboxId,
        id: &ContainerId,
        command: Vec<String>,
        streams: StandardStreams,
    ) -> Result<Process, PodError> {
        self.command(sandbox, |reply| Command::ExecConnected { id: id.clone(), command, streams, reply }).await
    }

    /// Connects a client to a container's init.
    ///
    /// # Errors
    /// It does not run.
    pub async fn attach(&self, sandbox: &SandboxId, id: &ContainerId, streams: StandardStreams) -> Result<Process, PodError> {
        self.command(sandbox, |reply| Command::Attach { id: id.clone(), streams, reply }).await
    }

    /// The network namespace of a sandbox that is ready.
    ///
    /// # Errors
    /// It is not, or cannot be reached.
    pub async fn open_network(&self, sandbox: &SandboxId) -> Result<OwnedFd, PodError> {
        self.command(sandbox, |reply| Command::OpenNetwork { reply }).await
    }

    /// Opens a container's log anew.
    ///
    /// # Errors
    /// The old file stays in use.
    pub async fn reopen_log(&self, sandbox: &SandboxId, id: &ContainerId) -> Result<(), PodError> {
        self.command(sandbox, |reply| Command::ReopenLog { id: id.clone(), reply }).await
    }
}

fn absent_is_done(outcome: Result<(), PodError>) -> Result<(), PodError> {
    match outcome {
        Err(PodError::Lookup(LookupError::NotFound { .. })) => Ok(()),
        other => other,
    }
}
