//! A connection: two tasks, and the streams between them.

#[cfg(test)]
mod tests;

use super::frame::{CANCEL, Decoder, Encoder, Frame, FrameError, GOAWAY_OK, GOAWAY_PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM};
use super::headers::Headers;
use crate::flow::{Activity, Budget, Feed, Inbound, Outbound, Outgoing, PIECE_BYTES_MAX, Piece, QUEUE};
use crate::transport::{Source, unless_gone};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Streams that are open at once; the next is refused.
const STREAMS_MAX: usize = 2048;
/// Streams that wait to be accepted.
const ACCEPT_QUEUE: usize = 16;
/// Answers that wait to be sent. A peer that asks and does not read is not read either.
const CONTROL_QUEUE: usize = 32;
/// How long the peer is given to close a connection that is over: closed on what it still sends, it might not read the rest.
const LINGER: Duration = Duration::from_secs(3);

/// Which side of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It took the connection; its streams would have even ids.
    Server,
    /// It made the connection; its streams have odd ids.
    Client,
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    /// Its number in the connection.
    pub id: u32,
    /// What its opener said of it.
    pub headers: Headers,
    /// What the peer sends.
    pub inbound: Inbound,
    /// What is sent to the peer.
    pub outbound: Outbound,
}

/// A stream cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The connection is gone.
    #[error("the connection is gone")]
    Gone,
    /// The peer does not take it.
    #[error("the peer refused the stream")]
    Refused,
}

/// What the reader and callers have sent beside pieces of streams.
#[derive(Debug)]
enum Control {
    Open { stream: u32, headers: Headers },
    Reply { stream: u32 },
    Reset { stream: u32, status: u32 },
    Ping { id: u32 },
    GoAway { status: u32 },
}

/// A connection. Dropped, it is cut off, and its streams with it.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    accepted: mpsc::Receiver<Stream>,
    written: oneshot::Receiver<()>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    role: Role,
    control: mpsc::Sender<Control>,
    queue: mpsc::Sender<Outgoing>,
    activity: Activity,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    streams: HashMap<u32, Entry>,
    last_of_peer: u32,
    last_of_own: u32,
    /// The reader has ended, and nothing of the peer comes any more.
    is_over: bool,
}

/// A stream that is not over in both directions.
#[derive(Debug)]
struct Entry {
    /// `None` once the peer has sent its last.
    feed: Option<Feed>,
    /// We have not sent our last.
    is_sending: bool,
    taken_back: watch::Sender<bool>,
    /// Of a stream of our own that waits for its reply.
    replied: Option<oneshot::Sender<()>>,
}

impl Shared {
    /// Nothing that holds it can panic half-way through a change.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_of_peer(&self, id: u32) -> bool {
        (id % 2 == 1) == (self.role == Role::Server)
    }

    /// Where the peer's bytes of a stream go, which may be nowhere any more; `None` if there never was such a stream.
    fn feed_of(&self, id: u32) -> Option<Option<Feed>> {
        let table = self.table();
        match table.streams.get(&id) {
            Some(entry) => Some(entry.feed.clone()),
            None if self.is_of_peer(id) && id > table.last_of_peer => None,
            // It is over on our side.
            None => Some(None),
        }
    }

    async fn tell(&self, control: Control) -> Result<(), End> {
        self.control.send(control).await.map_err(|_| End::Gone)
    }

    fn enter(&self, table: &mut Table, id: u32, headers: Headers, replied: Option<oneshot::Sender<()>>) -> Stream {
        let (feed, inbound) = Feed::new();
        let (taken_back, is_taken_back) = watch::channel(false);
        table.streams.insert(id, Entry { feed: Some(feed), is_sending: true, taken_back, replied });
        Stream { id, headers, inbound, outbound: Outbound::new(id, self.queue.clone(), is_taken_back) }
    }
}

impl Table {
    fn end_inbound(&mut self, id: u32) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        if let Some(feed) = entry.feed.take() {
            feed.end();
        }
        if !entry.is_sending {
            self.streams.remove(&id);
        }
    }

    fn end_outbound(&mut self, id: u32) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        entry.is_sending = false;
        if entry.feed.is_none() {
            self.streams.remove(&id);
        }
    }

    fn take_back(&mut self, id: u32) {
        if let Some(entry) = self.streams.remove(&id) {
            entry.taken_back.send_replace(true);
        }
    }
}

