//! Clients of the stream server: sessions over SPDY by podbox's own client, and `crictl`.

use crate::daemon::Daemon;
use crate::pod::{Container, Pod};
use crate::wait;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use podbox_proto::v1;
use podbox_stream::spdy::{Connection, Headers, Stream};
use podbox_stream::{Inbound, Outcome, Received, StandardStreams};
use tokio::net::TcpStream;

/// What clients of today offer, the best first.
pub const COMMAND_PROTOCOLS: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// What port-forward is called.
pub const PORT_FORWARD_PROTOCOL: &str = "portforward.k8s.io";

/// Both outputs.
pub const OUTPUTS: StandardStreams = StandardStreams { stdin: false, stdout: true, stderr: true, tty: false };
/// All three, apart.
pub const ALL: StandardStreams = StandardStreams { stdin: true, stdout: true, stderr: true, tty: false };
/// A terminal.
pub const TERMINAL: StandardStreams = StandardStreams { stdin: true, stdout: true, stderr: false, tty: true };

/// Connects to where a URL points, in the daemon's network namespace.
///
/// # Errors
/// Nobody listens there.
pub async fn connect(daemon: &Daemon, url: &str) -> Result<TcpStream> {
    let address = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).context("a URL")?.to_owned();
    let connection = daemon.network().run(|| Ok(std::net::TcpStream::connect(address)?))?;
    connection.set_nonblocking(true)?;
    connection.set_nodelay(true)?;
    Ok(TcpStream::from_std(connection)?)
}

/// A session of exec or attach.
pub struct Session {
    /// What it runs over.
    pub connection: Connection,
    /// Its status.
    pub error: Stream,
    /// The command's input.
    pub stdin: Option<Stream>,
    /// The command's output.
    pub stdout: Option<Stream>,
    /// The command's error output.
    pub stderr: Option<Stream>,
    /// Sizes of the terminal.
    pub resize: Option<Stream>,
}

impl Session {
    /// Executes a command.
    ///
    /// # Errors
    /// The call or the upgrade is refused.
    pub async fn exec(daemon: &Daemon, container: &Container, command: &[&str], streams: StandardStreams) -> Result<Self> {
        Self::open(daemon, &exec_url(daemon, container, command, streams).await?, streams).await
    }

    /// Attaches to a container.
    ///
    /// # Errors
    /// The call or the upgrade is refused.
    pub async fn attach(daemon: &Daemon, container: &Container, streams: StandardStreams) -> Result<Self> {
        Self::open(daemon, &attach_url(daemon, container, streams).await?, streams).await
    }

    /// Comes for what a URL announces.
    ///
    /// # Errors
    /// The upgrade or a stream is refused.
    pub async fn open(daemon: &Daemon, url: &str, streams: StandardStreams) -> Result<Self> {
        let connection = podbox_stream::begin(connect(daemon, url).await?, url, COMMAND_PROTOCOLS).await?;
        let open = async |kind: &str, wanted: bool| -> Result<Option<Stream>> {
            match wanted {
                true => Ok(Some(connection.open(Headers::of(&[("streamType", kind)])).await.with_context(|| kind.to_owned())?)),
                false => Ok(None),
            }
        };
        let error = open("error", true).await?.context("the error stream")?;
        let stdin = open("stdin", streams.stdin).await?;
        let stdout = open("stdout", streams.stdout).await?;
        let stderr = open("stderr", streams.stderr).await?;
        let resize = open("resize", streams.tty).await?;
        Ok(Self { connection, error, stdin, stdout, stderr, resize })
    }

    /// Sends input.
    ///
    /// # Errors
    /// The session is over.
    pub async fn say(&self, text: impl Into<Vec<u8>>) -> Result<()> {
        Ok(self.stdin.as_ref().context("no input")?.outbound.send(Bytes::from(text.into())).await?)
    }

    /// Ends the input.
    ///
    /// # Errors
    /// The session is over.
    pub async fn end_input(&mut self) -> Result<()> {
        Ok(self.stdin.take().context("no input")?.outbound.end().await?)
    }

    /// Waits until the output has something in it; gives what came so far.
    ///
    /// # Errors
    /// It ends before, or does not say it in time.
    pub async fn wait_for(&mut self, text: &str) -> Result<String> {
        comes(self.stdout.as_mut().context("no output")?, text).await
    }

    /// The same of its error output.
    ///
    /// # Errors
    /// As [`Session::wait_for`].
    pub async fn wait_for_error(&mut self, text: &str) -> Result<String> {
        comes(self.stderr.as_mut().context("no error output")?, text).await
    }

    /// Waits for the outcome alone, of a session whose outputs may be cut off.
    ///
    /// # Errors
    /// None comes in time.
    pub async fn status(mut self) -> Result<Outcome> {
        let status =
            tokio::time::timeout(wait::scaled(wait::DEADLINE), read_all(&mut self.error.inbound)).await.context("the status")??;
        Outcome::from_json(&status).with_context(|| format!("a status, not {:?}", String::from_utf8_lossy(&status)))
    }

