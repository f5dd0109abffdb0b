//! How many files may be open: many for the daemon, which holds counters of every container, and for what it starts as many as it
//! was given itself.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::io;

/// Raises the limit of this process to the most that it may have, and tells what it was: what its children are to get.
///
/// # Errors
/// The kernel would not.
pub fn raise_open_files() -> io::Result<Rlimit> {
    let inherited = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: inherited.maximum, maximum: inherited.maximum })?;
    Ok(inherited)
}

/// Gives a child the limit that the daemon was given. To be called before the child is told to do anything: what it starts itself
/// inherits it. A child that is gone has no limit.
///
/// # Errors
/// The kernel would not.
pub(super) fn limit_open_files(child: u32, inherited: &Rlimit) -> io::Result<()> {
    let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) else { return Ok(()) };
    match prlimit(Some(pid), Resource::Nofile, *inherited) {
        Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// How many descriptors this process may have.
pub(super) fn open_files_max() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
