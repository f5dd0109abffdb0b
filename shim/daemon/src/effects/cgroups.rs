//! Cgroups of pods and containers.

use super::systemd::{SystemdError, kill_scope, start_scope, stop_scope};
use crate::plan::DevicePolicy;
use crate::request::Resources as AskedResources;
use podbox_cgroup::systemd::{Scope, Slice, make_monitor_leaf};
use podbox_cgroup::{Cgroup, CgroupPath, Changes, Error as CgroupError, Hierarchies, InvalidPath, Limit, Made, Resources};
use podbox_plan::{CgroupEntry, ContainerId, SandboxId};
use std::path::PathBuf;
use std::time::Duration;

/// Killed processes are gone within milliseconds; one that the kernel holds up is not waited for longer than this.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A pod's cgroups cannot be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupsError {
    /// The path is none.
    #[error("the cgroup {path:?}")]
    Path {
        /// As it was asked for.
        path: String,
        /// What is wrong with it.
        source: InvalidPath,
    },
    /// The kernel would not.
    #[error("the cgroup {path}")]
    Cgroup {
        /// Below the hierarchies' roots.
        path: String,
        /// Why.
        source: CgroupError,
    },
    /// systemd would not.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// Processes were killed and do not go: something in the kernel holds them.
    #[error("the cgroup {path} holds processes that do not end: {pids:?}")]
    Undying {
        /// Below the hierarchies' roots.
        path: String,
        /// Some of them.
        pids: Vec<i32>,
    },
}

fn at(host: &Hierarchies, path: &str) -> Result<Cgroup, CgroupsError> {
    let parsed = CgroupPath::new(path).map_err(|source| CgroupsError::Path { path: path.to_owned(), source })?;
    Ok(Cgroup::at(host, &parsed))
}

fn failed(path: &str) -> impl FnOnce(CgroupError) -> CgroupsError {
    move |source| CgroupsError::Cgroup { path: path.to_owned(), source }
}

/// A pod's cgroup and the one of pause below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxCgroups {
    pod: String,
    pause: String,
}

impl SandboxCgroups {
    /// The cgroups of the sandbox `id`, whose own is `pod`: below it each process has one by its id, and pause's is the sandbox's.
    #[must_use]
    pub fn new(pod: &str, id: &SandboxId) -> Self {
        Self { pod: pod.to_owned(), pause: format!("{pod}/{id}") }
    }

    /// Pause's cgroup.
    #[must_use]
    pub fn pause(&self) -> String {
        self.pause.clone()
    }

    /// A container's cgroup.
    #[must_use]
    pub fn container(&self, id: &ContainerId) -> String {
        format!("{}/{id}", self.pod)
    }

    /// The directories that making them will make: what the record names before.
    ///
    /// # Errors
    /// The path is none, or something else has its name.
    pub fn absent(&self, host: &Hierarchies) -> Result<Made, CgroupsError> {
        let pod = at(host, &self.pod)?;
        pod.check_name().map_err(failed(&self.pod))?;
        Ok(pod.absent())
    }

    /// Makes the pod's and pause's.
    ///
    /// # Errors
    /// What was made before the failure stays, and is in [`SandboxCgroups::absent`].
    pub fn make(&self, host: &Hierarchies) -> Result<CgroupEntry, CgroupsError> {
        make(host, &self.pause())
    }

    /// Removes pause's.
    ///
    /// # Errors
    /// Something holds it.
    pub fn remove_pause(&self, host: &Hierarchies) -> Result<(), CgroupsError> {
        at(host, &self.pause)?.remove().map_err(failed(&self.pause))
    }
}

/// Has systemd make a pod's scope with the process `pid` in it, makes the monitor's leaf there, and gives its directory.
///
/// # Errors
/// What was made before the failure stays: [`end_scope`] ends it.
pub async fn make_scope(host: &Hierarchies, slice: &Slice, id: &SandboxId, pid: u32) -> Result<PathBuf, CgroupsError> {
    let scope = Scope::new(slice.clone(), id.as_str());
    let path = scope.path().map_err(|source| CgroupsError::Path { path: slice.path(), source })?;
    start_scope(host, &scope, pid).await?;
    make_monitor_leaf(host, &path).map_err(failed(path.as_str()))
}

/// Ends a pod's scope when nothing runs in it any more; absent is success. systemd removes its cgroup with all below; what was made
/// below one that had gone meanwhile goes here.
///
/// # Errors
/// systemd would not.
pub async fn end_scope(host: &Hierarchies, path: &str, id: &SandboxId) -> Result<(), CgroupsError> {
    stop_scope(&Scope::unit_of(id.as_str())).await?;
    let (cgroup, failed) = (at(host, path)?, failed(path));
    // It does not wait: the cgroup is empty.
    cgroup.remove().map_err(failed)
}

