//! What the monitor holds of a process's standard streams: the reading ends of its output, and the writing end of its input.

use crate::clock;
use crate::log::{LineSplitter, Log, StreamName, format_line, rfc3339_nanos};
use crate::poll::{Poll, Token, Watched};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

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
    _stdin: Option<OwnedFd>,
}

struct Stream {
    source: Watched,
    name: StreamName,
    is_terminal: bool,
    lines: LineSplitter,
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
        Self { streams: Vec::new(), log, _stdin: stdin }
    }

    /// Watches one more stream, which must not block.
    pub fn add_stream(&mut self, poll: &mut Poll, source: OwnedFd, name: StreamName, is_terminal: bool) -> Result<(), Errno> {
        self.streams.push(Stream { source: poll.watch(source)?, name, is_terminal, lines: LineSplitter::default() });
        Ok(())
    }

    /// Whether all streams have ended.
    pub fn is_over(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether a watch is one of these streams'.
    pub fn has(&self, token: Token) -> bool {
        self.streams.iter().any(|stream| stream.source.token() == token)
    }

    /// Takes what is there of one stream, once; gives the number of bytes.
    pub fn read_ready(&mut self, token: Token, scratch: &mut Scratch) -> usize {
        let Some(at) = self.streams.iter().position(|stream| stream.source.token() == token) else { return 0 };
        match self.streams[at].take(self.log.as_mut(), scratch) {
            Taken::Bytes(bytes) => bytes,
            Taken::NothingNow => 0,
            Taken::End => {
                self.streams.swap_remove(at).close(self.log.as_mut(), scratch);
                0
            }
        }
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
                stream.close(self.log.as_mut(), scratch);
            } else {
                self.streams.push(stream);
            }
        }
    }

    /// Lets go of streams that others still hold.
    pub fn close(&mut self, scratch: &mut Scratch) {
        for stream in std::mem::take(&mut self.streams) {
            stream.close(self.log.as_mut(), scratch);
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

    /// Writes out a last line that no newline ended.
    fn close(mut self, log: Option<&mut Log>, scratch: &mut Scratch) {
        let Some(log) = log else { return };
        let batch = &mut scratch.batch;
        self.lines.finish(|tag, text| format_line(batch, &rfc3339_nanos(clock::now_ns()), self.name, tag, text));
        log.append(batch);
        batch.clear();
    }

    fn bytes_waiting(&self) -> usize {
        if self.is_terminal {
            return TERMINAL_BYTES_MAX;
        }
        rustix::io::ioctl_fionread(&self.source).ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
    }
}
