//! The AppArmor profile that a container is under, seen from outside, and SELinux labels where there is no SELinux.
//!
//! That a label is looked at is seen by what a container with another one may do in the same place, in each test.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podbox_proto::v1;
use podbox_proto::v1::security_profile::ProfileType;
use podbox_tests::apparmor::{Profile, is_enabled, is_lacking, label};
use podbox_tests::host::cgroup_hierarchies;
use podbox_tests::spec::own_users;
use podbox_tests::{Container, ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, assert_refused, host, wait};
use tonic::{Code, Status};

const DEFAULT: &str = "podbox-default-d62d4bf5 (enforce)";

fn profile(kind: ProfileType, name: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
}

fn under(spec: ContainerSpec, kind: ProfileType, name: &str) -> ContainerSpec {
    spec.security(|security| security.apparmor = profile(kind, name))
}

/// The label of a container's init and of a command in it, which must be the same.
async fn label_of(container: &Container) -> Result<String> {
    let init = label(container.pid().await?)?;
    assert_eq!(container.sh("cat /proc/self/attr/apparmor/current").await?, init, "a command's");
    Ok(init)
}

#[tokio::test]
async fn without_apparmor_what_asks_for_it_is_refused_by_name() -> Result<()> {
    if is_enabled() {
        return Ok(());
    }
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("none")).await?;
    let spec = || ContainerSpec::sleeper("none");
    let not_enabled = ["container none", "security_context.apparmor", "AppArmor is not enabled"];
    for (kind, name) in [(ProfileType::RuntimeDefault, ""), (ProfileType::Localhost, "localhost/some"), (ProfileType::Localhost, "some")] {
        assert_refused(pod.create(&under(spec(), kind, name)).await, Code::FailedPrecondition, &not_enabled);
    }
    #[allow(deprecated)]
    let deprecated = spec().security(|security| "runtime/default".clone_into(&mut security.apparmor_profile));
    assert_refused(pod.create(&deprecated).await, Code::FailedPrecondition, &not_enabled);
    let spec = PodSpec::new("no-pod").security(|security| security.apparmor = profile(ProfileType::RuntimeDefault, ""));
    assert_refused(daemon.run_pod(&spec).await, Code::FailedPrecondition, &["no-pod", "AppArmor is not enabled"]);
    let status = daemon.runtime().status(v1::StatusRequest { verbose: true }).await?.into_inner();
    assert!(status.info["info"].contains("the kernel has no AppArmor"), "{status:?}");
    Ok(())
}

#[tokio::test]
async fn names_that_can_be_no_profiles_are_malformed_on_every_node() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("names")).await?;
    for name in ["", "localhost/", "a\nunconfined", "unconfined"] {
        let spec = under(ContainerSpec::sleeper("a"), ProfileType::Localhost, name);
        assert_refused(pod.create(&spec).await, Code::InvalidArgument, &["apparmor.localhost_ref"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_loaded_profile_holds_for_a_container_and_its_commands_and_across_a_restart() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("loaded")).await?;
    let denying = Profile::load("podbox-test-denying", "deny /tmp/denied w,")?;
    let want = format!("{} (enforce)", denying.name);
    let with_prefix = under(ContainerSpec::sleeper("prefix"), ProfileType::Localhost, &format!("localhost/{}", denying.name));
    let without = under(ContainerSpec::sleeper("name"), ProfileType::Localhost, &denying.name).security(|security| {
        security.no_new_privs = true;
        security.run_as_user = Some(v1::Int64Value { value: 1000 });
    });
    #[allow(deprecated)]
    let deprecated =
        ContainerSpec::sleeper("deprecated").security(|security| security.apparmor_profile = format!("localhost/{}", denying.name));
    let mut confined = Vec::new();
    for spec in [with_prefix, without, deprecated] {
        confined.push(pod.run(&spec).await?);
    }
    daemon.restart().await?;
    for container in &confined {
        assert_eq!(label_of(container).await?, want);
        let write = container.exec(&["/bin/sh", "-c", "echo x >/tmp/other && echo x >/tmp/denied"]).await?;
        assert!(write.code != 0 && write.stderr.contains("/tmp/denied: Permission denied"), "{write:?}");
    }
    let init = ContainerSpec::shell("init", "echo x 2>/dev/null >/tmp/denied || echo denied");
    let output = pod.output_of(&under(init, ProfileType::Localhost, &denying.name)).await?;
    assert!(output.ends_with("denied"), "{output}");
    let free = pod.run(&under(ContainerSpec::sleeper("free"), ProfileType::Unconfined, "")).await?;
    assert_eq!(label_of(&free).await?, "unconfined");
    free.sh("echo x >/tmp/denied").await?;
    Ok(())
}

/// Users of a pod's own change nothing of it, for pause, init and commands.
#[tokio::test]
async fn a_pod_with_users_of_its_own_is_confined_as_any_other() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let daemon = Daemon::for_test_with(DaemonOptions::default().on_disk()).await?;
    let users = Some(own_users());
    let spec = PodSpec::new("users").users(users.clone());
    let Ok(pod) = daemon.run_pod(&spec.security(|security| security.apparmor = profile(ProfileType::RuntimeDefault, ""))).await else {
        host::lacks("mounts with mapped ids");
        return Ok(());
    };
    assert_eq!(label(pod.pause_pid().await?)?, DEFAULT);
    let denying = Profile::load("podbox-test-users", "deny /tmp/denied w,")?;
    let container = pod.run(&under(ContainerSpec::sleeper("a"), ProfileType::Localhost, &denying.name).users(users.clone())).await?;
    assert_eq!(label_of(&container).await?, format!("{} (enforce)", denying.name));
    let write = container.exec(&["/bin/sh", "-c", "echo x >/tmp/other && echo x >/tmp/denied"]).await?;
    assert!(write.code != 0 && write.stderr.contains("/tmp/denied: Permission denied"), "{write:?}");
    let silent = pod.run(&ContainerSpec::sleeper("silent").users(users)).await?;
    assert_eq!(label_of(&silent).await?, DEFAULT);
    Ok(pod.end().await?)
}

