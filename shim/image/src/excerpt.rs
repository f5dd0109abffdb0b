//! Texts that an image or an archive chose, as far as errors repeat them: short, and with nothing in them that is not text.
//!
//! An error is kept in answers, logs and records of who asked; what is at fault shows in its beginning and its end.

/// How much of a text is repeated, in bytes of its beginning and of its end.
const HEAD_LEN: usize = 160;
const TAIL_LEN: usize = 64;

/// A text of unknown origin for an error: at most some hundred bytes of it, with control characters and what is no UTF-8 escaped.
pub(crate) fn excerpt(bytes: impl AsRef<[u8]>) -> String {
    use std::fmt::Write as _;
    let bytes = bytes.as_ref();
    let mut text = String::new();
    // What is far beyond what is kept need not be looked at, however long it is; escaping makes nothing shorter.
    let (head, tail) = if bytes.len() > 2 * (HEAD_LEN + TAIL_LEN) {
        (&bytes[..HEAD_LEN + TAIL_LEN], &bytes[bytes.len() - HEAD_LEN - TAIL_LEN..])
    } else {
        (bytes, &[][..])
    };
    for chunk in head.utf8_chunks().chain(tail.utf8_chunks()) {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\'' => text.push(c),
                c => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    shorten(text)
}

/// A text's beginning and end, if it is long.
fn shorten(text: String) -> String {
    if text.len() <= HEAD_LEN + TAIL_LEN {
        return text;
    }
    format!("{}…{}", &text[..text.floor_char_boundary(HEAD_LEN)], &text[text.ceil_char_boundary(text.len() - TAIL_LEN)..])
}

/// The same error, without more than an excerpt of what it is about. Line and column are at its end.
pub(crate) fn shorten_json(error: serde_json::Error) -> serde_json::Error {
    let text = error.to_string();
    if text.len() <= HEAD_LEN + TAIL_LEN { error } else { serde::de::Error::custom(shorten(text)) }
}
