//! The steps of a newborn process between `clone3(2)` and `execve(2)`.
//!
//! Order matters and is the planner's business: sources of bind mounts are opened while the host's mounts are still in
//! sight ([`Op::OpenBind`]), then the namespace is cut loose from the host ([`Op::LeaveHostMounts`]), the root is made and
//! everything is attached below it by descriptor, and last the process moves in ([`Op::PivotRoot`]).
//!
//! A *target* is an absolute path in the container. Until `PivotRoot` it is resolved below the new root (`openat2(2)` with
//! `RESOLVE_IN_ROOT`), never by string: an image's symbolic link cannot lead out.

use crate::{ByteString, ProcessLimit, ProcessRef};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Index of a descriptor: of a mount that an earlier op opened, or of one that came with the launch message (each its own count).
pub type Slot = u32;

/// Attributes of one mount (`mount_setattr(2)`); `false` leaves the attribute off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAttributes {
    /// `MOUNT_ATTR_RDONLY`
    pub read_only: bool,
    /// `MOUNT_ATTR_NOSUID`
    pub no_suid: bool,
    /// `MOUNT_ATTR_NODEV`
    pub no_dev: bool,
    /// `MOUNT_ATTR_NOEXEC`
    pub no_exec: bool,
    /// `MOUNT_ATTR_RELATIME` is the default; this is `MOUNT_ATTR_STRICTATIME`.
    pub strict_atime: bool,
}

/// What a bind mount passes on and takes (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindPropagation {
    /// Nothing either way.
    Private,
    /// Mounts made on the host appear in the container.
    HostToContainer,
    /// And those made in the container appear on the host.
    Bidirectional,
}

/// A host path that becomes a mount of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindSource {
    /// Where the detached mount is kept until it is attached.
    pub slot: Slot,
    /// Absolute host path; symbolic links are followed.
    pub source: PathBuf,
    /// With the mounts below it (`AT_RECURSIVE`).
    pub recursive: bool,
    /// Attributes of the new mount.
    pub attributes: MountAttributes,
    /// Attributes of the new mount and of all below it (`AT_RECURSIVE`).
    pub recursive_attributes: MountAttributes,
    /// What it passes on.
    pub propagation: BindPropagation,
    /// Its files have the ids on disk in the user namespace, not outside (`MOUNT_ATTR_IDMAP`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub id_mapped: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A container's root: image layers below, its own layer above (`overlay(5)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Read-only layers, top-most first; absolute.
    pub lower: Vec<PathBuf>,
    /// The container's own layer.
    pub upper: PathBuf,
    /// overlayfs's work directory, on the file system of `upper`.
    pub work: PathBuf,
    /// The SELinux context of every file in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// An image that a container sees as a volume: its layers and nothing above them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayers {
    /// Where the detached mount is kept until it is attached.
    pub slot: Slot,
    /// Read-only layers, top-most first; absolute, and at least two (`overlay(5)`).
    pub lower: Vec<PathBuf>,
    /// Of the image only this directory. It is resolved below the image's root.
    pub sub_path: Option<PathBuf>,
    /// Host directory that the layers are put together over, in this namespace and for this step only.
    pub at: PathBuf,
    /// Attributes of the mount.
    pub attributes: MountAttributes,
    /// The SELinux context of every file in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// A fresh file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, `cgroup2` …
    pub kind: String,
    /// Options for `fsconfig(2)`: `None` is a flag.
    pub options: Vec<(String, Option<String>)>,
    /// Attributes of the mount.
    pub attributes: MountAttributes,
}

/// What has to stand where something is attached; made when nothing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetKind {
    /// A directory (0755).
    Directory,
    /// An empty regular file (0644).
    File,
    /// Whichever the mount in the slot is.
    LikeSource,
}

/// A file made in the container's `/dev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute target.
    pub path: PathBuf,
    /// What it is.
    pub kind: NodeKind,
}

