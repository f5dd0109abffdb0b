//! The system calls that a container may make.
//!
//! Each attack is made twice by the same program, without a filter and under one, and the first must get further: a filter that is not
//! loaded fails these tests. That was also seen by leaving `Op::LoadSeccompFilter` out of the plans.

#![cfg(target_arch = "x86_64")]

use anyhow::{Context, Result, ensure};
use podbox_proto::v1;
use podbox_proto::v1::security_profile::ProfileType;
use podbox_tests::host::status_field;
use podbox_tests::probe::{self, Call, call, call_x86};
use podbox_tests::spec::own_users;
use podbox_tests::{Container, ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, TestImage, assert_refused, host};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tonic::Code;

const EPERM: i64 = -1;
const EBADF: i64 = -9;
const EFAULT: i64 = -14;
const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;
/// `SIGSYS`, as a shell has it.
const BAD_CALL: i32 = 128 + 31;

fn profile(kind: ProfileType, path: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: path.to_owned() })
}

fn under(spec: ContainerSpec, kind: ProfileType, path: &str) -> ContainerSpec {
    spec.security(|security| security.seccomp = profile(kind, path))
}

fn runtime_default(name: &str) -> ContainerSpec {
    under(ContainerSpec::sleeper(name), ProfileType::RuntimeDefault, "")
}

/// What a program finds that makes these calls, as a command in a container.
async fn results(daemon: &Daemon, container: &Container, calls: &[Call]) -> Result<Vec<i64>> {
    let root = PathBuf::from(format!("/proc/{}/root/probe", container.pid().await?));
    std::fs::write(&root, probe::program(calls))?;
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755))?;
    let response = container.exec_within(&["/probe"], 0).await?;
    ensure!(response.exit_code == 0, "the probe ended with {}: {}", response.exit_code, daemon.directory().display());
    let results = probe::results(&response.stdout);
    ensure!(results.len() == calls.len(), "{} of {} results", results.len(), calls.len());
    Ok(results)
}