/// What is left of a pod of which no more is known than its id, whichever driver the node had when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// Cgroups of pause and of the containers, or of the pod itself.
    pub cgroups: Vec<String>,
    /// Whether it was a scope.
    pub has_scope: bool,
}

/// Looks for the cgroups of a pod and of these containers of its by their names: where its request had wanted them, its record alone
/// knew. Pause's is named by the pod's id, and so is the pod's own where no request said otherwise; containers' are beside pause's.
#[must_use]
pub fn find_remains<'a>(host: &Hierarchies, id: &SandboxId, containers: impl Iterator<Item = &'a ContainerId> + Clone) -> Remains {
    let scope = Scope::unit_of(id.as_str());
    let found = host.find(&[id.as_str(), &scope]);
    let mut remains = Remains { cgroups: Vec::new(), has_scope: false };
    for path in &found {
        let path = path.as_str();
        let Some((parent, name)) = path.rsplit_once('/') else { continue };
        if name == scope {
            remains.has_scope = true;
            continue;
        }
        remains.cgroups.push(path.to_owned());
        remains.cgroups.extend(containers.clone().map(|container| format!("{parent}/{container}")));
    }
    remains
}

/// Ends a scope with everything in it, of which no more than the pod's id is known.
///
/// # Errors
/// systemd would not.
pub async fn end_damaged_scope(id: &SandboxId) -> Result<(), CgroupsError> {
    let unit = Scope::unit_of(id.as_str());
    kill_scope(&unit).await?;
    Ok(stop_scope(&unit).await?)
}

/// Removes directories that podbox made and nobody uses.
///
/// # Errors
/// The kernel would not.
pub fn remove_made(made: &Made) -> Result<(), CgroupsError> {
    let last = || made.directories().last().map(|path| path.display().to_string()).unwrap_or_default();
    made.remove().map_err(|source| CgroupsError::Cgroup { path: last(), source })
}

fn make(host: &Hierarchies, path: &str) -> Result<CgroupEntry, CgroupsError> {
    let parsed = CgroupPath::new(path).map_err(|source| CgroupsError::Path { path: path.to_owned(), source })?;
    let (cgroup, _made) = Cgroup::create(host, &parsed).map_err(failed(path))?;
    Ok(entry(&cgroup))
}

fn entry(cgroup: &Cgroup) -> CgroupEntry {
    let entry = cgroup.entry();
    CgroupEntry { unified: entry.unified, v1: entry.v1, oom_counter: entry.oom_counter, kill_rest_on_exit: false }
}

/// How a process gets into a cgroup that is there.
///
/// # Errors
/// The path is none.
pub fn cgroup_entry(host: &Hierarchies, path: &str) -> Result<CgroupEntry, CgroupsError> {
    at(host, path).map(|cgroup| entry(&cgroup))
}

/// Makes a container's cgroup, sets its limits and denies it the devices it may not use.
///
/// # Errors
/// The error names the file and the value that the kernel refused; the cgroup is gone again.
pub fn make_container_cgroup(host: &Hierarchies, path: &str, asked: &AskedResources, devices: &DevicePolicy) -> Result<(), CgroupsError> {
    let parsed = CgroupPath::new(path).map_err(|source| CgroupsError::Path { path: path.to_owned(), source })?;
    let (cgroup, _made) = Cgroup::create(host, &parsed).map_err(failed(path))?;
    let swap = cgroup.accounts_swap();
    let restricted = match devices {
        DevicePolicy::All => Ok(()),
        DevicePolicy::Only(rules) => cgroup.restrict_devices(rules),
    };
    restricted.and_then(|()| cgroup.apply(&container_resources(asked, swap))).map_err(|source| {
        // The failure that the caller hears of is the first one.
        let _ = cgroup.remove();
        CgroupsError::Cgroup { path: path.to_owned(), source }
    })
}

/// Changes the limits of a container's cgroup to what is asked for, all of them or none; `in_all` is what the container has then.
///
/// # Errors
/// The error names the file and the value that the kernel refused.
pub fn update_container_cgroup(
    host: &Hierarchies,
    path: &str,
    asked: &AskedResources,
    in_all: &AskedResources,
) -> Result<Changes, CgroupsError> {
    let cgroup = at(host, path)?;
    let swap = cgroup.accounts_swap();
    let changes_memory = asked.memory_limit_bytes > 0 || asked.memory_swap_limit_bytes != 0;
    let limits = Resources {
        // The sum belongs to both: with another memory limit the same sum leaves another amount of swap.
        memory_and_swap_limit_bytes: memory_and_swap(in_all, swap).filter(|_| changes_memory),
        ..container_resources(asked, swap)
    };
    cgroup.update(&limits).map_err(failed(path))
}

