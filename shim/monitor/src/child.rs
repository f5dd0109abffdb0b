//! The newborn: what a process does between `clone3(2)` and `execve(2)`.
//!
//! It is a copy of the monitor with one thread, holding copies of the monitor's descriptors, all of them close-on-exec. It never
//! returns into the monitor's code: it becomes its program, or tells through the status pipe which step failed and ends.
//!
//! One that enters a user namespace and begins a PID namespace there is two processes, one after the other: see [`user_namespace`].
//!
//! The host's file system is in sight until `PivotRoot`; from there on nothing of the host is looked up, and no file of the
//! container's `/proc` is written.

mod confinement;
mod credentials;
mod dev;
mod error;
mod exec;
mod limits;
mod locked;
mod mask;
mod mount;
mod namespaces;
mod overlay;
mod root;
mod streams;
mod target;
mod user_namespace;
mod workdir;

pub use error::errno_text;

use crate::birth::ChildStreams;
use crate::process::Running;
use error::OpError;
use podbox_plan::wire::LaunchFailure;
use podbox_plan::{CgroupEntry, LaunchPlan, Op, ProcessLimit, ProcessRef, Slot};
use podbox_sys::{FilterFlags, FilterInstruction};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What a newborn is made from.
pub struct Birth<'a> {
    /// What it is to do.
    pub plan: &'a LaunchPlan,
    /// Where it stands, which may be below where the plan has it.
    pub cgroup: &'a CgroupEntry,
    /// Its ends of the standard streams.
    pub streams: ChildStreams,
    /// Those of the launch message.
    pub descriptors: Vec<OwnedFd>,
    /// Where it says how it goes; `None` once another process does in its stead.
    pub status: Option<OwnedFd>,
    /// Processes whose namespaces can be joined.
    pub running: &'a [Running],
    /// The `oom_score_adj` to start with, if the monitor's is not it.
    pub oom_score_adj: Option<&'a str>,
}

/// A newborn at work.
struct Newborn<'a> {
    birth: Birth<'a>,
    /// Detached mounts that wait to be attached.
    mounts: BTreeMap<Slot, OwnedFd>,
    /// The root of the container's file system, once there is one.
    root: Option<OwnedFd>,
    /// The user namespace that it is to enter, or has entered.
    user_namespace: Option<user_namespace::Opened>,
    /// The mount that hides directories, once there is one.
    empty_directory: Option<OwnedFd>,
    /// The seccomp filter that waits to be loaded.
    filter: Option<Vec<FilterInstruction>>,
    /// Those that the program shall not have will be closed.
    descriptors_are_marked: bool,
    /// The limit that its program is to have.
    open_files: Option<ProcessLimit>,
}

/// Carries out the plan. Only the child of a `clone3` comes here, and it does not come back.
pub fn be_born(birth: Birth<'_>) -> ! {
    let mut newborn = Newborn {
        birth,
        mounts: BTreeMap::new(),
        root: None,
        user_namespace: None,
        empty_directory: None,
        filter: None,
        descriptors_are_marked: false,
        open_files: None,
    };
    let failure = newborn.live();
    newborn.report(&failure);
    std::process::exit(1)
}

impl<'a> Newborn<'a> {
    /// Gives why it did not become its program.
    fn live(&mut self) -> LaunchFailure {
        if let Err(failure) = self.settle() {
            return failure;
        }
        let plan: &'a LaunchPlan = self.birth.plan;
        for op in &plan.ops {
            if let Err(error) = self.carry_out(op) {
                return failed(op, &error);
            }
        }
        failed(&"execute a program", &OpError::NothingExecuted)
    }

    /// What every newborn does first: it stops being the monitor.
    fn settle(&mut self) -> Result<(), LaunchFailure> {
        podbox_sys::reset_signals().map_err(|error| failed(&"reset the signals", &error.into()))?;
        rustix::process::setsid().map_err(|errno| failed(&"make a session", &errno.into()))?;
        // What the daemon was started with may hold somebody's keys.
        podbox_sys::new_session_keyring().map_err(|error| failed(&"make a session keyring", &error.into()))?;
        if let Some(value) = self.birth.oom_score_adj {
            namespaces::set_oom_score_adj(value.trim()).map_err(|errno| failed(&"reset oom_score_adj", &errno.into()))?;
        }
        for directory in &self.birth.cgroup.v1 {
            let step = format!("join the cgroup {}", directory.display());
            namespaces::join_cgroup(directory).map_err(|errno| failed(&step, &errno.into()))?;
        }
        self.open_user_namespace().map_err(|error| failed(&"open the user namespace", &error))
    }

