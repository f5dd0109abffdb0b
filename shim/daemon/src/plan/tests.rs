//! Golden plans: what each request becomes, in full. A change of a plan shows as a change of its file.

use super::*;
use crate::request::{ContainerConfig, ImageVolume, SandboxConfig};
use podbox_plan::{CgroupEntry, ContainerId, Overlay, PidNamespace, ProcessRef, SandboxId};
use podbox_proto::v1;

fn node() -> NodeFacts {
    NodeFacts {
        hostname: "node-1".to_owned(),
        oom_score_adj_min: 0,
        capabilities: u64::MAX,
        limits_max: [(podbox_plan::LimitKind::OpenFiles, Some(4096))].into(),
        seccomp: true,
        apparmor: false,
        selinux: false,
        cgroup_v2: false,
        cgroup_driver: podbox_cgroup::Driver::Cgroupfs,
        boot_id: "boot".to_owned(),
        kernel: "6.18".to_owned(),
        no_user_namespaces: None,
    }
}

fn cgroup() -> CgroupEntry {
    CgroupEntry { unified: Some("/sys/fs/cgroup/u/p/c".into()), v1: vec!["/sys/fs/cgroup/cpu/p/c".into()], ..CgroupEntry::default() }
}

fn sandbox_id() -> SandboxId {
    SandboxId::from_random([0x5a; 32])
}

fn sandbox_config(linux: v1::LinuxPodSandboxConfig) -> SandboxConfig {
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "u-1".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        log_directory: "/var/log/pods/web".to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }.try_into().expect("valid")
}

fn in_namespaces(network: v1::NamespaceMode, pid: v1::NamespaceMode, ipc: v1::NamespaceMode) -> v1::LinuxPodSandboxConfig {
    let options = v1::NamespaceOption { network: network.into(), pid: pid.into(), ipc: ipc.into(), ..Default::default() };
    let security = v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    v1::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }
}

fn container_config(config: v1::ContainerConfig) -> ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "busybox".to_owned(), ..Default::default() }),
        ..config
    }
    .try_into()
    .expect("valid")
}

fn image() -> ImageDefaults {
    ImageDefaults { entrypoint: vec!["/entry".to_owned()], env: vec!["PATH=/bin".to_owned()], ..ImageDefaults::default() }
}

/// The OCI spec and the launch of a container.
fn planned(sandbox: &SandboxConfig, config: &ContainerConfig, pid: PidNamespace) -> serde_json::Value {
    let layout = Layout::new("/run/podbox".into());
    let user = PodUser { uid: 0, gid: 0, groups: vec![0], home: Some("/root".to_owned()) };
    let (id, node) = (sandbox_id(), node());
    let volume = |volume: &ImageVolume| PlannedVolume {
        container_path: volume.container_path.clone(),
        image_id: format!("sha256:{}", volume.image.image),
        lower_dirs: vec!["/l/2".into(), "/l/1".into()],
        sub_path: volume.sub_path.clone(),
        restrictions: volume.restrictions,
    };
    let volumes: Vec<PlannedVolume> = config.image_volumes.iter().map(volume).collect();
    let plan = plan_container(&ContainerInputs {
        config,
        sandbox_id: &id,
        sandbox,
        hostname: "web",
        pause_pid: 4242,
        pid: &pid,
        target_pid: None,
        image: &image(),
        user: &user,
        cgroup: "/podbox/p/c",
        image_volumes: &volumes,
        devices: &[],
        node: &node,
        layout: &layout,
    })
    .expect("a plan");
    let container = ContainerId::from_random([0xc0; 32]);
    let launch = lower(&LaunchInputs {
        plan: &plan,
        sandbox,
        pause_pid: 4242,
        cgroup: cgroup(),
        overlay: Overlay { lower: vec!["/l/2/fs".into(), "/l/1/fs".into()], upper: "/c/fs".into(), work: "/c/work".into(), context: None },
        root_at: layout.container(&id, &container),
        exit_record: layout.container_exit(&id, &container),
    })
    .expect("a launch");
    serde_json::json!({ "spec": spec_json(&plan.spec), "launch": launch })
}

#[test]
fn pause_of_an_ordinary_pod() {
    let mut linux = v1::LinuxPodSandboxConfig::default();
    linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
    let config = sandbox_config(linux);
    let layout = Layout::new("/run/podbox".into());
    insta::assert_json_snapshot!(pause_launch(&config, &node(), &layout, &sandbox_id(), "web", cgroup()));
}

