//! Cgroups of pods: where processes are, what limits them, who makes and removes the directories.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podbox_proto::v1;
use podbox_proto::v1::ContainerState;
use podbox_tests::host::{cgroup_file, cgroup_hierarchies, runs};
use podbox_tests::limits::{Limits, MIB};
use podbox_tests::{Census, ContainerSpec, Daemon, DaemonOptions, PodSpec, assert_refused, wait};
use std::collections::BTreeSet;
use std::path::Path;
use tonic::Code;

/// The cgroup of a process, the same in every hierarchy that podbox uses; those in which it stayed at the daemon's own are left out.
fn cgroup_of(pid: i32, below: &str) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let paths: BTreeSet<&str> =
        text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).filter(|path| Path::new(path).starts_with(below)).collect();
    assert_eq!(paths.len(), 1, "{text}");
    paths.first().map(|path| (*path).to_owned()).context("one path")
}

fn exists(cgroup: &str) -> bool {
    cgroup_hierarchies().iter().any(|(_, root)| root.join(cgroup.trim_start_matches('/')).exists())
}

#[tokio::test]
async fn each_container_and_pause_has_a_cgroup_named_by_its_id_below_the_pods() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("tree")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let of_pod = pod.cgroup().await?;
    // With systemd it is a scope.
    let own = [pod.id.clone(), format!("podbox-{}.scope", pod.id)].map(|name| format!("{}/{name}", daemon.cgroup_parent()));
    assert!(own.contains(&of_pod), "{of_pod}");
    assert_eq!(cgroup_of(container.pid().await?, daemon.cgroup_parent())?, format!("{of_pod}/{}", container.id));
    assert_eq!(cgroup_of(pod.pause_pid().await?, daemon.cgroup_parent())?, format!("{of_pod}/{}", pod.id));
    // A command run in the container is under its limits.
    let exec = container.exec(&["/bin/sh", "-c", "cat /proc/self/cgroup"]).await?;
    assert!(!exec.stdout.contains(".."), "the command is within the container's cgroup namespace root: {}", exec.stdout);
    Ok(())
}

/// Its record alone knew where its cgroups are, and nobody is left to ask.
#[tokio::test]
async fn what_runs_by_a_damaged_record_is_ended_wherever_the_request_had_put_it() -> Result<()> {
    let mut daemon = Daemon::for_test_with(DaemonOptions::default().cgroupfs()).await?;
    let asked = format!("{}/elsewhere/burstable", daemon.cgroup_parent());
    let pod = daemon.run_pod(&PodSpec::new("damaged").cgroup_parent(&asked)).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let pids = [container.pid().await?, pod.pause_pid().await?];
    daemon.kill_9()?;
    kill(Pid::from_raw(daemon.monitor_of(&pod.id).context("a monitor")?), Signal::SIGKILL)?;
    assert!(pids.iter().all(|pid| runs(*pid)), "they run on without it");
    std::fs::write(daemon.state_dir().join("pods").join(&pod.id).join("sandbox.json"), "{")?;
    daemon.start_again().await?;
    wait::until_true("all of it is ended", || !pids.iter().any(|pid| runs(*pid))).await?;
    for id in [&pod.id, &container.id] {
        let cgroup = format!("{asked}/{id}");
        wait::until_true("the cgroup is gone", || !exists(&cgroup)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn limits_are_what_was_asked_for() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("limits")).await?;
    let spec = ContainerSpec::sleeper("a").memory_limit(64 << 20).resources(|resources| {
        resources.cpu_period = 50_000;
        resources.cpu_quota = 25_000;
        resources.cpu_shares = 512;
        "0".clone_into(&mut resources.cpuset_cpus);
        resources.unified.insert("pids.max".to_owned(), "17".to_owned());
    });
    let container = pod.run(&spec).await?;
    let cgroup = cgroup_of(container.pid().await?, daemon.cgroup_parent())?;
    assert_eq!(cgroup_file(&cgroup, "pids.max")?, "17");
    if let Ok(period) = cgroup_file(&cgroup, "cpu.cfs_period_us") {
        assert_eq!(period, "50000");
        assert_eq!(cgroup_file(&cgroup, "cpu.cfs_quota_us")?, "25000");
        assert_eq!(cgroup_file(&cgroup, "cpu.shares")?, "512");
        assert_eq!(cgroup_file(&cgroup, "memory.limit_in_bytes")?, (64 << 20).to_string());
    } else {
        assert_eq!(cgroup_file(&cgroup, "cpu.max")?, "25000 50000");
        assert_eq!(cgroup_file(&cgroup, "memory.max")?, (64 << 20).to_string());
    }
    assert_eq!(cgroup_file(&cgroup, "cpuset.cpus")?, "0");
    let linux = container.status().await?.resources.and_then(|resources| resources.linux).unwrap_or_default();
    assert_eq!((linux.memory_limit_in_bytes, linux.cpu_quota, linux.cpu_shares), (64 << 20, 25_000, 512), "the status says so");
    Ok(())
}

#[tokio::test]
async fn more_processes_than_the_limit_cannot_be_made() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pids")).await?;
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; wait";
    let spec = ContainerSpec::shell("forks", script).resources(|resources| {
        resources.unified.insert("pids.max".to_owned(), "5".to_owned());
    });
    let container = pod.run(&spec).await?;
    let status = container.exited().await?;
    assert_ne!(status.exit_code, 0);
    assert!(container.output()?.contains("fork"), "{}", container.output()?);
    Ok(())
}

