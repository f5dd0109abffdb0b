//! SELinux contexts, on a kernel that has SELinux and a policy with `container_t`, which podbox may become, and `forbidden_t`, which it may not:
//! that of the guest with SELinux. Everything is looked at from outside.

use anyhow::{Context, Result};
use podbox_proto::v1;
use podbox_tests::spec::own_users;
use podbox_tests::{Container, ContainerSpec, Daemon, DaemonOptions, PodSpec, assert_refused, host};
use rustix::buffer::spare_capacity;
use std::path::Path;
use tonic::Code;

const CONTEXT: &str = "system_u:system_r:container_t:s0:c1,c2";
const FILES: &str = "system_u:object_r:container_file_t:s0:c1,c2";
/// The node's.
const OWN: &str = "system_u:system_r:kernel_t:s0";

/// Says so if this kernel has no SELinux.
fn is_lacking() -> bool {
    let lacks = !Path::new("/sys/fs/selinux/enforce").exists();
    if lacks {
        host::lacks("SELinux");
    }
    lacks
}

fn options(kind: &str, level: &str) -> Option<v1::SeLinuxOption> {
    Some(v1::SeLinuxOption { r#type: kind.to_owned(), level: level.to_owned(), ..Default::default() })
}

fn with_context(spec: ContainerSpec, kind: &str, level: &str) -> ContainerSpec {
    spec.security(|security| security.selinux_options = options(kind, level))
}

fn context_of(pid: i32) -> Result<String> {
    let path = format!("/proc/{pid}/attr/current");
    Ok(std::fs::read_to_string(&path).with_context(|| path)?.trim_end_matches(['\0', '\n']).to_owned())
}

/// That of a file in a container.
async fn file_context(container: &Container, path: &str) -> Result<String> {
    let path = format!("/proc/{}/root{path}", container.pid().await?);
    let mut context = Vec::with_capacity(256);
    rustix::fs::getxattr(&path, "security.selinux", spare_capacity(&mut context)).with_context(|| path)?;
    Ok(String::from_utf8(context)?.trim_end_matches('\0').to_owned())
}

#[tokio::test]
async fn a_container_its_commands_and_its_own_files_have_the_context_that_was_asked_for() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let mut daemon = Daemon::for_test().await?;
    let spec = PodSpec::new("labelled").security(|security| security.selinux_options = options("", "s0:c1,c2"));
    let pod = daemon.run_pod(&spec).await?;
    assert_eq!(context_of(pod.pause_pid().await?)?, CONTEXT, "pause");
    // The kernel writes the categories in their order.
    let container = pod.run(&with_context(ContainerSpec::sleeper("a"), "container_t", "s0:c2,c1")).await?;
    let silent = pod.run(&ContainerSpec::sleeper("silent")).await?;
    daemon.restart().await?;
    assert_eq!(context_of(container.pid().await?)?, CONTEXT);
    assert_eq!(container.sh("cat /proc/self/attr/current").await?.trim_end_matches('\0'), CONTEXT, "a command");
    assert_eq!(container.info().await?["runtimeSpec"]["process"]["selinuxLabel"], CONTEXT);
    container.sh("echo x >/new").await?;
    for path in ["/bin/busybox", "/new", "/dev", "/dev/pts"] {
        assert_eq!(file_context(&container, path).await?, FILES, "{path}");
    }
    // Nothing was asked for it.
    assert_eq!(context_of(silent.pid().await?)?, OWN);
    assert_ne!(file_context(&silent, "/bin/busybox").await?, FILES);
    Ok(pod.end().await?)
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_has_contexts_as_any_other() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let daemon = Daemon::for_test_with(DaemonOptions::default().on_disk()).await?;
    let users = Some(own_users());
    let Ok(pod) = daemon.run_pod(&PodSpec::new("users").users(users.clone())).await else {
        host::lacks("mounts with mapped ids");
        return Ok(());
    };
    let container = pod.run(&with_context(ContainerSpec::sleeper("a"), "", "s0:c1,c2").users(users)).await?;
    assert_eq!(context_of(container.pid().await?)?, CONTEXT);
    assert_eq!(file_context(&container, "/bin/busybox").await?, FILES);
    Ok(pod.end().await?)
}

#[tokio::test]
async fn contexts_that_the_policy_lacks_or_forbids_are_errors_and_nothing_runs() -> Result<()> {
    if is_lacking() {
        return Ok(());
    }
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("refused")).await?;
    for (kind, level) in [("nonsense_t", ""), ("container_t", "s0:c9"), ("container_t", "s7")] {
        let refused = pod.create(&with_context(ContainerSpec::sleeper("a"), kind, level)).await;
        assert_refused(
            refused,
            Code::FailedPrecondition,
            &["container a", "selinux_options", "the policy of this node has no context", kind],
        );
    }
    let forbidden = pod.create(&with_context(ContainerSpec::sleeper("forbidden"), "forbidden_t", "")).await?;
    assert_refused(forbidden.start().await, Code::FailedPrecondition, &[&forbidden.id, "execute", "permission denied"]);
    let volume = tempfile::tempdir()?;
    let mount = v1::Mount {
        container_path: "/volume".to_owned(),
        host_path: volume.path().display().to_string(),
        selinux_relabel: true,
        ..Default::default()
    };
    let relabelled = ContainerSpec::sleeper("relabelled").with(|config| config.mounts.push(mount));
    assert_refused(pod.create(&relabelled).await, Code::Unimplemented, &["container relabelled", "/volume"]);
    Ok(pod.end().await?)
}