    fn carry_out(&mut self, op: &Op) -> Result<(), OpError> {
        match op {
            Op::Join { of, mount, net, ipc, uts, cgroup } => self.join(of, &namespaces::kinds(*mount, *net, *ipc, *uts, *cgroup)),
            Op::NewCgroupNamespace => namespaces::new_cgroup_namespace(),
            Op::SetHostname { name } => Ok(rustix::system::sethostname(name.as_bytes())?),
            Op::SetSysctl { key, value } => namespaces::set_sysctl(key, value),
            Op::SetOomScoreAdj { value } => Ok(namespaces::set_oom_score_adj(&value.to_string())?),
            Op::SetLimits { limits } => self.set_limits(limits),
            Op::SetExecLabel { module, label } => confinement::set_exec_label(*module, label),
            Op::ReadSeccompFilter { path } => {
                self.filter = Some(confinement::read_filter(path)?);
                Ok(())
            }
            Op::OpenBind(source) => self.keep_mount(source.slot, mount::open_bind(source, self.users())?),
            Op::OpenFromPause { slot, path } => {
                let mount = mount::open_in(self.pidfd(&ProcessRef::Pause)?, path)?;
                self.keep_mount(*slot, mount)
            }
            Op::LeaveHostMounts => mount::leave_host_mounts(),
            Op::OpenImage(layers) => self.keep_mount(layers.slot, overlay::image(layers, self.users())?),
            Op::OverlayRoot { overlay, at, attributes } => self.set_root(overlay::root(overlay, at, attributes)?),
            Op::OpenOverlay { slot, overlay, at, attributes } => {
                let users = self.users().ok_or(OpError::NoUserNamespace)?;
                self.keep_mount(*slot, overlay::id_mapped_root(overlay, at, attributes, users)?)
            }
            Op::OpenFileSystem { slot, fs } => self.keep_mount(*slot, mount::open_fresh(fs)?),
            Op::OpenDevices { at, devices } => {
                dev::make_apart(at, devices)?.into_iter().try_for_each(|(slot, mount)| self.keep_mount(slot, mount))
            }
            Op::EnterUserNamespace { mount, net, ipc, uts, cgroup } => {
                self.enter_user_namespace(namespaces::kinds(*mount, *net, *ipc, *uts, *cgroup))
            }
            Op::AttachRoot { slot } => {
                let root = self.mounts.remove(slot).ok_or(OpError::EmptySlot(*slot))?;
                root::attach(&root, Path::new("/"))?;
                self.set_root(root)
            }
            Op::KeepVolume { target, root_is_read_only } => mount::keep_volume(self.new_root()?, target, *root_is_read_only),
            Op::EmptyRoot { at } => self.set_root(root::empty(at)?),
            Op::Mount { target, fs } => mount::mount_fresh(self.new_root()?, target, fs),
            Op::Attach { slot, target, kind } => {
                let mount = self.mounts.remove(slot).ok_or(OpError::EmptySlot(*slot))?;
                mount::attach(self.new_root()?, &mount, target, *kind)
            }
            Op::MakeNode(node) => dev::make_node(self.new_root()?, node),
            Op::Mask { target } => self.mask(target),
            Op::ReadOnlyPath { target } => mask::make_read_only(self.new_root()?, target),
            Op::ReadOnlyMount { target } => mask::make_mount_read_only(self.new_root()?, target),
            Op::ReadOnlyRoot => mask::make_root_read_only(self.new_root()?),
            Op::PivotRoot => self.pivot_root(),
            Op::ConnectStdio => self.connect_stdio(),
            Op::WorkingDirectory { path, create } => workdir::enter(self.root_or_slash()?, path, *create),
            Op::NoNewPrivileges => Ok(rustix::thread::set_no_new_privs(true)?),
            Op::Credentials { uid, gid, groups, capabilities } => credentials::become_user(*uid, *gid, groups, capabilities),
            Op::LoadSeccompFilter { log, spec_allow, tsync } => {
                self.load_seccomp_filter(FilterFlags { log: *log, spec_allow: *spec_allow, tsync: *tsync })
            }
            Op::Exec { program, arguments, environment } => self.execute(program, arguments, environment),
        }
    }

    fn keep_mount(&mut self, slot: Slot, mount: OwnedFd) -> Result<(), OpError> {
        match self.mounts.insert(slot, mount) {
            None => Ok(()),
            Some(_) => Err(OpError::SlotTaken(slot)),
        }
    }

    fn set_root(&mut self, root: OwnedFd) -> Result<(), OpError> {
        self.root = Some(root);
        Ok(())
    }

    /// Where the container's file system is put together.
    fn new_root(&self) -> Result<BorrowedFd<'_>, OpError> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(OpError::NoRoot)
    }

    /// The root that the program will see: the new one, or that of the mount namespace it is in.
    fn root_or_slash(&mut self) -> Result<BorrowedFd<'_>, Errno> {
        if self.root.is_none() {
            self.root = Some(rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
        }
        self.root.as_ref().map(AsFd::as_fd).ok_or(Errno::NOENT)
    }

    fn pidfd(&self, of: &ProcessRef) -> Result<BorrowedFd<'a>, OpError> {
        let running: &'a [Running] = self.birth.running;
        let process = running.iter().find(|running| running.process == *of);
        process.map(|running| running.pidfd.as_fd()).ok_or_else(|| OpError::NotRunning(of.clone()))
    }

    fn descriptor(&self, slot: Slot) -> Result<BorrowedFd<'_>, OpError> {
        let at = usize::try_from(slot).map_err(|_| OpError::NoDescriptor(slot))?;
        self.birth.descriptors.get(at).map(AsFd::as_fd).ok_or(OpError::NoDescriptor(slot))
    }

    fn report(&self, failure: &LaunchFailure) {
        // A monitor that is gone hears nothing, and the end of this process is all that is left to do.
        if let Ok(text) = serde_json::to_vec(failure) {
            let _ = self.say(&text);
        }
    }

    /// Says something over the status pipe, which has room for all that is ever said.
    fn say(&self, words: &[u8]) -> Result<(), Errno> {
        self.birth.status.as_ref().map_or(Err(Errno::PIPE), |status| rustix::io::write(status, words).map(drop))
    }
}

/// Steps and reasons are for people; a path of a megabyte would be none.
const TEXT_BYTES_MAX: usize = 2048;

fn failed(step: &dyn fmt::Display, error: &OpError) -> LaunchFailure {
    LaunchFailure { step: shortened(step.to_string()), errno: error.errno().raw_os_error(), reason: shortened(error.to_string()) }
}

fn shortened(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}
