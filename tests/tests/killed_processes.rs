//! Monitors and pause processes are killed, with a daemon there and without: it costs their own pod, and no other.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use podbox_proto::v1::{ContainerState, NamespaceMode, PodSandboxState};
use podbox_tests::host::runs;
use podbox_tests::{Census, Container, ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, wait};

/// Everything of a pod but a monitor's death says so: the pod and only it is lost.
async fn is_lost(pod: &Pod, containers: &[&Container], pids: &[i32]) -> Result<()> {
    wait::until("the pod is not ready", || async { pod.state().await.ok().filter(|state| *state == PodSandboxState::SandboxNotready) })
        .await?;
    for container in containers {
        assert_eq!(container.exited().await?.exit_code, 137);
    }
    wait::ended(pids).await
}

#[tokio::test]
async fn a_killed_monitor_costs_its_pod_and_no_other() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?.without("descriptor");
    let control = daemon.run_pod(&PodSpec::new("control")).await?;
    let unharmed = control.run(&ContainerSpec::sleeper("a")).await?;
    for (name, daemon_is_down) in [("daemon-up", false), ("daemon-down", true)] {
        let pod = daemon.run_pod(&PodSpec::new(name)).await?;
        let (a, b) = (pod.run(&ContainerSpec::sleeper("a")).await?, pod.run(&ContainerSpec::sleeper("b")).await?);
        let exited = pod.run(&ContainerSpec::shell("c", "exit 6")).await?;
        exited.exited().await?;
        let pids = [a.pid().await?, b.pid().await?, pod.pause_pid().await?];
        let monitor = daemon.monitor_of(&pod.id).context("the pod has a monitor")?;
        if daemon_is_down {
            daemon.kill_9()?;
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), Signal::SIGKILL)?;
        if daemon_is_down {
            daemon.start_again().await?;
        }
        is_lost(&pod, &[&a, &b], &pids).await?;
        assert_eq!(exited.status().await?.exit_code, 6, "what ended before ended as it did");
        assert!(a.exec(&["/bin/true"]).await.is_err() && pod.create(&ContainerSpec::sleeper("d")).await.is_err());
        assert_eq!(unharmed.sh("echo unharmed").await?, "unharmed");
        assert_eq!(control.state().await?, PodSandboxState::SandboxReady);
        a.stop(1).await?;
        a.remove().await?;
        pod.end().await?;
        daemon.run_pod(&PodSpec { config: pod.config.clone() }).await?.end().await?;
    }
    control.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn a_killed_pause_makes_the_pod_not_ready_and_its_containers_run_on_until_stopped() -> Result<()> {
    // Room for one pod: its address is free again only once the network was given back.
    let mut daemon = Daemon::for_test_with(DaemonOptions::default().subnets(&["10.203.0.0/30"])).await?;
    let before = daemon.warm_up().await?.without("descriptor");
    for (name, daemon_is_down) in [("daemon-up", false), ("daemon-down", true)] {
        let spec = PodSpec::new(name);
        let started = || async { daemon.run_pod(&spec).await.ok() };
        let pod = wait::until("there is an address", started).await?;
        let container = pod.run(&ContainerSpec::sleeper("a")).await?;
        let (pid, pause) = (container.pid().await?, pod.pause_pid().await?);
        if daemon_is_down {
            daemon.kill_9()?;
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pause), Signal::SIGKILL)?;
        if daemon_is_down {
            daemon.start_again().await?;
        }
        let not_ready = || async { pod.state().await.ok().filter(|state| *state == PodSandboxState::SandboxNotready) };
        wait::until("the pod is not ready", not_ready).await?;
        assert_eq!(container.state().await?, ContainerState::ContainerRunning);
        assert!(runs(pid));
        assert_eq!(container.sh("echo runs").await?, "runs");
        assert!(daemon.run_pod(&PodSpec::new("too-many")).await.is_err(), "its address is still its own");
        container.stop(0).await?;
        assert_eq!(container.exit_code().await?, 137);
        pod.stop().await?;
        let other = PodSpec::new("next");
        let next = wait::until("its address is free", || async { daemon.run_pod(&other).await.ok() }).await?;
        next.end().await?;
        pod.remove().await?;
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// Pause is PID 1 of a PID namespace that all share: the kernel ends them with it.
#[tokio::test]
async fn a_killed_pause_ends_the_containers_in_its_pid_namespace() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("shared").pid(NamespaceMode::Pod)).await?;
    let container = pod.run(&ContainerSpec::sleeper("a").pid(NamespaceMode::Pod)).await?;
    let pids = [container.pid().await?];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.pause_pid().await?), Signal::SIGKILL)?;
    is_lost(&pod, &[&container], &pids).await?;
    Ok(pod.end().await?)
}
