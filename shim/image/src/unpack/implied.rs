//! Folders that a layer has because something is in them, while it has no entry for them itself.
//!
//! Nothing in the layer says whose they are and what their mode is; the layers below an image's layer do, and differ from image
//! to image. So they are listed, for whoever puts layers together. The list is bounded, since the layer is a stranger's: what is
//! beyond it, and what has no name in UTF-8, stays as it was made.

use std::collections::HashMap;

/// Of one layer.
const FOLDERS_MAX: usize = 8192;
/// The names of all of them together, in bytes.
const TEXT_LEN_MAX: usize = 1 << 20;
/// Of one of them: components, and bytes.
const DEPTH_MAX: usize = 32;
const PATH_LEN_MAX: usize = 1024;

/// The folders, by their inodes: a folder may be described later on, under any name that leads to it.
#[derive(Debug, Default)]
pub(super) struct Implied {
    folders: HashMap<u64, String>,
    text_len: usize,
}

impl Implied {
    /// One was made; `path` leads to it through no symbolic link.
    pub(super) fn add(&mut self, inode: u64, path: &[u8]) {
        let Ok(path) = std::str::from_utf8(path) else { return };
        let is_near = path.len() <= PATH_LEN_MAX && path.split('/').count() <= DEPTH_MAX;
        if is_near && self.folders.len() < FOLDERS_MAX && self.text_len + path.len() <= TEXT_LEN_MAX {
            self.text_len += path.len();
            self.folders.insert(inode, path.to_owned());
        }
    }

    /// A folder has an entry of its own.
    pub(super) fn described(&mut self, inode: u64) {
        self.folders.remove(&inode);
    }

    /// All of them in the order of their names, if they still are what `inode_of` finds there.
    pub(super) fn finish(self, inode_of: impl Fn(&str) -> Option<u64>) -> Vec<String> {
        let there = self.folders.into_iter().filter(|(inode, path)| inode_of(path) == Some(*inode));
        let mut paths: Vec<_> = there.map(|(_, path)| path).collect();
        paths.sort();
        paths
    }
}
