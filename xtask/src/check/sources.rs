//! The text files of the repository.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// A file that a person reads: Rust or Markdown.
#[derive(Debug)]
pub(super) struct SourceFile {
    /// Relative to the workspace's folder.
    pub(super) path: String,
    pub(super) text: String,
}

impl SourceFile {
    /// All of them, sorted; hidden folders and build output left out.
    pub(super) fn load_all(root: &Path) -> Result<Vec<Self>> {
        let mut files = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
                let entry = entry.with_context(|| format!("list {}", folder.display()))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with('.') || name == super::rules::BUILD_OUTPUT {
                    continue;
                }
                if entry.file_type().with_context(|| format!("look at {name}"))?.is_dir() {
                    folders.push(entry.path());
                } else if name.ends_with(".rs") || name.ends_with(".md") {
                    files.push(Self::load(root, &entry.path())?);
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn load(root: &Path, file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(file).display().to_string();
        Ok(Self { path, text })
    }

    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    #[cfg(test)]
    pub(super) fn fixture(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}
