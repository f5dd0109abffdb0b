//! Limits of containers: each is kept by the kernel itself, on cgroup v1 and on v2, at the start and after an update. Which kernel
//! interface a controller is on is read from the files; what a kernel does not have is refused by name.

use anyhow::{Context, Result};
use podbox_proto::v1;
use podbox_proto::v1::ContainerState;
use podbox_tests::host::{cgroup_hierarchies, status_field};
use podbox_tests::{Census, Container, ContainerSpec, Daemon, Pod, PodSpec, assert_refused, wait};
use std::path::{Path, PathBuf};
use tonic::{Code, Status};

const MIB: i64 = 1 << 20;

type Limits = v1::LinuxContainerResources;

async fn prepared(name: &str) -> Result<(Daemon, Pod)> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new(name)).await?;
    Ok((daemon, pod))
}

/// A container's file in whichever hierarchy has it.
async fn file(container: &Container, name: &str) -> Result<Option<PathBuf>> {
    let info = container.info().await?;
    let cgroup = info["cgroup"].as_str().context("its cgroup")?.trim_start_matches('/').to_owned();
    Ok(cgroup_hierarchies().into_iter().map(|(_, root)| root.join(&cgroup).join(name)).find(|path| path.exists()))
}

/// The content of the first of these files that is there: they are named for v2 and for v1.
async fn content(container: &Container, names: &[&str]) -> Result<String> {
    for name in names {
        if let Some(path) = file(container, name).await? {
            return Ok(std::fs::read_to_string(path)?.trim().to_owned());
        }
    }
    anyhow::bail!("no hierarchy has any of {names:?}")
}

/// The number after a key, in whichever hierarchy's file of that name has it.
async fn counter(container: &Container, name: &str, key: &str) -> Result<u64> {
    let info = container.info().await?;
    let cgroup = info["cgroup"].as_str().context("its cgroup")?.trim_start_matches('/').to_owned();
    for (_, root) in cgroup_hierarchies() {
        let text = std::fs::read_to_string(root.join(&cgroup).join(name)).unwrap_or_default();
        if let Some(number) = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')) {
            return Ok(number.trim().parse()?);
        }
    }
    anyhow::bail!("no {key} in any {name}")
}

async fn update(daemon: &Daemon, container: &Container, change: impl FnOnce(&mut Limits)) -> Result<(), Status> {
    let mut linux = Limits::default();
    change(&mut linux);
    let request = v1::UpdateContainerResourcesRequest { container_id: container.id.clone(), linux: Some(linux), ..Default::default() };
    daemon.runtime().update_container_resources(request).await.map(drop)
}

async fn reported(container: &Container) -> Result<Limits> {
    container.status().await?.resources.and_then(|resources| resources.linux).context("resources in the status")
}

fn setting(name: &str, value: &str) -> impl FnOnce(&mut Limits) {
    let (name, value) = (name.to_owned(), value.to_owned());
    move |limits| drop(limits.unified.insert(name, value))
}

/// Eats a container's memory until it is stopped by its end.
const GREEDY: &str = "exec dd if=/dev/zero of=/dev/null bs=200M";

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
    let container = match pod.run(&ContainerSpec::sleeper("a").resources(with_swap)).await {
        Ok(container) => container,
        Err(status) => {
            // A kernel that does not account swap says so.
            assert_refused::<()>(Err(status), Code::FailedPrecondition, &["swap"]);
            return Ok(());
        }
    };
    const FILES: [&str; 2] = ["memory.swap.max", "memory.memsw.limit_in_bytes"];
    let v2 = file(&container, FILES[0]).await?.is_some();
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

/// A file system of huge pages, and pages for it, for as long as the test runs.
struct HugePages {
    mounted: PathBuf,
    surplus: Option<String>,
}

const SURPLUS: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";
const SURPLUS_OF_TEST: &str = "8";

