//! What is kept of a command's output, and how much of it all commands together may make the daemon keep.
//!
//! A command's two streams share [`OUTPUT_BYTES_MAX`]. Neither can take the other's half away: one that took more than its half while
//! there was room gives it back, from its end, to one that comes later. A stream that lost something takes nothing more, so that
//! what is kept of it is its beginning.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is kept of a command's output, both streams together: an answer with it fits into the 16 MiB that clients of the CRI take
/// in one message. The rest is read and dropped, so that the command never blocks.
pub const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024 - 4096;
/// What either stream may have, whatever the other does.
const HALF: usize = OUTPUT_BYTES_MAX / 2;

/// Commands whose output is read at the same time.
const COMMANDS_MAX: usize = 1024;
/// What each command may keep without asking: a flood in one container leaves probes of others their few words.
const OWN_BYTES: usize = 16 * 1024;
/// What all commands together may keep beyond that.
const SHARED_BYTES_MAX: usize = 128 * 1024 * 1024;
/// In which portions the shared part is given out.
const PORTION_BYTES: usize = 64 * 1024;

/// More is being captured than the daemon keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Too many commands at the same time.
    #[error("{COMMANDS_MAX} commands run at the same time")]
    Commands,
    /// Too much output.
    #[error("the commands that run now have written {} MiB, which is all that is kept", SHARED_BYTES_MAX / (1024 * 1024))]
    Bytes,
}

/// The room for output of all commands of a daemon.
#[derive(Debug, Clone)]
pub struct CaptureRoom {
    commands: Arc<Semaphore>,
    portions: Arc<Semaphore>,
}

impl Default for CaptureRoom {
    fn default() -> Self {
        Self { commands: Arc::new(Semaphore::new(COMMANDS_MAX)), portions: Arc::new(Semaphore::new(SHARED_BYTES_MAX / PORTION_BYTES)) }
    }
}

impl CaptureRoom {
    /// Room for a command's output, given back when the value goes.
    ///
    /// # Errors
    /// Too many commands run.
    pub fn capture(&self) -> Result<Captured, NoRoom> {
        let command = self.commands.clone().try_acquire_owned().map_err(|_| NoRoom::Commands)?;
        Ok(Captured { room: self.clone(), _command: command, portions: None, kept: Kept::default() })
    }
}

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A command's output, and the room that it takes.
#[derive(Debug)]
pub struct Captured {
    room: CaptureRoom,
    _command: OwnedSemaphorePermit,
    portions: Option<OwnedSemaphorePermit>,
    kept: Kept,
}

impl Captured {
    /// Keeps what there is room for.
    ///
    /// # Errors
    /// All commands together have written too much.
    pub fn take(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), NoRoom> {
        let due = (self.kept.len() + bytes.len()).min(OUTPUT_BYTES_MAX).saturating_sub(OWN_BYTES).div_ceil(PORTION_BYTES);
        let held = self.portions.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if due > held {
            // No more than 256 for each command.
            let more = u32::try_from(due - held).unwrap_or(u32::MAX);
            let permit = self.room.portions.clone().try_acquire_many_owned(more).map_err(|_| NoRoom::Bytes)?;
            match &mut self.portions {
                Some(held) => held.merge(permit),
                none => *none = Some(permit),
            }
        }
        self.kept.take(stream, bytes);
        Ok(())
    }

    /// The two streams. The room is given back: they are about to be sent.
    #[must_use]
    pub fn into_streams(self) -> (Vec<u8>, Vec<u8>) {
        (self.kept.stdout.bytes, self.kept.stderr.bytes)
    }
}

#[derive(Debug, Default)]
struct Kept {
    stdout: Beginning,
    stderr: Beginning,
}

/// The beginning of a stream.
#[derive(Debug, Default)]
struct Beginning {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Kept {
    fn len(&self) -> usize {
        self.stdout.bytes.len() + self.stderr.bytes.len()
    }

    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let room = OUTPUT_BYTES_MAX - self.len();
        let (own, other) = match stream {
            Stream::Stdout => (&mut self.stdout, &mut self.stderr),
            Stream::Stderr => (&mut self.stderr, &mut self.stdout),
        };
        if own.is_cut {
            return;
        }
        let entitled = HALF.saturating_sub(own.bytes.len()).min(bytes.len());
        if entitled > room {
            other.bytes.truncate(other.bytes.len() - (entitled - room));
            other.is_cut = true;
        }
        let count = bytes.len().min(room.max(entitled));
        own.bytes.extend_from_slice(&bytes[..count]);
        own.is_cut = count < bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1024 * 1024;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever comes in whichever order: both fit, each is its stream's beginning, and neither is cut below its half.
        #[test]
        fn both_streams_are_beginnings_that_fit_together(steps in prop::collection::vec((any::<bool>(), 1..5 * MIB), 1..12)) {
            let mut kept = Kept::default();
            let mut written = [0_usize; 2];
            for (is_stderr, count) in steps {
                let (stream, at) = if is_stderr { (Stream::Stderr, 1) } else { (Stream::Stdout, 0) };
                // Each byte tells where in its stream it stands.
                let bytes: Vec<u8> = (written[at]..written[at] + count).map(|position| (position % 251) as u8).collect();
                kept.take(stream, &bytes);
                written[at] += count;
                prop_assert!(kept.len() <= OUTPUT_BYTES_MAX);
            }
            for (stream, written) in [&kept.stdout, &kept.stderr].into_iter().zip(written) {
                prop_assert!(stream.bytes.len() >= written.min(HALF));
                prop_assert!(stream.is_cut == (stream.bytes.len() < written));
                prop_assert!(stream.bytes.iter().enumerate().all(|(position, byte)| usize::from(*byte) == position % 251));
            }
        }
    }

    #[test]
    fn all_commands_together_keep_so_much_and_no_more() {
        let room = CaptureRoom::default();
        let flood = vec![0; MIB];
        let mut captures = Vec::new();
        let refused = 'flood: loop {
            let mut captured = room.capture().expect("room for a command");
            for _ in 0..20 {
                if let Err(error) = captured.take(Stream::Stdout, &flood) {
                    break 'flood error;
                }
            }
            captures.push(captured);
        };
        assert_eq!(refused, NoRoom::Bytes);
        let kept: usize = captures.iter().map(|captured| captured.kept.len()).sum();
        assert!(kept <= SHARED_BYTES_MAX + captures.len() * OWN_BYTES, "{kept}");
        let mut probe = room.capture().expect("room for a command");
        probe.take(Stream::Stderr, &[0; OWN_BYTES]).expect("a few words always have room");
        captures.pop();
        probe.take(Stream::Stdout, &flood).expect("room that was given back");
        drop((captures, probe));
        assert_eq!(room.portions.available_permits(), SHARED_BYTES_MAX / PORTION_BYTES);
    }

    #[test]
    fn so_many_commands_run_at_the_same_time_and_no_more() {
        let room = CaptureRoom::default();
        let captures: Vec<Captured> = (0..COMMANDS_MAX).map(|_| room.capture().expect("room")).collect();
        assert_eq!(room.capture().err(), Some(NoRoom::Commands));
        drop(captures);
        assert!(room.capture().is_ok());
    }
}
