//! A session of exec or attach: a process and the client that is connected to it.
//!
//! ```text
//! streams opened ─► process started ─► bytes both ways ─► its end ─► what is left of its output ─► its status ─► closed
//!        └──────────────────┴───────────────────┴─── the client is gone: the process is let go of
//! ```

use crate::endpoint::{Process, Refusal, StandardStreams, TerminalSize};
use crate::exit_status::Outcome;
use crate::flow::{Activity, CLOSE_PATIENCE, Inbound, Outbound, PIECE_BYTES_MAX, Received};
use crate::spdy::{Connection, Stream};
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a client may take to open its streams.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// After the process's end, how long output is waited for that others may hold open, the time not counted in which the client is waited for.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// And how much is taken: more than a pipe holds when the process ends.
const DRAIN_BYTES_MAX: usize = 1024 * 1024 + PIECE_BYTES_MAX;
/// More than a terminal's size is long.
const SIZE_BYTES_MAX: usize = 256;

/// The version of the remote command protocol, and what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    /// Its name in the headers.
    pub name: &'static str,
    /// Terminals can be told how large they are.
    has_resize: bool,
    /// The end is told as a `Status`.
    has_status: bool,
}

/// The versions over SPDY, the best first.
pub(crate) const VERSIONS: &[Version] = &[
    Version { name: "v4.channel.k8s.io", has_resize: true, has_status: true },
    Version { name: "v3.channel.k8s.io", has_resize: true, has_status: false },
    Version { name: "v2.channel.k8s.io", has_resize: false, has_status: false },
    Version { name: "channel.k8s.io", has_resize: false, has_status: false },
];
/// What WebSockets speak: the same as SPDY's best.
pub(crate) const WEBSOCKET_VERSION: Version = VERSIONS[0];

/// A client's streams.
pub(crate) struct Channels {
    pub error: Outbound,
    pub stdin: Option<Inbound>,
    pub stdout: Option<Outbound>,
    pub stderr: Option<Outbound>,
    pub resize: Option<Inbound>,
}

/// What a session is with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Exec,
    Attach,
}

/// Serves a client over SPDY, until either side has ended; the connection is for the caller to close.
pub(crate) async fn serve(
    connection: &mut Connection,
    version: Version,
    streams: StandardStreams,
    kind: Kind,
    start: impl Future<Output = Result<Process, Refusal>>,
    limits: Limits<impl Future<Output = &'static str>>,
) {
    let opened = tokio::time::timeout(CREATION_TIMEOUT, open_channels(connection, version, streams)).await;
    // A client that is gone, or opens nothing, is told nothing.
    let Ok(Some(channels)) = opened else { return };
    let gone = async {
        while let Some(stream) = connection.accept().await {
            let _ = stream.outbound.abort().await;
        }
    };
    tokio::select! {
        () = run(channels, version, kind, start, limits) => {}
        () = gone => {}
    }
}

/// Waits for the streams that the client is to open; a stream that is not one of these is given up.
async fn open_channels(connection: &mut Connection, version: Version, streams: StandardStreams) -> Option<Channels> {
    let wanted = [
        ("error", true),
        ("stdin", streams.stdin),
        ("stdout", streams.stdout),
        ("stderr", streams.stderr),
        ("resize", streams.tty && version.has_resize),
    ];
    let mut opened: [Option<Stream>; 5] = Default::default();
    while wanted.iter().zip(&opened).any(|((_, wanted), opened)| *wanted && opened.is_none()) {
        let stream = connection.accept().await?;
        let kind = stream.headers.get("streamType").unwrap_or_default();
        match wanted.iter().position(|(name, wanted)| *name == kind && *wanted).filter(|at| opened[*at].is_none()) {
            Some(at) => opened[at] = Some(stream),
            None => drop(stream.outbound.abort().await),
        }
    }
    let [error, stdin, stdout, stderr, resize] = opened;
    Some(Channels {
        error: error?.outbound,
        stdin: stdin.map(|stream| stream.inbound),
        stdout: stdout.map(|stream| stream.outbound),
        stderr: stderr.map(|stream| stream.outbound),
        resize: resize.map(|stream| stream.inbound),
    })
}

/// What ends a session that does not end by itself.
pub(crate) struct Limits<F> {
    /// Ends with the reason, in words for the client.
    pub ended: F,
    /// Of the session.
    pub activity: Activity,
}

/// Runs a session to the process's end. Cut off, it lets go of the process; ended by its limits, it tells the client that, who would take
/// silence for success.
pub(crate) async fn run(
    channels: Channels,
    version: Version,
    kind: Kind,
    start: impl Future<Output = Result<Process, Refusal>>,
    limits: Limits<impl Future<Output = &'static str>>,
) {
    let Channels { error, stdin, stdout, stderr, resize } = channels;
    let held = async {
        match start.await {
            Ok(process) => converse(process, stdin, stdout, stderr, resize, kind).await,
            Err(Refusal(why)) => {
                for output in [stdout, stderr].into_iter().flatten() {
                    let _ = output.end().await;
                }
                Outcome::Failed(why)
            }
        }
    };
    let outcome = tokio::select! {
        outcome = held => outcome,
        why = limits.ended => Outcome::Failed(why.to_owned()),
    };
    let words = if version.has_status { outcome.to_json() } else { outcome.words() };
    limits.activity.touch();
    let told = async {
        // A client that is gone need not be told.
        let _ = error.send(Bytes::from(words)).await;
        let _ = error.end().await;
    };
    tokio::select! {
        () = told => {}
        () = limits.activity.idle_for(CLOSE_PATIENCE) => {}
    }
}