impl HugePages {
    /// None where the kernel has no such pages.
    fn new(at: &Path) -> Result<Option<Self>> {
        let Ok(surplus) = std::fs::read_to_string(SURPLUS) else { return Ok(None) };
        std::fs::create_dir(at)?;
        let options = Some("pagesize=2M");
        if nix::mount::mount(Some("none"), at, Some("hugetlbfs"), nix::mount::MsFlags::empty(), options).is_err() {
            return Ok(None);
        }
        let mut pages = Self { mounted: at.to_owned(), surplus: None };
        // Pages that come when they are used and go with the file: nobody else loses any.
        if surplus.trim() == "0" {
            std::fs::write(SURPLUS, SURPLUS_OF_TEST)?;
            pages.surplus = Some(surplus);
        }
        Ok(Some(pages))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _best_effort = nix::mount::umount2(&self.mounted, nix::mount::MntFlags::MNT_DETACH);
        if let Some(surplus) = &self.surplus {
            let _best_effort = std::fs::write(SURPLUS, surplus.trim());
        }
    }
}

#[tokio::test]
async fn huge_pages_beyond_the_limit_cannot_be_had() -> Result<()> {
    let (daemon, pod) = prepared("huge").await?;
    let limit = |bytes: u64| {
        move |limits: &mut Limits| limits.hugepage_limits.push(v1::HugepageLimit { page_size: "2MB".to_owned(), limit: bytes })
    };
    // The kubelet names every size, with 0 where nothing was asked for: any kernel keeps that.
    let none = pod.run(&ContainerSpec::sleeper("none").resources(limit(0))).await?;
    let Some(pages) = HugePages::new(&daemon.directory().join("huge"))? else { return Ok(()) };
    let spec = ContainerSpec::sleeper("some").mount(&pages.mounted, "/huge").resources(limit(4 << 20));
    let container = match pod.run(&spec).await {
        Ok(container) => container,
        Err(status) => {
            assert_refused::<()>(Err(status), Code::FailedPrecondition, &["hugetlb"]);
            return Ok(());
        }
    };
    assert_eq!(content(&none, &["hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"]).await?, "0");
    assert_eq!(content(&container, &["hugetlb.2MB.rsvd.max", "hugetlb.2MB.rsvd.limit_in_bytes"]).await?, (4 << 20).to_string());
    let take = |mebibytes: u32| format!("fallocate -l {} /huge/file", mebibytes << 20);
    assert_eq!(container.exec(&["/bin/sh", "-c", &take(4)]).await?.code, 0, "two pages are within the limit");
    container.sh("rm /huge/file").await?;
    assert_ne!(container.exec(&["/bin/sh", "-c", &take(6)]).await?.code, 0, "three are not");
    container.sh("rm -f /huge/file").await?;
    update(&daemon, &container, limit(8 << 20)).await?;
    assert_eq!(container.exec(&["/bin/sh", "-c", &take(6)]).await?.code, 0, "and are once the limit is higher");
    container.sh("rm -f /huge/file").await?;
    container.remove().await?;
    Ok(())
}

