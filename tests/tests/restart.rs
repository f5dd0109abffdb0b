//! The daemon dies and comes back: pods live on, and nothing that happened meanwhile is lost.

use anyhow::{Context, Result};
use podbox_proto::v1::{ContainerState, ListImagesRequest, NamespaceMode, PodSandboxState};
use podbox_tests::flag::{AWAIT_FLAG, Flag};
use podbox_tests::host::runs;
use podbox_tests::{Census, Container, ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, wait};
use std::collections::BTreeSet;

#[tokio::test]
async fn after_a_kill_of_the_daemon_lists_addresses_and_states_are_the_same() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("lives").label("k", "v")).await?;
    let running = pod.run(&ContainerSpec::sleeper("running")).await?;
    pod.create(&ContainerSpec::sleeper("created")).await?;
    pod.run(&ContainerSpec::shell("exited", "exit 3")).await?.exited().await?;
    let node = daemon.run_pod(&PodSpec::new("node").network(NamespaceMode::Node)).await?;
    let stopped = daemon.run_pod(&PodSpec::new("stopped")).await?;
    stopped.stop().await?;
    let client = daemon.client();
    let mut before = Vec::new();
    for pod in [&pod, &node, &stopped] {
        before.push((pod.status().await?.status, pod.info().await?));
    }
    let (pods, containers, status) = (client.pods().await?, client.containers().await?, running.status().await?);
    let images = client.images().list_images(ListImagesRequest::default()).await?.into_inner();
    let pid = running.pid().await?;
    for _ in 0..2 {
        daemon.restart().await?;
        assert_eq!(client.pods().await?, pods);
        assert_eq!(client.containers().await?, containers);
        assert_eq!((running.status().await?, running.pid().await?), (status.clone(), pid));
        for (pod, before) in [&pod, &node, &stopped].into_iter().zip(&before) {
            assert_eq!((&pod.status().await?.status, &pod.info().await?), (&before.0, &before.1));
        }
        assert_eq!(client.images().list_images(ListImagesRequest::default()).await?.into_inner(), images);
    }
    Ok(())
}

#[tokio::test]
async fn logs_go_on_while_there_is_no_daemon() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("logs")).await?;
    let script = "i=0; while ! test -e /dev/shm/go; do echo $i; i=$((i+1)); sleep 0.005; done; echo $i last";
    let container = pod.run(&ContainerSpec::shell("a", script)).await?;
    let flag = Flag::of(&pod).await?;
    let lines = || container.log_lines().map_or(0, |lines| lines.len());
    wait::until_true("it writes", || lines() > 10).await?;
    daemon.kill_9()?;
    let then = lines();
    wait::until_true("it writes on without a daemon", || lines() > then + 20).await?;
    daemon.start_again().await?;
    let then = lines();
    wait::until_true("and with the next one", || lines() > then + 20).await?;
    let rotated = container.log.with_extension("0");
    std::fs::rename(&container.log, &rotated)?;
    container.reopen_log().await?;
    flag.raise()?;
    assert_eq!(container.exit_code().await?, 0);
    let mut all = Container::adopt(&daemon.client(), &container.id, &rotated).log_lines()?;
    all.extend(container.log_lines()?);
    let last = all.pop().context("a last line")?;
    for (number, line) in all.iter().enumerate() {
        assert_eq!(String::from_utf8_lossy(&line.text), number.to_string(), "no line is lost");
    }
    assert_eq!(String::from_utf8_lossy(&last.text), format!("{} last", all.len()));
    Ok(())
}

#[tokio::test]
async fn exits_of_meanwhile_are_told_with_their_true_codes_and_reasons() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("exits")).await?;
    let mut containers = Vec::new();
    for code in 10..22 {
        let spec = ContainerSpec::shell(&format!("c{code}"), &format!("{AWAIT_FLAG}; echo bye; exit {code}"));
        containers.push((pod.run(&spec).await?, code, "Error"));
    }
    containers.push((pod.run(&ContainerSpec::shell("well", &format!("{AWAIT_FLAG}; exit 0"))).await?, 0, "Completed"));
    let greedy = format!("{AWAIT_FLAG}; exec dd if=/dev/zero of=/dev/null bs=200M");
    containers.push((pod.run(&ContainerSpec::shell("greedy", &greedy).memory_limit(32 << 20)).await?, 137, "OOMKilled"));
    let flag = Flag::of(&pod).await?;
    let mut pids = Vec::new();
    for (container, _, _) in &containers {
        pids.push(container.pid().await?);
    }
    daemon.kill_9()?;
    let killed_at = now_ns()?;
    flag.raise()?;
    wait::ended(&pids).await?;
    let ended_at = now_ns()?;
    daemon.start_again().await?;
    for (container, code, reason) in &containers {
        let status = container.status().await?;
        let name = status.metadata.clone().unwrap_or_default().name;
        assert_eq!((status.state(), status.exit_code, &*status.reason), (ContainerState::ContainerExited, *code, *reason), "{name}");
        assert!((killed_at..=ended_at).contains(&status.finished_at), "{name} ended when it did");
    }
    assert_eq!(containers[0].0.output()?, "bye");
    assert_eq!(pod.state().await?, PodSandboxState::SandboxReady);
    Ok(())
}

