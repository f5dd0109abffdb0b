//! Many at once: all go well, and nothing is left.

use anyhow::Result;
use podbox_tests::{Census, Container, ContainerSpec, Daemon, DaemonOptions, PodSpec, wait};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

async fn one_life(daemon_client: podbox_tests::Client, logs: std::path::PathBuf, name: String) -> Result<()> {
    let pod = podbox_tests::Pod::run_new(&daemon_client, &logs, &PodSpec::new(&name)).await?;
    let sleeper = pod.run(&ContainerSpec::sleeper("sleeper")).await?;
    let short = pod.run(&ContainerSpec::shell("short", "echo $HOSTNAME; exit 9")).await?;
    assert_eq!(sleeper.sh("hostname").await?, name);
    assert_eq!(short.exit_code().await?, 9);
    assert_eq!(short.output()?, name);
    sleeper.stop(0).await?;
    short.remove().await?;
    Ok(pod.end().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_pods_by_eight_clients_come_and_go_and_leave_nothing() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default()).await?;
    let before = daemon.warm_up().await?;
    let mut clients = JoinSet::new();
    for number in 0..8 {
        let (client, logs) = (daemon.client().separate(), daemon.logs());
        clients.spawn(async move {
            for round in (number..50).step_by(8) {
                one_life(client.clone(), logs.clone(), format!("pod{round}")).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(outcome) = clients.join_next().await {
        outcome??;
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_commands_at_once_each_get_their_own_output() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::shell("c", "while :; do wait; sleep 1; done")).await?;
    container.sh("true").await?;
    let before = Census::at_rest(&daemon).await?;
    let mut commands = JoinSet::new();
    for number in 0..200 {
        let container: Container = container.clone();
        commands.spawn(async move {
            let output = container.exec(&["/bin/sh", "-c", &format!("echo {number}; exit {}", number % 100)]).await?;
            assert_eq!((output.stdout, output.code), (format!("{number}\n"), number % 100));
            anyhow::Ok(())
        });
    }
    while let Some(outcome) = commands.join_next().await {
        outcome??;
    }
    // The container's own `sleep` comes and goes.
    wait::until_true("nothing of them is left", || Census::take(&daemon).is_ok_and(|now| now.without("process").diff(&before).is_empty()))
        .await
}

/// What the pods share, the last one takes with it; of many that end at once, one is.
#[tokio::test]
async fn pods_that_end_at_once_leave_no_parent() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    for round in 0..30 {
        let mut pods = Vec::new();
        for number in 0..6 {
            pods.push(daemon.run_pod(&PodSpec::new(&format!("pod{round}-{number}"))).await?);
        }
        let ends: JoinSet<_> = pods.into_iter().map(|pod| async move { pod.end().await }).collect();
        for end in ends.join_all().await {
            end?;
        }
        let mut left = Census::take(&daemon)?.diff(&before);
        left.retain(|line| line.contains("cgroup: "));
        assert_eq!(left, [""; 0], "round {round}");
    }
    Ok(())
}

/// Its cgroup empties while it is waited for, and is removed by whoever hears first that the container ended.
#[tokio::test]
async fn a_pod_that_was_just_started_stops_at_once() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    for round in 0..10 {
        let pod = daemon.run_pod(&PodSpec::new(&format!("pod{round}"))).await?;
        pod.run(&ContainerSpec::sleeper("c")).await?;
        let begun = Instant::now();
        pod.stop().await?;
        assert!(begun.elapsed() < wait::scaled(Duration::from_secs(3)), "round {round}: {:?}", begun.elapsed());
        pod.remove().await?;
    }
    Ok(())
}
