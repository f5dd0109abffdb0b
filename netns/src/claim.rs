//! One daemon a bridge: two of them would collect each other's ports, and give the same addresses to different pods.
//!
//! A claim is a lock on one byte of a file: the file is named like the bridge, the byte's place is the number of the network
//! namespace. So bridges of the same name in different namespaces do not meet, and what is left behind is one empty file a name.
//!
//! - The kernel lets go of the lock when the process ends, however it ends: no claim outlives its holder.
//! - The directory is the caller's and must be closed to everybody but root: a socket name, or a lock on the namespace's own
//!   file, could be held against us by any process of a pod in the node's network.
//! - Claims are seen by those that see the same directory: daemons in mount namespaces with a `/run` of their own do not meet.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::ClaimError;

/// The right to be the only one that serves a bridge, as long as this value lives.
#[derive(Debug)]
pub struct BridgeClaim {
    _locked: File,
}

impl BridgeClaim {
    /// Claims the bridge of that name, whether it exists yet or not, in the network namespace of the calling thread.
    /// `directory` exists, is root's alone, and is the same for everyone who might claim; `bridge` is a valid link name.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] while another process holds the claim.
    pub fn take(directory: &Path, bridge: &str) -> Result<Self, ClaimError> {
        let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(|source| ClaimError::Namespace { source })?;
        let place = i64::try_from(namespace.ino());
        let place = place.map_err(|_| ClaimError::Namespace { source: io::ErrorKind::InvalidData.into() })?;
        let path = directory.join(bridge);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = opened.map_err(|source| ClaimError::Open { path: path.clone(), source })?;
        // fcntl_locking(2): a lock of the open file description, not of the process, whose pid must be 0.
        let byte = libc::flock { l_type: WRITE_LOCK, l_whence: FROM_START, l_start: place, l_len: 1, l_pid: 0 };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)) {
            Ok(_) => Ok(Self { _locked: file }),
            Err(Errno::EAGAIN | Errno::EACCES) => Err(ClaimError::Taken { bridge: bridge.to_owned() }),
            Err(errno) => Err(ClaimError::Lock { bridge: bridge.to_owned(), path, source: errno.into() }),
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "small constants, of another width in the structure")]
const WRITE_LOCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation, reason = "small constants, of another width in the structure")]
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;
