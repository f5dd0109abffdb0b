//! Bytes in memory that nobody can change any more.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

const SEAL_PAUSE: Duration = Duration::from_millis(2);

/// A memfd with these bytes, sealed against every change (`memfd_create(2)`, `F_SEAL_*` in `fcntl(2)`), close-on-exec. Its offset is at
/// its end: readers read at offsets.
///
/// The kernel refuses to seal a page that something holds for a moment, as migration and reclaim do on a busy machine: it waits some
/// 100 ms itself, and is asked again until `patience` is over. The calling thread waits.
///
/// # Errors
/// There is no memory or no descriptor for it, or it is held for longer.
pub fn sealed_memfd(name: &str, bytes: &[u8], patience: Duration) -> Result<File, Errno> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    seal(&file, patience)?;
    Ok(file)
}

fn seal(file: &File, patience: Duration) -> Result<(), Errno> {
    let end = Instant::now() + patience;
    loop {
        match fcntl_add_seals(file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL) {
            Err(Errno::BUSY) if Instant::now() < end => thread::sleep(SEAL_PAUSE),
            sealed => return sealed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
    use std::os::fd::OwnedFd;

    #[test]
    fn nothing_of_it_can_be_changed() {
        let file = sealed_memfd("podbox-test", &[7; 10_000], Duration::from_secs(30)).expect("sealed");
        assert_eq!(file.metadata().expect("size").len(), 10_000);
        assert_eq!(rustix::io::pwrite(&file, b"x", 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&file, 0), Err(Errno::PERM));
        assert_eq!(fcntl_add_seals(&file, SealFlags::FUTURE_WRITE), Err(Errno::PERM));
    }

    /// A page in a pipe is held as the kernel's own work on a busy machine holds one.
    fn held() -> (File, (OwnedFd, OwnedFd)) {
        let mut file = File::from(memfd_create("podbox-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd"));
        file.write_all(&[7; 4096]).expect("fill");
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("pipe");
        assert_eq!(splice(&file, Some(&mut 0), &writer, None, 4096, SpliceFlags::empty()), Ok(4096));
        (file, (reader, writer))
    }

    #[test]
    fn a_page_that_is_held_for_a_while_delays_sealing_and_no_more() {
        let (file, pipe) = held();
        let held = fcntl_add_seals(&file, SealFlags::WRITE);
        let release = thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            drop(pipe);
        });
        let sealed = seal(&file, Duration::from_secs(30));
        release.join().expect("release");
        assert_eq!(held, Err(Errno::BUSY), "the page was not held");
        assert_eq!(sealed, Ok(()));
    }

    #[test]
    fn patience_has_an_end() {
        let (file, _held) = held();
        assert_eq!(seal(&file, Duration::ZERO), Err(Errno::BUSY));
    }
}