/// The same of a container's init.
async fn results_of_init(pod: &Pod, spec: ContainerSpec, calls: &[Call]) -> Result<Vec<i64>> {
    let container = pod.run(&spec.with(|config| config.command = vec!["/bin/sh".into(), "-c".into(), WAIT_FOR_PROBE.into()])).await?;
    let root = PathBuf::from(format!("/proc/{}/root", container.pid().await?));
    let new = root.join("probe.new");
    std::fs::write(&new, probe::program(calls))?;
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755))?;
    std::fs::rename(&new, root.join("probe"))?;
    let code = container.exit_code().await?;
    ensure!(code == 0, "exit code {code}");
    let output = container.output()?;
    Ok(output.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

const WAIT_FOR_PROBE: &str = "until test -e /probe; do sleep 0.05; done; /probe | od -A n -v -t d8";

/// A call, and what it finds without a filter (`None`: that depends on the kernel) and under podbox's own.
const ATTACKS: [(&str, Call, Option<i64>, i64); 19] = [
    // Crypto sockets, and those of hypervisors, also with garbage in the half of the register that the kernel does not look at.
    ("socket(AF_ALG)", call(41, 38, 5, 0), None, EPERM),
    ("socket(1 << 32 | AF_ALG)", call(41, 1 << 32 | 38, 5, 0), None, EPERM),
    ("socket(AF_VSOCK)", call(41, 40, 1, 0), None, EPERM),
    ("io_uring_setup", call(425, 1, 0, 0), None, EPERM),
    ("io_uring_enter", call(426, u64::MAX, 0, 0), Some(EBADF), EPERM),
    ("keyctl", call(250, 0, -3_i64 as u64, 0), None, EPERM),
    ("add_key", call(248, 0, 0, 0), Some(EFAULT), EPERM),
    ("request_key", call(249, 0, 0, 0), Some(EFAULT), EPERM),
    // Flags that exclude each other: nothing is made where they are looked at.
    ("clone(CLONE_NEWUSER)", call(56, 0x1000_0000 | 0x200, 0, 0), Some(EINVAL), EPERM),
    ("unshare", call(272, 1, 0, 0), Some(EINVAL), EPERM),
    ("setns", call(308, u64::MAX, 0, 0), Some(EBADF), EPERM),
    ("mount", call(165, 0, 0, 0), Some(EFAULT), EPERM),
    ("perf_event_open", call(298, 0, 0, 0), Some(EFAULT), EPERM),
    ("process_vm_readv", call(310, 1 << 30, 0, 0), None, EPERM),
    ("kcmp", call(312, 1 << 30, 1 << 30, 0), None, EPERM),
    ("personality(PER_LINUX | ADDR_NO_RANDOMIZE)", call(135, 0x4_0000, 0, 0), Some(0), EPERM),
    // For C libraries to go on with an older call.
    ("clone3", call(435, 0, 0, 0), Some(EINVAL), ENOSYS),
    ("a call of the future", call(1000, 0, 0, 0), Some(ENOSYS), ENOSYS),
    ("mkdir", call(83, 0, 0, 0), Some(EFAULT), EFAULT),
];

fn attacks() -> Vec<Call> {
    ATTACKS.iter().map(|(_, call, _, _)| *call).collect()
}

fn check(who: &str, results: &[i64], is_filtered: bool) {
    for ((name, _, without, under), result) in ATTACKS.iter().zip(results) {
        match without {
            _ if is_filtered => assert_eq!(result, under, "{who}: {name}"),
            Some(without) => assert_eq!(result, without, "{who}: {name}"),
            // Whatever the kernel says, it is asked.
            None => assert_ne!(result, &EPERM, "{who}: {name}"),
        }
    }
}

#[tokio::test]
async fn the_default_profile_stands_between_attacks_and_the_kernel() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("default")).await?;
    let unprivileged = |spec: ContainerSpec| {
        spec.security(|security| {
            security.no_new_privs = true;
            security.run_as_user = Some(v1::Int64Value { value: 1000 });
        })
    };
    let cases = [
        (true, runtime_default("asked-for")),
        (true, unprivileged(runtime_default("unprivileged"))),
        #[allow(deprecated)]
        (true, ContainerSpec::sleeper("deprecated").security(|security| "runtime/default".clone_into(&mut security.seccomp_profile_path))),
        (false, ContainerSpec::sleeper("not-asked-for")),
        (false, under(ContainerSpec::sleeper("unconfined"), ProfileType::Unconfined, "")),
    ];
    for (is_filtered, spec) in cases {
        let name = spec.config.metadata.clone().unwrap_or_default().name;
        let container = pod.run(&spec).await?;
        let want = if is_filtered { "2" } else { "0" };
        assert_eq!(status_field(container.pid().await?, "Seccomp")?, want, "{name}");
        assert_eq!(container.sh("grep ^Seccomp: /proc/self/status | cut -f2").await?, want, "{name}: a command");
        check(&format!("a command in {name}"), &results(&daemon, &container, &attacks()).await?, is_filtered);
        container.remove().await?;
        check(&name, &results_of_init(&pod, spec, &attacks()).await?, is_filtered);
    }
    Ok(())
}

