//! The monitor of an older podbox, as far as its words go.

use crate::{Daemon, Pod};
use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
    SocketAddrUnix, SocketFlags, SocketType,
};
use serde_json::{Value, json};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// Where the pod's own monitor goes on listening.
const BEHIND: &str = "monitor.behind";
const SOCKET: &str = "monitor.sock";
const PACKET_BYTES_MAX: usize = 64 * 1024;
const DESCRIPTORS_MAX: usize = 16;

/// Stands between a daemon and a pod's monitor, passes everything on, and lets them agree on nothing newer than it speaks. What it does not
/// know it cannot read, as the real one: it lets go of the daemon then.
#[derive(Debug)]
pub struct OlderMonitor {
    listener: Arc<OwnedFd>,
    seen: Arc<Seen>,
}

/// What went by.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicU32,
    launches: AtomicU32,
}

impl OlderMonitor {
    /// Takes the place of a pod's monitor, which the next daemon to start then finds there; none may run now. It speaks no newer version
    /// than this one: with 0 there is none in common.
    ///
    /// # Errors
    /// There is no monitor.
    pub fn speaking(version: u32, daemon: &Daemon, pod: &Pod) -> Result<Self> {
        let path = daemon.state_dir().join("pods").join(&pod.id);
        let folder =
            rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context("open the folder")?;
        rustix::fs::renameat(&folder, SOCKET, &folder, BEHIND).context("move the monitor's socket")?;
        let listener = Arc::new(socket()?);
        rustix::net::bind(&listener, &address(&folder, SOCKET)?).context("bind")?;
        rustix::net::listen(&listener, 4).context("listen")?;
        let seen = Arc::new(Seen::default());
        thread::spawn({
            let (listener, seen) = (listener.clone(), seen.clone());
            move || {
                while let Ok(daemon) = rustix::net::accept_with(&*listener, SocketFlags::CLOEXEC) {
                    seen.connections.fetch_add(1, Ordering::SeqCst);
                    let Ok(monitor) = connect(&folder) else { continue };
                    relay(version, daemon, monitor, &seen);
                }
            }
        });
        Ok(Self { listener, seen })
    }

    /// How many times a daemon has connected.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many processes it was asked to start: it knows none of the plans of today.
    #[must_use]
    pub fn launches(&self) -> u32 {
        self.seen.launches.load(Ordering::SeqCst)
    }
}

impl Drop for OlderMonitor {
    fn drop(&mut self) {
        // Nobody is accepted any more.
        let _ = rustix::net::shutdown(&*self.listener, Shutdown::Both);
    }
}

fn socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).context("make a socket")
}

/// Socket addresses are short.
fn address(folder: &OwnedFd, name: &str) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())).context("name the socket")
}

fn connect(folder: &OwnedFd) -> Result<OwnedFd> {
    let monitor = socket()?;
    rustix::net::connect(&monitor, &address(folder, BEHIND)?).context("connect to the monitor")?;
    Ok(monitor)
}

/// Until either goes.
fn relay(version: u32, daemon: OwnedFd, monitor: OwnedFd, seen: &Arc<Seen>) {
    let (daemon, monitor, seen) = (Arc::new(daemon), Arc::new(monitor), seen.clone());
    thread::spawn({
        let (daemon, monitor) = (daemon.clone(), monitor.clone());
        move || pass_on(&daemon, &monitor, |body| as_heard(version, body, &seen))
    });
    thread::spawn(move || pass_on(&monitor, &daemon, Some));
}

/// A request as one who speaks this version takes it; `None` where it cannot.
fn as_heard(version: u32, body: Vec<u8>, seen: &Seen) -> Option<Vec<u8>> {
    // A plan that needs a file of its own is one, too.
    let mut request: Value = serde_json::from_slice(&body).unwrap_or(json!({ "body": { "Launch": {} } }));
    if request.pointer("/body/Launch").is_some() {
        seen.launches.fetch_add(1, Ordering::SeqCst);
        return None;
    }
    for bound in ["/body/Hello/version_min", "/body/Hello/version_max"] {
        if let Some(number) = request.pointer_mut(bound) {
            *number = json!(number.as_u64().unwrap_or_default().min(version.into()));
        }
    }
    serde_json::to_vec(&request).ok()
}

fn pass_on(from: &OwnedFd, to: &OwnedFd, heard: impl Fn(Vec<u8>) -> Option<Vec<u8>>) {
    while let Some((body, descriptors)) = receive(from) {
        let Some(body) = heard(body) else { break };
        if send(to, &body, &descriptors).is_none() {
            break;
        }
    }
    for socket in [from, to] {
        // It may be closed already.
        let _ = rustix::net::shutdown(socket, Shutdown::Both);
    }
}

fn receive(from: &OwnedFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut body = vec![0; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(from, &mut [IoSliceMut::new(&mut body)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    body.truncate(got.bytes);
    (got.bytes > 0).then_some((body, descriptors))
}

fn send(to: &OwnedFd, body: &[u8], descriptors: &[OwnedFd]) -> Option<()> {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return None;
    }
    rustix::net::sendmsg(to, &[IoSlice::new(body)], &mut ancillary, SendFlags::NOSIGNAL).ok().map(drop)
}
