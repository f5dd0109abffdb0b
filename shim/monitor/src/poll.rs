//! `epoll(7)`, so that a descriptor is watched for as long as it is held and no longer.
//!
//! A newborn process holds copies of the monitor's descriptors until it executes its program. Closing the monitor's own would then
//! not end the kernel's watch, and a watch whose owner is gone would wake the loop for ever; so [`Watched`] ends it by itself.

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// Names a watch in what [`Poll::wait`] gives; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(u64);

/// The set of watched descriptors.
pub struct Poll {
    epoll: Rc<OwnedFd>,
    next: u64,
    events: Vec<epoll::Event>,
}

/// Events taken from the kernel at once; more come with the next wait.
const EVENTS_MAX: usize = 32;

/// A descriptor that is watched, level-triggered, until it is dropped.
pub struct Watched {
    epoll: Rc<OwnedFd>,
    descriptor: OwnedFd,
    token: Token,
    is_suspended: bool,
}

impl Poll {
    /// An empty set.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self { epoll: Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?), next: 0, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Watches for input, and for the other side's going.
    pub fn watch(&mut self, descriptor: OwnedFd) -> Result<Watched, Errno> {
        let token = Token(self.next);
        self.next += 1;
        epoll::add(&*self.epoll, &descriptor, epoll::EventData::new_u64(token.0), epoll::EventFlags::IN)?;
        Ok(Watched { epoll: Rc::clone(&self.epoll), descriptor, token, is_suspended: false })
    }

    /// Blocks until something happens or the time is over, and fills `ready`.
    pub fn wait(&mut self, ready: &mut Vec<Token>, timeout: Option<Duration>) -> Result<(), Errno> {
        self.events.clear();
        let timeout = timeout.and_then(|duration| Timespec::try_from(duration).ok());
        rustix::io::retry_on_intr(|| epoll::wait(&*self.epoll, spare_capacity(&mut self.events), timeout.as_ref()))?;
        ready.clear();
        ready.extend(self.events.iter().map(|event| Token(event.data.u64())));
        Ok(())
    }
}

impl Watched {
    /// What [`Poll::wait`] calls it.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Watches for room to write as well, or no longer.
    pub fn watch_for_room(&self, wanted: bool) -> Result<(), Errno> {
        let flags = if wanted { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        epoll::modify(&*self.epoll, &self.descriptor, epoll::EventData::new_u64(self.token.0), flags)
    }

    /// Watches it no longer for now, not even for the other side's going, or again.
    pub fn suspend(&mut self, wanted: bool) -> Result<(), Errno> {
        match (self.is_suspended, wanted) {
            (false, true) => epoll::delete(&*self.epoll, &self.descriptor)?,
            (true, false) => {
                let data = epoll::EventData::new_u64(self.token.0);
                epoll::add(&*self.epoll, &self.descriptor, data, epoll::EventFlags::IN)?;
            }
            (true, true) | (false, false) => {}
        }
        self.is_suspended = wanted;
        Ok(())
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It is still open, and was added unless it is suspended: there is nothing that could fail.
        let _ = epoll::delete(&*self.epoll, &self.descriptor);
    }
}
