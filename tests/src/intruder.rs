//! Somebody else on a monitor's socket.

use crate::{Daemon, Pod, wait};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, socket};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

/// A connection to a pod's monitor. The monitor speaks to one: to whoever connects last. So the daemon's connection is cut, and the monitor
/// is well.
#[derive(Debug)]
pub struct Intruder(OwnedFd);

impl Intruder {
    /// Connects.
    ///
    /// # Errors
    /// There is no monitor.
    pub fn connect(daemon: &Daemon, pod: &Pod) -> Result<Self> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).context("make a socket")?;
        let folder = File::open(daemon.state_dir().join("pods").join(&pod.id)).context("open the pod's folder")?;
        // Socket addresses are short.
        let address = UnixAddr::new(&*format!("/proc/self/fd/{}/monitor.sock", folder.as_raw_fd())).context("name the socket")?;
        connect(socket.as_raw_fd(), &address).context("connect to the monitor")?;
        Ok(Self(socket))
    }

    /// Waits until the daemon has taken its place again.
    ///
    /// # Errors
    /// It does not.
    pub async fn is_replaced(&self) -> Result<()> {
        let closed = || {
            let mut byte = [0];
            matches!(recv(self.0.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT), Ok(0) | Err(Errno::ECONNRESET))
        };
        wait::until_true("the daemon connects again", closed).await
    }
}