/// Users of a pod's own change nothing of it, for pause, init and commands. Those have more capabilities, in their namespace.
#[tokio::test]
async fn a_pod_with_users_of_its_own_is_filtered_as_any_other() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().on_disk()).await?;
    let image = TestImage::named("probe").file("probe", 0o755, &probe::program(&attacks()));
    daemon.import(&image)?;
    let users = Some(own_users());
    let spec = PodSpec::new("users").users(users.clone());
    let Ok(pod) = daemon.run_pod(&spec.security(|security| security.seccomp = profile(ProfileType::RuntimeDefault, ""))).await else {
        host::lacks("mounts with mapped ids");
        return Ok(());
    };
    assert_eq!(status_field(pod.pause_pid().await?, "Seccomp")?, "2");
    for is_filtered in [true, false] {
        let kind = if is_filtered { ProfileType::RuntimeDefault } else { ProfileType::Unconfined };
        let spec = |spec: ContainerSpec| under(spec, kind, "").image(&image.name).users(users.clone());
        let container = pod.run(&spec(ContainerSpec::sleeper(&format!("sleeper-{is_filtered}")))).await?;
        assert_eq!(status_field(container.pid().await?, "Seccomp")?, if is_filtered { "2" } else { "0" });
        let response = container.exec_within(&["/probe"], 0).await?;
        check("a command", &probe::results(&response.stdout), is_filtered);
        let output = pod.output_of(&spec(ContainerSpec::shell(&format!("init-{is_filtered}"), "/probe | od -A n -v -t d8"))).await?;
        check("an init", &output.split_whitespace().map(str::parse).collect::<Result<Vec<i64>, _>>()?, is_filtered);
    }
    Ok(pod.end().await?)
}

/// What they are let do, they are let do by the kernel, too: as root of a container without further capabilities.
#[tokio::test]
async fn a_privileged_container_is_not_filtered_and_capabilities_open_what_they_are_for() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("privileged").privileged()).await?;
    let container = pod.run(&runtime_default("privileged").privileged()).await?;
    assert_eq!(status_field(container.pid().await?, "Seccomp")?, "0");
    check("privileged", &results(&daemon, &container, &attacks()).await?, false);
    // Nor is its pause.
    assert_eq!(status_field(pod.pause_pid().await?, "Seccomp")?, "0");
    let spec = runtime_default("admin").security(|security| {
        security.capabilities.get_or_insert_default().add_capabilities = vec!["SYS_ADMIN".to_owned()];
    });
    let container = pod.run(&spec).await?;
    let calls = [call(165, 0, 0, 0), call(272, 1, 0, 0), call(435, 0, 0, 0), call(41, 38, 5, 0), call(250, 0, -3_i64 as u64, 0)];
    assert_eq!(results(&daemon, &container, &calls).await?, [EFAULT, EINVAL, EINVAL, EPERM, EPERM]);
    Ok(())
}

/// `int 0x80` from a 64-bit program: the calls, and their numbers, of 32-bit x86.
#[tokio::test]
async fn calls_of_32_bit_programs_are_filtered_as_well() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("x86")).await?;
    let unconfined = pod.run(&ContainerSpec::sleeper("unconfined")).await?;
    // socketcall(SYS_SOCKET), socket(AF_ALG), keyctl, io_uring_setup, clone(CLONE_NEWUSER), unshare, getpid
    let calls = [
        call_x86(102, 1, 0),
        call_x86(359, 38, 5),
        call_x86(288, 0, u64::from(u32::MAX - 2)),
        call_x86(425, 1, 0),
        call_x86(120, 0x1000_0200, 0),
        call_x86(310, 1, 0),
        call_x86(20, 0, 0),
    ];
    let Ok(without) = results(&daemon, &unconfined, &calls).await else {
        host::lacks("calls of 32-bit x86");
        return Ok(());
    };
    assert_eq!((without[0], without[4], without[5]), (EFAULT, EINVAL, EINVAL), "{without:?}");
    assert!(without[1] != EPERM && without[2] != EPERM && without[6] > 0, "{without:?}");
    let container = pod.run(&runtime_default("filtered")).await?;
    let under = results(&daemon, &container, &calls).await?;
    assert_eq!(under[..6], [ENOSYS, EPERM, EPERM, EPERM, EPERM, EPERM]);
    assert!(under[6] > 0, "{under:?}");
    Ok(())
}

