//! What is inside a box, or asks for one, and means ill: the daemon answers, and goes on.

use anyhow::{Context, Result};
use podbox_tests::fuse::HungMount;
use podbox_tests::{Census, ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, assert_refused, wait};
use tonic::Code;

/// The kernel kills the newborn for memory before it becomes its program.
#[tokio::test]
async fn a_memory_limit_that_is_too_small_to_start_in_is_an_error() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    // What is handed to the program is counted, too.
    let spec = (0..8).fold(ContainerSpec::sleeper("tiny").memory_limit(512 * 1024), |spec, number| {
        spec.env(&format!("LARGE_{number}"), &[b'x'; 100_000])
    });
    let container = pod.create(&spec).await?;
    let error = container.start().await.expect_err("800 kB are handed over in 512 KiB");
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

/// Control files share the name space of cgroups; where parents are slices, none can be named.
#[tokio::test]
async fn a_cgroup_parent_that_is_a_control_file_is_refused_and_costs_nothing() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().cgroupfs().subnets(&["10.204.7.0/29"])).await?;
    let before = daemon.warm_up().await?;
    for _ in 0..10 {
        for parent in ["/cgroup.procs", "/cgroup.procs/x"] {
            assert_refused(daemon.run_pod(&PodSpec::new("pod").cgroup_parent(parent)).await, Code::InvalidArgument, &[parent]);
        }
    }
    daemon.run_pod(&PodSpec::new("pod")).await?.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// A monitor that hangs (on a dead log volume, say) holds up nobody for long, and its pod can be ended.
#[tokio::test]
async fn a_monitor_that_hangs_does_not_hold_up_its_pods_end() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    let monitor = daemon.monitor_of(&pod.id).context("the pod's monitor")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGSTOP)?;
    let late = container.exec_within(&["true"], 1).await.expect_err("the monitor cannot start it");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    pod.stop().await?;
    assert_eq!(container.status().await?.exit_code, 137);
    pod.remove().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// The caller's patience may end while the command is still being started.
///
/// Seen to fail: with nothing done when a call is dropped, the commands ran on.
#[tokio::test]
async fn a_command_whose_caller_gives_up_does_not_run_on() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    for patience_ms in [1, 2, 3, 5, 8, 20] {
        for _ in 0..5 {
            let command = container.exec(&["sleep", "1234"]);
            let _ = tokio::time::timeout(std::time::Duration::from_millis(patience_ms), command).await;
        }
    }
    wait::until("no command is left", || async {
        let processes = container.sh("ps").await.ok()?;
        (!processes.contains("1234")).then_some(())
    })
    .await?;
    Ok(pod.end().await?)
}

/// Larger than any program could be started with, and once larger than the daemon could read again.
#[tokio::test]
async fn an_environment_of_megabytes_is_refused() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let spec = ContainerSpec::sleeper("c").env("BIG", &vec![1; 3 << 20]);
    assert_refused(pod.create(&spec).await, Code::InvalidArgument, &["config.envs"]);
    Ok(pod.end().await?)
}

/// They stand where the daemon keeps its records.
#[tokio::test]
async fn a_container_cannot_write_to_the_pods_files() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    for file in ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"] {
        let output = container.exec(&["/bin/sh", "-c", &format!("echo x >> {file}")]).await?;
        assert_ne!(output.code, 0, "{file} was written to");
    }
    Ok(pod.end().await?)
}

#[tokio::test]
async fn a_privileged_container_may_bring_the_nodes_dev() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod").privileged()).await?;
    let spec = ContainerSpec::sleeper("c").privileged().mount(std::path::Path::new("/dev"), "/dev");
    assert_eq!(pod.run(&spec).await?.sh("test -c /dev/null && echo there").await?, "there");
    Ok(pod.end().await?)
}

/// The first pod made the directory, the last one below it takes it away.
#[tokio::test]
async fn a_cgroup_parent_that_pods_share_goes_with_the_last() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().cgroupfs()).await?;
    let before = daemon.warm_up().await?;
    let parent = format!("{}-shared/burst", daemon.cgroup_parent());
    let first = daemon.run_pod(&PodSpec::new("first").cgroup_parent(&format!("{parent}/one"))).await?;
    let second = daemon.run_pod(&PodSpec::new("second").cgroup_parent(&format!("{parent}/two"))).await?;
    first.end().await?;
    second.end().await?;
    for (_, hierarchy) in podbox_tests::host::cgroup_hierarchies() {
        let left = hierarchy.join(format!("{}-shared", daemon.cgroup_parent().trim_start_matches('/')));
        assert!(!left.exists(), "{} is left", left.display());
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// A volume whose server is gone: who asks for it waits, and nobody else does.
#[tokio::test]
async fn a_mount_source_that_hangs_holds_up_neither_stop_nor_remove_of_its_pod() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let volume = daemon.directory().join("volume");
    let mut hung = HungMount::new(&volume)?;
    let (pod, removed) = (daemon.run_pod(&PodSpec::new("pod")).await?, daemon.run_pod(&PodSpec::new("removed")).await?);
    let neighbour = pod.run(&ContainerSpec::sleeper("neighbour")).await?;
    let makers: Vec<_> = [&pod, &removed]
        .into_iter()
        .map(|of| {
            let (of, spec) = (of.clone(), ContainerSpec::sleeper("held-up").mount(&volume, "/volume"));
            tokio::spawn(async move { of.create(&spec).await })
        })
        .collect();
    // Both makers have written down what they are about to make.
    let folders = |of: &Pod| {
        let folder = daemon.state_dir().join("pods").join(&of.id).join("containers");
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    };
    wait::until_true("both are being made", || folders(&pod) == 2 && folders(&removed) == 1).await?;
    assert_eq!(neighbour.sh("echo runs").await?, "runs");
    pod.stop().await?;
    removed.end().await?;
    for maker in makers {
        assert_refused(maker.await?, Code::FailedPrecondition, &["not ready"]);
    }
    assert_refused(removed.status().await, Code::NotFound, &[&removed.id]);
    // What comes late is of no use to anybody.
    hung.answer()?;
    wait::until_true("what was made too late is undone", || folders(&pod) == 1).await?;
    assert_eq!(daemon.client().containers().await?.len(), 1);
    pod.remove().await?;
    drop(hung);
    Census::settle(&daemon, &before, wait::DEADLINE).await
}
