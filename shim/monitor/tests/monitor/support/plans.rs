//! Plans as the daemon would make them, for a busybox.

use podbox_plan::{
    ByteString, CapabilitySets, CgroupEntry, ContainerId, DeviceNode, FileSystem, LaunchPlan, LogTarget, MountAttributes, NewNamespaces,
    NodeKind, Op, Overlay, PidNamespace, ProcessRef, Program, Stdio, UserNamespace,
};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const APPLETS: [&str; 33] = [
    "cat", "chmod", "dd", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls", "mkdir", "mount", "nc", "nproc", "pwd",
    "readlink", "rm", "seq", "setsid", "sh", "sleep", "stat", "stty", "tail", "test", "timeout", "touch", "tr", "true", "tty", "yes",
];
/// CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID, KILL
pub const FEW_CAPABILITIES: u64 = 0b1110_1011;

/// A root file system below a directory, and what a container adds to it.
pub struct Image {
    pub lower: PathBuf,
    directory: PathBuf,
}

impl Image {
    /// Makes one in a directory of the test's.
    pub fn new(directory: &Path) -> Self {
        let lower = directory.join("lower");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "usr/bin"] {
            std::fs::create_dir_all(lower.join(name)).expect("mkdir");
        }
        std::fs::copy("/bin/busybox", lower.join("bin/busybox")).expect("a static busybox at /bin/busybox");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(applet)).expect("symlink");
        }
        std::fs::write(lower.join("etc/image"), "image\n").expect("write");
        Self { lower, directory: directory.to_owned() }
    }

    /// A plan that runs `arguments` in a container called `number`.
    pub fn container(&self, number: u8, arguments: &[&str]) -> ContainerPlan {
        let state = self.directory.join(format!("container-{number}"));
        for name in ["upper", "work", "root"] {
            std::fs::create_dir_all(state.join(name)).expect("mkdir");
        }
        let overlay = Overlay { lower: vec![self.lower.clone()], upper: state.join("upper"), work: state.join("work"), context: None };
        ContainerPlan {
            process: ProcessRef::Container(ContainerId::from_random([number; 32])),
            overlay,
            at: state.join("root"),
            log: state.join("log"),
            record: state.join("exit.json"),
            state,
            pid: PidNamespace::New,
            join_pause: false,
            cgroup: CgroupEntry::default(),
            opened: Vec::new(),
            in_root: Vec::new(),
            last_in_root: Vec::new(),
            stdio: None,
            workdir: ("/".into(), false),
            no_new_privileges: true,
            user: (0, 0, vec![]),
            capabilities: CapabilitySets { bounding: FEW_CAPABILITIES, permitted: FEW_CAPABILITIES, ambient: 0 },
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            environment: vec!["PATH=/bin".into()],
        }
    }

    pub fn shell(&self, number: u8, script: &str) -> ContainerPlan {
        self.container(number, &["sh", "-c", script])
    }
}

/// What a container's plan is made of; tests change what they are about.
pub struct ContainerPlan {
    pub process: ProcessRef,
    pub overlay: Overlay,
    pub at: PathBuf,
    pub state: PathBuf,
    pub log: PathBuf,
    pub record: PathBuf,
    pub pid: PidNamespace,
    pub join_pause: bool,
    pub cgroup: CgroupEntry,
    /// Before the host's mounts are left.
    pub opened: Vec<Op>,
    /// After the usual mounts.
    pub in_root: Vec<Op>,
    /// Right before the pivot.
    pub last_in_root: Vec<Op>,
    pub stdio: Option<Stdio>,
    pub workdir: (PathBuf, bool),
    pub no_new_privileges: bool,
    pub user: (u32, u32, Vec<u32>),
    pub capabilities: CapabilitySets,
    pub arguments: Vec<ByteString>,
    pub environment: Vec<ByteString>,
}

impl ContainerPlan {
    pub fn log_target(&self) -> Option<LogTarget> {
        Some(LogTarget { path: self.log.clone() })
    }

    pub fn plan(&self) -> LaunchPlan {
        let mut ops = self.opened.clone();
        if self.join_pause {
            ops.push(Op::Join { of: ProcessRef::Pause, mount: false, net: true, ipc: true, uts: true, cgroup: false });
        }
        ops.push(Op::LeaveHostMounts);
        ops.push(Op::OverlayRoot { overlay: self.overlay.clone(), at: self.at.clone(), attributes: MountAttributes::default() });
        ops.extend(usual_mounts());
        ops.extend(self.in_root.clone());
        ops.extend(self.last_in_root.clone());
        ops.extend([Op::PivotRoot, Op::ConnectStdio]);
        ops.push(Op::WorkingDirectory { path: self.workdir.0.clone(), create: self.workdir.1 });
        ops.extend(self.no_new_privileges.then_some(Op::NoNewPrivileges));
        let (uid, gid, groups) = self.user.clone();
        ops.push(Op::Credentials { uid, gid, groups, capabilities: self.capabilities });
        ops.push(Op::Exec { program: Program::FromArguments, arguments: self.arguments.clone(), environment: self.environment.clone() });
        LaunchPlan {
            namespaces: NewNamespaces { mount: true, ..NewNamespaces::default() },
            pid: self.pid.clone(),
            user: UserNamespace::Host,
            cgroup: self.cgroup.clone(),
            stdio: self.stdio.clone().unwrap_or(Stdio::Piped { stdin: false, log: self.log_target() }),
            ops,
            exit_record: Some(self.record.clone()),
        }
    }
}

