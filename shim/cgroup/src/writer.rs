//! Writing limits: straight away in a cgroup that is new, or with a way back in one that is in use.

use crate::{Error, control_file, v2};
use std::io;
use std::path::{Path, PathBuf};

/// A file of a cgroup and what it held.
#[derive(Debug)]
struct Former {
    directory: PathBuf,
    name: String,
    content: String,
    /// Devices that the new value named, in a file with a line a device.
    devices: Vec<String>,
}

/// What an update changed; see [`Cgroup::update`](crate::Cgroup::update). Dropping it makes the update final.
#[derive(Debug)]
pub struct Changes(Vec<Former>);

impl Changes {
    /// Puts every former value back, the last one first, so that files that constrain each other pass through the states that they
    /// had. Goes on after a failure, and tells the first one. A cgroup that is gone has nothing to put back. A memory limit below
    /// which more is in use by now stays as it is ([`Error::LimitStays`]; v1's kernel refuses it itself): nobody is killed for this.
    pub fn undo(self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for former in self.0.iter().rev() {
            outcome = outcome.and(put_back(former));
        }
        outcome
    }

    /// Whether no file was written: all held the values already.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes control files.
pub(crate) struct Writer {
    /// `None` in a new cgroup: after a failure it is removed, so nobody needs to know what it held.
    formers: Option<Vec<Former>>,
}

impl Writer {
    /// For a cgroup that is removed if a write fails.
    pub(crate) fn of_new() -> Self {
        Self { formers: None }
    }

    /// For a cgroup that is in use: reads before it writes, and passes over what is there already.
    pub(crate) fn of_used() -> Self {
        Self { formers: Some(Vec::new()) }
    }

    /// Whether the cgroup may hold something that a limit could hurt.
    pub(crate) fn is_of_used(&self) -> bool {
        self.formers.is_some()
    }

    /// Writes a value, each of its lines by itself.
    pub(crate) fn set(&mut self, directory: &Path, name: &str, value: &str) -> Result<(), Error> {
        let Some(formers) = &mut self.formers else { return write_lines(directory, name, value) };
        let content = match control_file::read(directory, name) {
            Ok(content) if content == value => return Ok(()),
            Ok(content) => content,
            // There is no such file, which the write tells better.
            Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return write_lines(directory, name, value);
            }
            Err(error) => return Err(error),
        };
        // Noted before the write: of several lines, the first ones may be taken and the next one refused.
        formers.push(Former { directory: directory.to_owned(), name: name.to_owned(), content, devices: devices(value) });
        write_lines(directory, name, value)
    }

    /// What the writes came to: after a failure everything is as it was.
    pub(crate) fn finish(self, outcome: Result<(), Error>) -> Result<Changes, Error> {
        let changes = Changes(self.formers.unwrap_or_default());
        let Err(refusal) = outcome else { return Ok(changes) };
        match changes.undo() {
            Ok(()) => Err(refusal),
            Err(left) => Err(Error::PutBack { refusal: Box::new(refusal), left: left.to_string() }),
        }
    }
}

fn write_lines(directory: &Path, name: &str, value: &str) -> Result<(), Error> {
    value.lines().try_for_each(|line| control_file::write(directory, name, line))
}

fn put_back(former: &Former) -> Result<(), Error> {
    let Former { directory, name, content, devices } = former;
    if name == v2::MEMORY_LIMIT {
        match v2::check_before_put_back(directory, content) {
            Err(Error::Read { source, .. }) if control_file::is_gone(&source) => return Ok(()),
            other => other?,
        }
    }
    let lines: Vec<&str> = content.lines().collect();
    let had = |device: &str| lines.iter().any(|line| line.split_ascii_whitespace().next() == Some(device));
    let resets = devices.iter().filter(|device| !had(device)).filter_map(|device| unset_line(name, device));
    let mut all: Vec<String> = resets.chain(lines.iter().map(|line| (*line).to_owned())).collect();
    if all.is_empty() {
        // An empty write is none for the kernel, an empty line is.
        all.push("\n".to_owned());
    }
    match all.iter().try_for_each(|line| control_file::write(directory, name, line)) {
        Err(Error::Write { source, .. }) if control_file::is_gone(&source) => Ok(()),
        other => other,
    }
}