#[tokio::test]
async fn a_container_over_its_memory_limit_is_killed_and_reported_as_oom_killed() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("oom")).await?;
    // Neighbours in the pod are not touched.
    let neighbour = pod.run(&ContainerSpec::sleeper("neighbour")).await?;
    let greedy = ContainerSpec::command("greedy", &["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=200M"]).memory_limit(32 << 20);
    let greedy = pod.run(&greedy).await?;
    let status = greedy.exited().await?;
    assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));
    assert_eq!(neighbour.state().await?, ContainerState::ContainerRunning);
    // Killed for another reason is not reported so.
    neighbour.stop(0).await?;
    let status = neighbour.exited().await?;
    assert_eq!(status.exit_code, 137);
    assert_ne!(status.reason, "OOMKilled");
    Ok(())
}

#[tokio::test]
async fn the_cgroup_parent_of_a_request_is_the_pods_cgroup_made_and_removed() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().cgroupfs()).await?;
    let before = daemon.warm_up().await?;
    let parent = format!("{}/burstable/pod-7", daemon.cgroup_parent());
    let pod = daemon.run_pod(&PodSpec::new("made").cgroup_parent(&parent)).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    assert_eq!(cgroup_of(container.pid().await?, &parent)?, format!("{parent}/{}", container.id));
    container.stop(0).await?;
    container.remove().await?;
    assert!(!exists(&format!("{parent}/{}", container.id)));
    assert!(exists(&parent));
    pod.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await?;
    assert!(!exists(&format!("{}/burstable", daemon.cgroup_parent())), "podbox made it, podbox removes it");
    Ok(())
}

#[tokio::test]
async fn a_cgroup_that_was_there_is_used_and_kept() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().cgroupfs()).await?;
    let parent = format!("{}/kubelets-own", daemon.cgroup_parent());
    for (_, root) in cgroup_hierarchies() {
        std::fs::create_dir_all(root.join(parent.trim_start_matches('/')))?;
    }
    let before = Census::take(&daemon)?;
    let pod = daemon.run_pod(&PodSpec::new("kept").cgroup_parent(&parent)).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    assert_eq!(cgroup_of(container.pid().await?, &parent)?, format!("{parent}/{}", container.id));
    pod.end().await?;
    wait::until_true("the pod's own cgroups go", || Census::take(&daemon).is_ok_and(|now| now.count("cgroup") == before.count("cgroup")))
        .await?;
    assert!(exists(&parent), "podbox did not make it");
    Ok(())
}

