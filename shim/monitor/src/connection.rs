//! The daemon's end of the conversation: one connection, never waited for.
//!
//! Messages that find no room in the socket wait in a bounded queue. A daemon that lets it overflow is cut off: when it connects
//! again it reads the disk, which has everything that the queue had.

use crate::poll::{Poll, Token, Watched};
use podbox_plan::wire::{self, MonitorMessage, Received, Request, WireError};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

/// Messages that wait for room; each may hold one descriptor.
const QUEUE_MAX: usize = 256;

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket or what came over it.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The daemon does not read.
    #[error("{QUEUE_MAX} messages wait and are not read")]
    QueueFull,
    /// The watch could not be changed.
    #[error("watch the connection")]
    Watch(#[source] Errno),
}

/// One connection of a daemon.
pub struct Connection {
    socket: Watched,
    /// Sets this connection apart from earlier ones.
    pub number: u64,
    /// What `Hello` settled; nothing but a `Hello` is taken before.
    pub version: Option<u32>,
    queue: VecDeque<Waiting>,
    waits_for_room: bool,
}

struct Waiting {
    message: MonitorMessage,
    descriptor: Option<OwnedFd>,
}

impl Connection {
    /// Takes one connection off the listening socket; `None` if there is none, or its peer is not root.
    pub fn accept(listener: impl AsFd, poll: &mut Poll, number: u64) -> Option<Self> {
        let socket = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&socket).ok()?;
        if !peer.uid.is_root() {
            return None;
        }
        Some(Self { socket: poll.watch(socket).ok()?, number, version: None, queue: VecDeque::new(), waits_for_room: false })
    }

    /// Names the socket's watch.
    pub fn token(&self) -> Token {
        self.socket.token()
    }

    /// The next request, if one is there.
    pub fn receive(&self) -> Result<Option<Received<Request>>, ConnectionError> {
        match wire::receive(&self.socket) {
            Ok(received) => Ok(Some(received)),
            Err(WireError::NotReady) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends now or, in order, once there is room.
    pub fn send(&mut self, message: MonitorMessage, descriptor: Option<OwnedFd>) -> Result<(), ConnectionError> {
        if self.queue.len() >= QUEUE_MAX {
            return Err(ConnectionError::QueueFull);
        }
        self.queue.push_back(Waiting { message, descriptor });
        self.flush()
    }

    /// Sends what waits, as far as there is room.
    pub fn flush(&mut self) -> Result<(), ConnectionError> {
        while let Some(waiting) = self.queue.front() {
            let descriptors = waiting.descriptor.as_ref().map(OwnedFd::as_fd);
            match wire::send(&self.socket, &waiting.message, descriptors.as_slice()) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(WireError::NotReady) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let wait = !self.queue.is_empty();
        if wait != self.waits_for_room {
            self.socket.watch_for_room(wait).map_err(ConnectionError::Watch)?;
            self.waits_for_room = wait;
        }
        Ok(())
    }
}
