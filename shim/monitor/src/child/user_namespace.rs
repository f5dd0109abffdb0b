//! Entering the pod's user namespace.
//!
//! ```text
//! the newborn, root of the host ── cgroups, sources, layers, devices ── EnterUserNamespace ── exits
//!                                                                            └─ its sibling, root of the user namespace ── …
//! ```
//!
//! What only the host's root can do comes first, and is kept as descriptors. From a user namespace no way leads back, and a PID namespace
//! belongs to the user namespace of who begins it: so the newborn enters, brings forth another process with the namespaces that are to be
//! the user namespace's, and ends. The other one is the monitor's child as well; it waits until the monitor can know of that. Without a PID
//! namespace of its own the newborn goes on itself.
//!
//! Neither lets itself be looked into (`PR_SET_DUMPABLE`): what the pod runs as the same user may otherwise take descriptors of the
//! host's from it (`ptrace(2)`, `pidfd_getfd(2)`).

use super::Newborn;
use super::error::OpError;
use super::streams::give_to_user;
use crate::birth::{ChildStreams, GOES_ON_AS};
use crate::launch::new_namespaces;
use nix::sched::unshare;
use podbox_plan::{IdRange, PidNamespace, ProcessRef, UserMappings, UserNamespace};
use podbox_sys::{CloneArguments, Cloned, IdMap, clone3, map_ids, new_user_namespace};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySets, LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A user namespace, for mounts to be mapped by and to be entered.
pub struct Opened {
    namespace: OwnedFd,
    mappings: UserMappings,
}

impl Opened {
    /// Maps the ids of a detached mount of `path`.
    pub fn map(&self, mount: &OwnedFd, path: &Path, recursive: bool) -> Result<(), OpError> {
        map_ids(mount, &self.namespace, recursive).map_err(|error| OpError::NoIdMap { path: path.to_owned(), errno: error.errno() })
    }

    /// A detached copy of the mount at a host directory, mapped, without what is mounted below it.
    pub fn mapped_copy(&self, directory: &Path) -> Result<OwnedFd, OpError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = rustix::mount::open_tree(rustix::fs::CWD, directory, flags)?;
        self.map(&copy, directory, false)?;
        Ok(copy)
    }

    /// Does something as the host's root whose new files are the namespace's root's. overlayfs makes its own as who mounted it, and what
    /// has no id in a mapped mount cannot be made there.
    pub fn with_its_files<T>(&self, work: impl FnOnce() -> Result<T, OpError>) -> Result<T, OpError> {
        let (uid, gid) = self.root();
        let capabilities = rustix::thread::capabilities(None)?;
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(gid.as_raw()));
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid.as_raw()));
        // The change takes the effective capabilities that concern files.
        let effective = CapabilitySets { effective: capabilities.permitted, ..capabilities };
        let done = rustix::thread::set_capabilities(None, effective).map_err(OpError::from).and_then(|()| work());
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(0));
        rustix::thread::set_capabilities(None, capabilities)?;
        done
    }

    /// Who root is, for the host.
    fn root(&self) -> (Uid, Gid) {
        (Uid::from_raw(self.mappings.uids.first_host_id), Gid::from_raw(self.mappings.gids.first_host_id))
    }
}

