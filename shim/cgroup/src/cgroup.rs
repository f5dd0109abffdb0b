//! One cgroup in all the hierarchies that podbox uses.

use crate::freeze::Freezer;
use crate::hierarchies::Home;
use crate::made::is_directory;
use crate::writer::{Changes, Writer};
use crate::{CgroupPath, Controller, DeviceRule, Error, Hierarchies, Made, Resources, control_file, devices, kill, tree, v1, v2};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Where v1 tells nobody that a cgroup became empty, this is how often one looks: the pause doubles up to the second.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const SLOWEST_LOOK: Duration = Duration::from_millis(20);
/// A year: a bound that keeps the deadline representable.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A cgroup by its path; it need not exist. Cheap to make and to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    host: Hierarchies,
    path: CgroupPath,
}

/// How a process gets into a cgroup, and how its death for memory is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// To be born in by `CLONE_INTO_CGROUP` (`clone3(2)`): v2, and hybrid hosts.
    pub unified: Option<PathBuf>,
    /// To be joined in this order: v1 only. A newborn, being one thread, best writes `0` to `tasks` in each: that moves it
    /// without the lock against all forks of the host, for which a write to `cgroup.procs` waits 10 ms and more.
    pub v1: Vec<PathBuf>,
    /// The file with the line `oom_kill N`: `memory.events` on v2, which counts the cgroups below too, `memory.oom_control` on
    /// v1, which does not. `None` without a memory controller.
    pub oom_counter: Option<PathBuf>,
}

impl Cgroup {
    /// The cgroup at `path`, without any effect.
    pub fn at(host: &Hierarchies, path: &CgroupPath) -> Self {
        Self { host: host.clone(), path: path.clone() }
    }

    /// Makes it in every hierarchy, with the ancestors that are missing, ready for processes: on v2 the controllers are given to
    /// it by its ancestors, on v1 the cpuset is that of its parent. What exists already is used as it is. After a failure nothing
    /// of what this call made is left.
    pub fn create(host: &Hierarchies, path: &CgroupPath) -> Result<(Self, Made), Error> {
        let mut made = Made::default();
        match make_everywhere(host, path, &mut made) {
            Ok(()) => Ok((Self::at(host, path), made)),
            Err(error) => {
                // The failure itself is what the caller must hear of.
                let _kept_as_little_as_the_kernel_permits = made.remove();
                Err(error)
            }
        }
    }

    /// The directories that [`create`](Self::create) would make now: what a record names before they are made.
    pub fn absent(&self) -> Made {
        let mut absent = Made::default();
        let roots = self.host.unified().map(|unified| &unified.mount_point).into_iter();
        for root in roots.chain(self.host.v1().iter().map(|v1| &v1.mount_point)) {
            absent.add_absent(root, &self.path.below(root));
        }
        absent
    }

    /// That nothing but a cgroup has its name, or that of one of its ancestors: control files share their name space.
    pub fn check_name(&self) -> Result<(), Error> {
        let roots = self.host.unified().map(|unified| &unified.mount_point).into_iter();
        for root in roots.chain(self.host.v1().iter().map(|v1| &v1.mount_point)) {
            let directory = self.path.below(root);
            let taken = directory.ancestors().take_while(|ancestor| ancestor != root).find(|path| is_directory(path) == Some(false));
            if let Some(path) = taken {
                return Err(Error::NameTaken { path: path.to_owned() });
            }
        }
        Ok(())
    }

    /// Its path below the roots of the hierarchies.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// What a launch into it needs.
    pub fn entry(&self) -> Entry {
        let oom_counter = self.host.home(Controller::Memory, &self.path).map(|home| match home {
            Home::V1(directory) => directory.join(v1::OOM_COUNTER),
            Home::V2(directory) => directory.join(v2::OOM_COUNTER),
        });
        Entry { unified: self.unified(), v1: self.v1().collect(), oom_counter }
    }

    /// Sets the limits of a new cgroup. Stops at the first that the kernel refuses, and the error names its file and value; those
    /// before it stay set, for a cgroup that is then to be removed.
    pub fn apply(&self, resources: &Resources) -> Result<(), Error> {
        resources.write(&mut Writer::of_new(), &self.host, &self.path)
    }

    /// Changes the limits of a cgroup in use: all of them, or none. The error names the file and the value that the kernel refused; a
    /// memory limit below what is used is refused before the kernel hears of it ([`Error::BelowUsage`]), since v2 would kill for
    /// it. A file that holds its value already is not written. Two updates of one cgroup must not run at once.
    ///
    /// May block for as long as the kernel takes to reclaim memory: seconds.
    pub fn update(&self, resources: &Resources) -> Result<Changes, Error> {
        let mut writer = Writer::of_used();
        let outcome = resources.write(&mut writer, &self.host, &self.path);
        writer.finish(outcome)
    }

    /// Denies its processes every device but what the rules allow, for as long as the cgroup lives. To be called once, before anything runs in
    /// it. On v1 it can be allowed no more than its parent.
    pub fn restrict_devices(&self, rules: &[DeviceRule]) -> Result<(), Error> {
        devices::restrict(&self.host, &self.path, rules)
    }

