//! Daemons in one network namespace: with different files they do not notice each other, with the same bridge the second does not start.

use anyhow::{Context, Result};
use podbox_proto::v1::PodSandboxState;
use podbox_tests::network::NetworkNamespace;
use podbox_tests::{ContainerSpec, Daemon, DaemonOptions, PodSpec, TestImage, wait};
use std::sync::Arc;

#[tokio::test]
async fn daemons_with_different_files_live_side_by_side_in_one_network_namespace() -> Result<()> {
    let network = Arc::new(NetworkNamespace::new()?);
    let options = |subnet: &str| DaemonOptions { show_log: true, ..DaemonOptions::default() }.subnets(&[subnet]);
    let mut a = Daemon::prepare_in(&options("10.204.0.0/24"), network.clone())?;
    let mut b = Daemon::prepare_in(&options("10.205.0.0/24"), network)?;
    for daemon in [&mut a, &mut b] {
        daemon.start_again().await?;
        daemon.import(&TestImage::default())?;
    }
    let (of_a, of_b) = (a.run_pod(&PodSpec::new("same")).await?, b.run_pod(&PodSpec::new("same")).await?);
    let (in_a, in_b) = (of_a.run(&ContainerSpec::sleeper("c")).await?, of_b.run(&ContainerSpec::sleeper("c")).await?);
    assert_eq!((a.client().pods().await?.len(), b.client().pods().await?.len()), (1, 1));
    assert!(in_a.status().await?.id != in_b.id && of_b.through(&a.client()).status().await.is_err());
    let ip = of_b.ips().await?.remove(0);
    assert!(ip.starts_with("10.205."));
    a.restart().await?;
    assert_eq!(in_b.sh("echo untouched").await?, "untouched");
    of_a.end().await?;
    a.terminate().await?;
    assert_eq!(of_b.state().await?, PodSandboxState::SandboxReady);
    let again = b.run_pod(&PodSpec::new("another")).await?;
    let pinger = again.run(&ContainerSpec::sleeper("c")).await?;
    assert_eq!(pinger.exec(&["/bin/ping", "-c1", "-W5", &ip]).await?.code, 0, "its bridge is as it was");
    of_b.end().await?;
    Ok(again.end().await?)
}

#[tokio::test]
async fn a_second_daemon_on_the_same_bridge_is_refused_and_a_killed_one_does_not_block_it() -> Result<()> {
    let network = Arc::new(NetworkNamespace::new()?);
    let options = |subnet: &str| DaemonOptions { show_log: true, ..DaemonOptions::default() }.subnets(&[subnet]);
    let mut first = Daemon::prepare_in(&options("10.206.0.0/24"), network.clone())?;
    let second = Daemon::prepare_in(&options("10.207.0.0/24"), network)?;
    let config = std::fs::read_to_string(second.config_file())?.replace(second.bridge(), first.bridge());
    std::fs::write(second.config_file(), config)?;
    first.start_again().await?;
    first.import(&TestImage::default())?;
    let pod = first.run_pod(&PodSpec::new("pod")).await?;
    let output = second.network().run(|| second.command(&["serve"]).output().context("execute podbox"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(&format!("bridge {}", first.bridge())), "{said}");
    first.restart().await?;
    assert_eq!(pod.state().await?, PodSandboxState::SandboxReady);
    // The same name in another network namespace is another bridge.
    let elsewhere = NetworkNamespace::new()?;
    let mut child = elsewhere.run(|| second.command(&["serve"]).spawn().context("execute podbox"))?;
    let client = second.client();
    let answered = wait::until("the other daemon answers", || async { client.version().await.ok() }).await;
    child.kill()?;
    child.wait()?;
    answered?;
    Ok(pod.end().await?)
}