fn now_ns() -> Result<i64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos().try_into()?)
}

#[tokio::test]
async fn everything_works_on_what_the_last_daemon_left() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let running = pod.run(&ContainerSpec::sleeper("running")).await?;
    let created = pod.create(&ContainerSpec::shell("created", "exit 4")).await?;
    let exited = pod.run(&ContainerSpec::shell("exited", "exit 5")).await?;
    exited.exited().await?;
    daemon.restart().await?;
    assert_eq!(running.sh("echo exec").await?, "exec");
    created.start().await?;
    assert_eq!(created.exit_code().await?, 4);
    let fresh = pod.run(&ContainerSpec::sleeper("fresh")).await?;
    assert_eq!(fresh.sh("hostname").await?, "pod");
    let other = daemon.run_pod(&PodSpec::new("other")).await?;
    let (a, b): (BTreeSet<_>, BTreeSet<_>) = (pod.ips().await?.into_iter().collect(), other.ips().await?.into_iter().collect());
    assert!(a.is_disjoint(&b), "{a:?} {b:?}");
    assert!(daemon.run_pod(&PodSpec { config: pod.config.clone() }).await.is_err(), "its name is still taken");
    running.stop(0).await?;
    assert_eq!(running.exit_code().await?, 137);
    for container in [&running, &created, &exited] {
        container.remove().await?;
    }
    daemon.restart().await?;
    pod.end().await?;
    other.end().await?;
    Census::settle(&daemon, &before.without("descriptor"), wait::DEADLINE).await
}

#[tokio::test]
async fn sigterm_stops_the_daemon_and_leaves_pods_running() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let pids = [container.pid().await?, pod.pause_pid().await?];
    assert!(daemon.terminate().await?.success());
    assert!(pids.iter().all(|pid| runs(*pid)));
    daemon.start_again().await?;
    assert_eq!([container.pid().await?, pod.pause_pid().await?], pids);
    Ok(pod.end().await?)
}

#[tokio::test]
async fn damaged_records_are_set_aside_and_the_daemon_serves() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let good = daemon.run_pod(&PodSpec::new("good")).await?;
    let container = good.run(&ContainerSpec::sleeper("a")).await?;
    let spoilt = good.run(&ContainerSpec::sleeper("spoilt")).await?;
    let spoilt_pid = spoilt.pid().await?;
    let (truncated, garbage, empty) = (
        daemon.run_pod(&PodSpec::new("truncated")).await?,
        daemon.run_pod(&PodSpec::new("garbage")).await?,
        daemon.run_pod(&PodSpec::new("empty")).await?,
    );
    daemon.kill_9()?;
    let pods = daemon.state_dir().join("pods");
    let record = |pod: &Pod| pods.join(&pod.id).join("sandbox.json");
    let bytes = std::fs::read(record(&truncated))?;
    std::fs::write(record(&truncated), &bytes[..bytes.len() / 2])?;
    std::fs::write(record(&garbage), [0xff; 300])?;
    std::fs::write(record(&empty), "")?;
    std::fs::write(pods.join(&good.id).join("containers").join(&spoilt.id).join("container.json"), "{\"version\":")?;
    std::fs::create_dir(pods.join("not-an-id"))?;
    std::fs::write(pods.join("a-file"), "")?;
    daemon.start_again().await?;
    assert_eq!(good.state().await?, PodSandboxState::SandboxReady);
    assert_eq!(container.sh("echo runs").await?, "runs");
    let set_aside = std::fs::read_dir(daemon.state_dir().join("quarantine"))?.count();
    assert!(set_aside >= 4, "{set_aside}");
    for pod in [&truncated, &garbage, &empty] {
        // Nobody can stop what nobody can name any more.
        wait::until_true("what ran of it is ended", || daemon.monitor_of(&pod.id).is_none()).await?;
        pod.end().await?;
        let again = daemon.run_pod(&PodSpec { config: pod.config.clone() }).await?;
        assert_ne!(again.ips().await?, good.ips().await?);
        again.end().await?;
    }
    wait::ended(&[spoilt_pid]).await?;
    spoilt.remove().await?;
    good.run(&ContainerSpec::sleeper("spoilt")).await?;
    daemon.restart().await?;
    assert_eq!(good.state().await?, PodSandboxState::SandboxReady);
    Ok(good.end().await?)
}