#[tokio::test]
async fn the_default_profile_is_for_who_asks_for_it_or_says_nothing() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("default").privileged()).await?;
    let admin = |name: &str| {
        ContainerSpec::sleeper(name).security(|security| {
            security.capabilities.get_or_insert_default().add_capabilities = vec!["SYS_ADMIN".to_owned()];
            // Neither hides the other.
            security.masked_paths = vec!["/nothing".to_owned()];
        })
    };
    let asked = pod.run(&under(admin("asked"), ProfileType::RuntimeDefault, "")).await?;
    assert_eq!(label_of(&asked).await?, DEFAULT);
    assert_eq!(asked.sh("mount -t tmpfs none /tmp || echo refused").await?, "refused");
    // What a container does all day.
    asked
        .sh("cd /tmp && mkdir a && echo x >a/b && chmod 600 a/b && mv a/b c && ls -l /proc/self/fd && kill -0 1 && cat /proc/1/status")
        .await?;
    let silent = pod.run(&admin("silent")).await?;
    assert_eq!(label_of(&silent).await?, DEFAULT);
    let unconfined = pod.run(&under(admin("unconfined"), ProfileType::Unconfined, "")).await?;
    assert_eq!(label_of(&unconfined).await?, "unconfined");
    assert_eq!(unconfined.sh("mount -t tmpfs none /tmp && umount /tmp && echo mounted").await?, "mounted");
    let privileged = pod.run(&under(ContainerSpec::sleeper("privileged"), ProfileType::RuntimeDefault, "").privileged()).await?;
    assert_eq!(label_of(&privileged).await?, "unconfined");
    // It is killed as ever.
    asked.stop(0).await?;
    Ok(())
}

/// Files of `/proc` and `/sys`, and whether podbox's own profile lets them be opened for writing; without it root can, which harms nobody.
const FILES: &[(&str, bool)] = &[
    ("/proc/1/oom_score_adj", true),
    ("/proc/self/comm", true),
    ("/proc/1/task/1/comm", true),
    ("/proc/sys/kernel/sem", true),
    ("/proc/sys/kernel/shmmax", true),
    ("/proc/sys/kernel/shm_rmid_forced", true),
    ("/proc/sys/kernel/msgmax", false),
    ("/proc/sys/kernel/hostname", false),
    ("/proc/sys/kernel/core_uses_pid", false),
    ("/proc/sys/kernel/sched_rt_runtime_us", false),
    ("/proc/sys/kernel/keys/maxkeys", false),
    ("/proc/sys/net/ipv4/ip_forward", false),
    ("/proc/sys/net/core/somaxconn", false),
    ("/proc/sys/fs/file-max", false),
    ("/proc/sys/fs/mqueue/msg_max", false),
    ("/proc/sys/user/max_user_namespaces", false),
    ("/proc/sys/vm/swappiness", false),
    ("/proc/uptime", false),
    ("/proc/sysvipc/shm", false),
    ("/proc/tty/drivers", false),
    ("/proc/irq/default_smp_affinity", false),
];

