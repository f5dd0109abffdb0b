//! pause and the monitor: embedded in this binary, run from sealed memfds.
//!
//! No file on disk can be overwritten under them, and their version is always the daemon's own.

use podbox_plan::sealed_memfd;
use rustix::io::Errno;
use rustix::process::Rlimit;
use std::os::fd::OwnedFd;
use std::time::Duration;

const PAUSE: &[u8] = include_bytes!(env!("PODBOX_PAUSE"));
const MONITOR: &[u8] = include_bytes!(env!("PODBOX_MONITOR"));

/// How long the start of the daemon waits for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program cannot be put into memory.
#[derive(Debug, thiserror::Error)]
#[error("put the program {name} into memory")]
pub struct ProgramsError {
    /// Which.
    pub name: &'static str,
    /// Why.
    #[source]
    pub source: Errno,
}

/// The two programs as executable descriptors, and what they are started with.
#[derive(Debug)]
pub struct Programs {
    /// `podbox-pause`
    pub pause: OwnedFd,
    /// `podbox-monitor`
    pub monitor: OwnedFd,
    /// How many files a monitor, and whatever it starts, may have open: as many as the daemon was given.
    pub open_files: Rlimit,
}

impl Programs {
    /// Puts both into memory; they are to run with the limit `open_files`.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn load(open_files: Rlimit) -> Result<Self, ProgramsError> {
        Ok(Self { pause: sealed("pause", PAUSE)?, monitor: sealed("podbox-monitor", MONITOR)?, open_files })
    }
}

fn sealed(name: &'static str, program: &[u8]) -> Result<OwnedFd, ProgramsError> {
    sealed_memfd(name, program, PATIENCE).map(OwnedFd::from).map_err(|source| ProgramsError { name, source })
}
