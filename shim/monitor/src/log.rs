//! A container's log file in the CRI's format: `TIME stdout|stderr P|F TEXT`, one line an output line.
//!
//! ```text
//! 2026-11-22T04:10:00.123456789Z stdout F a whole line
//! 2026-11-22T04:10:00.123456789Z stderr P the first 16 KiB of a longer one, or a last one that no newline ended
//! ```
//!
//! Nobody else writes to the file (the kubelet only renames it). Where the disk takes no more, lines are dropped and counted, and
//! what comes after is still complete lines: the container is never held up for its log.

mod lines;
mod timestamp;

pub use lines::{LineSplitter, Tag};
pub use timestamp::rfc3339_nanos;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Which of a process's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamName {
    /// Descriptor 1, or the terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// An open log file.
pub struct Log {
    path: PathBuf,
    file: OwnedFd,
    /// Bytes of lines that were not written.
    pub bytes_lost: u64,
}

impl Log {
    /// Opens the file for appending and makes it (0640) if it is absent. A symbolic link or anything but a regular file is refused.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        Ok(Self { path: path.to_owned(), file: open_file(path)?, bytes_lost: 0 })
    }

    /// Opens the file of the same name anew, for it was renamed; on an error the old one stays in use.
    pub fn reopen(&mut self) -> Result<(), Errno> {
        self.file = open_file(&self.path)?;
        Ok(())
    }

    /// Appends complete lines; what the file does not take is dropped and counted.
    pub fn append(&mut self, lines: &[u8]) {
        let mut written = 0;
        while written < lines.len() {
            match rustix::io::write(&self.file, &lines[written..]) {
                Ok(0) => break,
                Ok(bytes) => written += bytes,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if written < lines.len() {
            let whole = lines[..written].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            self.cut_off(written - whole);
            self.bytes_lost += (lines.len() - whole) as u64;
        }
    }

    /// Takes a torn line off the end, so that the next one starts on its own.
    fn cut_off(&self, torn_bytes: usize) {
        if torn_bytes == 0 {
            return;
        }
        if let Ok(stat) = rustix::fs::fstat(&self.file) {
            let end = u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(torn_bytes as u64);
            // A file that cannot be cut keeps a torn line, which readers pass over.
            let _ = rustix::fs::ftruncate(&self.file, end);
        }
    }
}

fn open_file(path: &Path) -> Result<OwnedFd, Errno> {
    // Non-blocking, for a FIFO in the place would otherwise hold up the whole monitor; it means nothing to a regular file.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::INVAL),
    }
}

/// Adds one log line to a batch.
pub fn format_line(batch: &mut Vec<u8>, time: &str, stream: StreamName, tag: Tag, text: [&[u8]; 2]) {
    batch.extend_from_slice(time.as_bytes());
    batch.extend_from_slice(match stream {
        StreamName::Stdout => b" stdout ",
        StreamName::Stderr => b" stderr ",
    });
    batch.extend_from_slice(match tag {
        Tag::Full => b"F ",
        Tag::Partial => b"P ",
    });
    for piece in text {
        batch.extend_from_slice(piece);
    }
    batch.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_the_cri_has_it() {
        let mut batch = Vec::new();
        format_line(&mut batch, "2026-11-22T04:10:00.000000000Z", StreamName::Stderr, Tag::Partial, [b"two ", b"pieces"]);
        assert_eq!(batch, b"2026-11-22T04:10:00.000000000Z stderr P two pieces\n");
    }

    #[test]
    fn neither_a_symlink_nor_a_fifo_is_a_log() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::os::unix::fs::symlink("elsewhere", directory.path().join("link")).expect("symlink");
        assert_eq!(Log::open(&directory.path().join("link")).err(), Some(Errno::LOOP));
        rustix::fs::mknodat(rustix::fs::CWD, directory.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).expect("mkfifo");
        assert!(Log::open(&directory.path().join("fifo")).is_err());
        assert!(!directory.path().join("elsewhere").exists());
    }

    #[test]
    fn reopening_in_a_directory_that_is_gone_keeps_the_old_file() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let inside = directory.path().join("inside");
        std::fs::create_dir(&inside).expect("mkdir");
        let mut log = Log::open(&inside.join("log")).expect("open");
        let moved = directory.path().join("moved");
        std::fs::rename(&inside, &moved).expect("rename");
        assert_eq!(log.reopen(), Err(Errno::NOENT));
        log.append(b"still here\n");
        assert_eq!(std::fs::read(moved.join("log")).expect("read"), b"still here\n");
    }
}
