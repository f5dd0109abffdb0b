//! What the monitor holds of a process's standard streams: the reading ends of its output, with those who follow it, and the writing end of
//! its input.

use crate::clock;
use crate::follower::{Follower, Following};
use crate::log::{LineSplitter, Log, StreamName, format_line, rfc3339_nanos};
use crate::poll::{Poll, Token, Watched};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Bytes taken from a stream at once.
const READ_BYTES: usize = 32 * 1024;
/// Formatted lines are written out when they come to this much.
const BATCH_BYTES: usize = 32 * 1024;
/// A terminal does not tell how much is in it; more than this it never holds.
const TERMINAL_BYTES_MAX: usize = 128 * 1024;

/// Buffers that all streams share. Their pages cost nothing until there is output.
pub struct Scratch {
    input: Vec<u8>,
    batch: Vec<u8>,
}

impl Scratch {
    /// Untouched memory.
    pub fn new() -> Self {
        Self { input: Vec::with_capacity(READ_BYTES), batch: Vec::with_capacity(BATCH_BYTES + READ_BYTES) }
    }
}

/// A process's streams and where its lines go.
#[derive(Default)]
pub struct Output {
    streams: Vec<Stream>,
    /// The log file; without one, output is read and dropped.
    pub log: Option<Log>,
    /// The writing end of its input: while it is held, a reader waits instead of finding the end.
    stdin: Option<OwnedFd>,
    /// A client has the input too, and with the daemon's connection both end.
    pub stdin_goes_with_connection: bool,
    /// Followers of streams that have ended, which have yet to take something.
    late: Vec<Follower>,
}

struct Stream {
    source: Watched,
    name: StreamName,
    is_terminal: bool,
    lines: LineSplitter,
    followers: Vec<Follower>,
}

/// What one read gave.
enum Taken {
    Bytes(usize),
    NothingNow,
    End,
}

impl Output {
    /// Lines go to `log`; `stdin` is kept open.
    pub fn new(log: Option<Log>, stdin: Option<OwnedFd>) -> Self {
        Self { log, stdin, ..Self::default() }
    }

    /// Watches one more stream, which must not block.
    pub fn add_stream(&mut self, poll: &mut Poll, source: OwnedFd, name: StreamName, is_terminal: bool) -> Result<(), Errno> {
        let source = poll.watch(source)?;
        self.streams.push(Stream { source, name, is_terminal, lines: LineSplitter::default(), followers: Vec::new() });
        Ok(())
    }

