//! One stream of a session, in each direction, whatever carries it: a SPDY stream or a channel of a WebSocket.
//!
//! Neither direction grows without a bound. What comes from the peer and is not taken is counted against the session's [`Budget`], and when
//! that is used up nothing more is read of its connection; what goes to the peer waits in a short queue, and when that is full so does
//! whoever writes. There is no other way: neither protocol says, as its peers speak it, how much of one stream the other side would take.

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

/// Pieces that wait to be sent, of all streams of a session together.
pub(crate) const QUEUE: usize = 4;
/// The longest piece that is sent or taken at once.
pub(crate) const PIECE_BYTES_MAX: usize = 128 * 1024;
/// How long a client that takes nothing is waited for when its session is over.
pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(60);
/// What a session keeps of the peer's bytes that nobody has taken yet.
const BUDGET_BYTES: usize = 512 * 1024;
/// What a piece that waits takes beside its bytes: a client that types sends one of them with each key.
const PIECE_COST_BYTES: usize = 256;
/// Shorter pieces are kept by themselves: as a part of what was read at once they would keep all the room that was made for that.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// What comes next of a stream.
#[derive(Debug)]
pub enum Received {
    /// Some bytes; the room they take is given back when they are dropped.
    Bytes(Held),
    /// The peer has said that nothing more comes.
    End,
    /// The peer took the stream back, or is gone.
    Lost,
}

/// Bytes of the peer's, and the room that they take.
#[derive(Debug)]
pub struct Held {
    /// What came.
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// What the peer sends on one stream.
#[derive(Debug)]
pub struct Inbound {
    pieces: mpsc::UnboundedReceiver<Option<Held>>,
    is_over: bool,
}

impl Inbound {
    /// What comes next; after [`Received::End`] or [`Received::Lost`] always the same. Dropped half-way, nothing is lost.
    pub async fn next(&mut self) -> Received {
        if self.is_over {
            return Received::End;
        }
        match self.pieces.recv().await {
            Some(Some(held)) => Received::Bytes(held),
            Some(None) => {
                self.is_over = true;
                Received::End
            }
            None => Received::Lost,
        }
    }
}

/// Where a connection's reader puts what comes on one stream. Dropped before its end was told, the stream is lost.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    pieces: mpsc::UnboundedSender<Option<Held>>,
}

impl Feed {
    pub(crate) fn new() -> (Self, Inbound) {
        let (pieces, taken) = mpsc::unbounded_channel();
        (Self { pieces }, Inbound { pieces: taken, is_over: false })
    }

    /// Hands bytes over, once the session has room for them. Those that nobody takes any more are dropped.
    pub(crate) async fn push(&self, budget: &Budget, bytes: Bytes) {
        if bytes.is_empty() || self.pieces.is_closed() {
            return;
        }
        let count = u32::try_from((bytes.len() + PIECE_COST_BYTES).min(BUDGET_BYTES)).unwrap_or(u32::MAX);
        let room = tokio::select! {
            room = budget.room.clone().acquire_many_owned(count) => room.ok(),
            // Whoever took them is gone, and with him the reason to wait.
            () = self.pieces.closed() => return,
        };
        let bytes = if bytes.len() < COPIED_BYTES_MAX { Bytes::copy_from_slice(&bytes) } else { bytes };
        // Whoever took them may have gone just now.
        let _ = self.pieces.send(Some(Held { bytes, _room: room }));
    }

    /// Whether somebody takes what comes.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.pieces.is_closed()
    }

    /// Nothing more comes.
    pub(crate) fn end(self) {
        let _ = self.pieces.send(None);
    }
}

/// How much a session keeps of what its peer sends.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    room: Arc<Semaphore>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(BUDGET_BYTES)) }
    }
}

/// A piece of a stream on its way to the peer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub stream: u32,
    pub piece: Piece,
}