/// A pod that was stopped, and whose record does not say so, must not give away what another was given meanwhile.
#[tokio::test]
async fn of_two_pods_on_record_with_one_address_the_living_keeps_it() -> Result<()> {
    let mut daemon = Daemon::for_test_with(DaemonOptions::default().subnets(&["10.208.0.0/30"])).await?;
    let ended = daemon.run_pod(&PodSpec::new("ended")).await?;
    let record = daemon.state_dir().join("pods").join(&ended.id).join("sandbox.json");
    let stale = std::fs::read(&record)?;
    ended.stop().await?;
    let spec = PodSpec::new("living");
    let living = wait::until("the address is free", || async { daemon.run_pod(&spec).await.ok() }).await?;
    daemon.kill_9()?;
    std::fs::write(&record, stale)?;
    daemon.start_again().await?;
    ended.end().await?;
    assert_eq!(living.state().await?, PodSandboxState::SandboxReady);
    // Time for a release that comes after the answer: none may come.
    for _ in 0..5 {
        assert!(daemon.run_pod(&PodSpec::new("third")).await.is_err(), "the only address is taken");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let container = living.run(&ContainerSpec::sleeper("a")).await?;
    assert_eq!(container.exec(&["/bin/ping", "-c1", "-W5", "10.208.0.1"]).await?.code, 0);
    living.end().await?;
    let third = PodSpec::new("third");
    wait::until("the address is free", || async { daemon.run_pod(&third).await.ok() }).await?.end().await?;
    Ok(())
}

#[tokio::test]
async fn subnets_of_the_kubelet_that_hide_those_of_the_file_are_told_at_the_start() -> Result<()> {
    let mut daemon = Daemon::for_test_with(DaemonOptions::default().subnets(&["10.209.0.0/24"])).await?;
    let network_config = podbox_proto::v1::NetworkConfig { pod_cidr: "10.210.0.0/24".to_owned() };
    let runtime_config = podbox_proto::v1::RuntimeConfig { network_config: Some(network_config) };
    let request = podbox_proto::v1::UpdateRuntimeConfigRequest { runtime_config: Some(runtime_config) };
    daemon.runtime().update_runtime_config(request).await?;
    let file = daemon.state_dir().join("network.json");
    daemon.restart().await?;
    for words in ["10.209.0.0", "10.210.0.0", &*file.to_string_lossy()] {
        assert!(daemon.log().lines().any(|line| line.contains("network.subnets") && line.contains(words)), "{words}");
    }
    daemon.kill_9()?;
    std::fs::remove_file(file)?;
    daemon.start_again().await?;
    assert!(daemon.run_pod(&PodSpec::new("pod")).await?.ips().await?[0].starts_with("10.209."));
    Ok(())
}

/// What another version of podbox wrote need not look like ours in anything but its version.
#[tokio::test]
async fn records_of_another_version_keep_the_daemon_from_starting_and_end_nothing() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let (pid, folder) = (container.pid().await?, daemon.state_dir().join("pods").join(&pod.id));
    let of_container = folder.join("containers").join(&container.id).join("container.json");
    for record in [folder.join("sandbox.json"), of_container] {
        daemon.kill_9()?;
        let ours = std::fs::read(&record).context("the record")?;
        for other in [r#"{"version":1,"made":"otherwise"}"#, r#"{"version":99}"#] {
            std::fs::write(&record, other)?;
            assert!(daemon.start_again().await.is_err(), "{other}");
            assert!(daemon.log().contains("another version of podbox"), "{}", daemon.log());
            assert!(runs(pid), "{other}");
            assert_eq!(std::fs::read_to_string(&record)?, other);
        }
        std::fs::write(&record, ours)?;
        daemon.start_again().await?;
        assert_eq!((container.pid().await?, pod.state().await?), (pid, PodSandboxState::SandboxReady));
    }
    Ok(())
}
