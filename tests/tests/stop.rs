//! A container that is stopped is asked first, whatever else happens at that moment; the stop always ends, and what it says is so.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use podbox_proto::v1::{ContainerState, PodSandboxState};
use podbox_tests::host::{cgroup_hierarchies, runs};
use podbox_tests::{Census, ContainerSpec, Daemon, DaemonOptions, Intruder, Pod, PodSpec, wait};
use std::time::Duration;
use tonic::Code;

/// Ends with a code of its own when it is asked to.
const OBEYS: &str = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";

async fn obedient(pod: &Pod, name: &str) -> Result<podbox_tests::Container> {
    let container = pod.run(&ContainerSpec::shell(name, OBEYS)).await?;
    wait::until_true("it listens", || container.output().is_ok_and(|output| output.contains("ready"))).await?;
    Ok(container)
}

fn cgroups_named(path: &str) -> usize {
    let directories = cgroup_hierarchies().into_iter().map(|(_, root)| root.join(path.trim_start_matches('/')));
    directories.filter(|directory| directory.exists()).count()
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))
}

#[tokio::test]
async fn a_stop_while_the_connection_is_lost_takes_nobodys_grace() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let monitor = daemon.monitor_of(&pod.id).context("the pod's monitor")?;
    for round in 0..3 {
        let container = obedient(&pod, &format!("obeys-{round}")).await?;
        // The request to signal lies in a connection that is about to be cut.
        signal(monitor, Signal::SIGSTOP)?;
        let stop = tokio::spawn({
            let container = container.clone();
            async move { container.stop(60).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let intruder = Intruder::connect(&daemon, &pod)?;
        signal(monitor, Signal::SIGCONT)?;
        stop.await?.with_context(|| format!("round {round}"))?;
        assert_eq!(container.exit_code().await?, 5, "round {round}: it was asked");
        intruder.is_replaced().await?;
    }
    // A connection that is lost again soon is not restored at once.
    let container = obedient(&pod, "obeys").await?;
    for _ in 0..2 {
        Intruder::connect(&daemon, &pod)?.is_replaced().await?;
    }
    let intruder = Intruder::connect(&daemon, &pod)?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    container.stop(60).await?;
    assert_eq!(container.exit_code().await?, 5, "it was asked");
    intruder.is_replaced().await?;
    Ok(())
}

#[tokio::test]
async fn a_container_whose_monitor_hangs_is_asked_past_it() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let (obeys, defies) = (obedient(&pod, "obeys").await?, pod.run(&ContainerSpec::shell("defies", "trap '' TERM; sleep 1000")).await?);
    let (pid, monitor) = (defies.pid().await?, daemon.monitor_of(&pod.id).context("the pod's monitor")?);
    signal(monitor, Signal::SIGSTOP)?;
    let stops = [(&obeys, 60), (&defies, 1)].map(|(container, grace)| {
        let container = container.clone();
        tokio::spawn(async move { container.stop(grace).await })
    });
    wait::until_true("one is killed though the monitor hangs", || !runs(pid)).await?;
    signal(monitor, Signal::SIGCONT)?;
    for stop in stops {
        stop.await??;
    }
    assert_eq!((obeys.exit_code().await?, defies.exit_code().await?), (5, 137));
    Ok(())
}

/// It never answers: what was killed past it is gone all the same.
#[tokio::test]
async fn containers_of_a_monitor_that_hangs_can_be_stopped_and_removed() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let (stopped, removed) = (pod.run(&ContainerSpec::sleeper("stopped")).await?, pod.run(&ContainerSpec::sleeper("removed")).await?);
    let pids = [stopped.pid().await?, removed.pid().await?];
    signal(daemon.monitor_of(&pod.id).context("the pod's monitor")?, Signal::SIGSTOP)?;
    let removal = tokio::spawn({
        let removed = removed.clone();
        async move { removed.remove().await }
    });
    stopped.stop(1).await?;
    let status = stopped.status().await?;
    assert_eq!((status.state(), status.exit_code, &*status.reason), (ContainerState::ContainerExited, 137, "Error"), "{status:?}");
    assert!(status.message.contains("monitor"), "{status:?}");
    stopped.remove().await?;
    removal.await??;
    assert!(!pids.iter().any(|pid| runs(*pid)));
    pod.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// It is nobody's fault, and may be over in a moment.
#[tokio::test]
async fn a_daemon_that_starts_while_a_monitor_hangs_serves_and_leaves_its_pod_alone() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let (held, free) = (daemon.run_pod(&PodSpec::new("held")).await?, daemon.run_pod(&PodSpec::new("free")).await?);
    let (container, other) = (held.run(&ContainerSpec::sleeper("a")).await?, free.run(&ContainerSpec::sleeper("a")).await?);
    let (pid, monitor) = (container.pid().await?, daemon.monitor_of(&held.id).context("the pod's monitor")?);
    signal(monitor, Signal::SIGSTOP)?;
    daemon.restart().await?;
    assert_eq!(other.sh("echo served").await?, "served");
    assert_eq!((held.state().await?, container.pid().await?), (PodSandboxState::SandboxReady, pid));
    assert_eq!(container.exec(&["true"]).await.expect_err("it cannot be asked").code(), Code::Unavailable);
    signal(monitor, Signal::SIGCONT)?;
    wait::until("it is found again", || async { container.sh("echo well").await.ok() }).await?;
    assert!(runs(pid));
    signal(monitor, Signal::SIGSTOP)?;
    daemon.restart().await?;
    held.end().await?;
    free.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn a_stop_or_removal_that_overtakes_a_start_succeeds() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    for round in 0..20 {
        let container = pod.create(&ContainerSpec::sleeper(&format!("c{round}"))).await?;
        let start = tokio::spawn({
            let container = container.clone();
            async move { container.start().await }
        });
        // At different moments of the start.
        tokio::time::sleep(Duration::from_micros(250 * (round % 10))).await;
        if round < 10 {
            container.stop(0).await.with_context(|| format!("stop {round}"))?;
            // A start that came after the stop is none of the stop's business.
            if start.await?.is_ok() {
                container.stop(0).await?;
                assert_eq!(container.state().await?, ContainerState::ContainerExited);
            }
        }
        container.remove().await.with_context(|| format!("remove {round}"))?;
    }
    pod.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn a_pod_whose_stop_overtakes_starts_is_stopped() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    for round in 0..8 {
        let pod = daemon.run_pod(&PodSpec::new(&format!("pod-{round}"))).await?;
        let mut starts = Vec::new();
        for number in 0..3 {
            let container = pod.create(&ContainerSpec::sleeper(&format!("c{number}"))).await?;
            starts.push(tokio::spawn(async move { container.start().await }));
        }
        tokio::time::sleep(Duration::from_micros(500 * round)).await;
        pod.stop().await.with_context(|| format!("stop {round}"))?;
        for start in starts {
            // It began before the stop or was refused; either way nothing runs.
            let _ = start.await?;
        }
        pod.remove().await?;
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn a_container_of_a_lost_pod_is_gone_when_its_stop_says_so() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    for round in 0..8 {
        let pod = daemon.run_pod(&PodSpec::new(&format!("pod-{round}"))).await?;
        let container = pod.run(&ContainerSpec::sleeper("a")).await?;
        let (pid, monitor) = (container.pid().await?, daemon.monitor_of(&pod.id).context("the pod's monitor")?);
        signal(monitor, Signal::SIGKILL)?;
        tokio::time::sleep(Duration::from_micros(300 * round)).await;
        container.stop(0).await?;
        assert!(!runs(pid), "round {round}");
        assert_eq!(container.state().await?, ContainerState::ContainerExited, "round {round}");
    }
    Ok(())
}

#[tokio::test]
async fn ends_are_told_truly_where_a_stop_has_to_look_for_the_monitor() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let mut containers = Vec::new();
    for name in ["a", "b", "c"] {
        containers.push(pod.run(&ContainerSpec::sleeper(name)).await?);
    }
    for _ in 0..2 {
        Intruder::connect(&daemon, &pod)?.is_replaced().await?;
    }
    let _intruder = Intruder::connect(&daemon, &pod)?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    pod.stop().await?;
    for container in containers {
        let status = container.status().await?;
        assert_eq!((status.state(), status.exit_code, &*status.message), (ContainerState::ContainerExited, 137, ""), "{status:?}");
        assert!(status.started_at > 0 && status.finished_at > status.started_at, "as the monitor saw it: {status:?}");
    }
    Ok(())
}

/// The stop of a pod may be all that makes room.
#[tokio::test]
async fn a_pod_stops_though_the_list_of_shared_cgroups_cannot_be_written() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().cgroupfs()).await?;
    let parent = format!("{}/burst", daemon.cgroup_parent());
    let first = daemon.run_pod(&PodSpec::new("first").cgroup_parent(&format!("{parent}/one"))).await?;
    let second = daemon.run_pod(&PodSpec::new("second").cgroup_parent(&format!("{parent}/two"))).await?;
    let container = first.run(&ContainerSpec::sleeper("a")).await?;
    let list = daemon.state_dir().join("shared-cgroups.json");
    std::fs::create_dir(&list).context("be in the way")?;
    first.stop().await?;
    assert!(daemon.log().contains("shared-cgroups.json"), "it is told");
    assert_eq!((first.state().await?, container.exit_code().await?), (PodSandboxState::SandboxNotready, 137));
    first.remove().await?;
    second.end().await?;
    assert_eq!(cgroups_named(&parent), 0, "what the first left to the second is gone with it");
    Ok(())
}
