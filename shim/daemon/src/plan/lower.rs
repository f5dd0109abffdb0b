//! From the OCI runtime spec to the ops of a newborn process.
//!
//! The order is the one [`podbox_plan::Op`] describes: sources are opened while the host is in sight, the root is assembled
//! by descriptor, and what the process is allowed comes last.

use super::cgroup_mount::{CGROUP_V1, CgroupOps, Cgroups};
use super::spec::{IMAGE_VOLUME, pod_shm_source};
use super::user_namespace::init_in_user_namespace;
use super::{ContainerPlan, PlanError, SpecError, capability, devices, limits};
use crate::request::{IpcMode, NetworkMode, SandboxConfig, UserMode};
use oci_spec::runtime::{Mount, Process};
use podbox_plan::{
    BindPropagation, BindSource, ByteString, CapabilitySets, CgroupEntry, DeviceNode, FileSystem, ImageLayers, LaunchPlan, LogTarget,
    MountAttributes, NewNamespaces, NodeKind, Op, Overlay, PidNamespace, ProcessRef, Program, Slot, Stdio, TargetKind, UserNamespace,
};
use std::path::{Path, PathBuf};

/// What a launch needs beside the container's plan.
#[derive(Debug, Clone)]
pub struct LaunchInputs<'a> {
    /// The container as it was planned.
    pub plan: &'a ContainerPlan,
    /// What was asked of its sandbox.
    pub sandbox: &'a SandboxConfig,
    /// Pause's process id, as it was when the container was planned.
    pub pause_pid: i32,
    /// Its cgroup.
    pub cgroup: CgroupEntry,
    /// Its root.
    pub overlay: Overlay,
    /// A host directory that the root is attached over, in the container's own mount namespace.
    pub root_at: PathBuf,
    /// Where its exit record goes.
    pub exit_record: PathBuf,
}

/// Lowers a container's plan to a launch.
///
/// # Errors
/// The spec lacks a part that every spec of ours has.
pub fn lower(inputs: &LaunchInputs<'_>) -> Result<LaunchPlan, PlanError> {
    let spec = &inputs.plan.spec;
    let part = |part: &'static str| PlanError::Spec(SpecError { part });
    let process = spec.process().as_ref().ok_or(part("process"))?;
    let linux = spec.linux().as_ref().ok_or(part("linux"))?;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let device_nodes = devices::nodes(linux)?;
    let MountOps { opened, assembled, attached } = mount_ops(mounts, inputs, &device_nodes);

    let mut ops = vec![
        Op::Join {
            of: ProcessRef::Pause,
            mount: false,
            net: inputs.sandbox.network == NetworkMode::Pod,
            ipc: inputs.sandbox.ipc == IpcMode::Pod,
            uts: true,
            cgroup: false,
        },
        Op::NewCgroupNamespace,
        Op::SetOomScoreAdj { value: process.oom_score_adj().unwrap_or_default() },
        set_limits(process)?,
    ];
    ops.extend(opened);
    ops.push(Op::LeaveHostMounts);
    ops.extend(assembled);
    // Nothing of an image is a device: what a container needs of them is made in its /dev.
    let attributes = MountAttributes { no_dev: true, ..MountAttributes::default() };
    ops.push(Op::OverlayRoot { overlay: inputs.overlay.clone(), at: inputs.root_at.clone(), attributes });
    let is_read_only = spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or_default();
    let keep = |path: &PathBuf| Op::KeepVolume { target: path.clone(), root_is_read_only: is_read_only };
    ops.extend(inputs.plan.declared_volumes.iter().map(keep));
    ops.extend(attached);
    ops.extend(device_nodes.into_iter().map(Op::MakeNode));
    for path in linux.masked_paths().iter().flatten() {
        ops.push(Op::Mask { target: path.into() });
    }
    for path in linux.readonly_paths().iter().flatten() {
        ops.push(Op::ReadOnlyPath { target: path.into() });
    }
    if is_read_only {
        ops.push(Op::ReadOnlyRoot);
    }
    ops.push(Op::PivotRoot);
    ops.push(Op::ConnectStdio);
    ops.push(Op::WorkingDirectory { path: process.cwd().clone(), create: true });
    ops.extend(become_program(process, process.args().as_deref().unwrap_or_default(), &inputs.plan.environment));

    let user = match inputs.plan.users {
        UserMode::Node => UserNamespace::Host,
        UserMode::Pod(mappings) => {
            ops = init_in_user_namespace(ops, &mappings, &inputs.root_at);
            UserNamespace::Of { process: ProcessRef::Pause, mappings }
        }
    };
    inputs.plan.confinement.apply(&mut ops);
    Ok(LaunchPlan {
        namespaces: NewNamespaces { mount: true, ..NewNamespaces::default() },
        pid: inputs.plan.pid.clone(),
        user,
        cgroup: CgroupEntry { kill_rest_on_exit: inputs.plan.pid != PidNamespace::New, ..inputs.cgroup.clone() },
        stdio: stdio(inputs.plan, process),
        ops,
        exit_record: Some(inputs.exit_record.clone()),
    })
}