/// What it could not filter it does not let live.
#[tokio::test]
async fn calls_of_an_architecture_that_the_profile_does_not_name_kill() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("x32")).await?;
    // getpid of x32
    let file = probe::program(&[call(0x4000_0000 | 39, 0, 0, 0)]);
    daemon.import(&TestImage::named("x32").file("probe", 0o755, &file))?;
    let spec = under(ContainerSpec::command("x32", &["/probe"]), ProfileType::RuntimeDefault, "");
    let container = pod.run(&spec.image("localhost/podbox-test/x32:latest")).await?;
    assert_eq!(container.exit_code().await?, BAD_CALL);
    Ok(())
}

/// libseccomp is part of it.
#[test]
fn the_binary_needs_no_library_of_the_machines_for_it() -> Result<()> {
    let binary = std::fs::read(podbox_tests::binary::podbox(podbox_tests::binary::Profile::Dev)?)?;
    let name = b"libseccomp.so";
    assert!(!binary.windows(name.len()).any(|window| window == name), "podbox is linked with the shared library");
    Ok(())
}

#[tokio::test]
async fn a_pods_profile_holds_for_pause_and_pause_lives() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let open = daemon.run_pod(&PodSpec::new("open")).await?;
    assert_eq!(status_field(open.pause_pid().await?, "Seccomp")?, "0");
    let pod =
        daemon.run_pod(&PodSpec::new("shut").security(|security| security.seccomp = profile(ProfileType::RuntimeDefault, ""))).await?;
    let pause = pod.pause_pid().await?;
    assert_eq!(status_field(pause, "Seccomp")?, "2");
    // An orphan of the pod's PID namespace is pause's to reap, and a stop is its to hear.
    let shared = ContainerSpec::shell("orphans", "(sleep 0.1 &) & exec sleep 1000000").pid(v1::NamespaceMode::Pod);
    let container = pod.run(&shared).await?;
    assert_eq!(status_field(container.pid().await?, "Seccomp")?, "0", "the pod's profile is not its containers'");
    assert!(host::runs(pause));
    pod.end().await?;
    assert!(!host::runs(pause));
    #[allow(deprecated)]
    let deprecated = PodSpec::new("deprecated").security(|security| "runtime/default".clone_into(&mut security.seccomp_profile_path));
    let pod = daemon.run_pod(&deprecated).await?;
    assert_eq!(status_field(pod.pause_pid().await?, "Seccomp")?, "2");
    Ok(())
}

/// glibc makes threads by clone3 and goes on with clone where that is `ENOSYS`; `EPERM` it takes for an answer.
#[tokio::test]
async fn a_c_library_goes_on_where_a_call_is_absent() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("threads")).await?;
    let own = std::env::current_exe()?;
    let test = ["/program", "--exact", "a_thread_can_be_made", "--nocapture"];
    let mut spec = under(ContainerSpec::command("threads", &test), ProfileType::RuntimeDefault, "").mount(&own, "/program");
    for folder in ["/usr", "/lib", "/lib64"] {
        spec = spec.mount(&Path::new(folder).canonicalize()?, folder);
    }
    let output = pod.output_of(&spec).await?;
    assert!(output.contains("a thread was made") && output.contains("1 passed"), "{output}");
    // The same where the answer is EPERM: then no thread is made, and this test would see it.
    let strict = profile_file(&daemon, "strict.json", &DENY.replace("NAME", "clone3"))?;
    let container = pod.run(&under(spec, ProfileType::Localhost, &strict).with(|config| rename(config, "strict"))).await?;
    assert_ne!(container.exit_code().await?, 0, "{}", container.output()?);
    Ok(())
}

fn rename(config: &mut v1::ContainerConfig, name: &str) {
    name.clone_into(&mut config.metadata.get_or_insert_default().name);
    config.log_path = format!("{name}.log");
}

#[test]
fn a_thread_can_be_made() {
    let made = std::thread::Builder::new().spawn(|| "a thread was made").expect("a thread");
    println!("{}", made.join().expect("no panic"));
}

/// Lets through all but one.
const DENY: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["NAME"], "action": "SCMP_ACT_ERRNO"}]}"#;