/// The devices, as `major:minor`, that the lines of a value begin with.
fn devices(value: &str) -> Vec<String> {
    let first_words = value.lines().filter_map(|line| line.split_ascii_whitespace().next());
    first_words.filter(|word| word.contains(':')).map(str::to_owned).collect()
}

/// The line that takes away what a file says of a device, which it did not name before.
fn unset_line(name: &str, device: &str) -> Option<String> {
    match name {
        "io.max" => Some(format!("{device} rbps=max wbps=max riops=max wiops=max")),
        "io.weight" | "io.bfq.weight" => Some(format!("{device} default")),
        "io.latency" => Some(format!("{device} target=max")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Fixture(PathBuf);

    impl Fixture {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("podbox-cgroup-writer-{name}-{}", std::process::id()));
            fs::create_dir(&directory).expect("fresh");
            Self(directory)
        }

        fn put(&self, name: &str, content: &str) {
            fs::write(self.0.join(name), content).expect("write");
        }

        fn get(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).expect("read")
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _best_effort = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_refused_write_puts_all_before_it_back() {
        let cgroup = Fixture::new("back");
        cgroup.put("a", "1\n");
        cgroup.put("b", "2\n");
        let mut writer = Writer::of_used();
        writer.set(&cgroup.0, "a", "7").expect("plain file");
        writer.set(&cgroup.0, "b", "8").expect("plain file");
        let refused = writer.set(&cgroup.0, "absent", "9");
        let error = writer.finish(refused).expect_err("refused");
        assert!(matches!(&error, Error::Write { file, value, .. } if file.ends_with("absent") && value == "9"), "{error:?}");
        assert_eq!((cgroup.get("a"), cgroup.get("b")), ("1\n".to_owned(), "2\n".to_owned()));
    }

    /// Plain files kill nobody, but show what would be written.
    #[test]
    fn a_limit_below_what_came_to_be_used_is_not_put_back_and_all_else_is() {
        let cgroup = Fixture::new("stays");
        for (name, content) in [("a", "1\n"), ("memory.max", "100\n"), ("memory.current", "50\n")] {
            cgroup.put(name, content);
        }
        let mut writer = Writer::of_used();
        writer.set(&cgroup.0, "a", "7").expect("plain file");
        writer.set(&cgroup.0, "memory.max", "200").expect("plain file");
        cgroup.put("memory.current", "150\n");
        let left = writer.finish(Ok(())).expect("nothing refused").undo().expect_err("it is in use");
        assert!(matches!(left, Error::LimitStays { former_bytes: 100, usage_bytes: 150, .. }), "{left:?}");
        assert_eq!((cgroup.get("a"), cgroup.get("memory.max")), ("1\n".to_owned(), "200\n".to_owned()));

        let mut writer = Writer::of_used();
        writer.set(&cgroup.0, "memory.max", "300").expect("plain file");
        writer.finish(Ok(())).expect("nothing refused").undo().expect("there is room");
        assert_eq!(cgroup.get("memory.max"), "200\n");
    }

    #[test]
    fn what_is_there_already_is_not_written() {
        let cgroup = Fixture::new("same");
        cgroup.put("a", "1\n");
        let mut writer = Writer::of_used();
        writer.set(&cgroup.0, "a", "1").expect("plain file");
        assert!(writer.finish(Ok(())).expect("nothing refused").is_empty());
    }

    #[test]
    fn a_device_that_was_not_named_before_is_taken_out_again() {
        assert_eq!(devices("8:0 rbps=1\n8:16 wbps=max"), ["8:0", "8:16"]);
        assert_eq!(devices("default 100"), [""; 0]);
        assert_eq!(unset_line("io.weight", "8:0").as_deref(), Some("8:0 default"));
        let cgroup = Fixture::new("device");
        cgroup.put("io.max", "");
        let mut writer = Writer::of_used();
        writer.set(&cgroup.0, "io.max", "8:0 rbps=1").expect("plain file");
        writer.finish(Ok(())).expect("nothing refused").undo().expect("plain file");
        assert!(cgroup.get("io.max").starts_with("8:0 rbps=max"), "{}", cgroup.get("io.max"));
    }
}
