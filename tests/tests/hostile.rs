//! What is inside a box, or asks for one, and means ill: the daemon answers, and goes on.

use anyhow::Result;
use podbox_tests::{ContainerSpec, Daemon, PodSpec};
use tonic::Code;

/// The kernel kills the newborn for memory before it becomes its program.
#[tokio::test]
async fn a_memory_limit_that_is_too_small_to_start_in_is_an_error() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.create(&ContainerSpec::sleeper("tiny").memory_limit(4096)).await?;
    let error = container.start().await.expect_err("nothing starts in 4 KiB");
    assert!(error.message().contains(&container.id), "{error}");
    let status = container.status().await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    pod.run(&ContainerSpec::sleeper("next")).await?;
    Ok(pod.end().await?)
}

/// A container that kills whatever comes into its PID namespace kills the commands that are executed in it, and no more.
#[tokio::test]
async fn a_container_that_kills_its_probes_harms_only_itself() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::shell("killer", "trap '' TERM; while :; do kill -9 -1; done")).await?;
    for _ in 0..10 {
        match container.exec(&["true"]).await {
            Ok(output) => assert!(matches!(output.code, 0 | 137), "{output:?}"),
            Err(error) => assert_ne!(error.code(), Code::Unavailable, "{error}"),
        }
    }
    daemon.client().version().await?;
    Ok(pod.end().await?)
}

/// Whichever comes first: the container is stopped before it runs, or after.
#[tokio::test]
async fn starting_and_stopping_at_once_is_no_harm() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    for round in 0..10 {
        let pod = daemon.run_pod(&PodSpec::new(&format!("pod{round}"))).await?;
        let container = pod.create(&ContainerSpec::sleeper("c")).await?;
        let (started, stopped) = tokio::join!(container.start(), pod.stop());
        stopped?;
        if let Err(error) = started {
            assert_ne!(error.code(), Code::Unavailable, "{error}");
        }
        pod.remove().await?;
    }
    daemon.client().version().await?;
    Ok(())
}
