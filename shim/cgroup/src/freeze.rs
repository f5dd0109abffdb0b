//! Stopping every process of a cgroup where it is: `cgroup.freeze` on v2, the freezer controller on v1. What is born in a frozen cgroup is
//! frozen, so nothing in it makes processes any more.

use crate::{Error, control_file};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a kill waits for everything to stand still; it goes on if something does not.
const HOLD_TIMEOUT: Duration = Duration::from_millis(200);
const FIRST_LOOK: Duration = Duration::from_micros(200);
const SLOWEST_LOOK: Duration = Duration::from_millis(10);

/// The files of one cgroup that freeze it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Freezer {
    /// `cgroup.freeze` and `cgroup.events`.
    V2(PathBuf),
    /// `freezer.state`
    V1(PathBuf),
}

/// A frozen cgroup, which thaws when this is dropped.
pub(crate) struct Frozen<'a>(&'a Freezer);

impl Freezer {
    /// `None` where the kernel has no such file (before 5.2), or the cgroup is gone.
    pub(crate) fn of_unified(directory: &Path) -> Option<Self> {
        directory.join("cgroup.freeze").exists().then(|| Self::V2(directory.to_owned()))
    }

    /// `None` where the directory is another controller's.
    pub(crate) fn of_v1(directory: &Path) -> Option<Self> {
        directory.join("freezer.state").exists().then(|| Self::V1(directory.to_owned()))
    }

    /// Freezes; true once everything stands still, false at the end of the time. A cgroup that is gone is still.
    pub(crate) fn freeze(&self, timeout: Duration) -> Result<bool, Error> {
        self.set(true)?;
        let deadline = Instant::now() + timeout;
        let mut pause = FIRST_LOOK;
        while !self.is_frozen()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(SLOWEST_LOOK);
        }
        Ok(true)
    }

    pub(crate) fn thaw(&self) -> Result<(), Error> {
        self.set(false)
    }

    /// Freezes for as long as the answer is held.
    pub(crate) fn hold(&self) -> Result<Frozen<'_>, Error> {
        let frozen = Frozen(self);
        self.freeze(HOLD_TIMEOUT)?;
        Ok(frozen)
    }

    fn set(&self, frozen: bool) -> Result<(), Error> {
        let written = match self {
            Self::V2(directory) => control_file::write(directory, "cgroup.freeze", if frozen { "1" } else { "0" }),
            Self::V1(directory) => control_file::write(directory, "freezer.state", if frozen { "FROZEN" } else { "THAWED" }),
        };
        match written {
            Err(Error::Write { source, .. }) if control_file::is_gone(&source) => Ok(()),
            other => other,
        }
    }

    fn is_frozen(&self) -> Result<bool, Error> {
        let frozen = match self {
            Self::V2(directory) => control_file::read_keyed(directory, "cgroup.events", "frozen").map(|frozen| frozen == 1),
            Self::V1(directory) => control_file::read(directory, "freezer.state").map(|state| state == "FROZEN"),
        };
        match frozen {
            Err(Error::Read { source, .. }) if control_file::is_gone(&source) => Ok(true),
            other => other,
        }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // The kill that froze it thaws it once more at its end, and tells of a failure.
        let _ = self.0.thaw();
    }
}