    /// Waits for the end: what is left of both outputs, and the outcome.
    ///
    /// # Errors
    /// It does not end in time, or is cut off.
    pub async fn finish(self) -> Result<Finished> {
        let Self { connection, mut error, stdout, stderr, .. } = self;
        let rest = |stream: Option<Stream>| async move {
            match stream {
                Some(mut stream) => read_all(&mut stream.inbound).await,
                None => Ok(Vec::new()),
            }
        };
        let all = async { tokio::join!(rest(stdout), rest(stderr), read_all(&mut error.inbound)) };
        let (stdout, stderr, status) = tokio::time::timeout(wait::scaled(wait::DEADLINE), all).await.context("the end of the session")?;
        let status = status.context("the status")?;
        let outcome = Outcome::from_json(&status).with_context(|| format!("a status, not {:?}", String::from_utf8_lossy(&status)))?;
        drop(connection);
        Ok(Finished { stdout: stdout.context("stdout")?, stderr: stderr.context("stderr")?, outcome })
    }
}

/// What a stream brings until it has something in it.
async fn comes(stream: &mut Stream, text: &str) -> Result<String> {
    let mut said = String::new();
    let waited = async {
        while !said.contains(text) {
            match stream.inbound.next().await {
                Received::Bytes(held) => said.push_str(&String::from_utf8_lossy(&held.bytes)),
                end => anyhow::bail!("{end:?} after {said:?}"),
            }
        }
        Ok(())
    };
    tokio::time::timeout(wait::scaled(wait::DEADLINE), waited).await.with_context(|| format!("waiting for {text:?}"))??;
    Ok(said)
}

/// What a session came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The output.
    pub stdout: Vec<u8>,
    /// The error output.
    pub stderr: Vec<u8>,
    /// How the command ended.
    pub outcome: Outcome,
}

impl Finished {
    /// Both outputs as text.
    #[must_use]
    pub fn text(&self) -> (String, String) {
        (String::from_utf8_lossy(&self.stdout).into_owned(), String::from_utf8_lossy(&self.stderr).into_owned())
    }
}

/// Reads a stream to its end.
///
/// # Errors
/// It is cut off.
pub async fn read_all(inbound: &mut Inbound) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match inbound.next().await {
            Received::Bytes(held) => all.extend_from_slice(&held.bytes),
            Received::End => return Ok(all),
            Received::Lost => anyhow::bail!("cut off after {} bytes", all.len()),
        }
    }
}

/// Announces a command.
///
/// # Errors
/// As the daemon says.
pub async fn exec_url(daemon: &Daemon, container: &Container, command: &[&str], streams: StandardStreams) -> Result<String, tonic::Status> {
    let StandardStreams { stdin, stdout, stderr, tty } = streams;
    let cmd = command.iter().map(|word| (*word).to_owned()).collect();
    let request = v1::ExecRequest { container_id: container.id.clone(), cmd, tty, stdin, stdout, stderr };
    Ok(daemon.runtime().exec(request).await?.into_inner().url)
}

/// Announces an attach.
///
/// # Errors
/// As the daemon says.
pub async fn attach_url(daemon: &Daemon, container: &Container, streams: StandardStreams) -> Result<String, tonic::Status> {
    let StandardStreams { stdin, stdout, stderr, tty } = streams;
    let request = v1::AttachRequest { container_id: container.id.clone(), stdin, tty, stdout, stderr };
    Ok(daemon.runtime().attach(request).await?.into_inner().url)
}

/// A session of port-forward.
pub struct Forwarding {
    /// What it runs over.
    pub connection: Connection,
    last_request: u32,
}

impl Forwarding {
    /// Opens one.
    ///
    /// # Errors
    /// The call or the upgrade is refused.
    pub async fn open(daemon: &Daemon, pod: &Pod) -> Result<Self> {
        let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: Vec::new() };
        let url = daemon.runtime().port_forward(request).await?.into_inner().url;
        let connection = podbox_stream::begin(connect(daemon, &url).await?, &url, &[PORT_FORWARD_PROTOCOL]).await?;
        Ok(Self { connection, last_request: 0 })
    }

    /// A connection to a port: its data, and its errors.
    ///
    /// # Errors
    /// A stream is refused.
    pub async fn dial(&mut self, port: u16) -> Result<(Stream, Stream)> {
        self.last_request += 1;
        let (port, request) = (port.to_string(), self.last_request.to_string());
        let headers = |kind| Headers::of(&[("streamType", kind), ("port", &port), ("requestID", &request)]);
        let error = self.connection.open(headers("error")).await?;
        let data = self.connection.open(headers("data")).await?;
        Ok((data, error))
    }

    /// Says something to a port, ends it, and gives the answer.
    ///
    /// # Errors
    /// The port is not reached, or does not answer in time.
    pub async fn ask(&mut self, port: u16, question: &str) -> Result<String> {
        let (mut data, mut error) = self.dial(port).await?;
        // Who is refused at once may not get to say it: why, the other stream says.
        let said = data.outbound.send(Bytes::from(question.to_owned())).await;
        let said = if said.is_ok() { data.outbound.end().await } else { said };
        let all = async { tokio::join!(read_all(&mut data.inbound), read_all(&mut error.inbound)) };
        let (answer, error) = tokio::time::timeout(wait::scaled(wait::DEADLINE), all).await.context("the answer")?;
        let error = String::from_utf8_lossy(&error?).into_owned();
        ensure!(error.is_empty(), "{error}");
        said?;
        Ok(String::from_utf8_lossy(&answer?).into_owned())
    }
}
