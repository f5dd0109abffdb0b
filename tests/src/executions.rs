//! Which programs are executed on this machine, and by whose doing: the kernel's process events (`NETLINK_CONNECTOR`,
//! `linux/cn_proc.h`), which miss nothing however short a process lives.

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// `CN_IDX_PROC` and `CN_VAL_PROC`: the connector's channel, and its multicast group.
const PROCESS_EVENTS: u32 = 1;
/// `PROC_CN_MCAST_LISTEN`
const LISTEN: u32 = 1;
/// `NLMSG_DONE`
const DONE: u16 = 3;
/// `struct nlmsghdr` and `struct cn_msg`, before the event.
const HEADERS_BYTES: usize = 16 + 20;
/// Events wait here while the reader does not run: a machine that builds and tests has many.
const BUFFER_BYTES: usize = 16 << 20;
/// How often the reader looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// An event that matters, with the kernel's time in ns: those of several processors come in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Fork { at: u64, parent: u32, child: u32 },
    Exec { at: u64, process: u32 },
    Exit { at: u64, process: u32 },
}

impl Event {
    fn at(&self) -> u64 {
        match self {
            Self::Fork { at, .. } | Self::Exec { at, .. } | Self::Exit { at, .. } => *at,
        }
    }
}

/// A watch on all processes of the machine, from its making on.
#[derive(Debug)]
pub struct Executions {
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<Result<Vec<Event>>>>,
}

impl Executions {
    /// Begins to watch. Needs root in the machine's first network and PID namespaces.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn watch() -> Result<Self> {
        let socket = subscribed().context("subscribe to the kernel's process events")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || read_events(&socket, &stopped));
        Ok(Self { stop, reader: Some(reader) })
    }

    /// Ends the watch: the processes that executed a program, once for each time, of those that descend from `root` by forks that
    /// were seen, and `root` itself.
    ///
    /// # Errors
    /// Events were lost.
    pub fn of_descendants(mut self, root: i32) -> Result<Vec<i32>> {
        self.stop.store(true, Ordering::SeqCst);
        let reader = self.reader.take().context("the watch has ended")?;
        let mut events = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        events.sort_by_key(Event::at);
        let mut family = BTreeSet::from([root.unsigned_abs()]);
        let mut executed = Vec::new();
        for event in events {
            match event {
                Event::Fork { parent, child, .. } if family.contains(&parent) => drop(family.insert(child)),
                Event::Exec { process, .. } if family.contains(&process) => executed.push(i32::try_from(process)?),
                Event::Exit { process, .. } => drop(family.remove(&process)),
                Event::Fork { .. } | Event::Exec { .. } => {}
            }
        }
        Ok(executed)
    }
}

impl Drop for Executions {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            // What it read is of no interest any more.
            let _ = reader.join();
        }
    }
}

fn subscribed() -> Result<OwnedFd> {
    let kind = (AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::CONNECTOR));
    let socket = rustix::net::socket_with(kind.0, kind.1, kind.2, kind.3)?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LOOK))?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, PROCESS_EVENTS))?;
    let mut message = Vec::new();
    message.extend(u32::try_from(HEADERS_BYTES + 4)?.to_ne_bytes());
    message.extend(DONE.to_ne_bytes());
    message.extend([0; 2 + 4 + 4]);
    for word in [PROCESS_EVENTS, PROCESS_EVENTS, 0, 0] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(4_u16.to_ne_bytes());
    message.extend([0; 2]);
    message.extend(LISTEN.to_ne_bytes());
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    Ok(socket)
}

fn read_events(socket: &OwnedFd, stop: &AtomicBool) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        // What happened before the stop is in the socket already: it is read to its end.
        let last = stop.load(Ordering::SeqCst);
        let flags = if last { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        match rustix::net::recv(socket, &mut buffer, flags) {
            Ok((count, _)) => events.extend(parse(&buffer[..count])),
            Err(Errno::AGAIN) if last => return Ok(events),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno).context("read the kernel's process events"),
        }
    }
}

/// `struct proc_event`: what, processor, time, and what depends on what.
fn parse(message: &[u8]) -> Option<Event> {
    let event = message.get(HEADERS_BYTES..)?;
    let word = |index: usize| Some(u32::from_ne_bytes(event.get(index * 4..index * 4 + 4)?.try_into().ok()?));
    let at = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    match word(0)? {
        // The parent's process, and the child if it is one: a thread is in the process already.
        0x1 if word(6)? == word(7)? => Some(Event::Fork { at, parent: word(5)?, child: word(6)? }),
        0x2 => Some(Event::Exec { at, process: word(5)? }),
        0x8000_0000 if word(4)? == word(5)? => Some(Event::Exit { at, process: word(4)? }),
        _ => None,
    }
}
