//! Exec, Attach and PortForward: the calls, which only announce a client, and what is done for the client when it comes.

use super::{Cri, status};
use crate::chain::Chain;
use crate::pod::{PodError, Pods};
use crate::request::RequestError;
use crate::store::{ContainerPhase, ContainerRecord, LookupError, SandboxPhase, Store};
use podbox_netns::dial_loopback;
use podbox_plan::{ContainerId, SandboxId};
use podbox_proto::v1;
use podbox_stream::{AttachRequest, Awaited, Endpoint, ExecRequest, PortForwardRequest, Process, Refusal, StandardStreams, TokenError};
use std::error::Error;
use std::sync::Arc;
use tokio::net::TcpStream;
use tonic::Status;

/// More than a kernel takes of most programs' arguments, and little enough to be kept for a thousand clients that are yet to come.
const COMMAND_BYTES_MAX: usize = 256 * 1024;

/// A command's words.
///
/// # Errors
/// There are none, or they cannot be passed on.
pub(super) fn command(field: &'static str, words: Vec<String>) -> Result<Vec<String>, Status> {
    if words.is_empty() || words.iter().any(|word| word.contains('\0')) {
        return Err(status::of_request(RequestError::invalid(field, "a command without NUL bytes is due")));
    }
    let bytes: usize = words.iter().map(|word| word.len() + 1).sum();
    if bytes > COMMAND_BYTES_MAX {
        return Err(status::of_request(RequestError::invalid(field, format!("{bytes} bytes are over the limit of {COMMAND_BYTES_MAX}"))));
    }
    Ok(words)
}

pub(super) fn exec(cri: &Cri, request: v1::ExecRequest) -> Result<v1::ExecResponse, Status> {
    let command = command("cmd", request.cmd)?;
    let streams = streams(request.stdin, request.stdout, request.stderr, request.tty)?;
    let container = cri.container(&request.container_id)?;
    must_run(&container)?;
    let awaited = Awaited::Exec(ExecRequest { container: container.id.to_string(), command, streams });
    Ok(v1::ExecResponse { url: issue(cri, awaited)? })
}

pub(super) fn attach(cri: &Cri, request: &v1::AttachRequest) -> Result<v1::AttachResponse, Status> {
    let streams = streams(request.stdin, request.stdout, request.stderr, request.tty)?;
    let container = cri.container(&request.container_id)?;
    must_run(&container)?;
    if streams.tty != container.config.tty {
        let reason = format!("container {} was made with tty {}, and attaching must say the same", container.id, container.config.tty);
        return Err(status::of_request(RequestError::invalid("tty", reason)));
    }
    if streams.stdin && !container.config.stdin && !container.config.tty {
        return Err(Status::failed_precondition(format!("container {} was made without stdin", container.id)));
    }
    let awaited = Awaited::Attach(AttachRequest { container: container.id.to_string(), streams });
    Ok(v1::AttachResponse { url: issue(cri, awaited)? })
}

/// The ports that a request may list are those that the client is going to ask for, and ask it must.
pub(super) fn port_forward(cri: &Cri, request: &v1::PortForwardRequest) -> Result<v1::PortForwardResponse, Status> {
    if let Some(port) = request.port.iter().find(|port| !(1..=i32::from(u16::MAX)).contains(*port)) {
        return Err(status::of_request(RequestError::invalid("port", format!("{port} is no port"))));
    }
    let sandbox = cri.sandbox(&request.pod_sandbox_id)?;
    if sandbox.phase != SandboxPhase::Ready {
        return Err(status::of_pod(PodError::SandboxNotReady { id: sandbox.id.clone() }));
    }
    let awaited = Awaited::PortForward(PortForwardRequest { sandbox: sandbox.id.to_string() });
    Ok(v1::PortForwardResponse { url: issue(cri, awaited)? })
}

fn must_run(container: &ContainerRecord) -> Result<(), Status> {
    match container.phase {
        ContainerPhase::Running { .. } => Ok(()),
        _ => Err(Status::failed_precondition(format!("container {} does not run", container.id))),
    }
}

fn streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<StandardStreams, Status> {
    let streams = StandardStreams { stdin, stdout, stderr, tty };
    streams.check().map_err(|error| Status::invalid_argument(error.to_string()))
}

fn issue(cri: &Cri, awaited: Awaited) -> Result<String, Status> {
    cri.tickets.issue(awaited).map_err(|error| match error {
        TokenError::TooMany => Status::resource_exhausted(error.to_string()),
        TokenError::Random(_) => Status::internal(Chain(&error).to_string()),
    })
}

/// The pods, as clients of the stream server reach them.
pub struct PodStreams {
    store: Arc<Store>,
    pods: Arc<Pods>,
}

impl PodStreams {
    /// Those of a node.
    #[must_use]
    pub fn new(store: Arc<Store>, pods: Arc<Pods>) -> Self {
        Self { store, pods }
    }

    fn sandbox_of(&self, container: &str) -> Result<(SandboxId, ContainerId), LookupError> {
        let record = self.store.container(container)?;
        Ok((record.sandbox_id.clone(), record.id.clone()))
    }
}

fn refusal(error: impl Error) -> Refusal {
    Refusal(Chain(&error).to_string())
}

impl Endpoint for PodStreams {
    async fn exec(&self, request: &ExecRequest) -> Result<Process, Refusal> {
        let (sandbox, container) = self.sandbox_of(&request.container).map_err(refusal)?;
        self.pods.exec_connected(&sandbox, &container, request.command.clone(), request.streams).await.map_err(refusal)
    }

    async fn attach(&self, request: &AttachRequest) -> Result<Process, Refusal> {
        let (sandbox, container) = self.sandbox_of(&request.container).map_err(refusal)?;
        self.pods.attach(&sandbox, &container, request.streams).await.map_err(refusal)
    }

    async fn dial(&self, sandbox: &str, port: u16) -> Result<TcpStream, Refusal> {
        let id = self.store.sandbox(sandbox).map_err(refusal)?.id.clone();
        let network = self.pods.open_network(&id).await.map_err(refusal)?;
        dial_loopback(network, port).await.map_err(refusal)
    }
}
