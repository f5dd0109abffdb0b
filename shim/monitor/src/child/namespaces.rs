//! Namespaces, cgroups, and what is written to the host's `/proc` about the newborn itself.

use super::error::OpError;
use super::{Newborn, target};
use nix::sched::CloneFlags;
use podbox_plan::ProcessRef;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use std::path::Path;

/// The kinds that are wanted.
pub fn kinds(mount: bool, net: bool, ipc: bool, uts: bool, cgroup: bool) -> ThreadNameSpaceType {
    [
        (mount, ThreadNameSpaceType::MOUNT),
        (net, ThreadNameSpaceType::NETWORK),
        (ipc, ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
        (uts, ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
        (cgroup, ThreadNameSpaceType::CONTROL_GROUP),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(ThreadNameSpaceType::empty(), |all, (_, kind)| all | kind)
}

impl Newborn<'_> {
    /// `setns(2)`. With a mount namespace comes its root.
    pub(super) fn join(&mut self, of: &ProcessRef, kinds: &ThreadNameSpaceType) -> Result<(), OpError> {
        move_into_thread_name_spaces(self.pidfd(of)?, *kinds)?;
        if kinds.contains(ThreadNameSpaceType::MOUNT) {
            self.root = None;
            self.root_or_slash()?;
        }
        Ok(())
    }
}

/// `unshare(CLONE_NEWCGROUP)`
pub fn new_cgroup_namespace() -> Result<(), OpError> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)?)
}

/// Moves into a v1 cgroup: 0 stands for the writer. A newborn is one thread, so `tasks` moves all of it, without the lock over
/// every process of the host that `cgroup.procs` takes.
pub fn join_cgroup(directory: &Path) -> Result<(), Errno> {
    write(&rustix::fs::open(directory.join("tasks"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?, "0")
}

/// Of this process, in the host's `/proc`.
pub fn set_oom_score_adj(value: &str) -> Result<(), Errno> {
    write(&rustix::fs::open("/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?, value)
}

/// Writes a sysctl below the host's `/proc/sys`, which shows the namespaces of who looks. Dots separate; where a name has a dot of
/// its own, slashes do (`sysctl(8)`).
pub fn set_sysctl(key: &str, value: &str) -> Result<(), OpError> {
    let path = match key.find(['.', '/']) {
        Some(at) if key[at..].starts_with('/') => key.to_owned(),
        _ => key.replace('.', "/"),
    };
    let directory = rustix::fs::open("/proc/sys", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if !target::is_proc(&directory)? {
        return Err(OpError::Part { part: "/proc".to_owned(), errno: Errno::NODEV });
    }
    // Neither a crafted key nor a mount over a part of /proc leads anywhere else.
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = rustix::fs::openat2(&directory, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), below)?;
    Ok(write(&file, value)?)
}

fn write(file: &impl std::os::fd::AsFd, text: &str) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::io::write(file, text.as_bytes())).map(drop)
}
