//! Pods with users of their own: what goes together with that, and how their processes are born.
//!
//! Plans are made as for any pod, and rewritten last: what only the host's root can do comes first, then the namespace is entered, then
//! everything that is to belong to it is made.

use super::{HostDevice, NodeFacts, PlanError, PodUser};
use crate::request::{ContainerConfig, Propagation, SandboxConfig, UserMode};
use podbox_cgroup::DeviceKind;
use podbox_plan::{DeviceNode, IdRange, NodeKind, Op, OpenedDevice, Slot, TargetKind, UserMappings};
use std::path::{Path, PathBuf};

/// Checks whether this node can give a pod users of its own, where one wants that.
///
/// # Errors
/// [`PlanError::NoUserNamespaces`] says why it cannot.
pub fn check_users_of_pod(config: &SandboxConfig, node: &NodeFacts) -> Result<(), PlanError> {
    match (&node.no_user_namespaces, config.users) {
        (Some(reason), UserMode::Pod(_)) => Err(PlanError::NoUserNamespaces { reason: reason.clone() }),
        _ => Ok(()),
    }
}

/// The kubelet says the same of a pod, of each of its containers, and of each mount.
pub(super) fn check_users_of_container(config: &ContainerConfig, pod: &UserMode) -> Result<(), PlanError> {
    if config.security.users != *pod {
        return Err(PlanError::NotThePodsUsers);
    }
    let of_host = config.mounts.iter().map(|mount| (&mount.container_path, mount.mappings));
    let of_images = config.image_volumes.iter().map(|volume| (&volume.container_path, volume.mappings));
    let odd = of_host.chain(of_images).find(|(_, mappings)| mappings.is_some() && mappings.as_ref() != pod.mappings());
    if let Some((path, _)) = odd {
        return Err(PlanError::NotThePodsMappings { path: path.clone() });
    }
    let passes_on = |mount: &&crate::request::Mount| mount.propagation == Propagation::Bidirectional;
    match config.mounts.iter().find(passes_on) {
        Some(mount) if pod.mappings().is_some() => Err(PlanError::MountsForTheNode { path: mount.container_path.clone() }),
        _ => Ok(()),
    }
}

/// Everybody whom the container's processes are must be there.
pub(super) fn check_ids(user: &PodUser, pod: &UserMode) -> Result<(), PlanError> {
    let Some(mappings) = pod.mappings() else { return Ok(()) };
    let groups = [user.gid].into_iter().chain(user.groups.iter().copied());
    let absent = |what, id, range: IdRange| PlanError::NotMapped { what, id, length: range.length };
    if !mappings.uids.has(user.uid) {
        return Err(absent("user", user.uid, mappings.uids));
    }
    match groups.into_iter().find(|group| !mappings.gids.has(*group)) {
        Some(group) => Err(absent("group", group, mappings.gids)),
        None => Ok(()),
    }
}

/// What a privileged container with users of its own is given of the node's devices: those that everybody on the node may use. The others'
/// files would be of no use to it, and what its image has in their place must be of none.
#[must_use]
pub fn is_for_everybody(device: &HostDevice) -> bool {
    device.kind == DeviceKind::Char && device.mode & EVERYBODY == EVERYBODY
}

/// Reading and writing by others.
const EVERYBODY: u32 = 0o006;

/// Has a container's init enter the user namespace. `at` is the host directory that things are put together over.
pub(super) fn init_in_user_namespace(ops: Vec<Op>, mappings: &UserMappings, at: &Path) -> Vec<Op> {
    let mut rewriting =
        Rewriting { mappings, next_slot: first_free_slot(&ops), devices: Vec::new(), mounted: Vec::new(), network_is_nodes: false };
    let (mut before, mut after, mut joined) = (Vec::new(), Vec::new(), enter());
    let mut root = None;
    for op in ops {
        match op {
            Op::Join { mount, net, ipc, uts, cgroup, .. } => {
                rewriting.network_is_nodes = !net;
                joined = Op::EnterUserNamespace { mount, net, ipc, uts, cgroup };
            }
            Op::OverlayRoot { overlay, at, attributes } => {
                let slot = rewriting.slot();
                before.push(Op::OpenOverlay { slot, overlay, at, attributes });
                root = Some(slot);
            }
            op if root.is_none() && op != Op::NewCgroupNamespace => before.push(op),
            op => after.push(rewriting.within(op)),
        }
    }
    before.append(&mut rewriting.mounted);
    if !rewriting.devices.is_empty() {
        before.push(Op::OpenDevices { at: at.to_owned(), devices: rewriting.devices });
    }
    before.push(joined);
    // A cgroup namespace is the first thing to make within, which has come first among these.
    let first = usize::from(after.first() == Some(&Op::NewCgroupNamespace));
    if let Some(slot) = root {
        after.insert(first, Op::AttachRoot { slot });
    }
    before.extend(after);
    before
}

