//! A daemon finds pods whose monitors an older podbox started: they live on, what they cannot do is refused, and they can be ended.

use anyhow::{Context, Result};
use podbox_proto::v1::{ContainerState, PodSandboxState};
use podbox_tests::older_monitor::OlderMonitor;
use podbox_tests::{Census, ContainerSpec, Daemon, PodSpec, assert_refused, host, wait};
use tonic::Code;

#[tokio::test]
async fn a_pod_of_an_older_podbox_lives_on_and_what_its_monitor_does_not_know_is_refused() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("older")).await?;
    let runs = pod.run(&ContainerSpec::shell("runs", "echo output; exec sleep 1000000")).await?;
    let ends = pod.run(&ContainerSpec::sleeper("ends")).await?;
    let created = pod.create(&ContainerSpec::sleeper("created")).await?;
    let (pid, pause) = (runs.pid().await?, pod.pause_pid().await?);
    daemon.kill_9()?;
    let older = OlderMonitor::speaking(1, &daemon, &pod)?;
    daemon.start_again().await?;

    assert_eq!(pod.state().await?, PodSandboxState::SandboxReady);
    assert_eq!(runs.pid().await?, pid);
    let words = ["takes version 2", "speaks version 1"];
    assert_refused(runs.exec(&["/bin/true"]).await, Code::FailedPrecondition, &words);
    assert_refused(created.start().await, Code::FailedPrecondition, &words);
    // A log whose writer has it open elsewhere is what is moved when it is rotated.
    runs.reopen_log().await?;
    ends.stop(0).await?;
    assert_eq!(ends.exit_code().await?, 137, "ends are told as ever");
    assert_eq!((older.launches(), older.connections()), (0, 1), "it was never asked for what it does not know, nor lost");
    assert_eq!(runs.state().await?, ContainerState::ContainerRunning);
    assert!(host::runs(pid) && host::runs(pause));

    // Its neighbours are of today.
    let new = daemon.run_pod(&PodSpec::new("new")).await?;
    assert_eq!(new.run(&ContainerSpec::sleeper("a")).await?.sh("echo runs").await?, "runs");
    new.end().await?;
    created.remove().await?;
    runs.stop(0).await?;
    runs.remove().await?;
    let monitor = daemon.monitor_of(&pod.id).context("the pod's monitor")?;
    pod.end().await?;
    wait::ended(&[pid, pause, monitor]).await?;
    Census::settle(&daemon, &before.without("descriptor"), wait::DEADLINE).await
}

#[tokio::test]
async fn a_pod_whose_monitor_speaks_no_version_of_ours_is_left_alone_and_can_be_ended() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("strange")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let (pid, pause) = (container.pid().await?, pod.pause_pid().await?);
    let monitor = daemon.monitor_of(&pod.id).context("the pod's monitor")?;
    daemon.kill_9()?;
    let strange = OlderMonitor::speaking(0, &daemon, &pod)?;
    daemon.start_again().await?;

    assert_eq!(pod.state().await?, PodSandboxState::SandboxReady);
    assert_eq!(container.state().await?, ContainerState::ContainerRunning);
    wait::until_true("the daemon says why", || daemon.log().contains("speaks none of the versions")).await?;
    assert_eq!(strange.launches(), 0);
    assert!(host::runs(pid) && host::runs(pause));
    container.stop(0).await?;
    container.remove().await?;
    pod.end().await?;
    wait::ended(&[pid, pause, monitor]).await?;
    Census::settle(&daemon, &before.without("descriptor"), wait::DEADLINE).await
}