fn profile_file(daemon: &Daemon, name: &str, text: &str) -> Result<String> {
    let path = daemon.directory().join(name);
    std::fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

#[tokio::test]
async fn a_profile_of_the_nodes_holds_as_it_was_at_the_making_whatever_becomes_of_its_file_and_the_daemon() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("localhost")).await?;
    let refuse_mkdir = r#"{
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64", "SCMP_ARCH_S390X"],
        "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}
        ]
    }"#;
    let path = profile_file(&daemon, "mkdir.json", refuse_mkdir)?;
    let calls = [call(83, 0, 0, 0), call(62, 1 << 30, 10, 0), call(62, 1 << 30, 12, 0)];
    let (want, open) = ([-77, EPERM, -3], [EFAULT, -3, -3]);
    let created = pod.create(&under(ContainerSpec::sleeper("created"), ProfileType::Localhost, &path)).await?;
    let running = pod.run(&under(ContainerSpec::sleeper("running"), ProfileType::Localhost, &path)).await?;
    #[allow(deprecated)]
    let deprecated = ContainerSpec::sleeper("deprecated").security(|security| security.seccomp_profile_path = format!("localhost/{path}"));
    assert_eq!(results(&daemon, &pod.run(&deprecated).await?, &calls).await?, want);
    assert_eq!(results(&daemon, &running, &calls).await?, want);
    let info = running.info().await?;
    assert_eq!(info["confinement"]["seccomp"]["profile"], path.as_str(), "{info}");

    std::fs::write(&path, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#)?;
    daemon.restart().await?;
    assert_eq!(results(&daemon, &running, &calls).await?, want, "a command after a restart");
    created.start().await?;
    assert_eq!(results(&daemon, &created, &calls).await?, want, "a start after a restart");
    let changed = pod.run(&under(ContainerSpec::sleeper("changed"), ProfileType::Localhost, &path)).await?;
    assert_eq!(results(&daemon, &changed, &calls).await?, open, "what is in the file now");
    std::fs::remove_file(&path)?;
    assert_eq!(results(&daemon, &running, &calls).await?, want, "a command after the file went");
    // What is not there any more is not done without.
    let filter = daemon.state_dir().join("pods").join(&pod.id).join("containers").join(&running.id).join("seccomp.bpf");
    std::fs::remove_file(filter)?;
    let refused = running.exec(&["/bin/true"]).await.map(drop);
    assert_refused(refused, Code::FailedPrecondition, &["read the seccomp filter"]);
    Ok(())
}

/// `linux.seccomp` of the spec that a verbose status shows.
fn of_spec(info: &serde_json::Value) -> &serde_json::Value {
    &info["runtimeSpec"]["linux"]["seccomp"]
}

