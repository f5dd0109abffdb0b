//! A session of exec or attach, from the client's side.
//!
//! Input is read and output is written by threads of their own: whatever stands at their other ends may make them wait for as long as it likes, and
//! the command ends all the same when the session does, or a signal asks it to.

use super::Interrupts;
use super::keys::DetachKeys;
use super::terminal;
use anyhow::{Context, anyhow};
use podbox_stream::spdy::{Connection, Headers, Stream};
use podbox_stream::{Inbound, Outbound, Outcome, Received, StandardStreams};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde_json::json;
use std::io::{self, Write};
use std::process::ExitCode;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The version that tells the end as a status.
const PROTOCOL: &str = "v4.channel.k8s.io";
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// More than a status is long.
const STATUS_BYTES_MAX: usize = 64 * 1024;

/// How a session came to its end.
#[derive(Debug)]
pub(super) enum End {
    /// By itself.
    Outcome(Outcome),
    /// By the keys for that.
    Detached,
    /// We were asked to end.
    Interrupted(ExitCode),
}

/// The streams of a session.
pub(super) struct Session {
    /// Holds the session together: without it all streams are cut off.
    connection: Connection,
    error: Stream,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Session {
    /// Comes for what a URL announces.
    pub(super) async fn open(url: &str, streams: StandardStreams) -> anyhow::Result<Self> {
        let connection = podbox_stream::dial(url, &[PROTOCOL]).await.context("go to the stream server")?;
        let open = async |kind: &str, wanted: bool| -> anyhow::Result<Option<Stream>> {
            match wanted {
                true => Ok(Some(connection.open(Headers::of(&[("streamType", kind)])).await.with_context(|| format!("open {kind}"))?)),
                false => Ok(None),
            }
        };
        let error = open("error", true).await?.context("open the error stream")?;
        let stdin = open("stdin", streams.stdin).await?;
        let stdout = open("stdout", streams.stdout).await?;
        let stderr = open("stderr", streams.stderr).await?;
        let resize = open("resize", streams.tty).await?;
        Ok(Self { connection, error, stdin, stdout, stderr, resize })
    }

    /// Converses until the session ends, or one of the ways to leave it is taken. `detaches`: the keys for that are looked for.
    pub(super) async fn converse(self, mut interrupts: Interrupts, detaches: bool) -> anyhow::Result<End> {
        let Self { connection, error, stdin, stdout, stderr, resize } = self;
        let (detach, detached) = oneshot::channel();
        if let Some(stdin) = stdin {
            send_input(stdin.outbound, detaches.then_some(detach))?;
        }
        let sizes = async {
            if let Some(resize) = resize {
                let changes = signal(SignalKind::window_change()).context("wait for the terminal to change")?;
                send_sizes(&resize.outbound, changes).await;
            }
            std::future::pending::<anyhow::Result<End>>().await
        };
        let session = async {
            let stdout = print(stdout, io::stdout());
            let stderr = print(stderr, io::stderr());
            let ((), (), status) = tokio::try_join!(stdout, stderr, read_status(error.inbound))?;
            let outcome = Outcome::from_json(&status);
            outcome.map(End::Outcome).with_context(|| format!("the stream server told no status: {:?}", String::from_utf8_lossy(&status)))
        };
        let end = tokio::select! {
            end = session => end,
            end = sizes => end,
            number = interrupts.next() => Ok(End::Interrupted(super::status_of_signal(number))),
            Ok(()) = detached => Ok(End::Detached),
        };
        drop(connection);
        end
    }
}

fn cut_off() -> anyhow::Error {
    anyhow!("the session was cut off before its end: did the daemon go?")
}

async fn read_status(mut error: Inbound) -> anyhow::Result<Vec<u8>> {
    let mut status = Vec::new();
    loop {
        match error.next().await {
            Received::Bytes(held) if status.len() + held.bytes.len() <= STATUS_BYTES_MAX => status.extend_from_slice(&held.bytes),
            Received::Bytes(_) => return Err(anyhow!("the stream server told a status of more than {STATUS_BYTES_MAX} bytes")),
            Received::End => return Ok(status),
            Received::Lost => return Err(cut_off()),
        }
    }
}

/// Prints a stream to its end, as fast as it is read here.
async fn print(stream: Option<Stream>, mut sink: impl Write + Send + 'static) -> anyhow::Result<()> {
    let Some(mut stream) = stream else { return Ok(()) };
    let runtime = Handle::current();
    let printing = tokio::task::spawn_blocking(move || {
        loop {
            match runtime.block_on(stream.inbound.next()) {
                Received::Bytes(held) => sink.write_all(&held.bytes).and_then(|()| sink.flush()).context("write the output")?,
                Received::End => return Ok(()),
                Received::Lost => return Err(cut_off()),
            }
        }
    });
    printing.await.context("print the output")?
}

/// Tells the size of the terminal, now and whenever it changes.
async fn send_sizes(outbound: &Outbound, mut changes: Signal) {
    loop {
        if let Some(size) = terminal::size() {
            let size = json!({"Width": size.columns, "Height": size.rows}).to_string();
            if outbound.send(size.into()).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Sends standard input and its end, on a thread that nobody waits for.
fn send_input(outbound: Outbound, mut detach: Option<oneshot::Sender<()>>) -> anyhow::Result<()> {
    let runtime = Handle::current();
    let work = move || {
        let mut buffer = vec![0; INPUT_BYTES_MAX];
        let mut keys = DetachKeys::default();
        while let Some(count) = read_input(&mut buffer) {
            let mut passed = Vec::new();
            match &detach {
                None => passed.extend_from_slice(&buffer[..count]),
                Some(_) if keys.feed(&buffer[..count], &mut passed) => {
                    let _ = runtime.block_on(outbound.send(passed.into()));
                    // Unless the session has just ended by itself.
                    let _ = detach.take().map(|detach| detach.send(()));
                    return;
                }
                Some(_) => {}
            }
            if runtime.block_on(outbound.send(passed.into())).is_err() {
                return;
            }
        }
        let _ = runtime.block_on(outbound.end());
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(work).context("start a thread for standard input")?;
    Ok(())
}

/// `None` at the end; an input that cannot be read is over.
fn read_input(buffer: &mut [u8]) -> Option<usize> {
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut *buffer) {
            Ok(count) => return (count > 0).then_some(count),
            Err(Errno::INTR) => {}
            // Whoever shares it made it so.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN)], None)),
            Err(_) => return None,
        }
    }
}
