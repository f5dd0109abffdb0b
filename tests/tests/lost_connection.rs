//! The connection between the daemon and a monitor is cut while both live: it is made again, and nothing that happened is lost.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use podbox_proto::v1::{ContainerState, PodSandboxState};
use podbox_tests::flag::{AWAIT_FLAG, Flag};
use podbox_tests::{Census, ContainerSpec, Daemon, Intruder, PodSpec, wait};
use tonic::Code;

#[tokio::test]
async fn a_lost_connection_costs_nothing() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let ends = pod.run(&ContainerSpec::shell("b", &format!("{AWAIT_FLAG}; exit 7"))).await?;
    let (pid, status) = (container.pid().await?, container.status().await?);
    // More than once, and at once.
    for _ in 0..3 {
        Intruder::connect(&daemon, &pod)?.is_replaced().await?;
    }
    assert_eq!(container.sh("echo runs").await?, "runs");
    assert_eq!((container.pid().await?, container.status().await?), (pid, status));
    assert_eq!(pod.state().await?, PodSandboxState::SandboxReady);
    Flag::of(&pod).await?.raise()?;
    assert_eq!(ends.exit_code().await?, 7, "ends are heard of over the new connection");
    assert_eq!(pod.run(&ContainerSpec::shell("c", "exit 8")).await?.exit_code().await?, 8);
    container.stop(0).await?;
    assert_eq!(container.exit_code().await?, 137);
    pod.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))
}

/// All at once, while the monitor is held: the connection is cut, a container ends, another is started, a command runs.
#[tokio::test]
async fn what_happens_while_the_connection_is_lost_is_told_as_it_was() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let runs_on = pod.run(&ContainerSpec::sleeper("runs-on")).await?;
    let ends = pod.run(&ContainerSpec::sleeper("ends")).await?;
    let begins = pod.create(&ContainerSpec::shell("begins", "sleep 1234")).await?;
    let command = tokio::spawn({
        let runs_on = runs_on.clone();
        async move { runs_on.exec(&["/bin/sleep", "4321"]).await }
    });
    let ps = || async { runs_on.sh("ps").await.ok() };
    wait::until("the command runs", || async { ps().await.filter(|processes| processes.contains("4321")) }).await?;
    let (pid, monitor) = (ends.pid().await?, daemon.monitor_of(&pod.id).context("the pod's monitor")?);
    signal(monitor, Signal::SIGSTOP)?;
    let start = tokio::spawn({
        let begins = begins.clone();
        async move { begins.start().await }
    });
    let intruder = Intruder::connect(&daemon, &pod)?;
    signal(pid, Signal::SIGTERM).and(signal(pid, Signal::SIGKILL))?;
    signal(monitor, Signal::SIGCONT)?;
    intruder.is_replaced().await?;
    assert_eq!(ends.exit_code().await?, 137);
    let lost = command.await?.expect_err("its end is not told over the new connection");
    assert_eq!(lost.code(), Code::Unavailable);
    wait::until("nobody waits for the command: it is ended", || async { ps().await.filter(|processes| !processes.contains("4321")) })
        .await?;
    match start.await? {
        // It was born before the connection was cut, or asked for after it was restored.
        Ok(()) => assert_eq!(begins.state().await?, ContainerState::ContainerRunning),
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert_eq!(begins.state().await?, ContainerState::ContainerCreated, "the start can be tried again");
            begins.start().await?;
        }
    }
    assert_eq!(runs_on.state().await?, ContainerState::ContainerRunning);
    assert_eq!(pod.state().await?, PodSandboxState::SandboxReady);
    pod.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}
