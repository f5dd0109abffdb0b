//! What ends containers against their will: StopContainer of a fork bomb, and the kernel when memory runs out.

use anyhow::Result;
use podbox_proto::v1::{ContainerState, NamespaceMode};
use podbox_tests::host::cgroup_file;
use podbox_tests::limits::{prepared, run_with_setting};
use podbox_tests::{ContainerSpec, Daemon, Pod, PodSpec, wait};
use tokio::sync::Mutex;

/// Makes processes that do the same, and again whenever that has failed: a shell ends at the first fork that does, awk goes on.
const FORK_BOMB: &str =
    r#"export BOMB='while :; do sh -c "$BOMB" & done'; exec awk 'BEGIN { while (1) system(ENVIRON["BOMB"]) }' 2>/dev/null"#;
const PROCESSES_MAX: &str = "512";

async fn fork_bomb_is_stopped(pid_mode: NamespaceMode) -> Result<()> {
    // Another bomb is no neighbour to measure beside.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _alone = ONE_AT_A_TIME.lock().await;
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("bomb").pid(pid_mode)).await?;
    let other_pod = daemon.run_pod(&PodSpec::new("other")).await?;
    let neighbours = [pod.run(&ContainerSpec::sleeper("beside")).await?, other_pod.run(&ContainerSpec::sleeper("elsewhere")).await?];
    let spec = ContainerSpec::shell("bomb", FORK_BOMB).pid(pid_mode).resources(|resources| {
        resources.unified.insert("pids.max".to_owned(), PROCESSES_MAX.to_owned());
    });
    let bomb = pod.run(&spec).await?;
    let of_bomb = bomb.cgroup().await?;
    let processes = || cgroup_file(&of_bomb, "pids.current").ok().and_then(|count| count.parse::<u32>().ok()).unwrap_or_default();
    wait::until_true("it has spread", || processes() > 400).await?;
    for neighbour in &neighbours {
        assert_eq!(neighbour.sh("echo beside it").await?, "beside it");
    }
    bomb.stop(0).await?;
    wait::until_true("nothing of it is left", || processes() == 0).await?;
    for neighbour in neighbours {
        assert_eq!(neighbour.state().await?, ContainerState::ContainerRunning);
        assert_eq!(neighbour.sh("echo here").await?, "here");
    }
    bomb.remove().await?;
    Ok(pod.end().await?)
}

#[tokio::test]
async fn a_fork_bomb_is_dead_soon_after_its_stop_and_its_neighbours_do_not_notice() -> Result<()> {
    fork_bomb_is_stopped(NamespaceMode::Container).await
}

#[tokio::test]
async fn a_fork_bomb_in_the_pods_pid_namespace_is_dead_as_soon() -> Result<()> {
    fork_bomb_is_stopped(NamespaceMode::Pod).await
}

/// Asks for more memory than there is.
const GREEDY: &str = "dd if=/dev/zero of=/dev/null bs=200M 2>/dev/null";

async fn end_of(pod: &Pod, name: &str, script: &str) -> Result<(i32, String)> {
    let status = pod.run(&ContainerSpec::shell(name, script).memory_limit(32 << 20)).await?.exited().await?;
    Ok((status.exit_code, status.reason))
}

#[tokio::test]
async fn a_container_whose_child_was_killed_for_memory_is_oom_killed_if_that_is_what_it_ends_with() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("oom")).await?;
    for (name, end, code, reason) in [
        ("passes-on", "exit $?", 137, "OOMKilled"),
        ("itself", "exit 137", 137, "OOMKilled"),
        ("goes-on", "exit 0", 0, "Completed"),
        ("other", "exit 3", 3, "Error"),
    ] {
        assert_eq!(end_of(&pod, name, &format!("{GREEDY}; {end}")).await?, (code, reason.to_owned()), "{name}");
    }
    assert_eq!(end_of(&pod, "unharmed", "exit 137").await?, (137, "Error".to_owned()), "no memory was wanting");
    Ok(())
}

#[tokio::test]
async fn a_stop_after_a_child_was_killed_for_memory_is_a_stop() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("oom-stop")).await?;
    let script = format!("{GREEDY}; echo killed $?; exec sleep 1000000");
    let mut containers = Vec::new();
    for name in ["a", "b"] {
        let container = pod.run(&ContainerSpec::shell(name, &script).memory_limit(32 << 20)).await?;
        wait::until_true("the child was killed", || container.output().is_ok_and(|output| output.contains("killed 137"))).await?;
        containers.push(container);
    }
    containers[0].stop(0).await?;
    // The other is killed with its pod.
    pod.stop().await?;
    for container in containers {
        let status = container.exited().await?;
        assert_eq!((status.exit_code, &*status.reason), (137, "Error"));
    }
    Ok(())
}

/// With `memory.oom.group` the kernel kills all of the container for one of its processes. On v1 there is no such setting.
#[tokio::test]
async fn a_group_that_is_killed_for_memory_dies_together_and_is_reported_as_oom_killed() -> Result<()> {
    let (_daemon, pod) = prepared("oom-group").await?;
    // It is a child that asks for too much: without the setting its parent goes on.
    let script = format!("sleep 1000000 & {GREEDY}; echo survived; exec sleep 1000000");
    let neighbour = pod.run(&ContainerSpec::sleeper("neighbour")).await?;
    let spec = ContainerSpec::shell("a", &script).memory_limit(32 << 20);
    let Some(container) = run_with_setting(&pod, spec, "memory.oom.group", "1").await? else { return Ok(()) };
    let status = container.exited().await?;
    assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));
    assert!(!container.output()?.contains("survived"));
    assert_eq!(neighbour.state().await?, ContainerState::ContainerRunning);
    Ok(())
}
