//! The devices of a container: the files it finds, and which devices it may use at all (runtime-spec, `config-linux.md`, "Devices",
//! "Default Devices" and "Allowed Device list"). Both stand in the OCI spec, and what is done is read from there.

use super::{ContainerInputs, PlanError, SpecError};
use crate::request::UserMode;
use oci_spec::OciSpecError;
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, Spec};
use podbox_cgroup::{DeviceAccess, DeviceKind, DeviceRule};
use podbox_plan::{DeviceNode, NodeKind};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A device of the host that a container is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// The file that the container finds, with the host's owner and mode.
    pub path: PathBuf,
    /// Character or block device.
    pub kind: DeviceKind,
    /// Its numbers.
    pub numbers: (u32, u32),
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// What may be done with it.
    pub access: DeviceAccess,
}

/// Which devices a container may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DevicePolicy {
    /// All: it is privileged.
    All,
    /// None but these.
    Only(Vec<DeviceRule>),
}

/// Devices that every container may use: the standard ones of its `/dev`, and the terminals of its own devpts, one of which its
/// `/dev/console` is. The node's console (5:1) is none of them.
const STANDARD: [(&str, u32, Option<u32>); 8] = [
    ("/dev/null", 1, Some(3)),
    ("/dev/zero", 1, Some(5)),
    ("/dev/full", 1, Some(7)),
    ("/dev/random", 1, Some(8)),
    ("/dev/urandom", 1, Some(9)),
    ("/dev/tty", 5, Some(0)),
    ("/dev/ptmx", 5, Some(2)),
    ("/dev/pts/", 136, None),
];
/// These stand in `/dev/pts`, or are links to there.
const FOUND_BY_DEVPTS: [&str; 2] = ["/dev/ptmx", "/dev/pts/"];

/// The standard files of a container's `/dev` that are devices.
pub(super) fn standard_devices() -> impl Iterator<Item = DeviceNode> {
    let files = STANDARD.into_iter().filter(|(path, ..)| !FOUND_BY_DEVPTS.contains(path));
    files.filter_map(|(path, major, minor)| {
        Some(DeviceNode { path: path.into(), kind: NodeKind::CharDevice { mode: 0o666, major, minor: minor?, uid: 0, gid: 0 } })
    })
}

fn missing(part: &'static str) -> impl FnOnce(OciSpecError) -> PlanError {
    move |_| PlanError::Spec(SpecError { part })
}

/// `linux.devices`: what the container finds beside the standard files; of two at one place the last. A container that brings a `/dev` of
/// its own, which may well be the node's, finds there what is there.
pub(super) fn files(container: &ContainerInputs<'_>) -> Result<Vec<LinuxDevice>, PlanError> {
    if container.config.mounts.iter().any(|mount| mount.container_path == Path::new("/dev")) {
        return Ok(Vec::new());
    }
    let by_path: BTreeMap<&Path, &HostDevice> = container.devices.iter().map(|device| (device.path.as_path(), device)).collect();
    by_path.into_values().map(file).collect()
}

fn file(device: &HostDevice) -> Result<LinuxDevice, PlanError> {
    LinuxDeviceBuilder::default()
        .path(device.path.clone())
        .typ(type_of(device.kind))
        .major(i64::from(device.numbers.0))
        .minor(i64::from(device.numbers.1))
        .file_mode(device.mode)
        .uid(device.owner.0)
        .gid(device.owner.1)
        .build()
        .map_err(missing("linux.devices"))
}

fn type_of(kind: DeviceKind) -> LinuxDeviceType {
    match kind {
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    }
}

