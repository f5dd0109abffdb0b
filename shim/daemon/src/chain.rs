//! An error and its causes on one line: for logs, and for messages to callers.

use std::error::Error;
use std::fmt::{self, Write};

/// What an image or a registry names may be long; an answer's message stands in a header, and a pod's status shows it.
const CHAIN_BYTES_MAX: usize = 4096;

/// Shows an error with its causes: `start container C: open the mount source /x: no such file`. It is one line of bounded length, whatever
/// stands in the names it tells.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Line { inner: f, left: CHAIN_BYTES_MAX };
        write!(line, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(next) = cause {
            write!(line, ": {next}")?;
            cause = next.source();
        }
        Ok(())
    }
}

/// Escapes what would break the line, and ends with an ellipsis where it gets too long.
struct Line<'a, 'f> {
    inner: &'a mut fmt::Formatter<'f>,
    left: usize,
}

impl Write for Line<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.left == 0 {
                break;
            }
            self.left = self.left.saturating_sub(character.len_utf8());
            match character {
                _ if self.left == 0 => self.inner.write_char('…')?,
                control if control.is_control() => write!(self.inner, "{}", control.escape_default())?,
                character => self.inner.write_char(character)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("read {name}")]
    struct Outer {
        name: String,
        source: io::Error,
    }

    #[test]
    fn a_chain_is_one_line_of_bounded_length() {
        let chain = |name: &str| Chain(&Outer { name: name.to_owned(), source: io::Error::other("no\nroom") }).to_string();
        assert_eq!(chain("a\x1b[31m\u{e4}"), "read a\\u{1b}[31m\u{e4}: no\\nroom");
        let long = chain(&"\u{e4}".repeat(1_000_000));
        assert!(long.len() <= CHAIN_BYTES_MAX + 3 && long.ends_with("\u{e4}…"), "{} bytes", long.len());
    }
}