/// Kinds of [`DeviceNode`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A directory with these permission bits.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link to this text.
    Symlink {
        /// What it points to; not resolved.
        to: PathBuf,
    },
    /// A character device.
    CharDevice {
        /// Permission bits.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A block device.
    BlockDevice {
        /// Permission bits.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// A device's file that is made on the host's side of a user namespace, within which none can be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedDevice {
    /// Where the detached mount of it is kept until it is attached.
    pub slot: Slot,
    /// A device. Owner and group are the host's ids.
    pub kind: NodeKind,
}

/// Capability sets at `execve(2)`, each a mask of `1 << capability number` (`capabilities(7)`).
/// The inheritable set is the ambient one, as the kernel demands; where that is empty, so is it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// What no program of the container can exceed.
    pub bounding: u64,
    /// Permitted and effective.
    pub permitted: u64,
    /// Ambient.
    pub ambient: u64,
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// `argv[0]`: with a slash as it stands, without one looked up in the `PATH` of the new environment.
    FromArguments,
    /// The descriptor with this index among those that came with the message (`execveat(2)`, `AT_EMPTY_PATH`).
    Passed(Slot),
}

/// Who confines processes by labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityModule {
    /// Labels are names of profiles.
    AppArmor,
    /// Labels are contexts: `user:role:type:level`.
    Selinux,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Enter namespaces of another process of the pod, by pidfd: `setns(2)`.
    Join {
        /// Whose.
        of: ProcessRef,
        /// Its mount namespace.
        mount: bool,
        /// Its network namespace.
        net: bool,
        /// Its IPC namespace.
        ipc: bool,
        /// Its UTS namespace.
        uts: bool,
        /// Its cgroup namespace.
        cgroup: bool,
    },
    /// `unshare(CLONE_NEWCGROUP)`: the cgroup it stands in becomes the root of what it sees.
    NewCgroupNamespace,
    /// `sethostname(2)` in its UTS namespace.
    SetHostname {
        /// At most 64 bytes.
        name: String,
    },
    /// Write a namespaced sysctl while the host's `/proc` is in sight.
    SetSysctl {
        /// With dots: `net.ipv4.ip_unprivileged_port_start`.
        key: String,
        /// As it is written.
        value: String,
    },
    /// `oom_score_adj` of the process, -1000 to 1000; already clamped to what the host lets us set.
    SetOomScoreAdj {
        /// The value.
        value: i32,
    },
    /// The limits of the process, all of which are set: nothing is inherited.
    SetLimits {
        /// Each kind once.
        limits: Vec<ProcessLimit>,
    },
    /// Ask a security module for a label from `execve(2)` on, while the host's `/proc` is in sight. The monitor looks at what the
    /// process then has, and ends it if that is another one.
    SetExecLabel {
        /// Whose.
        module: SecurityModule,
        /// The label.
        label: String,
    },
    /// Read a seccomp filter, while the host's file system is in sight, and keep it for [`Op::LoadSeccompFilter`].
    ReadSeccompFilter {
        /// Absolute host path: instructions of classic BPF as the kernel reads them, and nothing else.
        path: PathBuf,
    },
    /// Open a host path as a detached mount: `open_tree(2)`.
    OpenBind(BindSource),
    /// Open the mount at `path` of pause's mount namespace as a detached mount of this one: how `/dev/shm` is shared.
    OpenFromPause {
        /// Where it is kept.
        slot: Slot,
        /// Absolute path in pause's root.
        path: PathBuf,
    },
    /// Stop taking and passing on mounts: every mount of the namespace becomes private.
    LeaveHostMounts,
    /// Put the layers of an image together and keep them as a detached mount. After `LeaveHostMounts`: they are mounted on the way.
    OpenImage(ImageLayers),
    /// Make the overlay that becomes the root and attach it, in this namespace only, over the host directory `at`.
    OverlayRoot {
        /// Its layers.
        overlay: Overlay,
        /// Host directory that it hides here.
        at: PathBuf,
        /// Attributes of the root mount (read-only comes last: [`Op::ReadOnlyRoot`]).
        attributes: MountAttributes,
    },
    /// Put an overlay together, whose layers have the ids on disk in the user namespace, and keep it as a detached mount. After
    /// `LeaveHostMounts`, as `OpenImage`.
    OpenOverlay {
        /// Where it is kept.
        slot: Slot,
        /// Its layers.
        overlay: Overlay,
        /// Host directory that it is put together over, in this namespace and for this step only.
        at: PathBuf,
        /// Attributes of the root mount.
        attributes: MountAttributes,
    },
    /// Make a file system and keep it as a detached mount.
    OpenFileSystem {
        /// Where it is kept.
        slot: Slot,
        /// What is mounted.
        fs: FileSystem,
    },
    /// Make files of devices, each a detached mount. After `LeaveHostMounts`, as `OpenImage`.
    OpenDevices {
        /// Host directory that they are made over, in this namespace and for this step only.
        at: PathBuf,
        /// The files.
        devices: Vec<OpenedDevice>,
    },
    /// Enter the plan's user namespace as its root, and with it namespaces of the process that has it; then the plan's new namespaces, its
    /// PID namespace among them, are made. From here on nothing can be done to the host.
    EnterUserNamespace {
        /// The other's mount namespace.
        mount: bool,
        /// Its network namespace.
        net: bool,
        /// Its IPC namespace.
        ipc: bool,
        /// Its UTS namespace.
        uts: bool,
        /// Its cgroup namespace.
        cgroup: bool,
    },
    /// The detached mount of a slot becomes the root. It is attached over the host's, in this namespace only.
    AttachRoot {
        /// Which mount.
        slot: Slot,
    },
    /// Let a directory of the root be what the image declares as a volume: it is there, and it can be written to where the root cannot.
    /// Before anything else is attached to the root.
    KeepVolume {
        /// Absolute path in the container; symbolic links are followed within the root.
        target: PathBuf,
        /// The root becomes read-only.
        root_is_read_only: bool,
    },
    /// Make an empty tmpfs the root and attach it over the host directory `at`.
    EmptyRoot {
        /// Host directory that it hides here.
        at: PathBuf,
    },
    /// Mount a fresh file system on a target, which must not be reached through a symbolic link.
    Mount {
        /// Absolute path in the container.
        target: PathBuf,
        /// What is mounted.
        fs: FileSystem,
    },
    /// Attach the detached mount of a slot to a target.
    Attach {
        /// Which mount.
        slot: Slot,
        /// Absolute path in the container; symbolic links are followed within the root.
        target: PathBuf,
        /// What is made when nothing is there.
        kind: TargetKind,
    },
    /// Make a file in `/dev`. Something that is there already is an error.
    MakeNode(DeviceNode),
    /// Hide a path: `/dev/null` over a file, an empty read-only tmpfs over a directory; nothing to do if it is absent.
    Mask {
        /// Absolute path in the container.
        target: PathBuf,
    },
    /// Make a path and all below it read-only; nothing to do if it is absent.
    ReadOnlyPath {
        /// Absolute path in the container.
        target: PathBuf,
    },
    /// Make the mount that a target is the root of read-only, and none below it.
    ReadOnlyMount {
        /// Absolute path in the container, which must not be reached through a symbolic link.
        target: PathBuf,
    },
    /// Make the root mount itself read-only.
    ReadOnlyRoot,
    /// `pivot_root(2)` into the new root and let go of the host's.
    PivotRoot,
    /// Connect descriptors 0–2 as the plan's [`Stdio`](crate::Stdio) says. After `PivotRoot` or `Join`: `/dev/null` and the terminal are the container's.
    ConnectStdio,
    /// `chdir(2)`; the directory is made (0755) when `create` and absent. Afterwards the working directory is verified to lie within the root.
    WorkingDirectory {
        /// Absolute path in the container.
        path: PathBuf,
        /// Make it if it is absent.
        create: bool,
    },
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// User, groups and capabilities at once, since each needs the others' order: bounding set, groups, ids, then the sets.
    Credentials {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// All supplementary groups.
        groups: Vec<u32>,
        /// Capability sets.
        capabilities: CapabilitySets,
    },
    /// `seccomp(2)` with the filter that was read; all of the rest is done under it. Descriptors that the program shall not have are marked
    /// before, so that the filter need not let through more than the rest of the steps.
    LoadSeccompFilter {
        /// Log all but what is allowed.
        log: bool,
        /// Leave speculative store bypass as it is.
        spec_allow: bool,
        /// All threads, of which a newborn has one.
        tsync: bool,
    },
    /// Become the program: everything but descriptors 0–2 is closed.
    Exec {
        /// What is executed.
        program: Program,
        /// Its arguments, `argv[0]` first; never empty.
        arguments: Vec<ByteString>,
        /// Its environment, `NAME=value` each.
        environment: Vec<ByteString>,
    },
}

