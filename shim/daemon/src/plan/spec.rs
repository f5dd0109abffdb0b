//! The OCI runtime spec of a container (runtime-spec, `config.md` and `config-linux.md`).

use super::cgroup_mount::CGROUP_V1;
use super::sandbox::POD_SHM;
use super::{ContainerInputs, PlanError, PlannedVolume, SpecError, capability, devices, limits};
use crate::request::{IpcMode, Mount as MountRequest, NetworkMode, PathLists, Propagation, Resources, Restrictions, UserMode};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, Mount, MountBuilder, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use podbox_cgroup::HugepageSize;
use podbox_plan::{ByteString, CapabilitySets, IdRange, PidNamespace};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Hidden from containers: what tells of or reaches the node's hardware and kernel.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];
/// Not writable for containers.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The type of mounts that are images.
pub(super) const IMAGE_VOLUME: &str = "overlay";

pub(super) struct SpecInputs<'a> {
    pub container: &'a ContainerInputs<'a>,
    pub arguments: Vec<String>,
    pub environment: &'a [ByteString],
    pub working_directory: PathBuf,
    pub capabilities: CapabilitySets,
}

/// A spec as JSON, always the same for the same spec: the OCI crate keeps capabilities in sets that have no order.
#[must_use]
pub fn spec_json(spec: &Spec) -> serde_json::Value {
    let mut json = serde_json::to_value(spec).unwrap_or_default();
    if let Some(sets) = json.pointer_mut("/process/capabilities").and_then(serde_json::Value::as_object_mut) {
        for set in sets.values_mut().filter_map(serde_json::Value::as_array_mut) {
            set.sort_by_key(ToString::to_string);
        }
    }
    json
}

/// The builders fail only where a part without a default was not given.
pub(super) fn missing(part: &'static str) -> impl FnOnce(OciSpecError) -> PlanError {
    move |_| PlanError::Spec(SpecError { part })
}

pub(super) fn runtime_spec(inputs: &SpecInputs<'_>) -> Result<Spec, PlanError> {
    let container = inputs.container;
    let security = &container.config.security;
    let root = RootBuilder::default().path("rootfs").readonly(security.read_only_root).build().map_err(missing("root"))?;
    let (masked, read_only) = path_lists(&security.paths, security.privileged, container.sandbox.users);
    let mut resources = spec_resources(&container.config.resources)?;
    resources.set_devices(Some(devices::allowed(container)?));
    let linux = LinuxBuilder::default()
        .namespaces(namespaces(container)?)
        .cgroups_path(container.cgroup)
        .masked_paths(masked)
        .readonly_paths(read_only)
        .rootfs_propagation("private")
        .devices(devices::files(container)?)
        .resources(resources);
    let mut linux = linux.build().map_err(missing("linux"))?;
    if let Some(mappings) = container.sandbox.users.mappings() {
        linux.set_uid_mappings(Some(id_mappings(mappings.uids)?)).set_gid_mappings(Some(id_mappings(mappings.gids)?));
    }
    let annotations: HashMap<String, String> = container.config.annotations.clone().into_iter().collect();
    SpecBuilder::default()
        .version("1.2.1")
        .root(root)
        .hostname(container.hostname)
        .process(process(inputs)?)
        .mounts(mounts(container)?)
        .annotations(annotations)
        .linux(linux)
        .build()
        .map_err(missing("spec"))
}

/// The one range of users or groups that a pod of its own users has.
pub(super) fn id_mappings(range: IdRange) -> Result<Vec<LinuxIdMapping>, PlanError> {
    let builder = LinuxIdMappingBuilder::default().container_id(0_u32).host_id(range.first_host_id).size(range.length);
    Ok(vec![builder.build().map_err(missing("linux.uidMappings"))?])
}

