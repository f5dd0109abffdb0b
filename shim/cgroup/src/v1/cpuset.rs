//! A new v1 cpuset has no CPUs and no memory nodes, and nothing can join it (`ENOSPC`) until it has.

use crate::{Error, control_file};
use std::path::Path;

const INHERITED: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Fills in what `directory` lacks from its parent, whose own lack is filled in first, up to the root, which lacks nothing.
pub(super) fn inherit(root: &Path, directory: &Path) -> Result<(), Error> {
    INHERITED.into_iter().try_for_each(|name| fill(root, directory, name).map(drop))
}

/// The value of the file, after it was filled in if it was empty.
fn fill(root: &Path, directory: &Path, name: &str) -> Result<String, Error> {
    let own = control_file::read(directory, name)?;
    match directory.parent() {
        Some(parent) if own.is_empty() && directory != root => {
            let inherited = fill(root, parent, name)?;
            control_file::write(directory, name, &inherited)?;
            Ok(inherited)
        }
        _ => Ok(own),
    }
}
