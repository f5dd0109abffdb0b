//! Control files as text: held open and read again, or opened for once.

use crate::{Error, control_file};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Larger than any control file but the longest lists of devices.
const BUFFER_BYTES: usize = 16 * 1024;

/// What files are read into, one after the other: one is enough for a whole pass.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<u8>);

/// A control file that stays open.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    /// For errors.
    path: PathBuf,
}

impl OpenFile {
    /// `None`: this kernel, or this cgroup, has no such file.
    pub(super) fn open(directory: &Path, name: &str) -> Result<Option<Self>, Error> {
        let path = directory.join(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(Self { file, path })),
            Err(source) if control_file::is_gone(&source) => Ok(None),
            Err(source) => Err(Error::Read { file: path, source }),
        }
    }

    /// The whole content from its beginning; `None` when the cgroup is gone, or the kernel was told not to count this
    /// (`EOPNOTSUPP` of pressure files).
    pub(super) fn read<'b>(&self, Buffer(buffer): &'b mut Buffer) -> Result<Option<&'b str>, Error> {
        buffer.resize(buffer.len().max(BUFFER_BYTES), 0);
        let mut length = 0;
        loop {
            match self.file.read_at(&mut buffer[length..], length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) if is_not_counted(&source) => return Ok(None),
                Err(source) => return Err(Error::Read { file: self.path.clone(), source }),
            }
            // A control file comes in one piece, however long, if there is room for it.
            if length < buffer.len() {
                break;
            }
            buffer.resize(buffer.len() * 2, 0);
        }
        let text = std::str::from_utf8(&buffer[..length]);
        text.map(Some).map_err(|_| Error::Unreadable { file: self.path.clone(), content: "no text".to_owned() })
    }

    /// The one number that it holds.
    pub(super) fn read_number(&self, buffer: &mut Buffer) -> Result<Option<u64>, Error> {
        self.parsed(buffer, |text| text.parse().ok())
    }

    /// The one limit that it holds: `Some(None)` is `max`.
    pub(super) fn read_limit(&self, buffer: &mut Buffer) -> Result<Option<Option<u64>>, Error> {
        self.parsed(buffer, limit)
    }

    /// What `parse` makes of the trimmed content.
    pub(super) fn parsed<T>(&self, buffer: &mut Buffer, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(text) = self.read(buffer)? else { return Ok(None) };
        let unreadable = || Error::Unreadable { file: self.path.clone(), content: text.chars().take(200).collect() };
        parse(text.trim()).map(Some).ok_or_else(unreadable)
    }
}

/// A file that is opened for once: `None` if it is not there or the cgroup is gone.
pub(super) fn read_once<T>(
    directory: &Path,
    name: &str,
    buffer: &mut Buffer,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    match OpenFile::open(directory, name)? {
        Some(file) => file.parsed(buffer, parse),
        None => Ok(None),
    }
}

/// A number.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// A number, or `max` for no limit.
pub(super) fn limit(text: &str) -> Option<Option<u64>> {
    match text {
        "max" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

/// The lines `key number` of a flat-keyed file.
pub(super) fn keyed_lines(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, number) = line.split_once(' ')?;
        Some((key, number.trim().parse().ok()?))
    })
}

fn is_not_counted(source: &io::Error) -> bool {
    control_file::is_gone(source) || source.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_longer_than_the_buffer_is_read_whole() {
        let directory = std::env::temp_dir().join(format!("podbox-cgroup-text-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("fresh");
        let long = "x".repeat(3 * BUFFER_BYTES + 17);
        std::fs::write(directory.join("long"), &long).expect("write");
        std::fs::write(directory.join("short"), "12\n").expect("write");
        let mut buffer = Buffer::default();
        let file = OpenFile::open(&directory, "long").expect("open").expect("there");
        let short = OpenFile::open(&directory, "short").expect("open").expect("there");
        let read = file.read(&mut buffer).expect("read").map(str::to_owned);
        let number = short.read_number(&mut buffer);
        std::fs::remove_dir_all(&directory).expect("clean up");
        assert!(read.as_deref() == Some(&long));
        assert_eq!(number.expect("a number"), Some(12));
        assert!(OpenFile::open(Path::new("/sys/fs/cgroup/podbox-absent"), "x").expect("no error").is_none());
    }

    #[test]
    fn limits_and_keys_are_what_the_kernel_writes() {
        assert_eq!((limit("max"), limit("17"), limit("-1")), (Some(None), Some(Some(17)), None));
        let lines: Vec<_> = keyed_lines("usage_usec 5\nodd\nnr_periods 2").collect();
        assert_eq!(lines, [("usage_usec", 5), ("nr_periods", 2)]);
    }
}
