//! What the server of streams asks of whoever has containers.

use serde::Deserialize;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Which standard streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandardStreams {
    /// It sends input.
    pub stdin: bool,
    /// It takes output.
    pub stdout: bool,
    /// It takes error output.
    pub stderr: bool,
    /// All of them are one terminal.
    pub tty: bool,
}

/// Streams that cannot be wanted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamsError {
    /// None at all.
    #[error("one of stdin, stdout and stderr must be set")]
    Nothing,
    /// A terminal has one output.
    #[error("tty and stderr may not be set both: a terminal has one output")]
    TerminalWithStderr,
}

impl StandardStreams {
    /// Whether they can be wanted together.
    ///
    /// # Errors
    /// See [`StreamsError`].
    pub fn check(self) -> Result<Self, StreamsError> {
        match self {
            Self { stdin: false, stdout: false, stderr: false, .. } => Err(StreamsError::Nothing),
            Self { tty: true, stderr: true, .. } => Err(StreamsError::TerminalWithStderr),
            fine => Ok(fine),
        }
    }
}

/// A command to execute in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// The container's id.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What the client is connected to.
    pub streams: StandardStreams,
}

/// A container to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// The container's id.
    pub container: String,
    /// What the client is connected to.
    pub streams: StandardStreams,
}

/// A pod whose ports are to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwardRequest {
    /// The sandbox's id.
    pub sandbox: String,
}

/// How large the client's terminal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(rename = "Width", alias = "width")]
    pub columns: u16,
    /// Lines.
    #[serde(rename = "Height", alias = "height")]
    pub rows: u16,
}

/// A process that a client is connected to. Dropped, it is let go of: one that was executed for the client is ended.
pub struct Process {
    /// Where its input goes; shut down, that is over. Dropped before, the client has broken off.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Where its output comes from.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Where its error output comes from.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Tells its terminal how large it is.
    pub resize: Option<Box<dyn Fn(TerminalSize) + Send + Sync>>,
    /// Its exit status, 0–255, as the client is told it; or why that is not known.
    pub end: Pin<Box<dyn Future<Output = Result<i32, Refusal>> + Send>>,
}

/// Why something cannot be done, in words for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Whoever has containers and pods.
pub trait Endpoint: Send + Sync + 'static {
    /// Executes a command.
    fn exec(&self, request: &ExecRequest) -> impl Future<Output = Result<Process, Refusal>> + Send;

    /// Attaches to a container's init. Its end is told as status 0, whatever it was.
    fn attach(&self, request: &AttachRequest) -> impl Future<Output = Result<Process, Refusal>> + Send;

    /// Connects to a port of a pod's own loopback.
    fn dial(&self, sandbox: &str, port: u16) -> impl Future<Output = Result<TcpStream, Refusal>> + Send;
}
