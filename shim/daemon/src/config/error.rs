//! What can be wrong with a configuration, and where in its file it is.

use super::origin::line_at;
use std::path::{Path, PathBuf};

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file's content is wrong.
    #[error("{}:{line}: {key}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// With its table: `network.bridge`.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The value of a key that no file sets cannot be used here.
    #[error("{key}, as it is by default: {reason}")]
    Default {
        /// With its table.
        key: &'static str,
        /// Why not.
        reason: String,
    },
}

impl ConfigError {
    /// Finds the line and the key of a parser's error in the text.
    pub(super) fn at(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let line = line_at(text, error.span().map_or(0, |span| span.start));
        let reason = error.message().lines().next().unwrap_or("malformed").to_owned();
        Self::Content { path: path.to_owned(), line, key: key_at(text, line), reason }
    }
}

/// The key whose value stands on a line: the nearest `key =` at or above it, with the table that it is in.
fn key_at(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let table_of = |line: &str| {
        let inner = line.trim().strip_prefix('[')?.strip_suffix(']')?;
        (!inner.contains(['"', ','])).then(|| inner.trim().to_owned())
    };
    let key_of = |line: &str| {
        let (key, _) = line.split_once('=')?;
        let key = key.trim();
        let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        plain.then(|| key.to_owned())
    };
    if let Some(table) = lines.last().and_then(|line| table_of(line)) {
        return table;
    }
    let table = lines.iter().rev().find_map(|line| table_of(line));
    let key = lines.iter().rev().take_while(|line| table_of(line).is_none()).find_map(|line| key_of(line));
    match (table, key) {
        (Some(table), Some(key)) => format!("{table}.{key}"),
        (None, Some(key)) => key,
        (Some(table), None) => table,
        (None, None) => "the file".to_owned(),
    }
}
