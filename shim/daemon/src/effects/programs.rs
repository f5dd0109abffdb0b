//! pause and the monitor: embedded in this binary, run from sealed memfds.
//!
//! No file on disk can be overwritten under them, and their version is always the daemon's own.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::Rlimit;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

const PAUSE: &[u8] = include_bytes!(env!("PODBOX_PAUSE"));
const MONITOR: &[u8] = include_bytes!(env!("PODBOX_MONITOR"));

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
    let failed = |source| ProgramsError { name, source };
    let memfd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(failed)?;
    let mut file = File::from(memfd);
    file.write_all(program).map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL).map_err(failed)?;
    Ok(file.into())
}