/// What depends on the container is decided, and the profile is no other when its file is, or the daemon.
#[tokio::test]
async fn the_spec_has_the_profile_that_was_in_the_file_at_the_making() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("spec")).await?;
    let text = r#"{
        "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_S390X"],
        "syscalls": [
            {"names": ["mkdir", "rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77, "comment": "for people"},
            {"names": ["chroot"], "action": "SCMP_ACT_KILL_PROCESS", "excludes": {"caps": ["CAP_SYS_CHROOT"]}},
            {"names": ["umount2"], "action": "SCMP_ACT_TRAP", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
            {"name": "kill", "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 255, "valueTwo": 10, "op": "SCMP_CMP_MASKED_EQ"}]}
        ]
    }"#;
    let due = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_S390X"],
        "syscalls": [
            {"names": ["mkdir", "rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
            {"names": ["umount2"], "action": "SCMP_ACT_TRAP"},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
             "args": [{"index": 1, "value": 255, "valueTwo": 10, "op": "SCMP_CMP_MASKED_EQ"}]},
        ],
    });
    let path = profile_file(&daemon, "spec.json", text)?;
    let container = pod.create(&under(ContainerSpec::sleeper("c"), ProfileType::Localhost, &path)).await?;
    assert_eq!(of_spec(&container.info().await?), &due);
    std::fs::write(&path, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#)?;
    daemon.restart().await?;
    container.start().await?;
    assert_eq!(of_spec(&container.info().await?), &due, "after a restart, with another text in the file");
    Ok(())
}

/// A profile that is taken out of the spec, and asked for, gives the same filter; who is not filtered has none there.
#[tokio::test]
async fn the_spec_has_podboxs_own_profile_and_none_where_there_is_no_filter() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let filtered = PodSpec::new("filtered").security(|security| security.seccomp = profile(ProfileType::RuntimeDefault, ""));
    let pod = daemon.run_pod(&filtered).await?;
    let instructions = |info: &serde_json::Value| info["confinement"]["seccomp"]["instructions"].as_u64();
    let names = |info: &serde_json::Value| -> Vec<String> {
        let rules = of_spec(info)["syscalls"].as_array().cloned().unwrap_or_default();
        rules
            .iter()
            .flat_map(|rule| rule["names"].as_array().cloned().unwrap_or_default())
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect()
    };
    for (name, capability, may_mount) in [("plain", None, false), ("admin", Some("SYS_ADMIN"), true)] {
        let spec = runtime_default(name).security(|security| {
            security.capabilities.get_or_insert_default().add_capabilities = capability.map(str::to_owned).into_iter().collect();
        });
        let info = pod.run(&spec).await?.info().await?;
        assert_eq!(of_spec(&info)["defaultAction"], "SCMP_ACT_ERRNO", "{name}: {info}");
        let names = names(&info);
        assert!(names.iter().any(|name| name == "read"), "{name}: {names:?}");
        assert_eq!(names.iter().any(|name| name == "mount"), may_mount, "{name}: {names:?}");
        let path = profile_file(&daemon, &format!("{name}.json"), &of_spec(&info).to_string())?;
        let again = spec.security(|security| security.seccomp = profile(ProfileType::Localhost, &path));
        let again = pod.create(&again.with(|config| rename(config, &format!("{name}-again")))).await?.info().await?;
        assert_eq!((of_spec(&again), instructions(&again)), (of_spec(&info), instructions(&info)), "{name}");
    }
    assert_eq!(of_spec(&pod.info().await?)["defaultAction"], "SCMP_ACT_ERRNO", "pause's");

    let open = daemon.run_pod(&PodSpec::new("open").privileged()).await?;
    let container = open.run(&runtime_default("privileged").privileged()).await?;
    for info in [open.info().await?, container.info().await?] {
        assert!(info["runtimeSpec"]["linux"].is_object() && of_spec(&info).is_null(), "{info}");
    }
    Ok(())
}

#[tokio::test]
async fn a_profile_that_is_none_is_refused_by_name_before_anything_is_made() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("refused")).await?;
    let file = |name: &str, text: &str| profile_file(&daemon, name, text);
    let allow = file("allow.json", r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#)?;
    let link = daemon.directory().join("link.json");
    std::os::unix::fs::symlink(&allow, &link)?;
    let pipe = daemon.directory().join("pipe.json");
    nix_mkfifo(&pipe)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let large = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "comment": "{}"}}"#, "x".repeat(2 << 20));
    let action = DENY.replace("NAME", "mkdir").replace("SCMP_ACT_ERRNO", "SCMP_ACT_EXPLODE");
    let cases = [
        (file("action.json", &action)?, "SCMP_ACT_EXPLODE"),
        (file("notify.json", r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#)?, "SCMP_ACT_NOTIFY"),
        (file("flag.json", r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_FLY"]}"#)?, "SECCOMP_FILTER_FLAG_FLY"),
        (file("text.json", "allow everything")?, "no seccomp profile in JSON"),
        (file("empty.json", "")?, "no seccomp profile in JSON"),
        (file("large.json", &large)?, "1048577 bytes"),
        (text(&pipe), "no regular file"),
        (text(&link), "link"),
        (text(daemon.directory()), "no regular file"),
        (text(&daemon.directory().join("absent.json")), "No such file"),
        ("/dev/zero".to_owned(), "no regular file"),
        (String::new(), "localhost_ref"),
        ("relative.json".to_owned(), "localhost_ref"),
    ];
    for (path, word) in cases {
        let spec = under(ContainerSpec::sleeper("refused"), ProfileType::Localhost, &path);
        let words = ["container refused", "seccomp", word, &path];
        assert_refused(pod.create(&spec).await, Code::InvalidArgument, if path.len() > 100 { &words[..3] } else { &words });
    }
    let spec = PodSpec::new("no-pod").security(|security| security.seccomp = profile(ProfileType::Localhost, "/absent.json"));
    assert_refused(daemon.run_pod(&spec).await, Code::InvalidArgument, &["sandbox default/no-pod", "/absent.json"]);
    let spec = ContainerSpec::sleeper("kind").security(|security| {
        security.seccomp = Some(v1::SecurityProfile { profile_type: 7, localhost_ref: String::new() });
    });
    assert_refused(pod.create(&spec).await, Code::InvalidArgument, &["seccomp", "7 is no profile type"]);
    Ok(())
}

fn nix_mkfifo(path: &Path) -> Result<()> {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).context("make a pipe")
}

/// A filter may forbid what its own process still has to do: it does not run then, and who asked is told where it came to.
#[tokio::test]
async fn a_profile_that_lets_nothing_start_is_told_by_the_step() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("stuck")).await?;
    let cases = [
        ("user", DENY.replace("NAME", "capset"), "become user 0"),
        ("exec", DENY.replace("NAME", "execve"), "execute"),
        ("kill", r#"{"defaultAction": "SCMP_ACT_KILL"}"#.to_owned(), "under its seccomp filter"),
        ("errno", r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#.to_owned(), "seccomp filter"),
    ];
    for (name, text, word) in cases {
        let path = profile_file(&daemon, name, &text)?;
        let container = pod.create(&under(ContainerSpec::sleeper(name), ProfileType::Localhost, &path)).await?;
        let status = container.start().await.expect_err(name);
        assert!(status.message().contains(word), "{name}: {status:?}");
        assert_eq!(container.state().await?, v1::ContainerState::ContainerExited, "{name}");
        container.remove().await?;
    }
    // What is done before the filter is loaded need not be let through.
    let path = profile_file(&daemon, "marks", &DENY.replace("NAME", "close_range"))?;
    let container = pod.run(&under(ContainerSpec::sleeper("marks"), ProfileType::Localhost, &path)).await?;
    assert_eq!(container.sh("ls /proc/self/fd | wc -l").await?, "4");
    Ok(())
}

#[tokio::test]
async fn a_profile_is_compiled_once_and_names_that_nobody_knows_are_logged_once() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("cache")).await?;
    let path = profile_file(&daemon, "odd.json", &DENY.replace("NAME", "fly_to_the_moon"))?;
    for number in 0..3 {
        pod.run(&under(ContainerSpec::sleeper(&format!("odd-{number}")), ProfileType::Localhost, &path)).await?;
        pod.run(&runtime_default(&format!("default-{number}"))).await?;
    }
    let count = |word: &str| daemon.log().lines().filter(|line| line.contains(word)).count();
    assert_eq!(count("compiled a seccomp profile"), 2, "{}", daemon.log());
    assert_eq!(count("fly_to_the_moon"), 1);
    // Another set of capabilities is another filter.
    let spec = runtime_default("other").security(|security| {
        security.capabilities.get_or_insert_default().add_capabilities = vec!["SYS_CHROOT".to_owned(), "SYS_TIME".to_owned()];
    });
    pod.run(&spec).await?;
    assert_eq!(count("compiled a seccomp profile"), 3);
    Ok(())
}
