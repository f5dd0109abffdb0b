//! Reading and writing control files.

use crate::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Writes in one `write(2)`, as the kernel wants it. Never makes the file: an absent one is `ENOENT`.
pub(crate) fn write(directory: &Path, name: &str, value: &str) -> Result<(), Error> {
    let file = directory.join(name);
    let written = OpenOptions::new().write(true).open(&file).and_then(|mut open| open.write_all(value.as_bytes()));
    written.map_err(|source| Error::Write { file, value: value.to_owned(), source })
}

/// The content without its last newline.
pub(crate) fn read(directory: &Path, name: &str) -> Result<String, Error> {
    let file = directory.join(name);
    match fs::read_to_string(&file) {
        Ok(mut content) => {
            content.truncate(content.trim_end().len());
            Ok(content)
        }
        Err(source) => Err(Error::Read { file, source }),
    }
}

/// The number after `key` in a file of `key number` lines; 0 where there is no such line.
pub(crate) fn read_keyed(directory: &Path, name: &str, key: &str) -> Result<u64, Error> {
    let content = read(directory, name)?;
    keyed(&content, key).map_err(|content| Error::Unreadable { file: directory.join(name), content })
}

/// The number after `key` in the text of a flat-keyed file; 0 where there is no such line, the odd line where it is no number.
pub(crate) fn keyed(content: &str, key: &str) -> Result<u64, String> {
    let line = content.lines().find(|line| line.split_ascii_whitespace().next() == Some(key));
    let Some(line) = line else { return Ok(0) };
    line.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok()).ok_or_else(|| line.to_owned())
}

/// The cgroup, or the file in it, is gone: `ENOENT` on opening, `ENODEV` on using what was opened before its removal. A
/// control file in its place (`ENOTDIR`) is no cgroup either.
pub(crate) fn is_gone(source: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(source.kind(), NotFound | NotADirectory) || source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyed_number_is_found_by_its_whole_key() {
        let content = "oom_kill_disable 0\nunder_oom 0\noom_kill 3";
        assert_eq!(keyed(content, "oom_kill"), Ok(3));
        assert_eq!(keyed(content, "oom"), Ok(0));
        assert_eq!(keyed("oom_kill many", "oom_kill"), Err("oom_kill many".to_owned()));
    }
}