fn process(inputs: &SpecInputs<'_>) -> Result<Process, PlanError> {
    let container = inputs.container;
    let (bounding, permitted, ambient) = {
        let CapabilitySets { bounding, permitted, ambient } = inputs.capabilities;
        (capability::names_of(bounding), capability::names_of(permitted), capability::names_of(ambient))
    };
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(bounding)
        .effective(permitted.clone())
        .permitted(permitted)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .map_err(missing("process.capabilities"))?;
    let user = UserBuilder::default()
        .uid(container.user.uid)
        .gid(container.user.gid)
        .additional_gids(container.user.groups.clone())
        .build()
        .map_err(missing("process.user"))?;
    let environment: Vec<String> = inputs.environment.iter().map(|variable| String::from_utf8_lossy(&variable.0).into_owned()).collect();
    ProcessBuilder::default()
        .terminal(container.config.tty)
        .user(user)
        .args(inputs.arguments.clone())
        .env(environment)
        .cwd(inputs.working_directory.clone())
        .capabilities(capabilities)
        .rlimits(limits::spec_limits(container.node)?)
        .no_new_privileges(container.config.security.no_new_privileges)
        .oom_score_adj(container.node.clamp_oom_score_adj(container.config.resources.oom_score_adj))
        .build()
        .map_err(missing("process"))
}

/// Nothing is hidden from a privileged container, whatever the request lists. Who lists nothing gets the standard lists, but for
/// containers with users of their own, who mean it: to the node their root is nobody.
fn path_lists(paths: &PathLists, privileged: bool, users: UserMode) -> (Vec<String>, Vec<String>) {
    let texts = |paths: &[PathBuf]| paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let constants = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    match paths {
        _ if privileged => (Vec::new(), Vec::new()),
        PathLists::Standard if users != UserMode::Node => (Vec::new(), Vec::new()),
        PathLists::Standard => (constants(&MASKED), constants(&READ_ONLY)),
        PathLists::Exactly { masked, read_only } => (texts(masked), texts(read_only)),
    }
}

fn namespaces(container: &ContainerInputs<'_>) -> Result<Vec<LinuxNamespace>, PlanError> {
    let of = |pid: i32, name: &str| Some(PathBuf::from(format!("/proc/{pid}/ns/{name}")));
    let pause = container.pause_pid;
    let mut namespaces =
        vec![(LinuxNamespaceType::Mount, None), (LinuxNamespaceType::Cgroup, None), (LinuxNamespaceType::Uts, of(pause, "uts"))];
    if container.sandbox.network == NetworkMode::Pod {
        namespaces.push((LinuxNamespaceType::Network, of(pause, "net")));
    }
    if container.sandbox.ipc == IpcMode::Pod {
        namespaces.push((LinuxNamespaceType::Ipc, of(pause, "ipc")));
    }
    if container.sandbox.users.mappings().is_some() {
        namespaces.push((LinuxNamespaceType::User, of(pause, "user")));
    }
    match container.pid {
        PidNamespace::New => namespaces.push((LinuxNamespaceType::Pid, None)),
        PidNamespace::Host => {}
        PidNamespace::Of(_) => namespaces.push((LinuxNamespaceType::Pid, of(container.target_pid.unwrap_or(pause), "pid"))),
    }
    let build = |(typ, path): (LinuxNamespaceType, Option<PathBuf>)| {
        let builder = LinuxNamespaceBuilder::default().typ(typ);
        match path {
            Some(path) => builder.path(path),
            None => builder,
        }
        .build()
        .map_err(missing("linux.namespaces"))
    };
    namespaces.into_iter().map(build).collect()
}

/// Replaces the limits in a spec; what it says of devices stays.
///
/// # Errors
/// None that a request could bring about.
pub fn set_spec_resources(spec: &mut Spec, asked: &Resources) -> Result<(), PlanError> {
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let mut resources = spec_resources(asked)?;
    resources.set_devices(linux.resources().as_ref().and_then(|former| former.devices().clone()));
    linux.set_resources(Some(resources));
    Ok(())
}

