//! WebSockets (RFC 6455): the streams of a command as channels of one, and a SPDY connection within one.
//!
//! A message of a command's is binary and begins with the channel's number. Since `v5.channel.k8s.io`, 255 and a number say that nothing more
//! comes on that channel.

use crate::endpoint::{Process, Refusal, StandardStreams};
use crate::flow::{Activity, Budget, CLOSE_PATIENCE, Feed, Outbound, Outgoing, Piece, QUEUE};
use crate::remote_command::{self, Channels, Kind, Limits, WEBSOCKET_VERSION};
use crate::transport::{Peer, Source, unless_gone};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

/// What commands speak, the best first.
pub(crate) const COMMAND_PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// What port-forward speaks: SPDY within it.
pub(crate) const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// The longest message that is taken.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// What is collected before it is written.
const WRITE_BYTES: usize = 128 * 1024;
/// How long the client is given to close what is over.
const LINGER: Duration = Duration::from_secs(3);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// The number of a channel that ends follows.
const CLOSE: u8 = 255;

/// Takes the server's side of a connection that has shaken hands.
pub(crate) async fn take(connection: TcpStream, leftover: Vec<u8>) -> WebSocketStream<TcpStream> {
    WebSocketStream::from_partially_read(connection, leftover, Role::Server, Some(config())).await
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .write_buffer_size(WRITE_BYTES)
        .max_write_buffer_size(4 * WRITE_BYTES + MESSAGE_BYTES_MAX)
}

/// Serves a command's client until either side has ended.
pub(crate) async fn serve_command(
    socket: WebSocketStream<TcpStream>,
    streams: StandardStreams,
    kind: Kind,
    start: impl Future<Output = Result<Process, Refusal>>,
    limits: Limits<impl Future<Output = &'static str>>,
) {
    let activity = limits.activity.clone();
    let Ok(peer) = Peer::of(socket.get_ref()) else { return };
    let (sink, source) = socket.split();
    let (queue, queued) = mpsc::channel(QUEUE);
    // Kept until the client is gone: a channel of a WebSocket cannot be taken back by itself.
    let (_gone, is_gone) = watch::channel(false);
    let outbound = |channel: u8| Outbound::new(channel.into(), queue.clone(), is_gone.clone());
    let (stdin_feed, stdin) = Feed::new();
    let (resize_feed, resize) = Feed::new();
    let channels = Channels {
        error: outbound(ERROR),
        stdin: streams.stdin.then_some(stdin),
        stdout: streams.stdout.then(|| outbound(STDOUT)),
        stderr: streams.stderr.then(|| outbound(STDERR)),
        resize: streams.tty.then_some(resize),
    };
    let reader = read(source, peer, Feeds { stdin: Some(stdin_feed), resize: Some(resize_feed) }, activity.clone());
    let held = async {
        // Clients wait for a first word before they take the session for open.
        let first = channels.stdout.as_ref().or(channels.stderr.as_ref()).unwrap_or(&channels.error);
        if first.greet().await.is_ok() {
            remote_command::run(channels, WEBSOCKET_VERSION, kind, start, limits).await;
        }
    };
    let session = async {
        held.await;
        activity.touch();
        let farewell = async {
            let _ = queue.send(Outgoing { stream: 0, piece: Piece::Goodbye }).await;
            std::future::pending().await
        };
        tokio::select! {
            () = farewell => {}
            () = activity.idle_for(CLOSE_PATIENCE) => {}
        }
    };
    let writer = async {
        // Whoever cannot be written to is gone, which the reader hears.
        let _ = write(sink, queued, &activity).await;
        // What it still sends is taken until it has closed as well.
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        () = session => {}
        () = reader => {}
        () = writer => {}
    }
}

/// Where a client's channels go; `None` once they have ended.
struct Feeds {
    stdin: Option<Feed>,
    resize: Option<Feed>,
}

impl Feeds {
    fn of(&mut self, channel: u8) -> Option<&mut Option<Feed>> {
        match channel {
            STDIN => Some(&mut self.stdin),
            RESIZE => Some(&mut self.resize),
            _ => None,
        }
    }
}

/// Reads until the client is gone, or says what cannot be understood.
async fn read(mut source: SplitStream<WebSocketStream<TcpStream>>, peer: Peer, mut feeds: Feeds, activity: Activity) {
    let budget = Budget::default();
    while let Some(Ok(message)) = source.next().await {
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(_) | Message::Close(_) => return,
            // Answered by the library. Who asks is there, and wants the session.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                activity.touch();
                continue;
            }
        };
        activity.touch();
        let Ok(channel) = bytes.try_get_u8() else { continue };
        if channel == CLOSE {
            let ended = bytes.first().and_then(|ended| feeds.of(*ended)).and_then(Option::take);
            if let Some(feed) = ended {
                feed.end();
            }
        } else if let Some(Some(feed)) = feeds.of(channel)
            && !unless_gone(feed.push(&budget, bytes), || peer.is_gone()).await
        {
            return;
        }
    }
}

/// Writes until the session is over.
async fn write(
    mut sink: SplitSink<WebSocketStream<TcpStream>, Message>,
    mut queued: mpsc::Receiver<Outgoing>,
    activity: &Activity,
) -> tungstenite::Result<()> {
    while let Some(outgoing) = queued.recv().await {
        match outgoing.piece {
            Piece::Bytes(bytes) => {
                let mut message = BytesMut::with_capacity(1 + bytes.len());
                message.put_u8(u8::try_from(outgoing.stream).unwrap_or(ERROR));
                message.put(bytes);
                activity.touch();
                sink.send(Message::Binary(message.freeze())).await?;
                activity.touch();
            }
            // The status and the end of the session say it.
            Piece::End | Piece::Abort => {}
            Piece::Goodbye => {
                let frame = CloseFrame { code: CloseCode::Normal, reason: tungstenite::Utf8Bytes::default() };
                sink.send(Message::Close(Some(frame))).await?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The bytes within binary messages.
pub(crate) struct TunnelSource {
    messages: SplitStream<WebSocketStream<TcpStream>>,
    peer: Peer,
    rest: Bytes,
}

/// Bytes as binary messages.
pub(crate) struct TunnelSink {
    messages: SplitSink<WebSocketStream<TcpStream>, Message>,
}

/// A connection within a WebSocket.
pub(crate) fn tunnel(socket: WebSocketStream<TcpStream>) -> io::Result<(TunnelSource, TunnelSink)> {
    let peer = Peer::of(socket.get_ref())?;
    let (sink, source) = socket.split();
    Ok((TunnelSource { messages: source, peer, rest: Bytes::new() }, TunnelSink { messages: sink }))
}

impl Source for TunnelSource {
    fn is_gone(&self) -> bool {
        self.peer.is_gone()
    }
}

impl AsyncRead for TunnelSource {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.messages).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelSink {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.messages).poll_ready(context)).map_err(io::Error::other)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.messages).start_send(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.messages).poll_flush(context).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.messages).poll_close(context).map_err(io::Error::other)
    }
}
