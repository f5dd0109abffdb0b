//! Connecting to what listens in a pod.

use crate::error::{DialError, PodNetnsError};
use crate::pod::on_own_thread;
use nix::sched::{CloneFlags, setns};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// A loopback answers at once; what takes this long has a full backlog.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects to a TCP port of the namespace's own loopback: 127.0.0.1, or ::1 where nobody listens there.
///
/// A socket stays in the namespace it was made in: only its making is done there.
///
/// # Errors
/// Nobody listens on either, or the namespace cannot be entered.
pub async fn dial_loopback(netns: OwnedFd, port: u16) -> Result<TcpStream, DialError> {
    let sockets = on_own_thread(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| PodNetnsError::Enter { source: errno.into() })?;
        Ok::<_, PodNetnsError>((TcpSocket::new_v4(), TcpSocket::new_v6()))
    });
    let (v4, v6) = sockets.await.flatten()?;
    match connect(v4, Ipv4Addr::LOCALHOST.into(), port).await {
        Ok(connection) => Ok(connection),
        // What IPv4 said is what is told: a kernel without IPv6 says nothing of the pod.
        Err(source) => connect(v6, Ipv6Addr::LOCALHOST.into(), port).await.map_err(|_| DialError::Connect { port, source }),
    }
}

async fn connect(socket: io::Result<TcpSocket>, address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let connecting = socket?.connect(SocketAddr::new(address, port));
    let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    connection.set_nodelay(true)?;
    Ok(connection)
}
