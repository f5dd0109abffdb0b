//! Limits of containers are kept by the kernel itself, on cgroup v1 and on v2, at the start and after an update: processor time,
//! memory, processes, processors. Which kernel interface a controller is on is read from the files.

use anyhow::Result;
use podbox_tests::host::{lacks, status_field};
use podbox_tests::limits::{GREEDY, Limits, MIB, content, counter, kept_by_kernel, prepared, reported, setting, update};
use podbox_tests::{Container, ContainerSpec, assert_refused, wait};
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn cpu_quota_throttles() -> Result<()> {
    let (_daemon, pod) = prepared("quota").await?;
    let busy = ContainerSpec::shell("busy", "while :; do :; done");
    let container = pod.run(&busy.resources(|limits| (limits.cpu_quota, limits.cpu_period) = (10_000, 100_000))).await?;
    wait::until("the kernel throttles", || async { (counter(&container, "cpu.stat", "nr_throttled").await.ok()? > 3).then_some(()) }).await
}

#[tokio::test]
async fn cpu_shares_are_the_weight_of_the_cgroup() -> Result<()> {
    let (daemon, pod) = prepared("shares").await?;
    let container = pod.run(&ContainerSpec::sleeper("a").resources(|limits| limits.cpu_shares = 2048)).await?;
    let weight = content(&container, &["cpu.weight", "cpu.shares"]).await?;
    assert!(matches!(&*weight, "174" | "2048"), "{weight}");
    update(&daemon, &container, |limits| limits.cpu_shares = 1024).await?;
    let weight = content(&container, &["cpu.weight", "cpu.shares"]).await?;
    assert!(matches!(&*weight, "100" | "1024"), "{weight}");
    Ok(())
}

/// Of the unified hierarchy, which counts without a controller as well, or of v1.
async fn cpu_time(container: &Container) -> Result<Duration> {
    match counter(container, "cpu.stat", "usage_usec").await {
        Ok(microseconds) => Ok(Duration::from_micros(microseconds)),
        Err(_) => Ok(Duration::from_nanos(content(container, &["cpuacct.usage"]).await?.parse()?)),
    }
}

/// Whoever else wants the processor gets some of it, and the two share the rest: only what they have had together tells how.
#[tokio::test]
async fn a_processor_is_divided_by_cpu_shares() -> Result<()> {
    const TOGETHER: Duration = Duration::from_secs(2);
    let (_daemon, pod) = prepared("divided").await?;
    let busy = |name: &str, shares: i64| {
        ContainerSpec::shell(name, "while :; do :; done").resources(|limits| {
            limits.cpu_shares = shares;
            "0".clone_into(&mut limits.cpuset_cpus);
        })
    };
    let (large, small) = (pod.run(&busy("large", 1024)).await?, pod.run(&busy("small", 128)).await?);
    let both = || async { anyhow::Ok((cpu_time(&large).await?, cpu_time(&small).await?)) };
    // What the first had while it was alone is none of the second's.
    let alone = both().await?;
    let (of_large, of_small) = wait::until("both have used the processor", || async {
        let (large, small) = both().await.ok()?;
        let had = (large.saturating_sub(alone.0), small.saturating_sub(alone.1));
        (had.0 + had.1 >= TOGETHER).then_some(had)
    })
    .await?;
    assert!(!of_small.is_zero() && of_large >= of_small * 3, "1024 shares: {of_large:?}, 128 shares: {of_small:?}");
    Ok(())
}

#[tokio::test]
async fn memory_beyond_the_limit_is_killed_for() -> Result<()> {
    let (_daemon, pod) = prepared("memory").await?;
    let container = pod.run(&ContainerSpec::shell("greedy", GREEDY).memory_limit(32 * MIB)).await?;
    let status = container.exited().await?;
    assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));
    Ok(())
}

