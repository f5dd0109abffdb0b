//! The daemon, as its clients know it.

use anyhow::{Context, anyhow};
use hyper_util::rt::TokioIo;
use podbox_proto::v1;
use podbox_proto::v1::runtime_service_client::RuntimeServiceClient;
use std::path::Path;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower::service_fn;

/// A verbose status has the whole of what a container was made of.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A connection to the daemon; clones share it.
#[derive(Clone)]
pub(super) struct Daemon {
    pub runtime: RuntimeServiceClient<Channel>,
}

impl Daemon {
    /// Connects to its socket.
    pub(super) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let path = socket.to_owned();
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // Nothing is resolved: the name only has to be one.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
        let channel = channel.with_context(|| format!("connect to the daemon's socket {}: does podbox serve run?", socket.display()))?;
        Ok(Self { runtime: RuntimeServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX) })
    }

    /// The status of a container, by its id or the beginning of it.
    pub(super) async fn container(&self, id: &str, verbose: bool) -> Result<v1::ContainerStatusResponse, Status> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose };
        Ok(self.runtime.clone().container_status(request).await?.into_inner())
    }

    /// Whether a pod is ready, by its id or the beginning of it.
    pub(super) async fn is_ready(&self, pod: &str) -> Result<bool, Status> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
        let answer = self.runtime.clone().pod_sandbox_status(request).await?.into_inner();
        Ok(answer.status.is_some_and(|status| status.state() == v1::PodSandboxState::SandboxReady))
    }

    /// Where a session of port-forward to a pod begins.
    pub(super) async fn port_forward(&self, pod: &str, ports: &[u16]) -> Result<String, Status> {
        let port = ports.iter().map(|port| i32::from(*port)).collect();
        let request = v1::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port };
        Ok(self.runtime.clone().port_forward(request).await?.into_inner().url)
    }
}

/// A refusal, in the daemon's words.
pub(super) fn refused(status: &Status) -> anyhow::Error {
    match status.code() {
        Code::Unavailable | Code::Unknown if status.message().is_empty() => anyhow!("the daemon is gone"),
        _ => anyhow!("{}", status.message()),
    }
}
