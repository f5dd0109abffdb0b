//! A log file, and those that come after it.
//!
//! A log is rotated by renaming its file and having the monitor make a new one, to which it writes from then on: once the new one is there, the old
//! one is complete. [`Follower`] reads each file to its end before it goes on with the next, and finds the next by what inotify tells of the folder,
//! event by event: a file that has been renamed once more before it was opened is found under its new name.

use super::lines::{Sink, Source, Splitter};
use super::view::View;
use anyhow::{Context, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PIECE_BYTES: usize = 256 * 1024;
/// Several events with names of the longest.
const EVENTS_BYTES: usize = 4096;
/// How often a file whose new name has not been told yet is looked for again, and how long each time waits for it.
const OPEN_TRIES: usize = 20;
const OPEN_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// An open log file.
pub(super) struct LogFile {
    file: File,
    buffer: Vec<u8>,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        // Non-blocking: a FIFO in the place would otherwise never be opened.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
        let file = File::from(opened.with_context(|| format!("open {}", path.display()))?);
        let metadata = file.metadata().with_context(|| format!("look at {}", path.display()))?;
        ensure!(metadata.is_file(), "{} is no regular file", path.display());
        Ok(Self { file, buffer: vec![0; PIECE_BYTES] })
    }

    fn identity(&self) -> Option<(u64, u64)> {
        self.file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    /// Reads on, to the end that there is now.
    pub(super) fn read_on(&mut self, take: &mut impl FnMut(&[u8]) -> io::Result<()>) -> anyhow::Result<()> {
        loop {
            match self.file.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => take(&self.buffer[..count]).context("write")?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read the log"),
            }
        }
    }

    /// What shows the last so many lines, from where the file is now: at its beginning.
    pub(super) fn splitter_for(&mut self, tail: Option<u64>) -> anyhow::Result<Splitter> {
        let mut counting = Splitter::skipping(0);
        let Some(tail) = tail else { return Ok(counting) };
        self.read_on(&mut |bytes| {
            let Ok(()) = counting.feed(bytes, &mut Nobody);
            Ok(())
        })?;
        self.file.seek(SeekFrom::Start(0)).context("read the log again")?;
        Ok(Splitter::skipping(counting.begun.saturating_sub(tail)))
    }

    /// Whether the file ends before what was read of it, as when a torn line was taken off; it is read on from its end then.
    fn was_cut(&mut self) -> anyhow::Result<bool> {
        let length = self.file.metadata().context("look at the log")?.len();
        let is_cut = length < self.file.stream_position().context("ask for the position")?;
        if is_cut {
            self.file.seek(SeekFrom::Start(length)).context("go to the end")?;
        }
        Ok(is_cut)
    }
}

/// Lines that are only counted.
struct Nobody;

impl Sink for Nobody {
    type Error = Infallible;

    fn begin(&mut self, _: Source, _: &str) -> Result<(), Infallible> {
        Ok(())
    }

    fn text(&mut self, _: Source, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn end(&mut self, _: Source) -> Result<(), Infallible> {
        Ok(())
    }

    fn malformed(&mut self) {}
}

/// Reads a log and what comes, until it is told that nothing does.
pub(super) struct Follower {
    folder: PathBuf,
    inotify: OwnedFd,
    /// Its end is the container's.
    is_over: PipeReader,
    current: Option<LogFile>,
    names: Names,
}

impl Follower {
    /// `is_over`: a pipe that ends when the container has ended.
    pub(super) fn new(path: &Path, is_over: PipeReader) -> anyhow::Result<Self> {
        let (folder, name) = path.parent().zip(path.file_name()).with_context(|| format!("{} is no file", path.display()))?;
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(io::Error::from).context("ask for inotify")?;
        let events = WatchFlags::CREATE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO | WatchFlags::MODIFY | WatchFlags::ONLYDIR;
        let watched = inotify::add_watch(&inotify, folder, events).map_err(io::Error::from);
        watched.with_context(|| format!("watch {}", folder.display()))?;
        // After the watch: a file that is made in between is opened, and told of as well.
        let current = match LogFile::open(path) {
            Err(error) if is_absent(&error) => None,
            opened => Some(opened?),
        };
        Ok(Self { folder: folder.to_owned(), inotify, is_over, current, names: Names::new(name) })
    }

    /// Shows everything.
    pub(super) fn run(mut self, mut view: View, tail: Option<u64>) -> anyhow::Result<()> {
        let mut splitter = match &mut self.current {
            Some(file) => file.splitter_for(tail)?,
            None => Splitter::skipping(0),
        };
        loop {
            // Asked before anything is read: what was written before the container's end is there then.
            let is_over = self.wait(Some(Timespec::default()), false)?;
            // Before the file is read, or the word of what comes after that would be taken with the rest.
            let next = self.next_files()?;
            if let Some(file) = &mut self.current {
                if file.was_cut()? {
                    splitter.next_file();
                }
                file.read_on(&mut |bytes| splitter.feed(bytes, &mut view))?;
            }
            for mut file in next {
                splitter.next_file();
                file.read_on(&mut |bytes| splitter.feed(bytes, &mut view))?;
                self.current = Some(file);
            }
            view.flush().context("write")?;
            if is_over {
                return view.finish();
            }
            self.wait(None, true)?;
        }
    }

    /// Waits for the end, and for events; whether the end has come.
    fn wait(&self, timeout: Option<Timespec>, for_events: bool) -> anyhow::Result<bool> {
        let events = if for_events { PollFlags::IN } else { PollFlags::empty() };
        let mut waited = [PollFd::new(&self.is_over, PollFlags::IN), PollFd::new(&self.inotify, events)];
        match poll(&mut waited, timeout.as_ref()) {
            Ok(_) => Ok(!waited[0].revents().is_empty()),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(io::Error::from(errno)).context("wait for the log"),
        }
    }

