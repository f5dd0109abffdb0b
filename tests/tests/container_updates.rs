//! UpdateContainerResources: for what runs and what is only created, all of it or nothing, reported and kept.

use anyhow::Result;
use podbox_proto::v1;
use podbox_proto::v1::ContainerState;
use podbox_tests::limits::{GREEDY, Limits, MIB, content, prepared, reported, update};
use podbox_tests::{Census, ContainerSpec, Daemon, PodSpec, assert_refused, wait};
use tonic::Code;

#[tokio::test]
async fn an_update_holds_for_what_runs_and_for_what_is_only_created() -> Result<()> {
    let (daemon, pod) = prepared("update").await?;
    let spec = |name: &str| ContainerSpec::shell(name, "sleep 1000").memory_limit(256 * MIB).resources(|limits| limits.cpu_shares = 512);
    let running = pod.run(&spec("running")).await?;
    let created = pod.create(&spec("created")).await?;
    for container in [&running, &created] {
        update(&daemon, container, |limits| (limits.cpu_quota, limits.cpu_period) = (20_000, 100_000)).await?;
        update(&daemon, container, |limits| limits.memory_limit_in_bytes = 32 * MIB).await?;
        // Again, and nothing at all: both are well.
        update(&daemon, container, |limits| limits.memory_limit_in_bytes = 32 * MIB).await?;
        update(&daemon, container, |_| ()).await?;
        let limits = reported(container).await?;
        assert_eq!((limits.cpu_quota, limits.cpu_period, limits.cpu_shares), (20_000, 100_000, 512));
        assert_eq!(limits.memory_limit_in_bytes, 32 * MIB);
        let info = container.info().await?;
        assert_eq!(info["runtimeSpec"]["linux"]["resources"]["memory"]["limit"], 32 * MIB);
    }
    created.start().await?;
    for container in [&running, &created] {
        assert_eq!(content(container, &["memory.max", "memory.limit_in_bytes"]).await?, (32 * MIB).to_string());
        let greedy = container.exec(&["/bin/sh", "-c", GREEDY]).await?;
        assert_eq!(greedy.code, 137, "the kernel kills for the new limit: {greedy:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_update_of_what_has_ended_is_refused() -> Result<()> {
    let (daemon, pod) = prepared("ended").await?;
    let container = pod.run(&ContainerSpec::shell("a", "exit 0")).await?;
    container.exited().await?;
    assert_refused(update(&daemon, &container, |limits| limits.cpu_shares = 2).await, Code::FailedPrecondition, &[&container.id, "exited"]);
    container.remove().await?;
    assert_refused(update(&daemon, &container, |limits| limits.cpu_shares = 2).await, Code::NotFound, &[&container.id]);
    Ok(())
}

#[tokio::test]
async fn a_refused_update_changes_neither_the_cgroup_nor_the_record() -> Result<()> {
    let (daemon, pod) = prepared("refused").await?;
    let spec = ContainerSpec::sleeper("a").memory_limit(64 * MIB).resources(|limits| {
        (limits.cpu_shares, limits.cpu_quota, limits.cpu_period) = (512, 20_000, 100_000);
        limits.unified.insert("pids.max".to_owned(), "50".to_owned());
    });
    let container = pod.run(&spec).await?;
    let files = [["memory.max", "memory.limit_in_bytes"], ["cpu.weight", "cpu.shares"], ["cpu.max", "cpu.cfs_quota_us"], ["pids.max", "-"]];
    let mut before = Vec::new();
    for names in &files {
        before.push(content(&container, names).await?);
    }
    let limits = reported(&container).await?;
    let refused = update(&daemon, &container, |limits| {
        (limits.memory_limit_in_bytes, limits.cpu_shares, limits.cpu_quota) = (128 * MIB, 2048, 50_000);
        limits.unified.insert("pids.max".to_owned(), "40".to_owned());
        limits.unified.insert("pids.nonsense".to_owned(), "1".to_owned());
    });
    assert_refused(refused.await, Code::FailedPrecondition, &["pids.nonsense"]);
    for (names, before) in files.iter().zip(&before) {
        assert_eq!(&content(&container, names).await?, before);
    }
    assert_eq!(reported(&container).await?, limits);
    // Not the file that was asked for, but the same container: it goes on.
    update(&daemon, &container, |limits| limits.cpu_shares = 1024).await?;
    assert_eq!(container.state().await?, ContainerState::ContainerRunning);
    Ok(())
}

#[tokio::test]
async fn memory_is_not_limited_below_what_a_container_uses() -> Result<()> {
    let (daemon, pod) = prepared("usage").await?;
    let hold = "dd if=/dev/zero of=/dev/shm/held bs=1M count=48 && touch /dev/shm/ready; sleep 1000";
    let container = pod.run(&ContainerSpec::shell("a", hold).memory_limit(128 * MIB)).await?;
    wait::until("it holds memory", || async { container.sh("test -e /dev/shm/ready").await.ok() }).await?;
    let refused = update(&daemon, &container, |limits| limits.memory_limit_in_bytes = 16 * MIB).await;
    assert_refused(refused, Code::FailedPrecondition, &["memory", &(16 * MIB).to_string()]);
    assert_eq!(reported(&container).await?.memory_limit_in_bytes, 128 * MIB);
    assert_eq!(container.state().await?, ContainerState::ContainerRunning, "nobody was killed");
    Ok(())
}

#[tokio::test]
async fn updated_limits_are_reported_and_kept_after_a_kill_of_the_daemon() -> Result<()> {
    let (mut daemon, pod) = prepared("restart").await?;
    let container = pod.run(&ContainerSpec::sleeper("a").memory_limit(64 * MIB)).await?;
    update(&daemon, &container, |limits| (limits.memory_limit_in_bytes, limits.cpu_shares) = (128 * MIB, 512)).await?;
    let limits = reported(&container).await?;
    daemon.restart().await?;
    assert_eq!(reported(&container).await?, limits);
    assert_eq!((limits.memory_limit_in_bytes, limits.cpu_shares), (128 * MIB, 512));
    assert_eq!(content(&container, &["memory.max", "memory.limit_in_bytes"]).await?, (128 * MIB).to_string());
    update(&daemon, &container, |limits| limits.cpu_quota = 10_000).await?;
    assert_eq!(reported(&container).await?, Limits { cpu_quota: 10_000, ..limits });
    Ok(())
}

#[tokio::test]
async fn bad_limits_are_refused_by_their_fields_and_leave_no_cgroup() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("bad")).await?;
    let container = pod.run(&ContainerSpec::sleeper("there")).await?;
    let before = Census::at_rest(&daemon).await?;
    let huge = |size: &str| vec![v1::HugepageLimit { page_size: size.to_owned(), limit: 1 << 21 }];
    type Change = Box<dyn Fn(&mut Limits)>;
    let raw = |name: &'static str| -> Change { Box::new(move |limits| drop(limits.unified.insert(name.to_owned(), "1".to_owned()))) };
    let cases: Vec<(&str, Change)> = vec![
        ("cpuset_cpus", Box::new(|limits| "0-".clone_into(&mut limits.cpuset_cpus))),
        ("cpuset_cpus", Box::new(|limits| "3-1".clone_into(&mut limits.cpuset_cpus))),
        ("cpuset_cpus", Box::new(|limits| "0,4090".clone_into(&mut limits.cpuset_cpus))),
        ("cpuset_mems", Box::new(|limits| "all".clone_into(&mut limits.cpuset_mems))),
        ("cpuset_mems", Box::new(|limits| "1000".clone_into(&mut limits.cpuset_mems))),
        ("memory_limit_in_bytes", Box::new(|limits| limits.memory_limit_in_bytes = 4096)),
        ("memory_swap_limit_in_bytes", Box::new(|limits| limits.memory_swap_limit_in_bytes = 64 * MIB)),
        (
            "memory_swap_limit_in_bytes",
            Box::new(|limits| (limits.memory_limit_in_bytes, limits.memory_swap_limit_in_bytes) = (64 * MIB, 32 * MIB)),
        ),
        ("cpu_quota", Box::new(|limits| limits.cpu_quota = 10)),
        ("cpu_period", Box::new(|limits| limits.cpu_period = 10)),
        ("hugepage_limits", Box::new(move |limits| limits.hugepage_limits = huge("2 MB"))),
        ("unified", raw("memory/high")),
        ("unified", raw("../memory.high")),
        ("unified", raw("cgroup.procs")),
        ("unified", raw("freezer.state")),
        ("unified", raw("memory.reclaim")),
    ];
    for (field, change) in &cases {
        let created = pod.create(&ContainerSpec::sleeper("bad").resources(|limits| change(limits))).await;
        assert_refused(created, Code::InvalidArgument, &[field]);
        assert_refused(update(&daemon, &container, |limits| change(limits)).await, Code::InvalidArgument, &[field]);
    }
    for parent in ["/a/../b", "/..", "a", "/"] {
        assert_refused(daemon.run_pod(&PodSpec::new("parent").cgroup_parent(parent)).await, Code::InvalidArgument, &["cgroup_parent"]);
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// What was begun is carried out, or has not begun: the kernel, the record and the caller's next look agree.
#[tokio::test]
async fn a_daemon_that_is_killed_in_an_update_leaves_the_next_one_all_of_it_or_nothing() -> Result<()> {
    let (mut daemon, pod) = prepared("killed").await?;
    let spec = ContainerSpec::sleeper("a").memory_limit(20 * MIB).resources(|limits| {
        limits.cpu_quota = 20_000;
        limits.unified.insert("pids.max".to_owned(), "20".to_owned());
    });
    let container = pod.run(&spec).await?;
    let rounds = 16 / i64::from(wait::slowness()).clamp(1, 4);
    for round in 1..=rounds {
        let updates = tokio::spawn({
            let (client, id) = (daemon.client(), container.id.clone());
            async move {
                for number in 0.. {
                    // All of one kind: a mixture of two shows.
                    let kind = 20 + (round * 7 + number) % 200;
                    let mut linux = Limits { memory_limit_in_bytes: kind * MIB, cpu_quota: kind * 1000, ..Limits::default() };
                    linux.unified.insert("pids.max".to_owned(), kind.to_string());
                    let request =
                        v1::UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(linux), ..Default::default() };
                    if client.runtime().update_container_resources(request).await.is_err() {
                        return;
                    }
                }
            }
        });
        tokio::time::sleep(std::time::Duration::from_micros(15_000 + 1_700 * round.unsigned_abs())).await;
        daemon.kill_9()?;
        updates.await?;
        daemon.start_again().await?;
        let memory: i64 = content(&container, &["memory.max", "memory.limit_in_bytes"]).await?.parse()?;
        let quota = content(&container, &["cpu.max", "cpu.cfs_quota_us"]).await?;
        let quota = quota.split(' ').next().unwrap_or_default().to_owned();
        let pids = content(&container, &["pids.max"]).await?;
        let kernel = (memory / MIB, quota, pids);
        let limits = reported(&container).await?;
        let kind = limits.memory_limit_in_bytes / MIB;
        assert_eq!(kernel, (kind, (kind * 1000).to_string(), kind.to_string()), "round {round}: {limits:?}");
        assert_eq!((limits.cpu_quota, limits.unified["pids.max"].clone()), (kind * 1000, kind.to_string()), "round {round}");
    }
    Ok(())
}
