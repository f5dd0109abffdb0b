//! Being born where systemd says.
//!
//! ```text
//! podbox-monitor SANDBOX-ID unborn      descriptor 1 is a pipe; descriptor 0 as ever
//! ```
//!
//! A scope cannot be without a process, and a process that is in it already cannot be born in one of its leaves. So this process is
//! the one that systemd makes the scope with. It waits for the path of a leaf to come over the pipe, brings forth the monitor
//! there with `CLONE_INTO_CGROUP`, and ends: then none is in the scope itself, and nothing of the pod was ever moved.
//! A daemon that goes away before it named the leaf closes the pipe, and this ends too.

use crate::startup::{StartError, at};
use podbox_sys::{CloneArguments, Cloned, clone3};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The argument that asks for it.
pub const UNBORN: &str = "unborn";
/// `PATH_MAX`
const PATH_BYTES_MAX: u64 = 4096;

/// Who goes on.
pub enum Born {
    /// The monitor, in its cgroup.
    Monitor,
    /// The process that brought it forth, and has nothing left to do.
    Placeholder,
}

/// Waits for the cgroup and brings forth the monitor in it.
pub fn be_born() -> Result<Born, StartError> {
    let pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).map_err(at("take the pipe from descriptor 1"))?;
    let mut path = Vec::new();
    let read = File::from(pipe).take(PATH_BYTES_MAX).read_to_end(&mut path);
    read.map_err(|error| StartError { step: "read the cgroup", errno: Errno::from_io_error(&error).unwrap_or(Errno::IO) })?;
    if path.is_empty() {
        return Err(StartError { step: "read the cgroup: the daemon is gone", errno: Errno::PIPE });
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let leaf = rustix::fs::open(Path::new(OsStr::from_bytes(&path)), flags, Mode::empty()).map_err(at("open the cgroup"))?;
    match clone3(CloneArguments { cgroup: Some(leaf.as_fd()), ..CloneArguments::default() }).map_err(at("be born in the cgroup"))? {
        Cloned::Child => Ok(Born::Monitor),
        Cloned::Parent { .. } => Ok(Born::Placeholder),
    }
}
