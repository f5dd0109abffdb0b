//! Making cgroup directories, and remembering which.

use crate::{Error, control_file};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How often it is tried to make what others remove.
const TRIES: u32 = 8;

/// The directories that [`Cgroup::create`](crate::Cgroup::create) made, ancestors of the cgroup included; or, from
/// [`Cgroup::absent`](crate::Cgroup::absent), those it would make. Part of a record, so that only these are removed later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Made(Vec<PathBuf>);

impl Made {
    /// Absolute paths, every directory after its parent.
    pub fn directories(&self) -> &[PathBuf] {
        &self.0
    }

    /// Removes them, children first, and nothing else: what is gone already is success, and what has become an ancestor of
    /// someone else's cgroup, or holds a process, stays.
    pub fn remove(&self) -> Result<(), Error> {
        for directory in self.0.iter().rev() {
            match fs::remove_dir(directory) {
                Err(source) if !control_file::is_gone(&source) && !is_used(&source) => {
                    return Err(Error::Remove { directory: directory.clone(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Those that are still there: what could not be removed yet, since somebody used it.
    #[must_use]
    pub fn remaining(&self) -> Self {
        Self(self.0.iter().filter(|directory| directory.exists()).cloned().collect())
    }

    /// Those that are none of another's.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.iter().filter(|directory| !other.0.contains(directory)).cloned().collect())
    }

    /// Takes over what another has to remove.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
        // A parent sorts before what is below it.
        self.0.sort();
        self.0.dedup();
    }

    /// Makes `directory`, which is below `root`, with what is missing between.
    pub(crate) fn make(&mut self, root: &Path, directory: &Path) -> Result<(), Error> {
        let failed = |source| Error::Make { directory: directory.to_owned(), source };
        // Nearly always only the last component is missing, so its ancestors are not even looked at. What was just made, or seen, can go
        // again, where whoever had its last child before removes it at this very moment.
        let mut tries = TRIES;
        loop {
            let Err(source) = fs::create_dir(directory) else {
                self.0.push(directory.to_owned());
                return Ok(());
            };
            let parent = directory.parent().filter(|parent| *parent != root && parent.starts_with(root));
            match (source.kind(), parent) {
                (io::ErrorKind::AlreadyExists, _) => match is_directory(directory) {
                    Some(true) => return Ok(()),
                    Some(false) => return Err(Error::NameTaken { path: directory.to_owned() }),
                    None => {}
                },
                (io::ErrorKind::NotFound, Some(parent)) => self.make(root, parent)?,
                _ => return Err(failed(source)),
            }
            if tries == 0 {
                return Err(failed(source));
            }
            tries -= 1;
        }
    }

    /// Adds the directories from below `root` down to `directory` that do not exist.
    pub(crate) fn add_absent(&mut self, root: &Path, directory: &Path) {
        let below_root = directory.ancestors().take_while(|ancestor| *ancestor != root);
        let mut absent: Vec<_> = below_root.take_while(|ancestor| !ancestor.exists()).map(Path::to_owned).collect();
        absent.reverse();
        self.0.append(&mut absent);
    }
}

/// In one look: between two of them it could go. `None` of what is not there.
pub(crate) fn is_directory(path: &Path) -> Option<bool> {
    fs::metadata(path).ok().map(|metadata| metadata.is_dir())
}

fn is_used(source: &io::Error) -> bool {
    let busy = [Errno::BUSY, Errno::NOTEMPTY].map(Errno::raw_os_error);
    source.raw_os_error().is_some_and(|errno| busy.contains(&errno))
}