impl Newborn<'_> {
    /// The plan's user namespace; `None`: it is the host's.
    pub(super) fn users(&self) -> Option<&Opened> {
        self.user_namespace.as_ref()
    }

    pub(super) fn open_user_namespace(&mut self) -> Result<(), OpError> {
        self.user_namespace = match &self.birth.plan.user {
            UserNamespace::Host => None,
            UserNamespace::New(mappings) => {
                let map = |range: IdRange| IdMap { first_outside: range.first_host_id, length: range.length };
                let namespace = new_user_namespace(map(mappings.uids), map(mappings.gids))
                    .map_err(|error| OpError::Part { part: error.to_string(), errno: error.errno() })?;
                Some(Opened { namespace, mappings: *mappings })
            }
            UserNamespace::Of { process, mappings } => Some(Opened { namespace: self.namespace_of(process)?, mappings: *mappings }),
        };
        Ok(())
    }

    fn namespace_of(&self, of: &ProcessRef) -> Result<OwnedFd, OpError> {
        let running = self.birth.running.iter().find(|running| running.process == *of);
        let running = running.ok_or_else(|| OpError::NotRunning(of.clone()))?;
        let path = format!("/proc/{}/ns/user", running.pid.as_raw_nonzero());
        let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        // As long as it has not ended, nobody else has its number.
        if has_ended(&running.pidfd)? { Err(OpError::NotRunning(of.clone())) } else { Ok(opened?) }
    }

    /// See [`Op::EnterUserNamespace`](podbox_plan::Op::EnterUserNamespace). `kinds` are namespaces of the process that has the user namespace.
    pub(super) fn enter_user_namespace(&mut self, kinds: ThreadNameSpaceType) -> Result<(), OpError> {
        let opened = self.user_namespace.as_ref().ok_or(OpError::NoUserNamespace)?;
        let plan = self.birth.plan;
        self.give_streams(opened.root())?;
        let to_be_locked = self.attach_to_be_locked()?;
        match &plan.user {
            // At once, for who is in it has no right any more to enter the host's network.
            UserNamespace::Of { process, .. } => move_into_thread_name_spaces(self.pidfd(process)?, kinds | ThreadNameSpaceType::USER)?,
            _ => move_into_link_name_space(opened.namespace.as_fd(), Some(LinkNameSpaceType::User))?,
        }
        become_root()?;
        if plan.pid == PidNamespace::New {
            self.go_on_as_sibling()?;
        } else if plan.namespaces.mount {
            unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        }
        if !to_be_locked.is_empty() {
            self.take_locked(&to_be_locked)?;
        }
        if kinds.contains(ThreadNameSpaceType::MOUNT) {
            self.root = None;
            self.root_or_slash()?;
        }
        Ok(())
    }

    /// Pipes belong to the host's root until somebody gives them away who may.
    fn give_streams(&self, root: (Uid, Gid)) -> Result<(), OpError> {
        let passed = |slot: &Option<_>| slot.map(|slot| self.descriptor(slot)).transpose();
        let given = match &self.birth.streams {
            ChildStreams::Closed | ChildStreams::Terminal { .. } | ChildStreams::PassedTerminal(_) => Vec::new(),
            ChildStreams::Piped { stdin, stdout, stderr } => {
                let stdin = stdin.as_ref().map(AsFd::as_fd);
                vec![stdin, Some(stdout.as_fd()), Some(stderr.as_fd())]
            }
            ChildStreams::Passed(slots) => slots.iter().map(passed).collect::<Result<_, _>>()?,
        };
        Ok(given.into_iter().flatten().try_for_each(|stream| give_to_user(stream, root))?)
    }

    /// Only the sibling returns.
    fn go_on_as_sibling(&mut self) -> Result<(), OpError> {
        let (wait, go) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let flags = new_namespaces(self.birth.plan);
        match clone3(CloneArguments { flags, cgroup: None, sibling: true })? {
            Cloned::Child => {
                drop(go);
                // Who brought it forth was killed before the monitor could know: so that the monitor cannot end this one, either.
                if rustix::io::retry_on_intr(|| rustix::io::read(&wait, &mut [0_u8])) != Ok(1) {
                    std::process::exit(1);
                }
                rustix::process::setsid()?;
                Ok(())
            }
            Cloned::Parent { pid, .. } => {
                let said = self.say(format!("{}{}\n", char::from(GOES_ON_AS), pid.as_raw_nonzero()).as_bytes());
                // The pipe's end tells of the other one from now on, whenever this one comes to its own.
                self.birth.status = None;
                if said.is_ok() {
                    // One that is gone was killed, which the monitor hears of.
                    let _ = rustix::io::write(&go, b"!");
                }
                std::process::exit(0)
            }
        }
    }
}

/// A signal would not tell: who is in another PID namespace may send none.
fn has_ended(pidfd: &OwnedFd) -> Result<bool, Errno> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now))? > 0)
}

/// Who has entered a user namespace has every capability there and is nobody there.
fn become_root() -> Result<(), Errno> {
    // Each change of ids sets it to what the host has for such programs.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
