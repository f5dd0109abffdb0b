//! What connections are read from.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

/// How often a connection is looked at that cannot be read since nobody takes what came: what is not read cannot tell that it has ended.
const GONE_LOOK: Duration = Duration::from_secs(1);

/// Where bytes of a peer come from.
pub trait Source: AsyncRead + Send + Sync + Unpin + 'static {
    /// Whether the peer is seen to be gone though not all was read that it sent.
    fn is_gone(&self) -> bool {
        false
    }
}

impl Source for OwnedReadHalf {
    fn is_gone(&self) -> bool {
        is_hung_up(self.as_ref())
    }
}

/// The other side of a connection that somebody else reads.
#[derive(Debug)]
pub(crate) struct Peer(OwnedFd);

impl Peer {
    /// Of this connection.
    pub(crate) fn of(connection: &TcpStream) -> io::Result<Self> {
        connection.as_fd().try_clone_to_owned().map(Self)
    }

    /// Whether it is seen to be gone.
    pub(crate) fn is_gone(&self) -> bool {
        is_hung_up(&self.0)
    }
}

fn is_hung_up(connection: impl AsFd) -> bool {
    let mut watched = [PollFd::new(&connection, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut watched, Some(&now)) {
        Ok(_) => watched[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
        Err(_) => false,
    }
}

/// After a silence, the peer's kernel is asked whether the connection is still there: one that was closed while we read nothing of it has no
/// other way to say so.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(15);
const KEEPALIVES_MAX: u32 = 4;

/// Makes a connection fit for sessions. What cannot be set makes it slower to talk or to notice, and no worse.
pub(crate) fn prepare(connection: &TcpStream) {
    // Small answers to keystrokes must not wait for each other.
    let _ = connection.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(connection, true);
    let _ = sockopt::set_tcp_keepidle(connection, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(connection, KEEPALIVE_PAUSE);
    let _ = sockopt::set_tcp_keepcnt(connection, KEEPALIVES_MAX);
}

/// Waits for what may wait for ever, unless the peer goes meanwhile; whether it is still there.
pub(crate) async fn unless_gone(work: impl Future<Output = ()>, is_gone: impl Fn() -> bool) -> bool {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            () = &mut work => return true,
            () = tokio::time::sleep(GONE_LOOK) => {
                if is_gone() {
                    return false;
                }
            }
        }
    }
}

impl<C: AsyncRead + Send + Sync + 'static> Source for tokio::io::ReadHalf<C> {}