#[test]
fn pause_of_a_pod_in_the_nodes_namespaces() {
    use v1::NamespaceMode::Node;
    let config = sandbox_config(in_namespaces(Node, Node, Node));
    let layout = Layout::new("/run/podbox".into());
    assert_eq!(sandbox_hostname(&config, &node(), &sandbox_id()), "node-1");
    insta::assert_json_snapshot!(pause_launch(&config, &node(), &layout, &sandbox_id(), "node-1", cgroup()));
}

#[test]
fn the_spec_of_pause() {
    use v1::NamespaceMode::Node;
    let mut linux = v1::LinuxPodSandboxConfig::default();
    linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
    insta::assert_json_snapshot!(spec_json(&pause_spec(&sandbox_config(linux), &node(), "web", "/podbox/p/i").expect("a spec")));
    let shared = pause_spec(&sandbox_config(in_namespaces(Node, Node, Node)), &node(), "node-1", "/x").expect("a spec");
    let namespaces = spec_json(&shared)["linux"]["namespaces"].clone();
    assert_eq!(namespaces, serde_json::json!([{"type": "mount"}, {"type": "uts"}]));
}

#[test]
fn a_container_that_asks_for_nothing() {
    let sandbox = sandbox_config(v1::LinuxPodSandboxConfig::default());
    let config = container_config(v1::ContainerConfig::default());
    insta::assert_json_snapshot!(planned(&sandbox, &config, PidNamespace::Of(ProcessRef::Pause)));
}

#[test]
fn a_container_that_asks_for_much() {
    use v1::NamespaceMode::{Container, Pod};
    let sandbox = sandbox_config(in_namespaces(Pod, Container, Pod));
    let mount = |container: &str, host: &str, propagation: v1::MountPropagation| v1::Mount {
        container_path: container.to_owned(),
        host_path: host.to_owned(),
        propagation: propagation.into(),
        ..Default::default()
    };
    let config = container_config(v1::ContainerConfig {
        args: vec!["x".to_owned()],
        working_dir: "/work".to_owned(),
        envs: vec![v1::KeyValue { key: "RAW".to_owned(), value: vec![0xff, 0xfe] }],
        mounts: vec![
            mount("/data/deep/er", "/host/deep", v1::MountPropagation::PropagationBidirectional),
            v1::Mount { readonly: true, recursive_read_only: true, ..mount("/data", "/host", v1::MountPropagation::PropagationPrivate) },
            mount("/etc/hosts", "/host/hosts", v1::MountPropagation::PropagationHostToContainer),
            mount("/dev/shm", "/host/shm", v1::MountPropagation::PropagationPrivate),
            v1::Mount {
                readonly: true,
                image: Some(v1::ImageSpec { image: "model".to_owned(), ..Default::default() }),
                image_sub_path: "weights".to_owned(),
                ..mount("/data/model", "", v1::MountPropagation::PropagationPrivate)
            },
        ],
        log_path: "c/0.log".to_owned(),
        tty: true,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources {
                memory_limit_in_bytes: 1 << 26,
                cpu_quota: 50_000,
                cpu_period: 100_000,
                oom_score_adj: -500,
                ..Default::default()
            }),
            security_context: Some(v1::LinuxContainerSecurityContext {
                readonly_rootfs: true,
                no_new_privs: true,
                masked_paths: vec!["/proc/kcore".to_owned()],
                readonly_paths: vec!["/proc/sys".to_owned()],
                capabilities: Some(v1::Capability { drop_capabilities: vec!["ALL".to_owned()], ..Default::default() }),
                ..Default::default()
            }),
        }),
        ..Default::default()
    });
    insta::assert_json_snapshot!(planned(&sandbox, &config, PidNamespace::New));
}

#[test]
fn files_follow_the_request_and_else_the_node() {
    let mut config = sandbox_config(v1::LinuxPodSandboxConfig::default());
    let ips = ["10.0.0.2".parse().expect("an address")];
    let files = plan_files(&config, "web", &ips, "nameserver 9.9.9.9\n", "the node's hosts\n");
    assert_eq!(files.resolv_conf, "nameserver 9.9.9.9\n");
    assert_eq!(files.hostname, "web\n");
    assert!(files.hosts.ends_with("10.0.0.2\tweb\n"), "{}", files.hosts);
    config.dns.servers = vec!["1.1.1.1".to_owned(), "::1".to_owned()];
    config.dns.searches = vec!["a.b".to_owned(), "b".to_owned()];
    config.dns.options = vec!["ndots:5".to_owned()];
    let files = plan_files(&config, "web", &ips, "nameserver 9.9.9.9\n", "");
    assert_eq!(files.resolv_conf, "search a.b b\nnameserver 1.1.1.1\nnameserver ::1\noptions ndots:5\n");
}