    /// Lets somebody follow one stream; of one that has ended, there is nothing to follow.
    pub fn follow(&mut self, name: StreamName, follower: Follower) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.name == name) {
            stream.followers.push(follower);
        }
    }

    /// How many follow its streams.
    pub fn followers(&self) -> usize {
        self.streams.iter().map(|stream| stream.followers.len()).sum::<usize>() + self.late.len()
    }

    /// Another descriptor for what a client may write to: the input, or the terminal, whose size it may set as well.
    pub fn lend_input(&self) -> Result<Option<OwnedFd>, Errno> {
        let terminal = self.streams.iter().find(|stream| stream.is_terminal).map(|stream| stream.source.as_fd());
        let lent = terminal.or(self.stdin.as_ref().map(AsFd::as_fd));
        lent.map(|lent| rustix::io::fcntl_dupfd_cloexec(lent, 0)).transpose()
    }

    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.streams.iter().any(|stream| stream.is_terminal)
    }

    /// Whether its input is a pipe that is open.
    pub fn has_pipe_for_input(&self) -> bool {
        self.stdin.is_some()
    }

    /// Closes its input. A client that it was lent to has it still.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Whether all streams have ended, and all that was written is taken.
    pub fn is_over(&self) -> bool {
        self.streams.is_empty() && self.late.is_empty()
    }

    /// Whether a watch is one of these streams', or of one who follows them.
    pub fn has(&self, token: Token) -> bool {
        let followers = self.streams.iter().flat_map(|stream| &stream.followers).chain(&self.late);
        self.streams.iter().any(|stream| stream.source.token() == token) || followers.into_iter().any(|follower| follower.is_of(token))
    }

    /// Takes what is there of one stream, once, or goes on with a follower that is ready; gives the number of bytes taken.
    pub fn handle_ready(&mut self, token: Token, scratch: &mut Scratch) -> usize {
        let Some(at) = self.streams.iter().position(|stream| stream.source.token() == token) else {
            self.serve_followers(token);
            return 0;
        };
        match self.streams[at].take(self.log.as_mut(), scratch) {
            Taken::Bytes(bytes) => bytes,
            Taken::NothingNow => 0,
            Taken::End => {
                self.end_stream(at, scratch);
                0
            }
        }
    }

    fn serve_followers(&mut self, token: Token) {
        let serve = |followers: &mut Vec<Follower>| {
            followers.retain_mut(|follower| !follower.is_of(token) || follower.ready() != Following::Gone);
        };
        for stream in &mut self.streams {
            serve(&mut stream.followers);
            stream.hold_up();
        }
        serve(&mut self.late);
        self.late.retain(Follower::is_behind);
    }

    /// When the first follower is let go of if it takes nothing until then.
    pub fn followers_due(&self) -> Option<Instant> {
        self.streams.iter().flat_map(|stream| &stream.followers).chain(&self.late).filter_map(Follower::due).min()
    }

    /// Lets go of followers that have taken nothing for too long.
    pub fn let_go_of_followers(&mut self, now: Instant) {
        let is_patient = |follower: &Follower| follower.due().is_none_or(|due| due > now);
        for stream in &mut self.streams {
            stream.followers.retain(is_patient);
            stream.hold_up();
        }
        self.late.retain(is_patient);
    }

    fn end_stream(&mut self, at: usize, scratch: &mut Scratch) {
        let stream = self.streams.swap_remove(at);
        self.late.extend(stream.close(self.log.as_mut(), scratch));
    }

    /// Takes all that the process has left in its streams when it ended. What others go on writing does not make it longer.
    pub fn read_what_is_left(&mut self, scratch: &mut Scratch) {
        for mut stream in std::mem::take(&mut self.streams) {
            let mut left = stream.bytes_waiting();
            let ended = loop {
                match stream.take(self.log.as_mut(), scratch) {
                    Taken::Bytes(bytes) if bytes <= left => left -= bytes,
                    Taken::Bytes(_) | Taken::NothingNow => break false,
                    Taken::End => break true,
                }
            };
            if ended {
                self.late.extend(stream.close(self.log.as_mut(), scratch));
            } else {
                self.streams.push(stream);
            }
        }
    }

    /// Lets go of streams that others still hold.
    pub fn close(&mut self, scratch: &mut Scratch) {
        while let Some(at) = self.streams.len().checked_sub(1) {
            self.end_stream(at, scratch);
        }
    }
}

impl Stream {
    fn take(&mut self, log: Option<&mut Log>, scratch: &mut Scratch) -> Taken {
        scratch.input.clear();
        match rustix::io::read(&self.source, rustix::buffer::spare_capacity(&mut scratch.input)) {
            Ok(0) => Taken::End,
            Ok(bytes) => {
                self.log_input(log, scratch);
                if !self.followers.is_empty() {
                    self.followers.retain_mut(|follower| follower.give(&scratch.input) != Following::Gone);
                    self.hold_up();
                }
                Taken::Bytes(bytes)
            }
            Err(Errno::AGAIN | Errno::INTR) => Taken::NothingNow,
            // A terminal whose other side nobody has open any more says EIO.
            Err(_) => Taken::End,
        }
    }

    fn log_input(&mut self, log: Option<&mut Log>, scratch: &mut Scratch) {
        let Some(log) = log else { return };
        let time = rfc3339_nanos(clock::now_ns());
        let batch = &mut scratch.batch;
        self.lines.feed(&scratch.input, |tag, text| {
            format_line(batch, &time, self.name, tag, text);
            if batch.len() >= BATCH_BYTES {
                log.append(batch);
                batch.clear();
            }
        });
        log.append(batch);
        batch.clear();
    }

    /// Nothing more is read of it until those who follow it have taken what was.
    fn hold_up(&mut self) {
        // Refused only for want of memory: then it is read, and kept, a little early.
        let _ = self.source.suspend(self.followers.iter().any(Follower::is_behind));
    }

    /// Writes out a last line that no newline ended. Gives those who follow it and have yet to take something.
    fn close(mut self, log: Option<&mut Log>, scratch: &mut Scratch) -> Vec<Follower> {
        if let Some(log) = log {
            let batch = &mut scratch.batch;
            self.lines.finish(|tag, text| format_line(batch, &rfc3339_nanos(clock::now_ns()), self.name, tag, text));
            log.append(batch);
            batch.clear();
        }
        self.followers.retain(Follower::is_behind);
        self.followers
    }

    fn bytes_waiting(&self) -> usize {
        if self.is_terminal {
            return TERMINAL_BYTES_MAX;
        }
        rustix::io::ioctl_fionread(&self.source).ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
    }
}