/// The same for a container's init and for what is executed in it.
pub(super) fn set_limits(process: &Process) -> Result<Op, PlanError> {
    Ok(Op::SetLimits { limits: limits::process_limits(process.rlimits().as_deref().unwrap_or_default())? })
}

/// The last steps, the same for a container's init and for what is executed in it.
pub(super) fn become_program(process: &Process, arguments: &[String], environment: &[ByteString]) -> Vec<Op> {
    let mut ops = Vec::new();
    if process.no_new_privileges().unwrap_or_default() {
        ops.push(Op::NoNewPrivileges);
    }
    let capabilities = process.capabilities().as_ref();
    let mask = |set: Option<&std::collections::HashSet<_>>| set.map_or(0, capability::mask_of);
    ops.push(Op::Credentials {
        uid: process.user().uid(),
        gid: process.user().gid(),
        groups: process.user().additional_gids().clone().unwrap_or_default(),
        capabilities: CapabilitySets {
            bounding: mask(capabilities.and_then(|sets| sets.bounding().as_ref())),
            permitted: mask(capabilities.and_then(|sets| sets.permitted().as_ref())),
            ambient: mask(capabilities.and_then(|sets| sets.ambient().as_ref())),
        },
    });
    ops.push(Op::Exec {
        program: Program::FromArguments,
        arguments: arguments.iter().map(|argument| argument.as_str().into()).collect(),
        environment: environment.to_vec(),
    });
    ops
}

fn stdio(plan: &ContainerPlan, process: &Process) -> Stdio {
    let log = plan.log_path.clone().map(|path| LogTarget { path });
    if process.terminal().unwrap_or_default() { Stdio::Terminal { log } } else { Stdio::Piped { stdin: plan.stdin, log } }
}

/// The ops of a container's mounts, by when they come.
#[derive(Default)]
struct MountOps {
    /// While the host is in sight.
    opened: Vec<Op>,
    /// Once the host's mounts are left and before the root is made.
    assembled: Vec<Op>,
    /// When the root is there.
    attached: Vec<Op>,
}