/// Has pause enter its user namespace: all but what takes the host's root, or files of the host's, is done within.
pub(super) fn pause_in_user_namespace(ops: Vec<Op>) -> Vec<Op> {
    let is_before = |op: &Op| {
        matches!(
            op,
            Op::SetOomScoreAdj { .. } | Op::SetLimits { .. } | Op::SetExecLabel { .. } | Op::ReadSeccompFilter { .. } | Op::LeaveHostMounts
        )
    };
    let (mut before, after): (Vec<Op>, Vec<Op>) = ops.into_iter().partition(is_before);
    before.push(enter());
    // Of the host it sees what everybody may: its own folder is nothing of that.
    let within = |op| if let Op::EmptyRoot { .. } = op { Op::EmptyRoot { at: PathBuf::from("/") } } else { op };
    before.extend(after.into_iter().map(within));
    before
}

/// Has a command enter the container's user namespace together with the rest.
pub(super) fn command_in_user_namespace(ops: Vec<Op>) -> Vec<Op> {
    let within = |op| match op {
        Op::Join { mount, net, ipc, uts, cgroup, .. } => Op::EnterUserNamespace { mount, net, ipc, uts, cgroup },
        op => op,
    };
    ops.into_iter().map(within).collect()
}

fn enter() -> Op {
    Op::EnterUserNamespace { mount: false, net: false, ipc: false, uts: false, cgroup: false }
}

fn first_free_slot(ops: &[Op]) -> Slot {
    let taken = ops.iter().filter_map(|op| match op {
        Op::OpenBind(source) => Some(source.slot),
        Op::OpenImage(layers) => Some(layers.slot),
        Op::OpenFromPause { slot, .. } => Some(*slot),
        _ => None,
    });
    taken.max().map_or(0, |slot| slot + 1)
}

struct Rewriting<'a> {
    mappings: &'a UserMappings,
    next_slot: Slot,
    devices: Vec<OpenedDevice>,
    mounted: Vec<Op>,
    network_is_nodes: bool,
}

impl Rewriting<'_> {
    fn slot(&mut self) -> Slot {
        let slot = self.next_slot;
        self.next_slot += 1;
        slot
    }

    /// No device can be made within, and no sysfs of a network that belongs to the node.
    fn within(&mut self, op: Op) -> Op {
        match op {
            Op::MakeNode(node) => self.node_within(node),
            Op::Mount { target, fs } if fs.kind == "sysfs" && self.network_is_nodes => {
                let slot = self.slot();
                self.mounted.push(Op::OpenFileSystem { slot, fs });
                Op::Attach { slot, target, kind: TargetKind::Directory }
            }
            op => op,
        }
    }

    fn node_within(&mut self, node: DeviceNode) -> Op {
        let Some(kind) = self.device(&node.kind) else { return Op::MakeNode(node) };
        let slot = self.slot();
        self.devices.push(OpenedDevice { slot, kind });
        Op::Attach { slot, target: node.path, kind: TargetKind::File }
    }

    /// One that everybody may use belongs to the container's root; any other to whom it belongs on the node, since nobody has the right to
    /// the node's devices for being called root in a pod.
    fn device(&self, kind: &NodeKind) -> Option<NodeKind> {
        let root = (self.mappings.uids.first_host_id, self.mappings.gids.first_host_id);
        match *kind {
            NodeKind::CharDevice { mode, major, minor, .. } if mode & EVERYBODY == EVERYBODY => {
                Some(NodeKind::CharDevice { mode, major, minor, uid: root.0, gid: root.1 })
            }
            NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. } => Some(kind.clone()),
            NodeKind::Directory { .. } | NodeKind::Symlink { .. } => None,
        }
    }
}