/// The limits as the OCI runtime spec has them.
fn spec_resources(asked: &Resources) -> Result<LinuxResources, PlanError> {
    let mut cpu = LinuxCpuBuilder::default();
    if asked.cpu_shares > 0 {
        cpu = cpu.shares(asked.cpu_shares);
    }
    if asked.cpu_quota_us != 0 {
        cpu = cpu.quota(asked.cpu_quota_us);
    }
    if asked.cpu_period_us > 0 {
        cpu = cpu.period(asked.cpu_period_us);
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(asked.cpuset_cpus.clone());
    }
    if !asked.cpuset_mems.is_empty() {
        cpu = cpu.mems(asked.cpuset_mems.clone());
    }
    let mut resources = LinuxResourcesBuilder::default().cpu(cpu.build().map_err(missing("linux.resources.cpu"))?);
    if let Some(limit) = i64::try_from(asked.memory_limit_bytes).ok().filter(|limit| *limit > 0) {
        let mut builder = LinuxMemoryBuilder::default().limit(limit);
        if asked.memory_swap_limit_bytes != 0 {
            builder = builder.swap(asked.memory_swap_limit_bytes);
        }
        resources = resources.memory(builder.build().map_err(missing("linux.resources.memory"))?);
    }
    if let Some(limit) = asked.pids_limit() {
        resources = resources.pids(LinuxPidsBuilder::default().limit(limit).build().map_err(missing("linux.resources.pids"))?);
    }
    if !asked.hugepage_limits_bytes.is_empty() {
        resources = resources.hugepage_limits(hugepage_limits(asked)?);
    }
    if !asked.unified.is_empty() {
        let unified = asked.unified.iter().map(|(name, value)| (name.to_string(), value.clone()));
        resources = resources.unified(unified.collect::<HashMap<_, _>>());
    }
    resources.build().map_err(missing("linux.resources"))
}

fn hugepage_limits(asked: &Resources) -> Result<Vec<LinuxHugepageLimit>, PlanError> {
    let limit = |(size, bytes): (&HugepageSize, &u64)| {
        let limit = i64::try_from(*bytes).unwrap_or(i64::MAX);
        let builder = LinuxHugepageLimitBuilder::default().page_size(size.as_str()).limit(limit);
        builder.build().map_err(missing("linux.resources.hugepageLimits"))
    };
    asked.hugepage_limits_bytes.iter().map(limit).collect()
}

pub(super) fn mount(destination: &str, typ: &str, source: &Path, options: &[&str]) -> Result<Mount, PlanError> {
    MountBuilder::default()
        .destination(destination)
        .typ(typ)
        .source(source)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(missing("mounts"))
}

/// Where a container finds the pod's shared memory: a tmpfs of pause's mount namespace.
pub(super) fn pod_shm_source(pause_pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pause_pid}/root{POD_SHM}"))
}

fn mounts(container: &ContainerInputs<'_>) -> Result<Vec<Mount>, PlanError> {
    let mut mounts = kernel_mounts(container)?;
    mounts.extend(pod_mounts(container)?);
    let (of_host, of_images) = (&container.config.mounts, container.image_volumes);
    let mut requested: Vec<Mount> = of_host.iter().map(requested_mount).collect::<Result<_, _>>()?;
    requested.extend(of_images.iter().map(image_mount).collect::<Result<Vec<_>, _>>()?);
    let asked: HashSet<PathBuf> = requested.iter().map(|mount| mount.destination().clone()).collect();
    // What the request mounts at the very same place stands for ours.
    mounts.retain(|mount| !asked.contains(mount.destination()));
    // A mount below another must come after it, whatever order they were asked for in.
    requested.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(requested);
    Ok(mounts)
}

