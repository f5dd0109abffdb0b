//! The file that a configuration was read from, for what is found out about a value after it was parsed.

use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// A file and its text; without a file, all values are defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Origin {
    file: Option<PathBuf>,
    text: String,
}

impl Origin {
    pub(super) fn new(file: &Path, text: String) -> Self {
        Self { file: Some(file.to_owned()), text }
    }

    /// The file and the line, counted from 1, that set a key (with its table: `cgroup.driver`); `None` if nothing did.
    pub(super) fn place_of(&self, key: &str) -> Option<(&Path, usize)> {
        let root = DeTable::parse(&self.text).ok()?;
        let (mut table, mut parts) = (root.get_ref(), key.split('.').peekable());
        loop {
            let part = parts.next()?;
            let (name, value) = table.iter().find(|(name, _)| name.get_ref() == part)?;
            if parts.peek().is_none() {
                return Some((self.file.as_deref()?, line_at(&self.text, name.span().start)));
            }
            table = value.get_ref().as_table()?;
        }
    }
}

/// The line, counted from 1, of a byte of the text.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}