/// What the step is about, for error messages: "mount proc on /proc".
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join { of, .. } => write!(f, "join the namespaces of {of}"),
            Self::NewCgroupNamespace => f.write_str("make the cgroup namespace"),
            Self::SetHostname { name } => write!(f, "set the hostname {name:?}"),
            Self::SetSysctl { key, value } => write!(f, "set the sysctl {key}={value}"),
            Self::SetOomScoreAdj { value } => write!(f, "set oom_score_adj {value}"),
            Self::SetLimits { .. } => f.write_str("set the process limits"),
            Self::SetExecLabel { module: SecurityModule::AppArmor, label } => write!(f, "ask for the AppArmor profile {label:?}"),
            Self::SetExecLabel { module: SecurityModule::Selinux, label } => write!(f, "ask for the SELinux label {label:?}"),
            Self::ReadSeccompFilter { .. } => f.write_str("read the seccomp filter"),
            Self::OpenBind(bind) => write!(f, "open the mount source {}", bind.source.display()),
            Self::OpenFromPause { path, .. } => write!(f, "open the pod's {}", path.display()),
            Self::LeaveHostMounts => f.write_str("leave the host's mounts"),
            Self::OpenImage(ImageLayers { sub_path: Some(path), .. }) => write!(f, "open the directory {} of an image", path.display()),
            Self::OpenImage(_) => f.write_str("open the layers of an image"),
            Self::OverlayRoot { .. } => f.write_str("mount the overlay root"),
            Self::OpenOverlay { .. } => f.write_str("put the overlay root together"),
            Self::OpenFileSystem { fs, .. } => write!(f, "mount {}", fs.kind),
            Self::OpenDevices { .. } => f.write_str("make the devices"),
            Self::EnterUserNamespace { .. } => f.write_str("enter the user namespace"),
            Self::AttachRoot { .. } => f.write_str("attach the root"),
            Self::KeepVolume { target, .. } => write!(f, "keep the image's volume {}", target.display()),
            Self::EmptyRoot { .. } => f.write_str("mount the empty root"),
            Self::Mount { target, fs } => write!(f, "mount {} on {}", fs.kind, target.display()),
            Self::Attach { target, .. } => write!(f, "attach the mount {}", target.display()),
            Self::MakeNode(node) => write!(f, "make {}", node.path.display()),
            Self::Mask { target } => write!(f, "mask {}", target.display()),
            Self::ReadOnlyPath { target } => write!(f, "make {} read-only", target.display()),
            Self::ReadOnlyMount { target } => write!(f, "make the mount {} read-only", target.display()),
            Self::ReadOnlyRoot => f.write_str("make the root read-only"),
            Self::PivotRoot => f.write_str("enter the root"),
            Self::ConnectStdio => f.write_str("connect the standard streams"),
            Self::WorkingDirectory { path, .. } => write!(f, "enter the working directory {}", path.display()),
            Self::NoNewPrivileges => f.write_str("set no_new_privs"),
            Self::LoadSeccompFilter { .. } => f.write_str("load the seccomp filter"),
            Self::Credentials { uid, gid, .. } => write!(f, "become user {uid} and group {gid}"),
            Self::Exec { arguments, .. } => match arguments.first() {
                Some(name) => write!(f, "execute {name:?}"),
                None => f.write_str("execute nothing"),
            },
        }
    }
}
