//! What the two sides of a birth agree on: the newborn, and the monitor that made it.

use podbox_plan::Slot;
use std::os::fd::OwnedFd;

/// What a newborn says right before it executes its program; no failure's JSON begins with it.
pub const ABOUT_TO_EXECUTE: u8 = b'!';

/// What it says before it takes a seccomp filter on, under which it may not come as far as saying anything else.
pub const UNDER_FILTER: u8 = b'~';
/// What a newborn's last words begin with that goes on as another process of the monitor's: its number and a line feed follow.
pub const GOES_ON_AS: u8 = b'>';

/// The child's ends of its streams, as [`Op::ConnectStdio`](podbox_plan::Op::ConnectStdio) connects them.
pub enum ChildStreams {
    /// None.
    Closed,
    /// Pipes; no input pipe is the container's `/dev/null`.
    Piped {
        /// Reading end of the input.
        stdin: Option<OwnedFd>,
        /// Writing end of the output.
        stdout: OwnedFd,
        /// Writing end of the error output.
        stderr: OwnedFd,
    },
    /// A terminal, made in the container.
    Terminal {
        /// Where its master is sent.
        channel: OwnedFd,
    },
    /// A terminal, made in the container, whose master is sent over this descriptor of the launch message.
    PassedTerminal(Slot),
    /// Descriptors of the launch message by index; `None` is the container's `/dev/null`.
    Passed([Option<Slot>; 3]),
}