fn kernel_mounts(container: &ContainerInputs<'_>) -> Result<Vec<Mount>, PlanError> {
    let privileged = container.config.security.privileged;
    let sealed = ["nosuid", "noexec", "nodev"];
    // The node's network, as sysfs shows it, is the node's to change.
    let is_nodes = container.sandbox.network == NetworkMode::Node && container.sandbox.users != UserMode::Node;
    let sys: &[&str] = if privileged && !is_nodes { &sealed } else { &["nosuid", "noexec", "nodev", "ro"] };
    let mut mounts = vec![
        mount("/proc", "proc", Path::new("proc"), &sealed)?,
        mount("/dev", "tmpfs", Path::new("tmpfs"), &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"])?,
        mount("/dev/pts", "devpts", Path::new("devpts"), &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"])?,
        mount("/dev/mqueue", "mqueue", Path::new("mqueue"), &sealed)?,
        mount("/sys", "sysfs", Path::new("sysfs"), sys)?,
    ];
    let cgroup = if container.node.cgroup_v2 { "cgroup2" } else { CGROUP_V1 };
    mounts.push(mount("/sys/fs/cgroup", cgroup, Path::new(cgroup), sys)?);
    let (shm, shm_options): (PathBuf, &[&str]) = match container.sandbox.ipc {
        IpcMode::Pod => (pod_shm_source(container.pause_pid), &["rbind", "rprivate"]),
        IpcMode::Node => (PathBuf::from("/dev/shm"), &["rbind", "rprivate", "nosuid", "noexec", "nodev"]),
    };
    mounts.push(mount("/dev/shm", "bind", &shm, shm_options)?);
    Ok(mounts)
}

/// resolv.conf and its kin, the pod's own files. They stand in podbox's state directory, so a container that could write to them
/// could fill that.
fn pod_mounts(container: &ContainerInputs<'_>) -> Result<Vec<Mount>, PlanError> {
    let pod = container.layout.pod(container.sandbox_id);
    let options = ["bind", "rprivate", "nosuid", "noexec", "nodev", "ro"];
    let file = |name: &str| mount(&format!("/etc/{name}"), "bind", &pod.join(name), &options);
    ["resolv.conf", "hostname", "hosts"].into_iter().map(file).collect()
}

/// The source is the image's ID; the layers stand in the plan.
fn image_mount(volume: &PlannedVolume) -> Result<Mount, PlanError> {
    // Programs of an image may run, as they may in a container of it; nothing of one is a device.
    let mut options: Vec<String> = ["ro", "nodev"].map(str::to_owned).into();
    options.extend(restrictions(volume.restrictions, ["nosuid", "nodev", "noexec"]).filter(|option| *option != "nodev").map(str::to_owned));
    MountBuilder::default()
        .destination(volume.container_path.clone())
        .typ(IMAGE_VOLUME)
        .source(volume.image_id.clone())
        .options(options)
        .build()
        .map_err(missing("mounts"))
}

/// Those of the options for suid programs, devices and programs that apply.
fn restrictions(asked: Restrictions, options: [&'static str; 3]) -> impl Iterator<Item = &'static str> {
    let applies = [asked.no_suid, asked.no_dev, asked.no_exec];
    options.into_iter().zip(applies).filter(|(_, applies)| *applies).map(|(option, _)| option)
}

fn requested_mount(request: &MountRequest) -> Result<Mount, PlanError> {
    let mut options = vec!["rbind"];
    options.push(match request.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    });
    options.push(match (request.read_only, request.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    });
    // What is mounted below is restricted like the mount itself: nothing else was asked for.
    options.extend(restrictions(request.restrictions, ["rnosuid", "rnodev", "rnoexec"]));
    if request.mappings.is_some() {
        options.push("ridmap");
    }
    let mut mount = MountBuilder::default()
        .destination(request.container_path.clone())
        .typ("bind")
        .source(request.host_path.clone())
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(missing("mounts"))?;
    if let Some(mappings) = &request.mappings {
        mount.set_uid_mappings(Some(id_mappings(mappings.uids)?)).set_gid_mappings(Some(id_mappings(mappings.gids)?));
    }
    Ok(mount)
}
