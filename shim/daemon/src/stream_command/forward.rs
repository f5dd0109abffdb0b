//! `podbox port-forward`: local ports that lead to those of a pod.
//!
//! ```text
//! listeners ─► connections (bounded) ─► Sessions, a task: pairs of streams in one SPDY session, which is begun anew when it was lost
//! ```
//!
//! A connection that fails is told of and the rest lives on; a pod that is gone ends the command.

mod mapping;

use super::daemon::{Daemon, refused};
use super::{Interrupts, PortForwardCommand};
use crate::chain::Chain;
use crate::config::Config;
use anyhow::{Context, anyhow};
use bytes::BytesMut;
pub(super) use mapping::PortMapping;
use podbox_stream::spdy::{Connection, Headers, OpenError, Stream};
use podbox_stream::{Inbound, Outbound, Received};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

const PROTOCOL: &str = "portforward.k8s.io";
/// Connections at once; the next wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// What is read of why a connection was refused.
const WORDS_BYTES_MAX: usize = 4096;
/// When connections cannot be accepted, for want of descriptors as a rule, there is no point in asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The data of a connection, and its errors.
type Pair = (Stream, Stream);

pub(super) async fn forward(config: &Config, command: PortForwardCommand) -> anyhow::Result<ExitCode> {
    let PortForwardCommand { pod, ports } = command;
    let mut interrupts = Interrupts::new().context("wait for signals")?;
    let failed = || format!("forward ports to pod {pod}");
    let remotes = ports.iter().map(|mapping| mapping.remote).collect();
    let mut sessions = Sessions { socket: config.socket.as_ref().to_owned(), pod: pod.clone(), remotes, connection: None, last_request: 0 };
    sessions.connect().await.map_err(|Lost { error, .. }| error).with_context(failed)?;
    let mut listeners = Vec::new();
    for mapping in &ports {
        for listener in mapping.listen().await.with_context(failed)? {
            writeln!(io::stdout(), "Forwarding from {} -> {}", listener.local_addr()?, mapping.remote).context("write")?;
            listeners.push((listener, mapping.remote));
        }
    }
    io::stdout().flush().context("write")?;
    let (asked, questions) = mpsc::channel(16);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for (listener, remote) in listeners {
        tokio::spawn(serve(listener, remote, asked.clone(), room.clone()));
    }
    tokio::select! {
        number = interrupts.next() => Ok(super::status_of_signal(number)),
        error = sessions.run(questions) => Err(error).with_context(failed),
    }
}

/// What a connection wants.
enum Question {
    /// A pair of streams to a port.
    Open { port: u16, answer: oneshot::Sender<anyhow::Result<Pair>> },
    /// Nothing; but it has failed, and the pod may be gone.
    Doubt,
}

/// Why there is no session.
struct Lost {
    error: anyhow::Error,
    /// The pod is gone, and asking again is of no use.
    is_final: bool,
}

impl Lost {
    fn for_now(error: anyhow::Error) -> Self {
        Self { error, is_final: false }
    }
}

/// The one session there is, and the next when that was lost.
struct Sessions {
    socket: PathBuf,
    pod: String,
    remotes: Vec<u16>,
    connection: Option<Connection>,
    last_request: u32,
}

impl Sessions {
    /// Answers until the pod is gone.
    async fn run(mut self, mut questions: mpsc::Receiver<Question>) -> anyhow::Error {
        while let Some(question) = questions.recv().await {
            let Question::Open { port, answer } = question else {
                match self.look().await {
                    Err(Lost { error, is_final: true }) => return error,
                    _ => continue,
                }
            };
            let pair = match self.open(port).await {
                Ok(pair) => Ok(pair),
                Err(Lost { error, is_final: true }) => return error,
                Err(Lost { error, is_final: false }) => Err(error),
            };
            // The connection may have ended meanwhile.
            let _ = answer.send(pair);
        }
        anyhow!("nobody listens any more")
    }

