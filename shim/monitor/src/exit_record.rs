//! Leaving an exit record on disk: all of it or nothing.

use podbox_plan::ExitRecord;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::path::Path;

/// Writes the record beside its place and renames it there.
pub fn record_exit(path: &Path, record: &ExitRecord) -> Result<(), Errno> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    let mut temporary_name = OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(".tmp");
    let temporary = directory.join(temporary_name);
    let written = write_new(&temporary, record).and_then(|()| rustix::fs::rename(&temporary, path));
    if written.is_err() {
        // Nothing of it shall be left; it may not be there at all.
        let _ = rustix::fs::unlink(&temporary);
    }
    written
}

fn write_new(path: &Path, record: &ExitRecord) -> Result<(), Errno> {
    let text = serde_json::to_vec(record).map_err(|_| Errno::INVAL)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let bytes = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = &rest[bytes..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: ExitRecord = ExitRecord {
        version: podbox_plan::EXIT_RECORD_VERSION,
        exit_code: 3,
        signal: None,
        oom_killed: false,
        killed_on_request: false,
        started_at_ns: 1,
        finished_at_ns: 2,
        log_bytes_lost: 0,
    };

    #[test]
    fn a_record_is_whole_and_alone_in_its_directory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("exit.json");
        record_exit(&path, &RECORD).expect("record");
        let read: ExitRecord = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("parse");
        assert_eq!(read, RECORD);
        assert_eq!(std::fs::read_dir(directory.path()).expect("read_dir").count(), 1);
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        // A directory in the record's place cannot be renamed over.
        let path = directory.path().join("exit.json");
        std::fs::create_dir_all(path.join("full")).expect("mkdir");
        record_exit(&path, &RECORD).expect_err("a directory is in the way");
        assert_eq!(std::fs::read_dir(directory.path()).expect("read_dir").count(), 1);
    }
}