impl Connection {
    /// Begins to speak. `leftover` has come already.
    pub(crate) fn start(
        role: Role,
        source: impl Source,
        sink: impl AsyncWrite + Send + Unpin + 'static,
        leftover: Bytes,
        activity: Activity,
    ) -> Self {
        let (control, controls) = mpsc::channel(CONTROL_QUEUE);
        let (queue, queued) = mpsc::channel(QUEUE);
        let (accept, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let (all_written, written) = oneshot::channel();
        let shared = Arc::new(Shared { role, control, queue, activity, table: Mutex::default() });
        let mut tasks = JoinSet::new();
        let reader = Reader { shared: shared.clone(), source, accept, budget: Budget::default() };
        tasks.spawn(reader.run(leftover));
        let writer = Writer { shared: shared.clone(), sink, encoder: Encoder::default() };
        tasks.spawn(async move {
            // The reader hears of a connection that takes nothing by itself.
            let _ = writer.run(controls, queued).await;
            let _ = all_written.send(());
        });
        Self { shared, accepted, written, _tasks: tasks }
    }

    /// The client's side of a connection over anything that carries bytes.
    #[must_use]
    pub fn client(carrier: impl AsyncRead + AsyncWrite + Send + Sync + 'static) -> Self {
        let (source, sink) = tokio::io::split(Box::pin(carrier));
        Self::start(Role::Client, source, sink, Bytes::new(), Activity::default())
    }

    /// The server's side, likewise.
    #[must_use]
    pub fn server(carrier: impl AsyncRead + AsyncWrite + Send + Sync + 'static) -> Self {
        let (source, sink) = tokio::io::split(Box::pin(carrier));
        Self::start(Role::Server, source, sink, Bytes::new(), Activity::default())
    }

    /// The next stream that the peer opens, already answered; `None` once the peer is gone. Dropped half-way, nothing is lost.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.accepted.recv().await
    }

    /// Opens a stream, and waits until the peer has taken it.
    ///
    /// # Errors
    /// The peer does not take it, or is gone.
    pub async fn open(&self, headers: Headers) -> Result<Stream, OpenError> {
        let (reply, replied) = oneshot::channel();
        let room = self.shared.control.reserve().await.map_err(|_| OpenError::Gone)?;
        // Ids go out in their order: who has the next one sends it before anybody has another.
        let stream = {
            let mut table = self.shared.table();
            if table.is_over {
                return Err(OpenError::Gone);
            }
            let id = match (self.shared.role, table.last_of_own) {
                (Role::Client, 0) => 1,
                (_, last) => last + 2,
            };
            table.last_of_own = id;
            room.send(Control::Open { stream: id, headers: headers.clone() });
            self.shared.enter(&mut table, id, headers, Some(reply))
        };
        match replied.await {
            Ok(()) => Ok(stream),
            Err(_) if self.shared.table().is_over => Err(OpenError::Gone),
            Err(_) => Err(OpenError::Refused),
        }
    }

    /// Ends the connection once all that was sent is out; gives up when nothing moves for `patience`.
    pub async fn close(mut self, patience: Duration) {
        let (shared, activity) = (self.shared.clone(), self.shared.activity.clone());
        activity.touch();
        let closed = async {
            let goodbye = Outgoing { stream: 0, piece: Piece::Goodbye };
            let all_written = &mut self.written;
            let written = async {
                let _ = shared.queue.send(goodbye).await;
                let _ = all_written.await;
            };
            let accepted = &mut self.accepted;
            let gone = async { while accepted.recv().await.is_some() {} };
            tokio::pin!(gone);
            tokio::select! {
                () = written => {}
                () = &mut gone => {
                    // Gone, or told why it is cut off, which is on its way: what is queued before this end.
                    let _ = shared.queue.try_send(Outgoing { stream: 0, piece: Piece::Goodbye });
                    let _ = tokio::time::timeout(LINGER, &mut self.written).await;
                    return;
                }
            }
            let _ = tokio::time::timeout(LINGER, gone).await;
        };
        tokio::select! {
            () = closed => {}
            () = activity.idle_for(patience) => {}
        }
    }
}

struct Reader<S> {
    shared: Arc<Shared>,
    source: S,
    accept: mpsc::Sender<Stream>,
    budget: Budget,
}

/// The connection can go on no longer.
enum End {
    /// The peer is gone, or our own side is.
    Gone,
    /// What came is no SPDY.
    Broken(FrameError),
    /// What came is SPDY and against its rules.
    AgainstRules(&'static str),
}

impl<S: Source> Reader<S> {
    async fn run(mut self, leftover: Bytes) {
        let end = self.read(leftover).await;
        match &end {
            End::Gone => {}
            End::Broken(error) => tracing::debug!(%error, "a stream client broke the protocol"),
            End::AgainstRules(what) => tracing::debug!(what, "a stream client broke the protocol"),
        }
        if !matches!(end, End::Gone) {
            // Where there is no room to say so, the end of the connection says it.
            let _ = self.shared.control.try_send(Control::GoAway { status: GOAWAY_PROTOCOL_ERROR });
        }
        let mut table = self.shared.table();
        table.is_over = true;
        for (_, entry) in table.streams.drain() {
            entry.taken_back.send_replace(true);
        }
    }

