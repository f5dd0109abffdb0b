//! The way to a daemon: CRI clients over its socket.

use hyper_util::rt::TokioIo;
use podbox_proto::v1;
use podbox_proto::v1::image_service_client::ImageServiceClient;
use podbox_proto::v1::runtime_service_client::RuntimeServiceClient;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// As the kubelet has it.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The runtime service.
pub type RuntimeClient = RuntimeServiceClient<Channel>;
/// The image service.
pub type ImageClient = ImageServiceClient<Channel>;

/// A connection that is made when it is first used; clones share it. Survives a restart of the daemon through
/// [`Client::reconnect`].
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    channel: Arc<Mutex<Channel>>,
}

impl Client {
    /// To the daemon on a socket. Must be called within a tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), channel: Arc::new(Mutex::new(connect(socket))) }
    }

    fn lock(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection, for this client and all its clones.
    pub fn reconnect(&self) {
        *self.lock() = connect(&self.socket);
    }

    /// A client with a connection of its own.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self::new(&self.socket)
    }

    /// The connection itself, for services that are not the CRI's.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.lock().clone()
    }

    /// The runtime service.
    #[must_use]
    pub fn runtime(&self) -> RuntimeClient {
        RuntimeServiceClient::new(self.channel())
            .max_decoding_message_size(4 * MESSAGE_BYTES_MAX)
            .max_encoding_message_size(4 * MESSAGE_BYTES_MAX)
    }

    /// The image service.
    #[must_use]
    pub fn images(&self) -> ImageClient {
        ImageServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Whether a daemon answers.
    ///
    /// # Errors
    /// As the daemon or the transport says.
    pub async fn version(&self) -> Result<v1::VersionResponse, tonic::Status> {
        Ok(self.runtime().version(v1::VersionRequest::default()).await?.into_inner())
    }

    /// All sandboxes.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn pods(&self) -> Result<Vec<v1::PodSandbox>, tonic::Status> {
        Ok(self.runtime().list_pod_sandbox(v1::ListPodSandboxRequest { filter: None }).await?.into_inner().items)
    }

    /// All containers.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn containers(&self) -> Result<Vec<v1::Container>, tonic::Status> {
        Ok(self.runtime().list_containers(v1::ListContainersRequest { filter: None }).await?.into_inner().containers)
    }
}

fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // Nothing is resolved: the name only has to be one.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}
