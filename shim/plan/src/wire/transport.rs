//! Packets: bounds, descriptors, and the memfd that a large message travels in.

use super::{DESCRIPTORS_MAX, MESSAGE_BYTES_MAX, PACKET_BYTES_MAX};
use crate::sealed_memfd;
use rustix::fs::SealFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The body of a packet whose message is in the memfd that comes with it. It is no JSON value, so it cannot be mistaken.
const IN_MEMFD: &[u8] = b"memfd";

/// Whoever sends serves others too: a message that cannot be sealed by then is refused, and sent again by who needs it.
const SEAL_PATIENCE: Duration = Duration::from_secs(1);

/// A message could not be sent or taken.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer is gone.
    #[error("the peer closed the connection")]
    Closed,
    /// Nothing to read or no room to write, on a non-blocking socket.
    #[error("the socket is not ready")]
    NotReady,
    /// Larger than [`MESSAGE_BYTES_MAX`].
    #[error("a message of {bytes} bytes is over the limit of {MESSAGE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// More than [`DESCRIPTORS_MAX`].
    #[error("more than {DESCRIPTORS_MAX} descriptors in one message")]
    TooManyDescriptors,
    /// The packet or its descriptors did not fit the receiver's buffer.
    #[error("a packet was cut short")]
    Truncated,
    /// The packet says its message is in a memfd, but none came, or it is not sealed.
    #[error("a large message came without its sealed memfd")]
    NoMemfd,
    /// Not the JSON that was expected.
    #[error("a malformed message")]
    Malformed(#[source] serde_json::Error),
    /// A system call failed.
    #[error("the socket failed")]
    Socket(#[source] Errno),
}

impl From<Errno> for WireError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            Errno::AGAIN => Self::NotReady,
            other => Self::Socket(other),
        }
    }
}

/// A message and what came with it.
#[derive(Debug)]
pub struct Received<T> {
    /// The message.
    pub message: T,
    /// Its descriptors, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Sends one message with its descriptors.
///
/// # Errors
/// [`WireError::NotReady`] on a non-blocking socket without room: nothing was sent.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), WireError> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(WireError::TooManyDescriptors);
    }
    let body = serde_json::to_vec(message).map_err(WireError::Malformed)?;
    if body.len() <= PACKET_BYTES_MAX {
        return send_packet(socket.as_fd(), &body, descriptors);
    }
    if body.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge { bytes: body.len() as u64 });
    }
    let memfd = sealed_memfd("podbox-message", &body, SEAL_PATIENCE)?;
    let mut with_body = descriptors.to_vec();
    with_body.push(memfd.as_fd());
    send_packet(socket.as_fd(), IN_MEMFD, &with_body)
}

fn send_packet(socket: BorrowedFd<'_>, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), WireError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(WireError::TooManyDescriptors);
    }
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &[IoSlice::new(body)], &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Takes one message. The caller allows for `NotReady` where the socket does not block.
///
/// # Errors
/// Anything but [`WireError::NotReady`] means that the connection is of no use any more.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<Received<T>, WireError> {
    let mut buffer = vec![0_u8; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    // A packet without a byte is the end of the stream; ours all have a body.
    if got.bytes == 0 {
        return Err(WireError::Closed);
    }
    if got.flags.contains(ReturnFlags::TRUNC) || got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(WireError::Truncated);
    }
    buffer.truncate(got.bytes);
    if buffer == IN_MEMFD {
        buffer = read_memfd(descriptors.pop().ok_or(WireError::NoMemfd)?)?;
    }
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(WireError::TooManyDescriptors);
    }
    let message = serde_json::from_slice(&buffer).map_err(WireError::Malformed)?;
    Ok(Received { message, descriptors })
}

fn read_memfd(memfd: OwnedFd) -> Result<Vec<u8>, WireError> {
    // Sealed against change, the size that is checked is the size that is read.
    let seals = rustix::fs::fcntl_get_seals(&memfd).map_err(|_| WireError::NoMemfd)?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE) {
        return Err(WireError::NoMemfd);
    }
    let file = File::from(memfd);
    let failed = |error: std::io::Error| WireError::Socket(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > MESSAGE_BYTES_MAX as u64 {
        return Err(WireError::TooLarge { bytes });
    }
    let mut body = vec![0_u8; usize::try_from(bytes).map_err(|_| WireError::TooLarge { bytes })?];
    file.read_exact_at(&mut body, 0).map_err(failed)?;
    Ok(body)
}
