//! podbox as a service of systemd's, started from the unit file that comes with it. The machine that runs these names the unit in
//! `PODBOX_TEST_UNIT`: a guest of `cargo xtask vm --systemd`, and nobody's own node.

use anyhow::{Context, Result, ensure};
use podbox_proto::v1::PodSandboxState;
use podbox_tests::{Client, Pod, PodSpec, host, wait};
use std::path::Path;
use std::process::Command;

fn unit() -> Option<String> {
    let unit = std::env::var("PODBOX_TEST_UNIT").ok();
    if unit.is_none() {
        host::lacks("systemd that started podbox from its unit file for tests");
    }
    unit
}

fn systemctl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("systemctl").args(arguments).output().context("run systemctl")?;
    ensure!(output.status.success(), "systemctl {}: {output:?}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// systemd calls a service of `Type=notify` active once it has said that it is ready, so that it answers from then on.
#[tokio::test]
async fn a_service_that_systemd_calls_active_answers_and_its_pods_outlive_it() -> Result<()> {
    let Some(unit) = unit() else { return Ok(()) };
    assert_eq!(systemctl(&["show", "--property=ActiveState", "--value", &unit])?, "active");
    let client = Client::new(Path::new("/run/podbox/podbox.sock"));
    client.version().await?;
    let logs = tempfile::tempdir().context("a folder for logs")?;
    let pod = Pod::run_new(&client, logs.path(), &PodSpec::new("outlives")).await?;
    let pause = pod.pause_pid().await?;
    systemctl(&["restart", &unit])?;
    client.reconnect();
    let state = wait::until("the next daemon answers", || async { pod.state().await.ok() }).await?;
    assert_eq!(state, PodSandboxState::SandboxReady);
    assert!(host::runs(pause), "the pod's pause process ended with the service");
    Ok(pod.end().await?)
}