    /// Whether swap can be limited; known once the cgroup exists.
    pub fn accounts_swap(&self) -> bool {
        self.host.home(Controller::Memory, &self.path).is_some_and(|home| match home {
            Home::V1(directory) => directory.join(v1::SWAP_LIMIT).exists(),
            Home::V2(directory) => directory.join(v2::SWAP_LIMIT).exists(),
        })
    }

    /// The PIDs in it, and with `recursive` in the cgroups below it, in ascending order. Empty if it does not exist; processes
    /// outside of this PID namespace are not told.
    pub fn processes(&self, recursive: bool) -> Result<Vec<i32>, Error> {
        let mut all = BTreeSet::new();
        for directory in self.populated_in() {
            all.append(&mut tree::processes(&directory, recursive)?);
        }
        Ok(all.into_iter().collect())
    }

    /// Sends `SIGKILL` to everything in it and below. They are gone when [`wait_empty`](Self::wait_empty) says so.
    pub fn kill(&self) -> Result<(), Error> {
        let v1: Vec<PathBuf> = self.v1().collect();
        kill::kill_members(self.unified().as_deref(), &v1)
    }

    /// Sends a signal to one of its processes, which may be below it. False if `pid` is none of them, or not any more: it may be another
    /// process by now, which is left alone.
    pub fn signal(&self, pid: i32, signal: i32) -> Result<bool, Error> {
        kill::signal_if(&self.path, pid, signal, || Ok(self.processes(true)?.contains(&pid)))
    }

    /// Stops everything in it and below where it is: true once all of it stands still, false at the end of the time, when some may and the
    /// rest will. What is killed meanwhile dies on v2 at once, on v1 when it is [thawed](Self::thaw).
    pub fn freeze(&self, timeout: Duration) -> Result<bool, Error> {
        self.freezer()?.freeze(timeout.min(LONGEST_WAIT))
    }

    /// Lets everything in it and below go on.
    pub fn thaw(&self) -> Result<(), Error> {
        self.freezer()?.thaw()
    }

    fn freezer(&self) -> Result<Freezer, Error> {
        let unified = self.unified().and_then(|directory| Freezer::of_unified(&directory));
        let freezer = unified.or_else(|| self.v1().find_map(|directory| Freezer::of_v1(&directory)));
        freezer.ok_or_else(|| Error::NoController { cgroup: self.path.clone(), controller: Controller::Freezer })
    }

    /// Waits until nothing runs in it or below: true; or until the time is over: false. Zombies do not count. Absent is empty.
    pub fn wait_empty(&self, timeout: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + timeout.min(LONGEST_WAIT);
        if let Some(unified) = self.unified()
            && !v2::wait_unpopulated(&unified, deadline)?
        {
            return Ok(false);
        }
        match self.v1().next() {
            Some(v1) => wait_empty_by_looking(&v1, deadline),
            None => Ok(true),
        }
    }

    /// Removes it and the cgroups below it in every hierarchy; absent is success. A cgroup that keeps holding a process for some
    /// 0.4 s is an error (`EBUSY`), after the other hierarchies were seen to. Its ancestors stay: see [`Made::remove`].
    pub fn remove(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for directory in self.v1().chain(self.unified()) {
            outcome = outcome.and(tree::remove(&directory));
        }
        outcome
    }

    /// How many of its processes the kernel killed for want of memory. 0 without a memory controller, and once it is removed.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        self.entry().oom_counter.map_or(Ok(0), |counter| oom_kills(&counter))
    }

    /// Where a controller's files of it are.
    pub(crate) fn home(&self, controller: Controller) -> Option<Home> {
        self.host.home(controller, &self.path)
    }

    pub(crate) fn unified(&self) -> Option<PathBuf> {
        self.host.unified().map(|unified| self.path.below(&unified.mount_point))
    }

    fn v1(&self) -> impl Iterator<Item = PathBuf> {
        self.host.v1().iter().map(|hierarchy| self.path.below(&hierarchy.mount_point))
    }

    /// The directories that together list all its processes: the unified one, and the v1 one that is joined first.
    fn populated_in(&self) -> impl Iterator<Item = PathBuf> {
        self.unified().into_iter().chain(self.v1().next())
    }
}

/// The number in an [`Entry::oom_counter`]; 0 once its cgroup is removed.
pub fn oom_kills(counter: &Path) -> Result<u64, Error> {
    let (Some(directory), Some(name)) = (counter.parent(), counter.file_name().and_then(|name| name.to_str())) else { return Ok(0) };
    match control_file::read_keyed(directory, name, "oom_kill") {
        Err(Error::Read { source, .. }) if control_file::is_gone(&source) => Ok(0),
        other => other,
    }
}

fn make_everywhere(host: &Hierarchies, path: &CgroupPath, made: &mut Made) -> Result<(), Error> {
    if let Some(unified) = host.unified() {
        v2::make(unified, path, made)?;
    }
    host.v1().iter().try_for_each(|hierarchy| v1::make(hierarchy, path, made))
}

fn wait_empty_by_looking(directory: &Path, deadline: Instant) -> Result<bool, Error> {
    let mut pause = FIRST_LOOK;
    while !tree::is_empty(directory)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(SLOWEST_LOOK);
    }
    Ok(true)
}
