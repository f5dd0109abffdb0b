//! The terminal that a command was started at.

use podbox_stream::TerminalSize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;
use std::sync::{Mutex, Once, PoisonError};

/// How the terminal was found, while it is raw.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether standard input is a terminal.
pub(super) fn is_input_terminal() -> bool {
    isatty(rustix::stdio::stdin())
}

/// How large the terminal is; `None` where there is none, or none that says.
pub(super) fn size() -> Option<TerminalSize> {
    let [input, output, error] = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let size = [input, output, error].into_iter().find_map(|descriptor| tcgetwinsize(descriptor).ok())?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(TerminalSize { columns: size.ws_col, rows: size.ws_row })
}

/// A terminal that passes on every key and prints what comes as it is: the one at the other end does the rest. Dropped, it is as it was found; a panic
/// restores it, too.
pub(super) struct RawTerminal(());

impl RawTerminal {
    /// Of standard input.
    pub(super) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        // Nothing is dropped by a panic: it aborts.
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        let found = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = found.clone();
        raw.make_raw();
        *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        let entered = Self(());
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(entered)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let found = FOUND.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(found) = found {
        // A terminal that has gone has no state.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &found);
    }
}
