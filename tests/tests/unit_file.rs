//! podbox as a service of systemd's, started from the unit file that comes with it. The machine that runs these names the unit in
//! `PODBOX_TEST_UNIT`: a guest of `cargo xtask vm --systemd`, and nobody's own node.

use anyhow::{Context, Result, ensure};
use podbox_proto::v1::{CgroupDriver, ContainerState, PodSandboxState, RuntimeConfigRequest};
use podbox_tests::binary::{self, Profile};
use podbox_tests::host::cgroup_file;
use podbox_tests::{Client, ContainerSpec, Pod, PodSpec, TestImage, host, wait};
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

/// The service's own image store, which this machine throws away.
fn import(image: &TestImage) -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the image")?;
    let archive = folder.path().join("image.tar");
    image.write_oci_archive(&archive)?;
    let mut command = Command::new(binary::podbox(Profile::Dev)?);
    let output = command.args(["image", "import"]).arg(&archive).args(["--name", &image.name]).output().context("run podbox")?;
    ensure!(output.status.success(), "podbox image import: {output:?}");
    Ok(())
}

/// systemd calls a service of `Type=notify` active once it has said that it is ready, so that it answers from then on.
#[tokio::test]
async fn a_service_that_systemd_calls_active_answers_and_its_pods_and_their_limits_outlive_it() -> Result<()> {
    let Some(unit) = unit() else { return Ok(()) };
    assert_eq!(systemctl(&["show", "--property=ActiveState", "--value", &unit])?, "active");
    import(&TestImage::default())?;
    let client = Client::new(Path::new("/run/podbox/podbox.sock"));
    client.version().await?;
    // No configuration file names a driver here.
    let config = client.runtime().runtime_config(RuntimeConfigRequest::default()).await?.into_inner();
    assert_eq!(config.linux.context("a driver")?.cgroup_driver(), CgroupDriver::Systemd);
    let logs = tempfile::tempdir().context("a folder for logs")?;
    let pod = Pod::run_new(&client, logs.path(), &PodSpec::new("outlives")).await?;
    let spec = ContainerSpec::sleeper("a").memory_limit(64 << 20).resources(|limits| {
        (limits.cpu_quota, limits.cpu_period, limits.cpu_shares) = (20_000, 100_000, 512);
        "0".clone_into(&mut limits.cpuset_cpus);
        limits.unified.insert("pids.max".to_owned(), "17".to_owned());
    });
    let scope = format!("podbox-{}.scope", pod.id);
    let shown = systemctl(&["show", "--property=ActiveState,Slice,ControlGroup", &scope])?;
    for line in ["ActiveState=active", "Slice=podbox.slice", &format!("ControlGroup=/podbox.slice/{scope}")] {
        assert!(shown.lines().any(|shown| shown == line), "{shown}");
    }
    let container = pod.run(&spec).await?;
    let (pause, pid, cgroup) = (pod.pause_pid().await?, container.pid().await?, container.cgroup().await?);
    let limits = || -> Result<Vec<String>> {
        ["memory.max", "cpu.max", "cpu.weight", "cpuset.cpus", "pids.max"].iter().map(|file| cgroup_file(&cgroup, file)).collect()
    };
    assert!(cgroup.starts_with(&format!("/podbox.slice/{scope}/")), "{cgroup}");
    let before = limits()?;
    assert_eq!((&*before[0], &*before[1], &*before[4]), ("67108864", "20000 100000", "17"));
    for commands in [["restart"].as_slice(), &["stop", "start"], &["daemon-reload"], &["daemon-reload", "restart"], &["kill", "start"]] {
        for command in commands {
            match *command {
                "daemon-reload" => systemctl(&["daemon-reload"])?,
                "kill" => systemctl(&["kill", "--signal=KILL", &unit])?,
                command => systemctl(&[command, &unit])?,
            };
            assert!(host::runs(pause) && host::runs(pid), "{command}: the pod's processes ended with the service");
            assert_eq!(limits()?, before, "{command}");
        }
        client.reconnect();
        let state = wait::until("the daemon answers", || async { pod.state().await.ok() }).await?;
        assert_eq!((state, container.state().await?), (PodSandboxState::SandboxReady, ContainerState::ContainerRunning), "{commands:?}");
        assert_eq!((pod.pause_pid().await?, container.pid().await?), (pause, pid), "{commands:?}");
        assert_eq!(container.sh("echo here").await?, "here");
    }
    pod.end().await?;
    wait::until_true("the cgroups are gone", || cgroup_file(&cgroup, "cgroup.procs").is_err()).await
}