/// `linux.resources.devices`: everything is denied but what follows. Files for devices may be made of any, as container images' own
/// programs do; that they can be opened is another matter.
pub(super) fn allowed(container: &ContainerInputs<'_>) -> Result<Vec<LinuxDeviceCgroup>, PlanError> {
    let everything = |allow: bool| {
        let builder = LinuxDeviceCgroupBuilder::default().allow(allow).typ(LinuxDeviceType::A).access("rwm");
        builder.build().map_err(missing("linux.resources.devices"))
    };
    // A pod with users of its own has no right to the node's devices, and its image may hold files for them.
    if container.config.security.privileged && container.sandbox.users == UserMode::Node {
        return Ok(vec![everything(true)?]);
    }
    let of_kind = |kind| DeviceRule { kind, major: None, minor: None, access: DeviceAccess::MKNOD };
    let standard = STANDARD.into_iter().map(|(_, major, minor)| DeviceRule {
        kind: DeviceKind::Char,
        major: Some(major),
        minor,
        access: DeviceAccess::ALL,
    });
    let given = container.devices.iter().map(|device| DeviceRule {
        kind: device.kind,
        major: Some(device.numbers.0),
        minor: Some(device.numbers.1),
        access: device.access,
    });
    let rules = [of_kind(DeviceKind::Char), of_kind(DeviceKind::Block)].into_iter().chain(standard).chain(given);
    std::iter::once(everything(false)).chain(rules.map(|rule| allow(&rule))).collect()
}

fn allow(rule: &DeviceRule) -> Result<LinuxDeviceCgroup, PlanError> {
    let mut builder = LinuxDeviceCgroupBuilder::default().allow(true).typ(type_of(rule.kind)).access(rule.access.to_string());
    if let Some(major) = rule.major {
        builder = builder.major(i64::from(major));
    }
    if let Some(minor) = rule.minor {
        builder = builder.minor(i64::from(minor));
    }
    builder.build().map_err(missing("linux.resources.devices"))
}

/// What the spec's list of allowed devices comes to; without a list no device is.
///
/// # Errors
/// The list holds what podbox writes into none: a device denied among allowed ones, numbers that are none.
pub fn device_policy(spec: &Spec) -> Result<DevicePolicy, PlanError> {
    let list = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()).and_then(|resources| resources.devices().as_ref());
    let mut policy = DevicePolicy::Only(Vec::new());
    for entry in list.into_iter().flatten() {
        let is_everything = matches!(entry.typ(), None | Some(LinuxDeviceType::A));
        policy = match (entry.allow(), is_everything, policy) {
            (true, true, _) => DevicePolicy::All,
            (false, true, _) => DevicePolicy::Only(Vec::new()),
            (true, false, DevicePolicy::All) => DevicePolicy::All,
            (true, false, DevicePolicy::Only(mut rules)) => {
                rules.push(rule_of(entry)?);
                DevicePolicy::Only(rules)
            }
            (false, false, _) => return Err(odd_list()),
        };
    }
    Ok(policy)
}

fn odd_list() -> PlanError {
    PlanError::Spec(SpecError { part: "linux.resources.devices" })
}

fn rule_of(entry: &LinuxDeviceCgroup) -> Result<DeviceRule, PlanError> {
    let number = |number: Option<i64>| number.map(u32::try_from).transpose().map_err(|_| odd_list());
    let kind = match entry.typ() {
        Some(LinuxDeviceType::B) => DeviceKind::Block,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Char,
        _ => return Err(odd_list()),
    };
    let access = entry.access().as_deref().unwrap_or_default().parse().map_err(|_| odd_list())?;
    Ok(DeviceRule { kind, major: number(entry.major())?, minor: number(entry.minor())?, access })
}

/// The spec's device files as nodes.
pub(super) fn nodes(linux: &Linux) -> Result<Vec<DeviceNode>, PlanError> {
    linux.devices().iter().flatten().map(node).collect()
}

fn node(device: &LinuxDevice) -> Result<DeviceNode, PlanError> {
    let odd = || PlanError::Spec(SpecError { part: "linux.devices" });
    let number = |number: i64| u32::try_from(number).map_err(|_| odd());
    let (major, minor) = (number(device.major())?, number(device.minor())?);
    let mode = device.file_mode().unwrap_or(0o666);
    let (uid, gid) = (device.uid().unwrap_or_default(), device.gid().unwrap_or_default());
    let kind = match device.typ() {
        LinuxDeviceType::B => NodeKind::BlockDevice { mode, major, minor, uid, gid },
        LinuxDeviceType::C | LinuxDeviceType::U => NodeKind::CharDevice { mode, major, minor, uid, gid },
        LinuxDeviceType::A | LinuxDeviceType::P => return Err(odd()),
    };
    Ok(DeviceNode { path: device.path().clone(), kind })
}
