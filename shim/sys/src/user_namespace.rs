//! User namespaces that nobody is in yet (`user_namespaces(7)`).

use crate::error::SysError;
use crate::{CloneArguments, CloneFlags, Cloned, clone3, send_signal};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

const SIGKILL: i32 = 9;

/// Ids from 0 on within a namespace, and what they are outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// What 0 is.
    pub first_outside: u32,
    /// How many there are.
    pub length: u32,
}

/// Makes a user namespace with these ids. Nothing is in it: it is there as long as the descriptor, or what is done with that.
///
/// A process holds it until its ids are written, and is gone when this returns.
///
/// # Errors
/// As [`clone3`]; `ENOSPC` where the host allows no more of them, `EPERM` and `EINVAL` for ids that cannot be had.
pub fn new_user_namespace(uids: IdMap, gids: IdMap) -> Result<OwnedFd, SysError> {
    let (mut wait, go) = io::pipe().map_err(failed("pipe"))?;
    match clone3(CloneArguments { flags: CloneFlags::NEW_USER, ..CloneArguments::default() })? {
        Cloned::Child => {
            drop(go);
            // Until it is killed, or whoever wanted the namespace is.
            let _ = wait.read(&mut [0]);
            // SAFETY: ends the process at once; no destructor or exit handler of the copy that it is runs.
            unsafe { libc::_exit(0) }
        }
        Cloned::Parent { pid, pidfd } => {
            let opened = write_ids(pid, uids, gids);
            // It has not been waited for, so that it is there.
            let _ = send_signal(&pidfd, SIGKILL);
            while waitpid(Some(pid), WaitOptions::empty()).err() == Some(Errno::INTR) {}
            opened
        }
    }
}

fn write_ids(holder: Pid, uids: IdMap, gids: IdMap) -> Result<OwnedFd, SysError> {
    let holder = format!("/proc/{}", holder.as_raw_nonzero());
    for (file, name, map) in [("uid_map", "write uid_map", uids), ("gid_map", "write gid_map", gids)] {
        std::fs::write(format!("{holder}/{file}"), format!("0 {} {}\n", map.first_outside, map.length)).map_err(failed(name))?;
    }
    File::open(format!("{holder}/ns/user")).map(OwnedFd::from).map_err(failed("open ns/user"))
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> SysError {
    move |error| SysError::Kernel { call, errno: Errno::from_io_error(&error).unwrap_or(Errno::IO) }
}