#[test]
fn the_pods_cgroup_is_the_parent_with_cgroupfs_and_a_scope_in_it_with_systemd() {
    use podbox_cgroup::Driver;
    let parent = |driver| PodParent::new(driver, "/podbox").expect("a plain path");
    let (directory, slice) = (parent(Driver::Cgroupfs), parent(Driver::Systemd));
    let id = sandbox_id();
    let asked = |parent: &str| sandbox_config(v1::LinuxPodSandboxConfig { cgroup_parent: parent.to_owned(), ..Default::default() });
    let path = |config: &SandboxConfig, parent| pod_cgroup(config, parent, &id).map(|cgroup| (cgroup.path, cgroup.slice.is_some()));

    assert_eq!(path(&asked(""), &directory), Ok((format!("/podbox/{id}"), false)));
    assert_eq!(path(&asked("/kubepods/pod1"), &directory), Ok(("/kubepods/pod1".to_owned(), false)));
    assert!(matches!(path(&asked("/kubepods.slice"), &directory), Err(PlanError::SliceWithCgroupfs { .. })));
    assert!(matches!(path(&asked("kubepods-a.slice"), &directory), Err(PlanError::SliceWithCgroupfs { .. })));

    assert_eq!(path(&asked(""), &slice), Ok((format!("/podbox.slice/podbox-{id}.scope"), true)));
    let in_slice = format!("/kubepods.slice/kubepods-pod1.slice/podbox-{id}.scope");
    for parent in ["/kubepods.slice/kubepods-pod1.slice", "kubepods-pod1.slice"] {
        assert_eq!(path(&asked(parent), &slice), Ok((in_slice.clone(), true)));
    }
    assert!(matches!(path(&asked("/kubepods/pod1"), &slice), Err(PlanError::NoSlice { .. })));
}

fn own_users() -> v1::UserNamespace {
    let mapping = v1::IdMapping { host_id: 100_000, container_id: 0, length: 65536 };
    v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: vec![mapping], gids: vec![mapping] }
}

/// Users of the pod's own, in the node's network or another.
fn with_own_users(network: v1::NamespaceMode) -> SandboxConfig {
    let options = v1::NamespaceOption { network: network.into(), userns_options: Some(own_users()), ..Default::default() };
    let security = v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    let mut linux = v1::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
    if network == v1::NamespaceMode::Pod {
        linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
    }
    sandbox_config(linux)
}

#[test]
fn pause_of_a_pod_with_users_of_its_own() {
    let (config, layout) = (with_own_users(v1::NamespaceMode::Pod), Layout::new("/run/podbox".into()));
    insta::assert_json_snapshot!(pause_launch(&config, &node(), &layout, &sandbox_id(), "web", cgroup()));
}

#[test]
fn a_container_of_a_pod_with_users_of_its_own() {
    let sandbox = with_own_users(v1::NamespaceMode::Pod);
    let users = own_users();
    let options = v1::NamespaceOption { userns_options: Some(users.clone()), ..Default::default() };
    let security_context = Some(v1::LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() });
    let config = container_config(v1::ContainerConfig {
        linux: Some(v1::LinuxContainerConfig { security_context, ..Default::default() }),
        mounts: vec![
            v1::Mount {
                container_path: "/data".to_owned(),
                host_path: "/host".to_owned(),
                uid_mappings: users.uids.clone(),
                gid_mappings: users.gids.clone(),
                ..Default::default()
            },
            v1::Mount {
                readonly: true,
                container_path: "/model".to_owned(),
                image: Some(v1::ImageSpec { image: "model".to_owned(), ..Default::default() }),
                ..Default::default()
            },
        ],
        ..Default::default()
    });
    insta::assert_json_snapshot!(planned(&sandbox, &config, PidNamespace::New));
    // In the node's network, sysfs is made before the user namespace is entered.
    let launch = planned(&with_own_users(v1::NamespaceMode::Node), &config, PidNamespace::New)["launch"].clone();
    let ops = launch["ops"].as_array().cloned().unwrap_or_default();
    let at = |wanted: &str| ops.iter().position(|op| op.to_string().contains(wanted)).unwrap_or_else(|| panic!("no {wanted}"));
    assert!(at("\"sysfs\"") < at("EnterUserNamespace"), "{launch}");
    assert!(at("EnterUserNamespace") < at("AttachRoot"), "{launch}");
}
