//! Requests to end, looked at between rounds: what a round has made is gone then, and what the run has made goes as ever.

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Signals that end nothing by themselves any more.
pub(super) struct Signals(SignalFd);

impl Signals {
    /// From here on they are held back, and in every child that does not do otherwise.
    pub(super) fn hold() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().context("hold signals back")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&signals, flags).context("hear of signals")?))
    }

    /// # Errors
    /// One has come.
    pub(super) fn check(&self) -> Result<()> {
        match self.0.read_signal().context("hear of signals")? {
            Some(signal) => bail!("ended by {}", Signal::try_from(signal.ssi_signo as i32).map_or("a signal", Signal::as_str)),
            None => Ok(()),
        }
    }

    /// Waits as long.
    ///
    /// # Errors
    /// One has come.
    pub(super) fn check_for(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout).context("wait")?;
        }
    }
}
