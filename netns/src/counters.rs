//! What went through a pod's links, as the pod sees it.
//!
//! `/proc/PID/net/dev` shows the links of that process's network namespace (`proc_pid_net(5)`), so nobody enters it and no
//! descriptor keeps it alive: a file in `/proc/PID/net` would, which is why it is opened each time.

use crate::pod::{LOOPBACK, POD_LINK};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

/// A pod's links cannot be counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CountersError {
    /// The process is gone, or `/proc` is not there.
    #[error("find process {pid}, whose links are to be counted")]
    Process {
        /// The process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// The process is gone by now.
    #[error("count the links of process {pid}")]
    Read {
        /// The process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
}

/// One link's counters since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Its name.
    pub name: String,
    /// Received.
    pub received: Traffic,
    /// Sent.
    pub sent: Traffic,
}

/// One direction of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes, those of the link layer's headers included.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets dropped for want of room.
    pub dropped: u64,
}

impl LinkCounters {
    /// Whether the pod's default routes lead through it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.name == POD_LINK
    }
}

/// The way to the counters of the namespace that a process is in. Holds on to that very process: another that gets its number
/// later is not taken for it. Keeps neither alive.
#[derive(Debug)]
pub struct PodLinks {
    pid: i32,
    process: OwnedFd,
}

impl PodLinks {
    /// Of the namespace that process `pid` is in.
    ///
    /// # Errors
    /// It is gone.
    pub fn of_process(pid: i32) -> Result<Self, CountersError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let opened = File::options().read(true).custom_flags(flags.bits()).open(format!("/proc/{pid}"));
        let process = opened.map_err(|source| CountersError::Process { pid, source })?;
        Ok(Self { pid, process: process.into() })
    }

    /// All links but loopback, in the kernel's order.
    ///
    /// # Errors
    /// The process is gone.
    pub fn read(&self) -> Result<Vec<LinkCounters>, CountersError> {
        let failed = |source| CountersError::Read { pid: self.pid, source };
        let file = openat(&self.process, c"net/dev", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        let mut text = String::new();
        File::from(file.map_err(|errno| failed(errno.into()))?).read_to_string(&mut text).map_err(failed)?;
        Ok(text.lines().filter_map(parse_line).filter(|link| link.name != LOOPBACK).collect())
    }
}

/// `eth0: ` and sixteen numbers, of which each direction has eight: bytes, packets, errors, drops, and four of no interest.
fn parse_line(line: &str) -> Option<LinkCounters> {
    let (name, numbers) = line.rsplit_once(':')?;
    let numbers: Vec<u64> = numbers.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let traffic = |numbers: &[u64]| match numbers {
        [bytes, packets, errors, dropped, ..] => Some(Traffic { bytes: *bytes, packets: *packets, errors: *errors, dropped: *dropped }),
        _ => None,
    };
    Some(LinkCounters { name: name.trim().to_owned(), received: traffic(numbers.get(..8)?)?, sent: traffic(numbers.get(8..)?)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heading_is_no_link_and_both_directions_are_told_apart() {
        let text = "Inter-|   Receive                                                |  Transmit\n\
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
                lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n\
              eth0:    1234      10    1    2    0     0          0         3     5678      20    4    5    0     0       0          0\n";
        let links: Vec<_> = text.lines().filter_map(parse_line).collect();
        assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo", "eth0"]);
        assert_eq!(links[1].received, Traffic { bytes: 1234, packets: 10, errors: 1, dropped: 2 });
        assert_eq!(links[1].sent, Traffic { bytes: 5678, packets: 20, errors: 4, dropped: 5 });
        assert!(links[1].is_default() && !links[0].is_default());
    }

    #[test]
    fn this_process_can_be_asked_and_one_that_is_gone_cannot() {
        let own = i32::try_from(std::process::id()).expect("a process id");
        let links = PodLinks::of_process(own).expect("there").read().expect("read");
        assert!(links.iter().all(|link| link.name != LOOPBACK));
        let mut child = std::process::Command::new("/bin/true").spawn().expect("spawn");
        let links = PodLinks::of_process(i32::try_from(child.id()).expect("a process id")).expect("not reaped yet");
        child.wait().expect("reap");
        assert!(matches!(links.read(), Err(CountersError::Read { .. })));
        assert!(matches!(PodLinks::of_process(i32::MAX), Err(CountersError::Process { .. })));
    }
}