#[tokio::test]
async fn the_default_profile_keeps_all_of_proc_but_processes_and_the_pods_own_sysctls_from_being_written() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("files")).await?;
    // Nothing but the profile stands in front of them.
    let bare = |name: &str| {
        ContainerSpec::sleeper(name).security(|security| {
            security.capabilities.get_or_insert_default().add_capabilities = vec!["ALL".to_owned()];
            security.masked_paths = vec!["/nothing".to_owned()];
            security.readonly_paths = vec!["/nothing".to_owned()];
        })
    };
    let names: Vec<&str> = FILES.iter().map(|(file, _)| *file).collect();
    // They are opened and not written to.
    let open = format!("for file in {}; do (: >>$file) 2>/dev/null && echo $file; done; true", names.join(" "));
    let unconfined = pod.run(&under(bare("unconfined"), ProfileType::Unconfined, "")).await?;
    assert_eq!(unconfined.sh(&open).await?, names.join("\n"));
    let confined = pod.run(&under(bare("confined"), ProfileType::RuntimeDefault, "")).await?;
    let expected: Vec<&str> = FILES.iter().filter(|(_, can)| *can).map(|(file, _)| *file).collect();
    assert_eq!(confined.sh(&open).await?, expected.join("\n"));
    Ok(())
}

/// What came of a start that the monitor did not see happen.
struct Unseen {
    started: Result<(), Status>,
    /// How many times the monitor went to sleep from then on until the answer.
    naps: u64,
}

/// Starts a container and holds its monitor until the program has come to have a label, as if the node had been busy. `None`: no freezer.
async fn start_unseen(daemon: &Daemon, pod: &Pod, container: &Container, label_then: &str) -> Result<Option<Unseen>> {
    let cgroup = container.cgroup().await?;
    let folders = cgroup_hierarchies().into_iter().map(|(_, root)| root.join(cgroup.trim_start_matches('/')));
    let Some(folder) = folders.into_iter().find(|folder| folder.join("cgroup.freeze").exists()) else { return Ok(None) };
    // The newborn is born, and goes on when it is let.
    std::fs::write(folder.join("cgroup.freeze"), "1")?;
    let start = tokio::spawn({
        let container = container.clone();
        async move { container.start().await }
    });
    let newborn = || async { std::fs::read_to_string(folder.join("cgroup.procs")).ok()?.trim().parse::<i32>().ok() };
    let newborn = wait::until("it is born", newborn).await?;
    let monitor = daemon.monitor_of(&pod.id).context("the pod's monitor")?;
    kill(Pid::from_raw(monitor), Signal::SIGSTOP)?;
    std::fs::write(folder.join("cgroup.freeze"), "0")?;
    let changed = wait::until_true("its label changes", || label(newborn).is_ok_and(|label| label == label_then)).await;
    let before = naps_of(monitor)?;
    kill(Pid::from_raw(monitor), Signal::SIGCONT)?;
    changed?;
    let started = start.await?;
    Ok(Some(Unseen { started, naps: naps_of(monitor)? - before }))
}

fn naps_of(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let naps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).context("how often it slept")?;
    Ok(naps.trim().parse()?)
}

fn leaves_for(name: &str, profile: &Profile, other: &str) -> ContainerSpec {
    let script = format!("printf %s 'changeprofile {other}' >/proc/self/attr/apparmor/current; exec sleep 1000000");
    under(ContainerSpec::shell(name, &script), ProfileType::Localhost, &profile.name)
}

#[tokio::test]
async fn a_program_that_leaves_for_what_is_below_its_profile_before_it_was_looked_at_has_its_label() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("below")).await?;
    let child = "profile below flags=(attach_disconnected,mediate_deleted) { file, network, capability, mount, umount, signal, ptrace, }";
    let profile = Profile::load("podbox-test-leaving", &format!("change_profile, {child}"))?;
    let below = format!("{}//below", profile.name);
    let container = pod.create(&leaves_for("below", &profile, &below)).await?;
    let label_then = format!("{below} (enforce)");
    let Some(unseen) = start_unseen(&daemon, &pod, &container, &label_then).await? else {
        host::lacks("the freezer of cgroup v2");
        return Ok(());
    };
    unseen.started?;
    assert_eq!(label(container.pid().await?)?, label_then);
    Ok(())
}