    async fn read(&mut self, leftover: Bytes) -> End {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::from(leftover);
        loop {
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Some(frame)) => {
                        if let Err(end) = self.take(frame).await {
                            return end;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return End::Broken(error),
                }
            }
            buffer.reserve(PIECE_BYTES_MAX);
            match self.source.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return End::Gone,
                Ok(_) => {}
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), End> {
        match frame {
            Frame::SynStream { stream, headers, is_last } => self.take_stream(stream, headers, is_last).await,
            Frame::Data { stream, bytes, is_last } => self.take_data(stream, bytes, is_last).await,
            Frame::SynReply { stream, is_last, .. } => {
                let mut table = self.shared.table();
                if let Some(replied) = table.streams.get_mut(&stream).and_then(|entry| entry.replied.take()) {
                    // Who asked may have given up.
                    let _ = replied.send(());
                }
                if is_last {
                    table.end_inbound(stream);
                }
                Ok(())
            }
            Frame::RstStream { stream, .. } => {
                self.shared.table().take_back(stream);
                Ok(())
            }
            Frame::Ping(id) if self.shared.is_of_peer(id) => {
                // Who asks is there, and wants the session.
                self.shared.activity.touch();
                self.shared.tell(Control::Ping { id }).await
            }
            // After GOAWAY the peer still answers for the streams that there are.
            Frame::Ping(_) | Frame::GoAway { .. } | Frame::Other => Ok(()),
        }
    }

    async fn take_stream(&mut self, id: u32, headers: Headers, is_last: bool) -> Result<(), End> {
        let stream = {
            let mut table = self.shared.table();
            if !self.shared.is_of_peer(id) || id <= table.last_of_peer {
                return Err(End::AgainstRules("a stream of an id that is not its to give"));
            }
            table.last_of_peer = id;
            if table.streams.len() >= STREAMS_MAX {
                None
            } else {
                let stream = self.shared.enter(&mut table, id, headers, None);
                if is_last {
                    table.end_inbound(id);
                }
                Some(stream)
            }
        };
        let Some(stream) = stream else { return self.shared.tell(Control::Reset { stream: id, status: REFUSED_STREAM }).await };
        self.shared.activity.touch();
        // The opener waits for the reply, before anything else of this stream.
        self.shared.tell(Control::Reply { stream: id }).await?;
        self.accept.send(stream).await.map_err(|_| End::Gone)
    }

    async fn take_data(&mut self, id: u32, bytes: Bytes, is_last: bool) -> Result<(), End> {
        let Some(feed) = self.shared.feed_of(id) else {
            return self.shared.tell(Control::Reset { stream: id, status: INVALID_STREAM }).await;
        };
        if let Some(feed) = feed {
            if feed.is_wanted() {
                self.shared.activity.touch();
            }
            if !unless_gone(feed.push(&self.budget, bytes), || self.source.is_gone()).await {
                return Err(End::Gone);
            }
        }
        if is_last {
            self.shared.table().end_inbound(id);
        }
        Ok(())
    }
}

struct Writer<W> {
    shared: Arc<Shared>,
    sink: W,
    encoder: Encoder,
}

impl<W: AsyncWrite + Send + Unpin> Writer<W> {
    async fn run(mut self, mut controls: mpsc::Receiver<Control>, mut queued: mpsc::Receiver<Outgoing>) -> io::Result<()> {
        loop {
            tokio::select! {
                // A stream's beginning goes before what it has to say.
                biased;
                Some(control) = controls.recv() => {
                    if !self.write_control(control).await? {
                        return self.sink.shutdown().await;
                    }
                }
                Some(outgoing) = queued.recv() => {
                    if !self.write_piece(outgoing).await? {
                        return self.sink.shutdown().await;
                    }
                }
                else => return Ok(()),
            }
        }
    }

    /// Whether the connection goes on.
    async fn write_control(&mut self, control: Control) -> io::Result<bool> {
        let is_end = matches!(control, Control::GoAway { .. });
        let frame = match control {
            Control::Open { stream, headers } => self.encoder.syn_stream(stream, &headers),
            Control::Reply { stream } => self.encoder.syn_reply(stream),
            Control::Reset { stream, status } => Encoder::rst_stream(stream, status),
            Control::Ping { id } => Encoder::ping(id),
            Control::GoAway { status } => Encoder::go_away(self.shared.table().last_of_peer, status),
        };
        self.write(frame).await?;
        Ok(!is_end)
    }

    async fn write_piece(&mut self, outgoing: Outgoing) -> io::Result<bool> {
        let id = outgoing.stream;
        match outgoing.piece {
            Piece::Bytes(bytes) => {
                self.shared.activity.touch();
                self.write(Encoder::data_head(id, bytes.len(), false).chain(bytes)).await?;
                self.shared.activity.touch();
            }
            Piece::End => {
                self.write(Encoder::data_head(id, 0, true)).await?;
                self.shared.table().end_outbound(id);
            }
            Piece::Abort => {
                self.write(Encoder::rst_stream(id, CANCEL)).await?;
                self.shared.table().take_back(id);
            }
            Piece::Goodbye => return self.write_control(Control::GoAway { status: GOAWAY_OK }).await,
        }
        Ok(true)
    }

    async fn write(&mut self, mut frame: impl Buf) -> io::Result<()> {
        self.sink.write_all_buf(&mut frame).await?;
        self.sink.flush().await
    }
}
