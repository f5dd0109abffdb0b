//! Waiting for `cgroup.events` to say that nothing runs in a cgroup any more.

use crate::{Error, control_file};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const EVENTS: &str = "cgroup.events";
/// The kernel holds notifications back for up to 10 ms, and forgets the one that is due when the cgroup is removed: one looks
/// again meanwhile.
const SLICE_MIN: Duration = Duration::from_micros(500);
const SLICE_MAX: Duration = Duration::from_millis(20);
/// `populated 0` and `frozen 0` with room for more lines.
const EVENTS_BYTES: usize = 256;

/// True once the cgroup and all below it hold no process; false at the deadline. Absent is empty.
pub(crate) fn wait_unpopulated(directory: &Path, deadline: Instant) -> Result<bool, Error> {
    let path = directory.join(EVENTS);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(source) if control_file::is_gone(&source) => return Ok(true),
        Err(source) => return Err(Error::Read { file: path, source }),
    };
    let mut slice = SLICE_MIN;
    loop {
        // Reading also arms the poll: the kernel reports what changes after it.
        match is_populated(&file) {
            Ok(Ok(false)) => return Ok(true),
            Ok(Ok(true)) => {}
            Ok(Err(content)) => return Err(Error::Unreadable { file: path, content }),
            Err(source) if control_file::is_gone(&source) => return Ok(true),
            Err(source) => return Err(Error::Read { file: path, source }),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec::try_from(slice.min(left)).ok();
        match poll(&mut [PollFd::new(&file, PollFlags::PRI)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::Wait { file: path, source: errno.into() }),
        }
        slice = (slice * 2).min(SLICE_MAX);
    }
}

/// The inner error is a content that is not that of a `cgroup.events`.
fn is_populated(file: &File) -> io::Result<Result<bool, String>> {
    let mut buffer = [0; EVENTS_BYTES];
    let length = file.read_at(&mut buffer, 0)?;
    let content = String::from_utf8_lossy(&buffer[..length]);
    Ok(control_file::keyed(&content, "populated").map(|populated| populated != 0))
}