fn mount(kind: &str, target: &str, options: &[(&str, Option<&str>)]) -> Op {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
    let attributes = MountAttributes { no_suid: true, no_exec: true, no_dev: kind == "proc", ..MountAttributes::default() };
    Op::Mount { target: target.into(), fs: FileSystem { kind: kind.into(), options, attributes } }
}

fn device(path: &str, minor: u32) -> Op {
    let kind = NodeKind::CharDevice { mode: 0o666, major: 1, minor, uid: 0, gid: 0 };
    Op::MakeNode(DeviceNode { path: path.into(), kind })
}

fn usual_mounts() -> Vec<Op> {
    vec![
        mount("proc", "/proc", &[]),
        mount("tmpfs", "/dev", &[("mode", Some("755")), ("size", Some("65536k"))]),
        mount("devpts", "/dev/pts", &[("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620")), ("gid", Some("5"))]),
        device("/dev/null", 3),
        device("/dev/zero", 5),
        Op::MakeNode(DeviceNode { path: "/dev/stdout".into(), kind: NodeKind::Symlink { to: "/proc/self/fd/1".into() } }),
    ]
}

/// A plan that executes in a container, with the streams that come as descriptors 0–2 of the message.
pub fn exec_plan(container: &ProcessRef, script: &str) -> LaunchPlan {
    LaunchPlan {
        namespaces: NewNamespaces::default(),
        pid: PidNamespace::Of(container.clone()),
        user: UserNamespace::Host,
        cgroup: CgroupEntry::default(),
        stdio: Stdio::Passed { stdin: Some(0), stdout: Some(1), stderr: Some(2) },
        ops: vec![
            Op::Join { of: container.clone(), mount: true, net: true, ipc: true, uts: true, cgroup: true },
            Op::ConnectStdio,
            Op::WorkingDirectory { path: "/".into(), create: false },
            Op::NoNewPrivileges,
            Op::Credentials {
                uid: 0,
                gid: 0,
                groups: vec![],
                capabilities: CapabilitySets { bounding: FEW_CAPABILITIES, permitted: FEW_CAPABILITIES, ambient: 0 },
            },
            Op::Exec {
                program: Program::FromArguments,
                arguments: vec!["sh".into(), "-c".into(), script.into()],
                environment: vec!["PATH=/bin".into()],
            },
        ],
        exit_record: None,
    }
}

/// A plan for pause, and the program that goes with it.
pub fn pause_plan(directory: &Path, pid: PidNamespace) -> (LaunchPlan, OwnedFd) {
    let at = directory.join("pause-root");
    std::fs::create_dir_all(&at).expect("mkdir");
    let plan = LaunchPlan {
        namespaces: NewNamespaces { mount: true, net: true, ipc: true, uts: true },
        pid,
        user: UserNamespace::Host,
        cgroup: CgroupEntry::default(),
        stdio: Stdio::Closed,
        ops: vec![
            Op::SetHostname { name: "the-pod".into() },
            Op::SetSysctl { key: "net.ipv4.ip_unprivileged_port_start".into(), value: "7".into() },
            Op::SetSysctl { key: "kernel.shm_rmid_forced".into(), value: "1".into() },
            Op::LeaveHostMounts,
            Op::EmptyRoot { at },
            mount("tmpfs", "/dev/shm", &[("mode", Some("1777")), ("size", Some("64k"))]),
            Op::PivotRoot,
            Op::NoNewPrivileges,
            Op::Credentials { uid: 65535, gid: 65535, groups: vec![], capabilities: CapabilitySets::default() },
            Op::Exec { program: Program::Passed(0), arguments: vec!["pause".into()], environment: vec![] },
        ],
        exit_record: Some(directory.join("pause-exit.json")),
    };
    (plan, pause_program())
}

/// Pause, built as the daemon builds it, in a sealed memfd.
fn pause_program() -> OwnedFd {
    let pause = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pause");
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("pause");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = std::process::Command::new(rustc);
    command.current_dir(pause).args(["@rustc-args.txt", "src/main.rs", "-o"]).arg(&path);
    assert!(command.status().expect("run rustc").success());
    podbox_plan::sealed_memfd("podbox-pause", &std::fs::read(&path).expect("read pause"), std::time::Duration::from_secs(30))
        .expect("sealed")
        .into()
}
