//! What podbox does to the machine: monitors, cgroups, networks, snapshots, files.
//!
//! Each function does one thing and tells how it failed; none decides what is done next or knows the CRI. State of pods is kept
//! elsewhere, but for what is the node's: which addresses are taken, and how much output is being captured.
//! Undoing functions tolerate that what they undo is absent or half there.

mod apparmor;
mod cgroups;
mod clock;
mod confinement;
mod devices;
mod exec;
mod facts;
mod files;
mod image;
mod layers;
mod limits;
mod meters;
mod monitor;
mod network;
mod open_files;
mod programs;
mod selinux;
mod streams;
mod systemd;
mod usage;
mod user_namespace;

pub use apparmor::AppArmorError;
pub use cgroups::{
    CgroupsError, Remains, SandboxCgroups, cgroup_entry, end_damaged_scope, end_scope, find_remains, kill_cgroups, make_container_cgroup,
    make_scope, remove_cgroup, remove_made, signal_member, undo_container_update, update_container_cgroup,
};
pub use clock::now_ns;
pub use confinement::{ConfinementError, Confining, kept_profile};
pub use devices::{DeviceError, node_devices, requested_devices};
pub use exec::{CAPTURED_STDIO, CaptureRoom, ExecError, ExecOutput, exec_sync};
pub use facts::discover_facts;
pub use files::{collect_netns_names, link_netns, unlink_netns, write_pod_files};
pub use image::{RootfsError, VolumeError, find_image, find_volume_images, image_defaults, plan_volumes, resolve_user};
pub use layers::{LayerUsage, Layers};
pub use limits::{LimitError, check_limits};
pub use meters::{Meters, Reading, Subject, Target};
pub use monitor::{MonitorError, MonitorEvent, MonitorLink, Started, connect_monitor, kill_monitor, spawn_monitor, spawn_unborn_monitor};
pub use network::{Network, NetworkError};
pub use open_files::raise_open_files;
pub use programs::Programs;
pub use selinux::SelinuxError;
pub use streams::{attach_connected, connected_stdio, exec_connected};
pub use systemd::choose_driver;
pub use usage::{ContainerDetails, DiskSpace, disk_space, read_details};
pub use user_namespace::why_no_user_namespaces;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::plan::{Layout, NodeFacts, PodParent};
use podbox_cgroup::Hierarchies;
use podbox_image::{ImageStore, Puller, Reference};
use std::sync::Arc;

/// The parts of the node that effects act on: made once, when the daemon starts.
pub struct Node {
    /// The configuration.
    pub config: Config,
    /// What was found out.
    pub facts: NodeFacts,
    /// Where things stand.
    pub layout: Layout,
    /// Where pods go whose request does not say, and with it the cgroup driver.
    pub pod_parent: PodParent,
    /// The cgroup hierarchies.
    pub hierarchies: Hierarchies,
    /// Images and containers' own layers.
    pub images: Arc<ImageStore>,
    /// Brings images from registries.
    pub puller: Puller,
    /// Names of images that the kubelet is not to remove.
    pub pinned: Arc<[Reference]>,
    /// The pod network.
    pub network: Network,
    /// Pause and the monitor.
    pub programs: Programs,
    /// What confines processes.
    pub confining: Arc<Confining>,
    /// What commands may write.
    pub captures: CaptureRoom,
    /// The counters of what runs.
    pub meters: Meters,
    /// What containers have written.
    pub layers: Arc<Layers>,
    /// What the daemon counts of its own doings.
    pub metrics: Arc<Metrics>,
}