    /// Takes all events that there are; whether they have changed which files there are to open.
    fn take_events(&mut self) -> anyhow::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut is_changed = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes())).unwrap_or_default();
                    is_changed |= self.names.note(event.events(), event.cookie(), name);
                }
                Err(Errno::AGAIN) => return Ok(is_changed),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno)).context("read what happened to the log"),
            }
        }
    }

    /// The files that have come after the current one, in their order.
    fn next_files(&mut self) -> anyhow::Result<Vec<LogFile>> {
        self.take_events()?;
        for try_number in 0..OPEN_TRIES {
            let opened: Vec<_> = self.names.pending().map(|name| LogFile::open(&self.folder.join(name))).collect();
            // A name that has changed meanwhile may have been that of another file.
            if self.take_events()? {
                continue;
            }
            let lacks_one = opened.iter().any(|opened| opened.as_ref().is_err_and(is_absent));
            if lacks_one && try_number + 1 < OPEN_TRIES {
                // Its new name is on its way.
                let mut waited = [PollFd::new(&self.inotify, PollFlags::IN)];
                let _ = poll(&mut waited, Some(&OPEN_PAUSE));
                self.take_events()?;
                continue;
            }
            self.names.opened();
            return self.keep_new(opened);
        }
        // Files that are renamed faster than they can be opened: the next event asks again.
        Ok(Vec::new())
    }

    /// Without the file that is being read already, of which was told as well.
    fn keep_new(&self, opened: Vec<anyhow::Result<LogFile>>) -> anyhow::Result<Vec<LogFile>> {
        let mut known = self.current.as_ref().and_then(LogFile::identity);
        let mut new = Vec::new();
        for opened in opened {
            match opened {
                Ok(file) if known.is_some() && file.identity() == known => {}
                Ok(file) => {
                    known = file.identity();
                    new.push(file);
                }
                Err(error) if is_absent(&error) => {
                    writeln!(io::stderr(), "podbox: a log file was removed before it was read: its lines are missing here")
                        .context("write")?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(new)
    }
}

fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// What the log's files are called by now, as far as they matter: the current one, and those that come after it.
#[derive(Debug)]
struct Names {
    /// What a new file is called.
    log: OsString,
    /// The current one first.
    files: VecDeque<OsString>,
    /// A file that has lost its name and not got the next, and the cookie that both have.
    moving: Option<(u32, usize)>,
}

impl Names {
    fn new(log: &OsStr) -> Self {
        Self { log: log.to_owned(), files: VecDeque::from([log.to_owned()]), moving: None }
    }

    fn pending(&self) -> impl Iterator<Item = &OsString> {
        self.files.iter().skip(1)
    }

    /// All that were pending are open; the last of them is the current one.
    fn opened(&mut self) {
        self.files.drain(..self.files.len() - 1);
        self.moving = None;
    }

    /// Takes note of an event; whether it was of a file that matters.
    fn note(&mut self, event: ReadFlags, cookie: u32, name: &OsStr) -> bool {
        if event.contains(ReadFlags::MOVED_FROM) {
            // The youngest has the name: it cannot have come before the one of before has lost it.
            let found = self.files.iter().rposition(|file| file == name);
            self.moving = found.map(|at| (cookie, at)).or(self.moving);
            return found.is_some();
        }
        if event.contains(ReadFlags::MOVED_TO)
            && let Some((_, at)) = self.moving.take_if(|(moving, _)| *moving == cookie)
        {
            name.clone_into(&mut self.files[at]);
            return true;
        }
        // Where events were lost, there may be a new one.
        let is_new =
            event.contains(ReadFlags::QUEUE_OVERFLOW) || (event.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) && name == self.log);
        if is_new {
            self.files.push_back(self.log.clone());
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_what_they_are_called_now() {
        let mut names = Names::new(OsStr::new("0.log"));
        let mut note = |event, cookie, name: &str| names.note(event, cookie, OsStr::new(name));
        assert!(!note(ReadFlags::MODIFY, 0, "0.log") && !note(ReadFlags::CREATE, 0, "other"));
        // Twice rotated before anybody looked.
        for (cookie, to) in [(1, "0.log.a"), (2, "0.log.b")] {
            assert!(note(ReadFlags::MOVED_FROM, cookie, "0.log"));
            assert!(note(ReadFlags::MOVED_TO, cookie, to));
            assert!(note(ReadFlags::CREATE, 0, "0.log"));
        }
        assert_eq!(names.pending().collect::<Vec<_>>(), ["0.log.b", "0.log"]);
        names.opened();
        assert_eq!(names.pending().count(), 0);
        // A rotation that failed, and was taken back.
        assert!(names.note(ReadFlags::MOVED_FROM, 3, OsStr::new("0.log")));
        assert!(names.note(ReadFlags::MOVED_TO, 3, OsStr::new("0.log.c")));
        assert!(names.note(ReadFlags::MOVED_FROM, 4, OsStr::new("0.log.c")));
        assert!(names.note(ReadFlags::MOVED_TO, 4, OsStr::new("0.log")));
        assert_eq!(names.pending().count(), 0);
        assert!(names.note(ReadFlags::MOVED_TO, 5, OsStr::new("0.log")), "one that comes from elsewhere");
        assert_eq!(names.pending().collect::<Vec<_>>(), ["0.log"]);
    }
}