#[tokio::test]
async fn a_pods_resources_are_kept_and_reported_and_no_cgroup_is_written() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let spec = PodSpec::new("pod").linux(|linux| {
        linux.resources = Some(Limits { cpu_shares: 512, memory_limit_in_bytes: 64 * MIB, ..Default::default() });
        linux.overhead = Some(Limits { memory_limit_in_bytes: 8 * MIB, ..Default::default() });
    });
    let pod = daemon.run_pod(&spec).await?;
    let config = pod.info().await?["config"].clone();
    assert_eq!((&config["resources"]["cpu_shares"], &config["overhead"]["memory_limit_bytes"]), (&512.into(), &(8 * MIB).into()));
    let cgroup = pod.cgroup().await?;
    let files = |root: &Path| -> Vec<String> {
        let directory = root.join(cgroup.trim_start_matches('/'));
        let names = ["cpu.weight", "cpu.shares", "memory.max", "memory.limit_in_bytes"];
        names.iter().filter_map(|name| std::fs::read_to_string(directory.join(name)).ok()).collect()
    };
    let written = || -> Vec<Vec<String>> { cgroup_hierarchies().iter().map(|(_, root)| files(root)).collect() };
    let before = written();
    assert!(before.iter().any(|files| !files.is_empty()), "they are looked for where they are");
    let request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: None,
        resources: Some(Limits { memory_limit_in_bytes: 96 * MIB, ..Default::default() }),
    };
    daemon.runtime().update_pod_sandbox_resources(request.clone()).await?;
    for restarted in [false, true] {
        if restarted {
            daemon.restart().await?;
        }
        let config = pod.info().await?["config"].clone();
        assert_eq!(config["resources"]["memory_limit_bytes"], 96 * MIB);
        assert_eq!((&config["resources"]["cpu_shares"], &config["overhead"]["memory_limit_bytes"]), (&512.into(), &(8 * MIB).into()));
        assert_eq!(written(), before);
    }
    pod.stop().await?;
    assert_refused(daemon.runtime().update_pod_sandbox_resources(request).await, Code::FailedPrecondition, &[&pod.id]);
    Ok(())
}

/// The list is of what is left to be removed: without it there is nothing to remove.
#[tokio::test]
async fn a_pod_stops_whose_list_of_shared_cgroups_is_gone() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().cgroupfs()).await?;
    let parent = format!("{}/burst", daemon.cgroup_parent());
    let first = daemon.run_pod(&PodSpec::new("first").cgroup_parent(&format!("{parent}/one"))).await?;
    let second = daemon.run_pod(&PodSpec::new("second").cgroup_parent(&format!("{parent}/two"))).await?;
    first.end().await?;
    std::fs::remove_file(daemon.state_dir().join("shared-cgroups.json")).context("the list is there")?;
    Ok(second.end().await?)
}

/// A pod that begins while the last one before it ends may make what that one had made, and takes away.
#[tokio::test]
async fn what_pods_have_in_common_goes_with_the_last_of_many_that_come_and_go() -> Result<()> {
    // More often than once only where that takes no minutes.
    let rounds = 12_u32.div_ceil(wait::slowness());
    let daemon = Daemon::for_test_with(DaemonOptions::default().cgroupfs()).await?;
    let parent = format!("{}/deep/common", daemon.cgroup_parent());
    for round in 0..rounds {
        let come_and_go = async |client: usize| -> Result<()> {
            for number in 0..6 {
                let spec = PodSpec::new(&format!("{round}-{client}-{number}")).cgroup_parent(&format!("{parent}/{client}-{number}"));
                daemon.run_pod(&spec).await?.end().await?;
            }
            Ok(())
        };
        tokio::try_join!(come_and_go(0), come_and_go(1), come_and_go(2))?;
        assert!(!exists(daemon.cgroup_parent()), "round {round}: {} is left", daemon.cgroup_parent());
    }
    Ok(())
}