/// `given` devices stand for standard ones.
fn mount_ops(mounts: &[Mount], inputs: &LaunchInputs<'_>, given: &[DeviceNode]) -> MountOps {
    let mut ops = MountOps::default();
    let pod_shm = pod_shm_source(inputs.pause_pid);
    let volume_at = |target: &Path| inputs.plan.image_volumes.iter().find(|volume| volume.container_path == target);
    let mut next_slot: Slot = 0;
    for mount in mounts {
        let options = MountOptions::of(mount);
        let target = mount.destination().clone();
        let kind = mount.typ().as_deref().unwrap_or_default();
        if kind == CGROUP_V1 {
            let path = inputs.plan.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref()?.to_str()).unwrap_or_default();
            let cgroups = Cgroups { directories: &inputs.cgroup.v1, path };
            let CgroupOps { opened, attached } = cgroups.mount(&target, options.attributes, next_slot);
            next_slot = next_slot.saturating_add(Slot::try_from(opened.len()).unwrap_or(Slot::MAX));
            ops.opened.extend(opened);
            ops.attached.extend(attached);
            continue;
        }
        let volume = (kind == IMAGE_VOLUME).then(|| volume_at(&target)).flatten();
        if kind != "bind" && volume.is_none() {
            let is_dev = target == Path::new("/dev");
            let fs = FileSystem { kind: kind.to_owned(), options: options.data, attributes: options.attributes };
            ops.attached.push(Op::Mount { target, fs });
            if is_dev {
                let is_given = |path: &Path| given.iter().any(|node| node.path == path);
                ops.attached.extend(standard_nodes().filter(|node| !is_given(&node.path)).map(Op::MakeNode));
            }
            continue;
        }
        let slot = next_slot;
        next_slot += 1;
        let source = mount.source().clone().unwrap_or_default();
        match volume {
            Some(volume) => ops.assembled.push(Op::OpenImage(ImageLayers {
                slot,
                lower: volume.lower_dirs.clone(),
                sub_path: volume.sub_path.clone(),
                at: inputs.root_at.clone(),
                attributes: options.attributes,
                context: None,
            })),
            None if source == pod_shm => ops.opened.push(Op::OpenFromPause { slot, path: PathBuf::from(super::sandbox::POD_SHM) }),
            None => ops.opened.push(Op::OpenBind(BindSource {
                slot,
                source,
                recursive: options.recursive,
                attributes: options.attributes,
                recursive_attributes: options.recursive_attributes,
                propagation: options.propagation,
                id_mapped: options.id_mapped,
            })),
        }
        ops.attached.push(Op::Attach { slot, target, kind: TargetKind::LikeSource });
    }
    ops
}

/// A mount's options, sorted into what the kernel takes where.
struct MountOptions {
    attributes: MountAttributes,
    recursive_attributes: MountAttributes,
    propagation: BindPropagation,
    recursive: bool,
    id_mapped: bool,
    data: Vec<(String, Option<String>)>,
}

impl MountOptions {
    fn of(mount: &Mount) -> Self {
        let mut sorted = Self {
            attributes: MountAttributes::default(),
            recursive_attributes: MountAttributes::default(),
            propagation: BindPropagation::Private,
            recursive: false,
            id_mapped: false,
            data: Vec::new(),
        };
        for option in mount.options().iter().flatten() {
            sorted.take(option);
        }
        sorted
    }

    fn take(&mut self, option: &str) {
        match option {
            "bind" | "private" | "rprivate" | "rw" => {}
            "rbind" => self.recursive = true,
            // As deep as the mount is.
            "idmap" | "ridmap" => self.id_mapped = true,
            "slave" | "rslave" => self.propagation = BindPropagation::HostToContainer,
            "shared" | "rshared" => self.propagation = BindPropagation::Bidirectional,
            "ro" => self.attributes.read_only = true,
            "rro" => self.recursive_attributes.read_only = true,
            "rnosuid" => self.recursive_attributes.no_suid = true,
            "rnodev" => self.recursive_attributes.no_dev = true,
            "rnoexec" => self.recursive_attributes.no_exec = true,
            "nosuid" => self.attributes.no_suid = true,
            "nodev" => self.attributes.no_dev = true,
            "noexec" => self.attributes.no_exec = true,
            "strictatime" => self.attributes.strict_atime = true,
            data => match data.split_once('=') {
                Some((key, value)) => self.data.push((key.to_owned(), Some(value.to_owned()))),
                None => self.data.push((data.to_owned(), None)),
            },
        }
    }
}

/// What every container finds in `/dev` (runtime-spec, "Default Devices").
fn standard_nodes() -> impl Iterator<Item = DeviceNode> {
    let link = |(name, to): (&str, &str)| DeviceNode { path: Path::new("/dev").join(name), kind: NodeKind::Symlink { to: to.into() } };
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    devices::standard_devices().chain(links.into_iter().map(link))
}
