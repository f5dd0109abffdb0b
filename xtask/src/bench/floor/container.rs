//! The container of a round: joins cgroups and namespaces, mounts a root, pivots into it.

use super::cgroups::{RoundCgroup, write};
use super::child::Child;
use anyhow::{Context, Result};
use nix::sched::{CloneFlags as Namespaces, setns};
use podbox_sys::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{chdir, pivot_root};
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const NODES: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
const DATA: MountFlags = NODES.union(MountFlags::NODEV);

/// In the order they are made: target, type, flags, options.
const MOUNTS: [(&str, &str, MountFlags, &CStr); 6] = [
    ("proc", "proc", DATA, c""),
    ("sys", "sysfs", DATA.union(MountFlags::RDONLY), c""),
    ("dev", "tmpfs", MountFlags::NOSUID, c"mode=755,size=64k"),
    ("dev/pts", "devpts", NODES, c"newinstance,ptmxmode=0666,mode=0620"),
    ("dev/shm", "tmpfs", DATA, c"mode=1777,size=64m"),
    ("dev/mqueue", "mqueue", DATA, c""),
];

/// The directories of one overlay.
pub(super) struct Root {
    directory: PathBuf,
    target: PathBuf,
    options: CString,
}

impl Root {
    /// Makes upper, work and target directories in `directory`, which it makes.
    pub(super) fn make(directory: PathBuf, lower: &Path) -> Result<Self> {
        let part = |name: &str| directory.join(name);
        for made in [directory.clone(), part("upper"), part("work"), part("root")] {
            fs::create_dir(&made).with_context(|| format!("make {}", made.display()))?;
        }
        let mut options = Vec::new();
        for (key, value) in [("lowerdir=", lower), (",upperdir=", &part("upper")), (",workdir=", &part("work"))] {
            options.extend_from_slice(key.as_bytes());
            options.extend_from_slice(value.as_os_str().as_bytes());
        }
        options.extend_from_slice(b",volatile");
        Ok(Self { target: part("root"), directory, options: CString::new(options).context("a path has a NUL")? })
    }

    pub(super) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.directory).with_context(|| format!("remove {}", self.directory.display()))
    }
}

/// Until its `execve` is done.
pub(super) fn start(cgroup: &RoundCgroup<'_>, root: &Root, pause: &Child, program: &OwnedFd) -> Result<Child> {
    let birthplace = cgroup.unified().map(File::open).transpose().context("open the unified cgroup")?;
    let prepare = || {
        for directory in cgroup.v1() {
            // Unlike one to `cgroup.procs`, a thread's own move takes no lock that all forks of the host share, whose writer
            // waits for an RCU grace period; and this process is one thread.
            write(&directory.join("tasks"), "0")?;
        }
        let joined = Namespaces::CLONE_NEWNET | Namespaces::CLONE_NEWIPC | Namespaces::CLONE_NEWUTS;
        setns(pause.pidfd(), joined).context("join pause's namespaces")?;
        enter(root)
    };
    let namespaces = CloneFlags::NEW_MOUNT | CloneFlags::NEW_PID;
    Child::spawn(namespaces, birthplace.as_ref().map(File::as_fd), prepare, program)
}

fn enter(root: &Root) -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("make all mounts private")?;
    mount("overlay", &root.target, "overlay", MountFlags::empty(), root.options.as_c_str()).context("mount the overlay")?;
    chdir(&root.target).context("enter the overlay")?;
    for (target, kind, flags, options) in MOUNTS {
        make_target(target)?;
        mount(kind, target, kind, flags, options).with_context(|| format!("mount {kind} on {target}"))?;
    }
    pivot_root(".", ".").context("pivot")?;
    unmount(".", UnmountFlags::DETACH).context("let go of the old root")?;
    chdir("/").context("enter the new root")
}

fn make_target(target: &str) -> Result<()> {
    match fs::create_dir(target) {
        Err(fault) if fault.kind() != std::io::ErrorKind::AlreadyExists => Err(fault).with_context(|| format!("make {target}")),
        _ => Ok(()),
    }
}