/// What is sent of a stream.
#[derive(Debug)]
pub(crate) enum Piece {
    Bytes(Bytes),
    /// Nothing more comes of it.
    End,
    /// It is given up, with what it had.
    Abort,
    /// The whole session is over; nothing is sent after it.
    Goodbye,
}

/// The peer does not take it: the connection is gone, or the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer is gone")]
pub struct Gone;

/// What goes to the peer on one stream.
#[derive(Debug)]
pub struct Outbound {
    stream: u32,
    queue: mpsc::Sender<Outgoing>,
    /// Whether the peer has taken the stream back.
    taken_back: watch::Receiver<bool>,
}

impl Outbound {
    pub(crate) fn new(stream: u32, queue: mpsc::Sender<Outgoing>, taken_back: watch::Receiver<bool>) -> Self {
        Self { stream, queue, taken_back }
    }

    /// Sends bytes, in pieces, as fast as the peer takes them.
    ///
    /// # Errors
    /// Nothing more can be sent.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX));
            self.put(Piece::Bytes(piece)).await?;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// The peer is gone, or has taken the stream back.
    pub async fn end(self) -> Result<(), Gone> {
        self.put(Piece::End).await
    }

    /// Gives the stream up in both directions.
    ///
    /// # Errors
    /// The peer is gone, or has taken the stream back.
    pub async fn abort(self) -> Result<(), Gone> {
        self.put(Piece::Abort).await
    }

    /// Sends a piece of no bytes, by which some peers see that the session stands.
    pub(crate) async fn greet(&self) -> Result<(), Gone> {
        self.put(Piece::Bytes(Bytes::new())).await
    }

    /// Ends when the peer has taken the stream back, or is gone. It is heard of with the next that is read of the connection: not while that
    /// waits for somebody to take what came before.
    pub fn taken_back(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut taken_back = self.taken_back.clone();
        async move {
            // A sender that is gone is a connection that is.
            let _ = taken_back.wait_for(|taken_back| *taken_back).await;
        }
    }

    async fn put(&self, piece: Piece) -> Result<(), Gone> {
        if *self.taken_back.borrow() {
            return Err(Gone);
        }
        let outgoing = Outgoing { stream: self.stream, piece };
        tokio::select! {
            biased;
            () = self.taken_back() => Err(Gone),
            sent = self.queue.send(outgoing) => sent.map_err(|_| Gone),
        }
    }
}

/// When a session was last of use: bytes of a stream went either way.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    last: Arc<watch::Sender<Instant>>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { last: Arc::new(watch::Sender::new(Instant::now())) }
    }
}

impl Activity {
    pub(crate) fn touch(&self) {
        self.last.send_replace(Instant::now());
    }

    /// Ends once nothing has happened for so long.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        loop {
            let due = *self.last.borrow() + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn short_pieces_keep_nothing_of_what_was_read_with_them() {
        let (feed, mut inbound) = Feed::new();
        let read_at_once = Bytes::from(vec![7; PIECE_BYTES_MAX]);
        feed.push(&Budget::default(), read_at_once.slice(5..6)).await;
        assert!(read_at_once.is_unique());
        assert!(matches!(inbound.next().await, Received::Bytes(held) if held.bytes == [7][..]));
    }

    #[tokio::test]
    async fn pieces_of_one_byte_use_the_room_of_a_session_up() {
        let (feed, mut inbound) = Feed::new();
        let budget = Budget::default();
        let mut kept = 0;
        let flood = tokio::task::unconstrained(async {
            loop {
                feed.push(&budget, Bytes::from_static(b"x")).await;
                kept += 1;
            }
        });
        // Looked at once: it goes on for as long as there is room.
        tokio::select! {
            biased;
            () = flood => {}
            () = std::future::ready(()) => {}
        }
        assert!(kept > 1000 && kept < 4000, "{kept} pieces are kept");
        assert!(matches!(inbound.next().await, Received::Bytes(_)));
        feed.push(&budget, Bytes::from_static(b"x")).await;
    }
}
