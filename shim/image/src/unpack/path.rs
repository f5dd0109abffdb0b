//! Names of layer entries: taken apart into components, and told apart from the markers that mean deletion.

use super::UnpackError;
use crate::excerpt::excerpt;

const COMPONENT_LEN_MAX: usize = 255;
const PATH_LEN_MAX: usize = 4095;
const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// An entry's name, relative to the layer's root: no leading slash, no `.`, no `..`, no empty component.
pub(super) struct EntryPath {
    /// Components joined by single slashes; empty for the root itself.
    text: Vec<u8>,
}

/// What the last component of a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// Itself.
    Entry(&'a [u8]),
    /// The deletion of the named object from lower layers.
    Whiteout(&'a [u8]),
    /// The deletion of everything lower layers have in the parent directory.
    Opaque,
    /// Bookkeeping of the AUFS file system, without meaning.
    Aufs,
    /// A whiteout that names nothing that can exist.
    Invalid,
}

impl<'a> Name<'a> {
    pub(super) fn of(name: &'a [u8]) -> Self {
        match name.strip_prefix(WHITEOUT) {
            _ if name == OPAQUE => Self::Opaque,
            _ if name.starts_with(AUFS) => Self::Aufs,
            None => Self::Entry(name),
            Some(b"" | b"." | b"..") => Self::Invalid,
            Some(deleted) => Self::Whiteout(deleted),
        }
    }
}

impl EntryPath {
    /// Normalises a name from a tar header. A leading slash means the layer's root.
    pub(super) fn parse(raw: &[u8]) -> Result<Self, UnpackError> {
        let refused = |reason| UnpackError::Name { entry: excerpt(raw), reason };
        if raw.len() > PATH_LEN_MAX {
            return Err(refused("longer than 4095 bytes"));
        }
        if raw.contains(&0) {
            return Err(refused("contains a NUL byte"));
        }
        let mut text = Vec::with_capacity(raw.len());
        for component in raw.split(|&b| b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(refused("contains a .. component")),
                _ if component.len() > COMPONENT_LEN_MAX => return Err(refused("a component exceeds 255 bytes")),
                _ => {}
            }
            if !text.is_empty() {
                text.push(b'/');
            }
            text.extend_from_slice(component);
        }
        Ok(Self { text })
    }

    /// Parent (empty for the root) and last component; `None` for the root itself.
    pub(super) fn split_last(&self) -> Option<(&[u8], &[u8])> {
        if self.text.is_empty() {
            return None;
        }
        Some(match self.text.iter().rposition(|&b| b == b'/') {
            Some(slash) => (&self.text[..slash], &self.text[slash + 1..]),
            None => (&[], &self.text),
        })
    }

    pub(super) fn refused(&self, reason: &'static str) -> UnpackError {
        UnpackError::Name { entry: excerpt(&self.text), reason }
    }

    /// A system call on this entry failed.
    pub(super) fn failed(&self, step: &'static str, source: rustix::io::Errno) -> UnpackError {
        UnpackError::Entry { entry: self.excerpt(), step, source }
    }

    /// For messages.
    pub(super) fn excerpt(&self) -> String {
        excerpt(&self.text)
    }
}