/// Puts the limits back that an update changed.
///
/// # Errors
/// Some could not be.
pub fn undo_container_update(path: &str, changes: Changes) -> Result<(), CgroupsError> {
    changes.undo().map_err(failed(path))
}

/// The limits as the cgroup crate takes them. 0 and empty are "not asked for".
fn container_resources(asked: &AskedResources, swap: bool) -> Resources {
    let above_zero = |value: u64| (value > 0).then_some(value);
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    Resources {
        memory_limit_bytes: above_zero(asked.memory_limit_bytes).map(Limit::At),
        memory_and_swap_limit_bytes: memory_and_swap(asked, swap),
        cpu_shares: above_zero(asked.cpu_shares),
        cpu_quota_us: signed(asked.cpu_quota_us),
        cpu_period_us: above_zero(asked.cpu_period_us),
        cpuset_cpus: text(&asked.cpuset_cpus),
        cpuset_mems: text(&asked.cpuset_mems),
        pids_limit: None,
        hugepage_limits_bytes: asked.hugepage_limits_bytes.clone(),
        unified: asked.unified.clone(),
    }
}

fn signed(value: i64) -> Option<Limit> {
    (value != 0).then(|| u64::try_from(value).map_or(Limit::Unlimited, Limit::At))
}

/// A memory limit without a word about swap holds for both together, so that no pod swaps which did not ask to; a raw setting is such
/// a word.
fn memory_and_swap(asked: &AskedResources, swap: bool) -> Option<Limit> {
    let silent = swap && asked.memory_limit_bytes > 0 && !asked.unified.contains_key("memory.swap.max");
    signed(asked.memory_swap_limit_bytes).or(silent.then_some(Limit::At(asked.memory_limit_bytes)))
}

/// Kills what is left in a cgroup, a pod's or a container's, and removes it; absent is success.
///
/// # Errors
/// Something holds it.
pub fn remove_cgroup(host: &Hierarchies, path: &str) -> Result<(), CgroupsError> {
    kill(host, path)?;
    at(host, path)?.remove().map_err(failed(path))
}

/// Kills everything in cgroups, of a pod or of its containers, and waits until it is gone. All are killed before any is waited for:
/// one that does not die keeps none of the others alive.
///
/// # Errors
/// Something does not die.
pub fn kill_cgroups(host: &Hierarchies, paths: &[String]) -> Result<(), CgroupsError> {
    let mut outcome = Ok(());
    for path in paths {
        outcome = outcome.and(at(host, path).and_then(|cgroup| cgroup.kill().map_err(failed(path))));
    }
    for path in paths {
        outcome = outcome.and(kill(host, path));
    }
    outcome
}

/// Sends a signal to one process of a cgroup. False: it is none of its, or no more.
///
/// # Errors
/// The kernel would not.
pub fn signal_member(host: &Hierarchies, path: &str, pid: i32, signal: i32) -> Result<bool, CgroupsError> {
    at(host, path)?.signal(pid, signal).map_err(failed(path))
}

fn kill(host: &Hierarchies, path: &str) -> Result<(), CgroupsError> {
    let cgroup = at(host, path)?;
    if cgroup.processes(true).map_err(failed(path))?.is_empty() {
        return Ok(());
    }
    cgroup.kill().map_err(failed(path))?;
    if cgroup.wait_empty(KILL_TIMEOUT).map_err(failed(path))? {
        return Ok(());
    }
    let pids = cgroup.processes(true).map_err(failed(path))?.into_iter().take(8).collect();
    Err(CgroupsError::Undying { path: path.to_owned(), pids })
}

#[cfg(test)]
mod tests {
    use super::*;
    use podbox_cgroup::SettingName;

    #[test]
    fn swap_is_none_unless_something_was_said_about_it() {
        let memory = AskedResources { memory_limit_bytes: 64, ..AskedResources::default() };
        assert_eq!(memory_and_swap(&memory, true), Some(Limit::At(64)));
        assert_eq!(memory_and_swap(&memory, false), None, "nothing to say it to");
        assert_eq!(memory_and_swap(&AskedResources::default(), true), None);
        let sum = AskedResources { memory_swap_limit_bytes: -1, ..memory.clone() };
        assert_eq!(memory_and_swap(&sum, true), Some(Limit::Unlimited));
        let name = SettingName::new("memory.swap.max").expect("a setting");
        let raw = AskedResources { unified: [(name, "5".to_owned())].into(), ..memory };
        assert_eq!(memory_and_swap(&raw, true), None);
    }
}
