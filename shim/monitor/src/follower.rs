//! A client that is attached to a stream: a pipe that gets what the container writes, beside the log.
//!
//! A pipe without room holds the container's stream up, as if the container's own were full; what was read for it already is kept. So nothing
//! is lost to a client that is slow. One that takes nothing for [`PATIENCE`] is let go of: neither the container nor its log wait for ever for
//! somebody who looks on.

use crate::poll::{Poll, Token, Watched};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// One attached client.
pub struct Follower {
    pipe: Watched,
    /// What it has not taken, from `taken` on.
    pending: Vec<u8>,
    taken: usize,
    /// When it took something last.
    moved: Instant,
    waits_for_room: bool,
}

/// What has become of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Following {
    /// It has taken everything.
    Idle,
    /// It has yet to take something.
    Behind,
    /// It is gone.
    Gone,
}

impl Follower {
    /// Follows through the writing end of a pipe, which must not block.
    pub fn new(poll: &mut Poll, pipe: OwnedFd) -> Result<Self, Errno> {
        Ok(Self { pipe: poll.watch(pipe)?, pending: Vec::new(), taken: 0, moved: Instant::now(), waits_for_room: false })
    }

    /// Whether a watch is its own.
    pub fn is_of(&self, token: Token) -> bool {
        self.pipe.token() == token
    }

    /// Whether it has yet to take something.
    pub fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    /// When it is let go of if it takes nothing until then.
    pub fn due(&self) -> Option<Instant> {
        self.is_behind().then(|| self.moved + PATIENCE)
    }

    /// Gives it bytes; what it has no room for is kept.
    pub fn give(&mut self, bytes: &[u8]) -> Following {
        if !self.is_behind() {
            self.moved = Instant::now();
        }
        self.pending.extend_from_slice(bytes);
        self.flush()
    }

    /// Its watch was ready: there is room, or nobody reads any more.
    pub fn ready(&mut self) -> Following {
        if self.is_behind() { self.flush() } else { Following::Gone }
    }

    fn flush(&mut self) -> Following {
        while self.taken < self.pending.len() {
            match rustix::io::write(&self.pipe, &self.pending[self.taken..]) {
                Ok(count) => {
                    self.taken += count;
                    self.moved = Instant::now();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.watch_for_room(true, Following::Behind),
                Err(_) => return Following::Gone,
            }
        }
        self.pending = Vec::new();
        self.taken = 0;
        self.watch_for_room(false, Following::Idle)
    }

    fn watch_for_room(&mut self, wanted: bool, then: Following) -> Following {
        if wanted != self.waits_for_room {
            if self.pipe.watch_for_room(wanted).is_err() {
                return Following::Gone;
            }
            self.waits_for_room = wanted;
        }
        then
    }
}