    /// Connects to the daemon and asks it for a session.
    async fn connect(&mut self) -> Result<(), Lost> {
        let daemon = Daemon::connect(&self.socket).await.map_err(Lost::for_now)?;
        let url = daemon.port_forward(&self.pod, &self.remotes).await.map_err(|status| {
            let is_final = matches!(status.code(), tonic::Code::NotFound | tonic::Code::FailedPrecondition);
            Lost { error: refused(&status), is_final }
        })?;
        let connection = podbox_stream::dial(&url, &[PROTOCOL]).await.context("go to the stream server").map_err(Lost::for_now)?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Whether the pod is there, and ready.
    async fn look(&self) -> Result<(), Lost> {
        let daemon = Daemon::connect(&self.socket).await.map_err(Lost::for_now)?;
        match daemon.is_ready(&self.pod).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Lost { error: anyhow!("it is not ready any more"), is_final: true }),
            Err(status) => Err(Lost { error: refused(&status), is_final: status.code() == tonic::Code::NotFound }),
        }
    }

    async fn open(&mut self, port: u16) -> Result<Pair, Lost> {
        loop {
            let is_new = self.connection.is_none();
            if is_new {
                self.connect().await?;
            }
            match self.open_pair(port).await {
                Ok(pair) => return Ok(pair),
                Err(OpenError::Gone) if !is_new => self.connection = None,
                Err(error) => {
                    if error == OpenError::Gone {
                        self.connection = None;
                    }
                    return Err(Lost::for_now(error.into()));
                }
            }
        }
    }

    async fn open_pair(&mut self, port: u16) -> Result<Pair, OpenError> {
        let connection = self.connection.as_ref().ok_or(OpenError::Gone)?;
        self.last_request = self.last_request.wrapping_add(1);
        let (port, request) = (port.to_string(), self.last_request.to_string());
        let headers = |kind| Headers::of(&[("streamType", kind), ("port", &port), ("requestID", &request)]);
        let error = connection.open(headers("error")).await?;
        let data = connection.open(headers("data")).await?;
        Ok((data, error))
    }
}

/// Takes the connections of a port, as many as there is room for.
async fn serve(listener: TcpListener, remote: u16, sessions: mpsc::Sender<Question>, room: Arc<Semaphore>) {
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, peer)) => {
                let sessions = sessions.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(connection, remote, sessions.clone()).await {
                        tell(&format!("connection of {peer} to port {remote}"), &error);
                        // Where there are no more answers, the command is about to end.
                        let _ = sessions.send(Question::Doubt).await;
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tell("accept a connection", &error.into());
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Of no more than one connection: the others go on.
fn tell(what: &str, error: &anyhow::Error) {
    // If nobody can read it, the work goes on.
    let _ = writeln!(io::stderr(), "podbox: {what}: {}", Chain(error.as_ref()));
}

/// One connection, to the end of both its directions.
async fn converse(mut connection: TcpStream, port: u16, sessions: mpsc::Sender<Question>) -> anyhow::Result<()> {
    // What is slower without is no worse.
    let _ = connection.set_nodelay(true);
    let (answer, answered) = oneshot::channel();
    let gone = || anyhow!("the pod is gone");
    let asked = async {
        sessions.send(Question::Open { port, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    };
    let outcome = match asked.await {
        Ok((data, error)) => exchange(&mut connection, data, error).await,
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        // Its client must not take that for the end. A connection that is gone needs no reset.
        let _ = rustix::net::sockopt::set_socket_linger(&connection, Some(Duration::ZERO));
    }
    outcome
}

async fn exchange(connection: &mut TcpStream, data: Stream, error: Stream) -> anyhow::Result<()> {
    // Nothing is said on this one; where the session is gone, the others tell.
    let _ = error.outbound.end().await;
    let (mut from_client, mut to_client) = connection.split();
    let mut outbound = Some(data.outbound);
    let received = async {
        let (received, words) = tokio::join!(receive(data.inbound, &mut to_client), read_words(error.inbound));
        if words.is_empty() { received } else { Err(anyhow!(words)) }
    };
    let outcome = tokio::try_join!(send_to_pod(&mut from_client, &mut outbound), received);
    if let (Err(_), Some(outbound)) = (&outcome, outbound) {
        // The session may be what is gone.
        let _ = outbound.abort().await;
    }
    outcome.map(drop)
}

/// Sends what the client says, and its end.
async fn send_to_pod(from_client: &mut ReadHalf<'_>, outbound: &mut Option<Outbound>) -> anyhow::Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(open) = outbound.as_ref() {
        buffer.reserve(PIECE_BYTES_MAX);
        let read = tokio::select! {
            // What the pod says last, or why there is none, comes the other way.
            () = open.taken_back() => return Ok(()),
            read = from_client.read_buf(&mut buffer) => read.context("read from the client")?,
        };
        if read == 0 {
            break;
        }
        if open.send(buffer.split().freeze()).await.is_err() {
            return Ok(());
        }
    }
    if let Some(open) = outbound.take() {
        let _ = open.end().await;
    }
    Ok(())
}

async fn receive(mut from_pod: Inbound, to_client: &mut WriteHalf<'_>) -> anyhow::Result<()> {
    loop {
        match from_pod.next().await {
            Received::Bytes(held) => to_client.write_all(&held.bytes).await.context("write to the client")?,
            Received::End => {
                // A client that has closed it all needs no end.
                let _ = to_client.shutdown().await;
                return Ok(());
            }
            Received::Lost => return Err(anyhow!("it was cut off")),
        }
    }
}

/// Why the pod's side failed; empty if it did not.
async fn read_words(mut error: Inbound) -> String {
    let mut words = Vec::new();
    while let Received::Bytes(held) = error.next().await {
        let room = WORDS_BYTES_MAX.saturating_sub(words.len());
        words.extend_from_slice(&held.bytes[..held.bytes.len().min(room)]);
    }
    String::from_utf8_lossy(&words).into_owned()
}