#[tokio::test]
async fn swap_is_limited_beside_memory() -> Result<()> {
    let (daemon, pod) = prepared("swap").await?;
    let with_swap = |limits: &mut Limits| (limits.memory_limit_in_bytes, limits.memory_swap_limit_in_bytes) = (64 * MIB, 96 * MIB);
    const FILES: [&str; 2] = ["memory.swap.max", "memory.memsw.limit_in_bytes"];
    let kept = kept_by_kernel(&pod, &FILES).await?;
    let outcome = pod.run(&ContainerSpec::sleeper("a").resources(with_swap)).await;
    if kept.is_empty() {
        assert_refused(outcome, Code::FailedPrecondition, &["swap"]);
        lacks("limit of swap in its cgroups");
        return Ok(());
    }
    let container = outcome?;
    let v2 = kept.contains(&FILES[0]);
    let expected = |swap: i64, memory: i64| (if v2 { swap } else { swap + memory } * MIB).to_string();
    assert_eq!(content(&container, &FILES).await?, expected(32, 64));
    // The sum stays, so that more memory leaves less swap.
    update(&daemon, &container, |limits| limits.memory_limit_in_bytes = 80 * MIB).await?;
    assert_eq!(content(&container, &FILES).await?, expected(16, 80));
    // Without a word about swap there is none.
    let silent = pod.run(&ContainerSpec::sleeper("silent").memory_limit(64 * MIB)).await?;
    assert_eq!(content(&silent, &FILES).await?, expected(0, 64));
    for memory in [128, 32] {
        update(&daemon, &silent, |limits| limits.memory_limit_in_bytes = memory * MIB).await?;
        assert_eq!(content(&silent, &FILES).await?, expected(0, memory));
    }
    Ok(())
}

#[tokio::test]
async fn processes_beyond_the_limit_cannot_be_made() -> Result<()> {
    let (daemon, pod) = prepared("pids").await?;
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; wait";
    let container = pod.run(&ContainerSpec::shell("forks", script).resources(setting("pids.max", "5"))).await?;
    assert_ne!(container.exited().await?.exit_code, 0);
    assert!(container.output()?.contains("fork"), "{}", container.output()?);
    let container = pod.run(&ContainerSpec::sleeper("updated")).await?;
    update(&daemon, &container, setting("pids.max", "2")).await?;
    let forks = container.exec(&["/bin/sh", "-c", script]).await?;
    assert!(forks.code != 0 && forks.stderr.contains("fork"), "{forks:?}");
    update(&daemon, &container, setting("pids.max", "max")).await?;
    assert_eq!(content(&container, &["pids.max"]).await?, "max");
    Ok(())
}

#[tokio::test]
async fn cpus_and_memory_nodes_outside_the_set_are_not_used() -> Result<()> {
    let (daemon, pod) = prepared("cpuset").await?;
    let on_first = |limits: &mut Limits| {
        "0".clone_into(&mut limits.cpuset_cpus);
        "0".clone_into(&mut limits.cpuset_mems);
    };
    let container = pod.run(&ContainerSpec::sleeper("a").resources(on_first)).await?;
    let pid = container.pid().await?;
    let affinity = |pid| nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(pid));
    let cpus = |pid| -> Result<Vec<usize>> {
        let set = affinity(pid)?;
        Ok((0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
    };
    assert_eq!(cpus(pid)?, [0]);
    assert_eq!(status_field(pid, "Mems_allowed_list")?, "0");
    assert_eq!(container.sh("grep Cpus_allowed_list /proc/self/status").await?.split_whitespace().last(), Some("0"));
    if std::fs::read_to_string("/sys/devices/system/cpu/online")?.trim() != "0" {
        update(&daemon, &container, |limits| "1".clone_into(&mut limits.cpuset_cpus)).await?;
        assert_eq!(cpus(pid)?, [1], "also of what runs already");
        assert_eq!(reported(&container).await?.cpuset_mems, "0", "what the update did not name");
    }
    Ok(())
}

#[tokio::test]
async fn oom_score_adj_is_the_processes_and_no_update_changes_it() -> Result<()> {
    let (daemon, pod) = prepared("oom-score").await?;
    let container = pod.run(&ContainerSpec::sleeper("a").resources(|limits| limits.oom_score_adj = 321)).await?;
    let score = format!("/proc/{}/oom_score_adj", container.pid().await?);
    for asked in [0, 500] {
        update(&daemon, &container, |limits| (limits.cpu_shares, limits.oom_score_adj) = (512, asked)).await?;
        assert_eq!(std::fs::read_to_string(&score)?.trim(), "321");
        assert_eq!(reported(&container).await?.oom_score_adj, 321);
    }
    Ok(())
}