#[tokio::test]
async fn huge_pages_of_a_size_that_is_not_there_are_refused_by_name() -> Result<()> {
    let (_daemon, pod) = prepared("huge-size").await?;
    let limit = |bytes: u64| {
        move |limits: &mut Limits| limits.hugepage_limits.push(v1::HugepageLimit { page_size: "3MB".to_owned(), limit: bytes })
    };
    pod.create(&ContainerSpec::sleeper("zero").resources(limit(0))).await?;
    let refused = pod.create(&ContainerSpec::sleeper("some").resources(limit(3 << 20))).await;
    assert_refused(refused, Code::FailedPrecondition, &["huge"]);
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

/// The kernel slows a process down that is over `memory.high`, and counts that.
#[tokio::test]
async fn a_raw_setting_is_kept_by_the_kernel_on_v2_and_refused_by_name_on_v1() -> Result<()> {
    let (_daemon, pod) = prepared("unified").await?;
    let spec = ContainerSpec::shell("high", "dd if=/dev/zero of=/dev/null bs=48M count=1; sleep 1000").memory_limit(256 * MIB);
    match pod.run(&spec.resources(setting("memory.high", "16777216"))).await {
        Ok(container) => {
            wait::until("the kernel throttles", || async { (counter(&container, "memory.events", "high").await.ok()? > 0).then_some(()) })
                .await?;
            assert_eq!(reported(&container).await?.unified.get("memory.high").map(String::as_str), Some("16777216"));
        }
        Err(status) => assert_refused::<()>(Err(status), Code::FailedPrecondition, &["unified", "memory.high", "v1"]),
    }
    Ok(())
}

#[tokio::test]
async fn a_raw_setting_wins_over_the_field_that_means_the_same() -> Result<()> {
    let (daemon, pod) = prepared("wins").await?;
    let spec = ContainerSpec::sleeper("a").memory_limit(64 * MIB).resources(setting("memory.swap.max", "8388608"));
    match pod.run(&spec).await {
        Ok(container) => {
            assert_eq!(content(&container, &["memory.swap.max"]).await?, "8388608");
            update(&daemon, &container, |limits| limits.memory_limit_in_bytes = 128 * MIB).await?;
            assert_eq!(content(&container, &["memory.swap.max"]).await?, "8388608", "nothing was said about swap");
        }
        Err(status) => assert_refused::<()>(Err(status), Code::FailedPrecondition, &["memory.swap.max"]),
    }
    Ok(())
}

/// v1 has no such file that podbox sets, and not every v2 kernel has one.
#[tokio::test]
async fn a_block_io_weight_is_the_cgroups_or_refused_by_name() -> Result<()> {
    let (_daemon, pod) = prepared("io").await?;
    let mut kept = false;
    for (index, name) in ["io.weight", "io.bfq.weight"].into_iter().enumerate() {
        match pod.run(&ContainerSpec::sleeper(&format!("c{index}")).resources(setting(name, "default 200"))).await {
            Ok(container) => {
                let weight = content(&container, &[name]).await?;
                assert!(weight.lines().any(|line| line == "default 200" || line == "200"), "{weight}");
                kept = true;
            }
            Err(status) => assert_refused::<()>(Err(status), Code::FailedPrecondition, &[name]),
        }
    }
    let v1 = std::fs::read_dir("/sys/fs/cgroup/blkio").is_ok();
    assert!(!(kept && v1), "what v1 does not have cannot have been set");
    Ok(())
}

/// Every block device that can be throttled will do.
#[tokio::test]
async fn a_block_io_limit_is_the_cgroups_or_refused_by_name() -> Result<()> {
    let (daemon, pod) = prepared("io-max").await?;
    let devices: Vec<String> = std::fs::read_dir("/sys/block")?
        .flatten()
        .filter_map(|device| Some(std::fs::read_to_string(device.path().join("dev")).ok()?.trim().to_owned()))
        .collect();
    let Some(device) = devices.first() else { return Ok(()) };
    let limit = format!("{device} wbps=1048576");
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    match update(&daemon, &container, setting("io.max", &limit)).await {
        Ok(()) => {
            let kept = content(&container, &["io.max"]).await?;
            assert!(kept.lines().any(|line| line.starts_with(&device[..]) && line.contains("wbps=1048576")), "{kept}");
        }
        Err(status) => assert_refused::<()>(Err(status), Code::FailedPrecondition, &["io.max"]),
    }
    Ok(())
}

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
async fn a_pods_resources_are_kept_and_reported_and_no_cgroup_is_written() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let spec = PodSpec::new("pod").linux(|linux| {
        linux.resources = Some(Limits { cpu_shares: 512, memory_limit_in_bytes: 64 * MIB, ..Default::default() });
        linux.overhead = Some(Limits { memory_limit_in_bytes: 8 * MIB, ..Default::default() });
    });
    let pod = daemon.run_pod(&spec).await?;
    let config = pod.info().await?["config"].clone();
    assert_eq!((&config["resources"]["cpu_shares"], &config["overhead"]["memory_limit_bytes"]), (&512.into(), &(8 * MIB).into()));
    let cgroup = format!("{}/{}", daemon.cgroup_parent(), pod.id);
    let files = |root: &Path| -> Vec<String> {
        let directory = root.join(cgroup.trim_start_matches('/'));
        let names = ["cpu.weight", "cpu.shares", "memory.max", "memory.limit_in_bytes"];
        names.iter().filter_map(|name| std::fs::read_to_string(directory.join(name)).ok()).collect()
    };
    let written = || -> Vec<Vec<String>> { cgroup_hierarchies().iter().map(|(_, root)| files(root)).collect() };
    let before = written();
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
