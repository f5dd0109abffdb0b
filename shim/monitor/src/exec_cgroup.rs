//! A cgroup for each command that is executed in a container, below the container's: what the command started ends with it when it is
//! killed, whatever sessions and groups that has made for itself.
//!
//! It has no controllers, so it limits and accounts nothing: its processes are the container's in every other respect, and the container's
//! own cgroup may hold processes beside it. It stands in the unified hierarchy, or without one in the freezer's.
//!
//! A command that ends by itself may leave processes behind, which are none of anybody's business. Their cgroup stays until they end, and is
//! looked at again for a while, and whenever another command ends; at the latest it goes with the container's.

use podbox_plan::{CgroupEntry, ProcessRef};
use rustix::fs::Mode;
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The last process lets go of a cgroup a moment after it is reaped.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The pauses double; after the longest, some second altogether, one waits for the next occasion.
const LAST_PAUSE: Duration = Duration::from_millis(512);
const FREEZER: &str = "freezer.state";

/// The cgroup of one command. Whoever drops it leaves the directory behind.
pub struct ExecCgroup {
    directory: PathBuf,
    hierarchy: Hierarchy,
}

enum Hierarchy {
    Unified,
    /// With its place in the order of joining.
    Freezer(usize),
}

impl ExecCgroup {
    /// Makes it; `None` for what is no command, and where there is no hierarchy that it could stand in.
    pub fn make(process: &ProcessRef, container: &CgroupEntry) -> Result<Option<Self>, Errno> {
        let ProcessRef::Exec(number) = process else { return Ok(None) };
        let freezer = || container.v1.iter().position(|directory| directory.join(FREEZER).exists());
        let (parent, hierarchy) = match (&container.unified, freezer) {
            (Some(unified), _) => (unified, Hierarchy::Unified),
            (None, freezer) => match freezer() {
                Some(at) => (&container.v1[at], Hierarchy::Freezer(at)),
                None => return Ok(None),
            },
        };
        let directory = parent.join(format!("exec-{number}"));
        rustix::fs::mkdir(&directory, Mode::from_raw_mode(0o755))?;
        Ok(Some(Self { directory, hierarchy }))
    }

    /// Where the command is born.
    pub fn entry(&self, container: &CgroupEntry) -> CgroupEntry {
        let mut entry = container.clone();
        match self.hierarchy {
            Hierarchy::Unified => entry.unified = Some(self.directory.clone()),
            Hierarchy::Freezer(at) => entry.v1[at].clone_from(&self.directory),
        }
        entry
    }

    /// Kills all that is in it.
    pub fn kill(&self) -> Result<(), podbox_cgroup::Error> {
        match self.hierarchy {
            Hierarchy::Unified => podbox_cgroup::kill_members(Some(&self.directory), &[]),
            Hierarchy::Freezer(_) => podbox_cgroup::kill_members(None, std::slice::from_ref(&self.directory)),
        }
    }

    /// Removes it; false as long as something is in it.
    pub fn remove(&self) -> bool {
        !matches!(rustix::fs::rmdir(&self.directory), Err(Errno::BUSY | Errno::NOTEMPTY))
    }
}

/// Cgroups of commands that have ended, which something is still in.
#[derive(Default)]
pub struct Leftovers {
    left: Vec<ExecCgroup>,
    /// When to look again, and how long was waited for that.
    again: Option<(Instant, Duration)>,
}

impl Leftovers {
    /// A command has ended: its cgroup goes now or later.
    pub fn take(&mut self, own: ExecCgroup) {
        if !own.remove() {
            self.left.push(own);
        }
        self.look(FIRST_PAUSE);
    }

    /// When [`Leftovers::look_if_due`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.again.map(|(at, _)| at)
    }

    /// Looks again, if it is time.
    pub fn look_if_due(&mut self) {
        if let Some((at, pause)) = self.again
            && at <= Instant::now()
        {
            self.look(pause * 2);
        }
    }

    fn look(&mut self, next_pause: Duration) {
        self.left.retain(|own| !own.remove());
        let goes_on = !self.left.is_empty() && next_pause <= LAST_PAUSE;
        self.again = goes_on.then(|| (Instant::now() + next_pause, next_pause));
    }
}