#[tokio::test]
async fn a_program_with_another_label_is_ended_at_the_first_look_and_holds_up_nobody() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("another")).await?;
    let (profile, other) = (Profile::load("podbox-test-left", "change_profile,")?, Profile::load("podbox-test-other", "")?);
    let container = pod.create(&leaves_for("another", &profile, &other.name)).await?;
    let Some(unseen) = start_unseen(&daemon, &pod, &container, &format!("{} (enforce)", other.name)).await? else {
        host::lacks("the freezer of cgroup v2");
        return Ok(());
    };
    // It wakes for the end of the status pipe, the end of the process, and what it is asked: a few times.
    assert!(unseen.naps < 50, "the monitor waited for the label: it slept {} times", unseen.naps);
    assert_refused(unseen.started, Code::FailedPrecondition, &["ask for the AppArmor profile", &profile.name, "runs as", &other.name]);
    assert_eq!(container.state().await?, v1::ContainerState::ContainerExited);
    // The profile itself is as good as ever.
    let fine = pod.run(&under(ContainerSpec::sleeper("fine"), ProfileType::Localhost, &profile.name)).await?;
    assert_eq!(label_of(&fine).await?, format!("{} (enforce)", profile.name));
    Ok(())
}

#[tokio::test]
async fn a_profile_that_is_not_loaded_fails_the_creation_and_one_that_goes_the_start() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("gone")).await?;
    let absent = under(ContainerSpec::sleeper("absent"), ProfileType::Localhost, "localhost/podbox-test-absent");
    assert_refused(pod.create(&absent).await, Code::FailedPrecondition, &["container absent", "podbox-test-absent", "loaded"]);
    // The beginning of a name is none.
    let going = Profile::load("podbox-test-going", "")?;
    let beginning = under(ContainerSpec::sleeper("beginning"), ProfileType::Localhost, "podbox-test-going");
    assert_refused(pod.create(&beginning).await, Code::FailedPrecondition, &["podbox-test-going"]);
    let container = pod.create(&under(ContainerSpec::sleeper("going"), ProfileType::Localhost, &going.name)).await?;
    going.unload()?;
    assert_refused(container.start().await, Code::FailedPrecondition, &["ask for the AppArmor profile", &going.name]);
    Ok(())
}

#[tokio::test]
async fn a_pods_profile_is_pauses() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let daemon = Daemon::for_test().await?;
    let plain = daemon.run_pod(&PodSpec::new("plain")).await?;
    assert_eq!(label(plain.pause_pid().await?)?, "unconfined");
    let spec = PodSpec::new("asked").security(|security| security.apparmor = profile(ProfileType::RuntimeDefault, ""));
    let pod = daemon.run_pod(&spec).await?;
    assert_eq!(label(pod.pause_pid().await?)?, DEFAULT);
    pod.end().await?;
    Ok(())
}

fn selinux(user: &str, level: &str) -> Option<v1::SeLinuxOption> {
    Some(v1::SeLinuxOption { user: user.to_owned(), level: level.to_owned(), ..Default::default() })
}

/// None of the kernels that podbox is tested on has it.
#[tokio::test]
async fn selinux_labels_are_refused_where_nothing_would_keep_them() -> Result<()> {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return Ok(());
    }
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("selinux").privileged()).await?;
    let with = |options: Option<v1::SeLinuxOption>| ContainerSpec::sleeper("a").security(|security| security.selinux_options = options);
    let words = ["selinux_options", "SELinux is not enabled"];
    assert_refused(pod.create(&with(selinux("", "s0:c1,c2"))).await, Code::FailedPrecondition, &words);
    assert_refused(pod.create(&with(selinux("system_u", "s0"))).await, Code::FailedPrecondition, &words);
    for options in [selinux("", "s0:c1;c2"), selinux("a b", "s0")] {
        assert_refused(pod.create(&with(options)).await, Code::InvalidArgument, &["selinux_options"]);
    }
    let of_pod = PodSpec::new("no-pod").security(|security| security.selinux_options = selinux("", "s0"));
    assert_refused(daemon.run_pod(&of_pod).await, Code::FailedPrecondition, &words);
    // Who is not confined anyway asks for nothing.
    pod.create(&with(selinux("", "s0")).privileged()).await?;
    Ok(())
}
