//! Making cgroup directories, and remembering which.

use crate::{Error, control_file};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How often a parent that goes away is made again.
const PARENT_TRIES: usize = 8;

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
        let mut made = fs::create_dir(directory);
        // Nearly always only the last component is missing, so its ancestors are not even looked at. A parent that was just made
        // can go again, where whoever had its last child before removes it at this very moment.
        for _ in 0..PARENT_TRIES {
            match (&made, directory.parent()) {
                (Err(source), Some(parent)) if source.kind() == io::ErrorKind::NotFound && parent != root && parent.starts_with(root) => {
                    self.make(root, parent)?;
                    made = fs::create_dir(directory);
                }
                _ => break,
            }
        }
        match made {
            Ok(()) => self.0.push(directory.to_owned()),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                if !directory.is_dir() {
                    return Err(Error::NameTaken { path: directory.to_owned() });
                }
            }
            Err(source) => return Err(Error::Make { directory: directory.to_owned(), source }),
        }
        Ok(())
    }

    /// Adds the directories from below `root` down to `directory` that do not exist.
    pub(crate) fn add_absent(&mut self, root: &Path, directory: &Path) {
        let below_root = directory.ancestors().take_while(|ancestor| *ancestor != root);
        let mut absent: Vec<_> = below_root.take_while(|ancestor| !ancestor.exists()).map(Path::to_owned).collect();
        absent.reverse();
        self.0.append(&mut absent);
    }
}

fn is_used(source: &io::Error) -> bool {
    let busy = [Errno::BUSY, Errno::NOTEMPTY].map(Errno::raw_os_error);
    source.raw_os_error().is_some_and(|errno| busy.contains(&errno))
}