async fn converse(
    process: Process,
    stdin: Option<Inbound>,
    stdout: Option<Outbound>,
    stderr: Option<Outbound>,
    resize: Option<Inbound>,
    kind: Kind,
) -> Outcome {
    let (ended, is_ended) = watch::channel(false);
    let mut outputs = JoinSet::new();
    for (source, sink) in [(process.stdout, stdout), (process.stderr, stderr)] {
        if let (Some(source), Some(sink)) = (source, sink) {
            outputs.spawn(copy_output(source, sink, is_ended.clone()));
        }
    }
    let mut inputs = JoinSet::new();
    if let (Some(sizes), Some(resize)) = (resize, process.resize) {
        inputs.spawn(copy_sizes(sizes, resize));
    }
    // Whoever attaches for nothing but input is done with it.
    let ends_with_input = kind == Kind::Attach && outputs.is_empty();
    let input = async {
        if let (Some(source), Some(sink)) = (stdin, process.stdin) {
            copy_input(source, sink).await;
            if ends_with_input {
                return;
            }
        }
        std::future::pending().await
    };
    let outcome = tokio::select! {
        end = process.end => match end {
            Ok(code) => Outcome::Exited(code),
            Err(Refusal(why)) => Outcome::Failed(why),
        },
        () = input => Outcome::Exited(0),
    };
    ended.send_replace(true);
    while outputs.join_next().await.is_some() {}
    outcome
}

/// Takes a client's input to the process. What a process does not want that has closed its input is dropped: the client may have more to say
/// on other streams. Only an end that the client has told is one for the process: what breaks off must not read as complete.
async fn copy_input(mut source: Inbound, sink: impl AsyncWrite + Unpin) {
    let mut sink = Some(sink);
    loop {
        match source.next().await {
            Received::Bytes(held) => {
                if let Some(open) = &mut sink
                    && open.write_all(&held.bytes).await.is_err()
                {
                    sink = None;
                }
            }
            Received::End => {
                if let Some(mut open) = sink {
                    let _ = open.shutdown().await;
                }
                return;
            }
            // With the session's end, which follows.
            Received::Lost => std::future::pending().await,
        }
    }
}

/// Takes a process's output to the client, no faster than that takes it.
async fn copy_output(mut source: impl AsyncRead + Unpin, sink: Outbound, mut is_ended: watch::Receiver<bool>) {
    let mut buffer = BytesMut::new();
    let (mut time_left, mut bytes_left) = (DRAIN_TIMEOUT, DRAIN_BYTES_MAX);
    let mut is_draining = false;
    loop {
        buffer.reserve(PIECE_BYTES_MAX);
        let read = source.read_buf(&mut buffer);
        let count = if is_draining {
            let began = Instant::now();
            let Ok(count) = tokio::time::timeout(time_left, read).await else { break };
            time_left = time_left.saturating_sub(began.elapsed());
            count
        } else {
            tokio::select! {
                // Others who hold the stream may write for ever.
                biased;
                _ = is_ended.wait_for(|ended| *ended) => {
                    is_draining = true;
                    continue;
                }
                () = sink.taken_back() => return,
                count = read => count,
            }
        };
        // A terminal whose other side nobody has open any more says EIO.
        let Ok(count @ 1..) = count else { break };
        if sink.send(buffer.split().freeze()).await.is_err() {
            return;
        }
        if is_draining {
            bytes_left = bytes_left.saturating_sub(count);
            if bytes_left == 0 {
                break;
            }
        }
    }
    // The client may have gone meanwhile.
    let _ = sink.end().await;
}

/// Tells the terminal each size that the client tells, one JSON object after the other.
async fn copy_sizes(mut source: Inbound, resize: Box<dyn Fn(TerminalSize) + Send + Sync>) {
    let mut said = Vec::new();
    while let Received::Bytes(held) = source.next().await {
        said.extend_from_slice(&held.bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&said).into_iter::<TerminalSize>();
        let mut last = None;
        let mut is_broken = false;
        let mut taken = 0;
        for size in &mut sizes {
            match size {
                Ok(size) => last = Some(size),
                Err(error) if error.is_eof() => break,
                Err(_) => {
                    is_broken = true;
                    break;
                }
            }
        }
        if !is_broken {
            taken = sizes.byte_offset();
        }
        if let Some(size) = last {
            resize(size);
        }
        said.drain(..taken);
        if is_broken || said.len() > SIZE_BYTES_MAX {
            return;
        }
    }
}
