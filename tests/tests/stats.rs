//! What the stats and metrics calls say is what the kernel counts.

use anyhow::{Context, Result};
use podbox_proto::v1::{self, NamespaceMode};
use podbox_tests::host::{cgroup_file, entries_below};
use podbox_tests::{ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, assert_refused, limits, wait};
use rustix::fs::inotify;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tonic::Code;

const MIB: u64 = 1 << 20;

async fn of_container(daemon: &Daemon, id: &str) -> Result<v1::ContainerStats> {
    let request = v1::ContainerStatsRequest { container_id: id.to_owned() };
    daemon.runtime().container_stats(request).await?.into_inner().stats.context("stats")
}

async fn of_pod(daemon: &Daemon, id: &str) -> Result<v1::LinuxPodSandboxStats> {
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() };
    let stats = daemon.runtime().pod_sandbox_stats(request).await?.into_inner().stats;
    stats.context("stats")?.linux.context("the Linux part")
}

fn number(value: Option<v1::UInt64Value>) -> Result<u64> {
    Ok(value.context("a value")?.value)
}

/// CPU time of a cgroup in nanoseconds, by v1's file or v2's.
fn kernel_cpu_ns(cgroup: &str) -> Result<u64> {
    if let Ok(text) = cgroup_file(cgroup, "cpuacct.usage") {
        return Ok(text.parse()?);
    }
    Ok(kernel_keyed(cgroup, "cpu.stat", &["usage_usec"])? * 1000)
}

fn kernel_memory(cgroup: &str) -> Result<u64> {
    Ok(cgroup_file(cgroup, "memory.usage_in_bytes").or_else(|_| cgroup_file(cgroup, "memory.current"))?.parse()?)
}

fn kernel_keyed(cgroup: &str, file: &str, keys: &[&str]) -> Result<u64> {
    let text = cgroup_file(cgroup, file)?;
    let value = |key: &&str| text.lines().find_map(|line| line.strip_prefix(*key)?.strip_prefix(' ')?.parse().ok());
    keys.iter().find_map(value).with_context(|| format!("{keys:?} in {file}"))
}

fn inactive_file(cgroup: &str) -> Result<u64> {
    kernel_keyed(cgroup, "memory.stat", &["total_inactive_file", "inactive_file"])
}

fn is_near(said: u64, counted: u64, tolerance: u64) -> bool {
    said.abs_diff(counted) <= tolerance
}

#[tokio::test]
async fn cpu_time_and_its_rate_are_those_of_the_cgroup() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("burns")).await?;
    let burner = pod.run(&ContainerSpec::shell("burner", "while :; do :; done")).await?;
    let idle = pod.run(&ContainerSpec::sleeper("idle")).await?;
    let cgroup = burner.cgroup().await?;
    wait::until_true("it has burnt half a second", || kernel_cpu_ns(&cgroup).is_ok_and(|time| time > 500_000_000)).await?;
    let before = kernel_cpu_ns(&cgroup)?;
    let first = of_container(&daemon, &burner.id).await?.cpu.context("cpu")?;
    let after = kernel_cpu_ns(&cgroup)?;
    let said = number(first.usage_core_nano_seconds)?;
    assert!((before..=after).contains(&said), "{before} <= {said} <= {after}");
    assert!(number(first.usage_nano_cores)? > 0, "the rate since its start");
    wait::until_true("it burns on", || kernel_cpu_ns(&cgroup).is_ok_and(|time| time > after + 300_000_000)).await?;
    let second = of_container(&daemon, &burner.id).await?.cpu.context("cpu")?;
    let elapsed = u64::try_from(second.timestamp - first.timestamp)?;
    let used = number(second.usage_core_nano_seconds)? - said;
    let rate = u64::try_from(u128::from(used) * 1_000_000_000 / u128::from(elapsed))?;
    // Of the time between the readings, which is not what a clock says that somebody may set: nearly the same.
    assert!(is_near(number(second.usage_nano_cores)?, rate, rate / 4), "{used} ns in {elapsed} ns, {second:?}");
    let idle = of_container(&daemon, &idle.id).await?.cpu.context("cpu")?;
    assert!(number(idle.usage_core_nano_seconds)? < said / 2);
    let pod = of_pod(&daemon, &pod.id).await?.cpu.context("cpu")?;
    assert!(number(pod.usage_core_nano_seconds)? >= said + used, "the pod has what its containers have");
    Ok(())
}

#[tokio::test]
async fn memory_is_told_as_the_kubelet_counts_it() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("fills")).await?;
    let keep = "head -c 20000000 /dev/zero > /dev/shm/kept; head -c 9000000 /dev/zero > /file";
    let script = format!("{keep}; x=$(head -c 6000000 /dev/zero | tr '\\0' x); echo full; sleep 1000000; true");
    let container = pod.run(&ContainerSpec::shell("fills", &script).memory_limit(128 << 20)).await?;
    wait::until_true("it has filled its memory", || container.output().is_ok_and(|output| output == "full")).await?;
    let cgroup = container.cgroup().await?;
    let memory = of_container(&daemon, &container.id).await?.memory.context("memory")?;
    let (usage, working_set) = (number(memory.usage_bytes)?, number(memory.working_set_bytes)?);
    let (kernel_usage, kernel_inactive) = (kernel_memory(&cgroup)?, inactive_file(&cgroup)?);
    assert!(is_near(usage, kernel_usage, 2 * MIB), "{usage} and {kernel_usage}");
    let wanted = kernel_usage.saturating_sub(kernel_inactive);
    assert!(is_near(working_set, wanted, 2 * MIB), "{working_set} and {wanted}");
    assert!(working_set >= 20_000_000, "{memory:?}");
    assert_eq!(number(memory.available_bytes)?, (128 << 20) - working_set);
    let rss = kernel_keyed(&cgroup, "memory.stat", &["total_rss", "anon"])?;
    assert!(is_near(number(memory.rss_bytes)?, rss, MIB) && rss >= 5_000_000, "{memory:?}, {rss}");
    let faults = kernel_keyed(&cgroup, "memory.stat", &["total_pgfault", "pgfault"])?;
    assert!(number(memory.page_faults)? > 1000 && is_near(number(memory.page_faults)?, faults, 500), "{memory:?}, {faults}");
    assert!(memory.major_page_faults.is_some());
    let unlimited = pod.run(&ContainerSpec::sleeper("unlimited")).await?;
    assert_eq!(of_container(&daemon, &unlimited.id).await?.memory.context("memory")?.available_bytes, None);
    // What is in use changes by itself: pages are found to be inactive, or given up.
    let now = number(of_container(&daemon, &container.id).await?.memory.context("memory")?.usage_bytes)?;
    let of_pod = of_pod(&daemon, &pod.id).await?.memory.context("memory")?;
    assert!(number(of_pod.usage_bytes)? + 2 * MIB >= now && number(of_pod.working_set_bytes)? > 0, "{of_pod:?}, {now}");
    Ok(())
}

#[tokio::test]
async fn swap_and_pressure_are_told_where_the_kernel_counts_them_and_nowhere_else() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("presses")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c").memory_limit(64 << 20)).await?;
    let stats = of_container(&daemon, &container.id).await?;
    let cgroup = container.cgroup().await?;
    let counts_swap = kernel_keyed(&cgroup, "memory.stat", &["total_swap"]).is_ok() || cgroup_file(&cgroup, "memory.swap.current").is_ok();
    assert_eq!(stats.swap.is_some(), counts_swap);
    if let Some(swap) = stats.swap {
        assert_eq!((number(swap.swap_usage_bytes)?, number(swap.swap_available_bytes)?), (0, 0), "a memory limit is one of swap, too");
    }
    let counts_pressure = cgroup_file(&cgroup, "cpu.pressure").is_ok();
    let of_pod = of_pod(&daemon, &pod.id).await?;
    let told = [stats.cpu.and_then(|cpu| cpu.psi), stats.memory.and_then(|memory| memory.psi), stats.io.and_then(|io| io.psi)];
    let of_pod = [of_pod.cpu.and_then(|cpu| cpu.psi), of_pod.memory.and_then(|memory| memory.psi), of_pod.io.and_then(|io| io.psi)];
    for psi in told.iter().chain(&of_pod) {
        assert_eq!(psi.is_some(), counts_pressure, "{told:?} {of_pod:?}");
        assert!(psi.is_none_or(|psi| psi.some.is_some()));
    }
    Ok(())
}

#[tokio::test]
async fn the_writable_layer_is_measured_at_once_and_then_remembered() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("writes")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    container.sh("mkdir -p /var/data/deep; for i in 1 2 3; do head -c 1000000 /dev/zero > /var/data/deep/$i; done").await?;
    let info = container.info().await?;
    let upper = Path::new(info["image"]["upper_dir"].as_str().context("its layer")?).to_owned();
    let layer = of_container(&daemon, &container.id).await?.writable_layer.context("measured at once")?;
    let mut files = entries_below(&upper);
    files.push(upper);
    let metadata = files.iter().map(std::fs::symlink_metadata).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(number(layer.used_bytes)?, metadata.iter().map(|metadata| metadata.blocks() * 512).sum::<u64>());
    assert_eq!(number(layer.inodes_used)?, metadata.len() as u64);
    assert!(number(layer.used_bytes)? >= 3_000_000);
    let mountpoint = layer.fs_id.clone().context("a file system")?.mountpoint;
    assert_eq!(mountpoint, daemon.root_dir().to_string_lossy());
    let again = of_container(&daemon, &container.id).await?.writable_layer;
    assert_eq!(again, Some(layer), "not walked again so soon");
    Ok(())
}

/// Received and sent bytes of `eth0` in the namespace of a process.
fn kernel_traffic(pid: i32) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let numbers = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("eth0")?;
    let numbers: Vec<u64> = numbers.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok((numbers[0], numbers[8]))
}

#[tokio::test]
async fn traffic_is_counted_as_the_pod_sees_it_and_the_nodes_is_nobodys() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("talks")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    let pause = pod.pause_pid().await?;
    let (_, sent_before) = kernel_traffic(pause)?;
    container.sh("ping -c 4 -i 0.1 -s 1000 10.200.0.1").await?;
    let before = kernel_traffic(pause)?;
    assert!(before.1 >= sent_before + 1000, "{sent_before} and {before:?}");
    let network = of_pod(&daemon, &pod.id).await?.network.context("network")?;
    let after = kernel_traffic(pause)?;
    let eth0 = network.default_interface.context("the default interface")?;
    assert_eq!(eth0.name, "eth0");
    let (received, sent) = (number(eth0.rx_bytes)?, number(eth0.tx_bytes)?);
    assert!((before.0..=after.0).contains(&received) && (before.1..=after.1).contains(&sent), "{before:?} {received} {sent} {after:?}");
    assert_eq!((number(eth0.rx_errors)?, number(eth0.tx_errors)?), (0, 0));
    assert!(network.interfaces.is_empty(), "neither loopback nor the default one: {:?}", network.interfaces);
    let node = daemon.run_pod(&PodSpec::new("node").network(NamespaceMode::Node)).await?;
    assert_eq!(of_pod(&daemon, &node.id).await?.network, None);
    Ok(())
}

#[tokio::test]
async fn a_pods_stats_have_its_processes_and_its_containers() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("has").label("app", "web")).await?;
    let mut ids = BTreeSet::new();
    for name in ["a", "b"] {
        ids.insert(pod.run(&ContainerSpec::sleeper(name).label("name", name)).await?.id);
    }
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.id[..20].to_owned() };
    let stats = daemon.runtime().pod_sandbox_stats(request).await?.into_inner().stats.context("stats")?;
    let attributes = stats.attributes.context("attributes")?;
    assert_eq!(
        (attributes.id, attributes.metadata, attributes.labels),
        (pod.id.clone(), pod.config.metadata.clone(), pod.config.labels.clone())
    );
    let linux = stats.linux.context("the Linux part")?;
    // A scope of systemd's holds the monitor as well.
    let monitors = u64::from(pod.cgroup().await?.ends_with(".scope"));
    assert_eq!(number(linux.process.context("processes")?.process_count)?, 3 + monitors, "pause and two containers");
    let containers: BTreeSet<String> =
        linux.containers.iter().filter_map(|stats| stats.attributes.as_ref().map(|attributes| attributes.id.clone())).collect();
    assert_eq!(containers, ids);
    for stats in &linux.containers {
        assert!(stats.cpu.is_some_and(|cpu| cpu.timestamp > 0) && stats.memory.is_some_and(|memory| memory.timestamp > 0));
    }
    pod.stop().await?;
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let stats = daemon.runtime().pod_sandbox_stats(request).await?.into_inner().stats.context("stats")?;
    assert_eq!((stats.attributes.context("attributes")?.id, stats.linux), (pod.id.clone(), None), "a stopped pod uses nothing");
    Ok(())
}

async fn listed(daemon: &Daemon, filter: v1::ContainerStatsFilter) -> Result<BTreeSet<String>> {
    let request = v1::ListContainerStatsRequest { filter: Some(filter) };
    let stats = daemon.runtime().list_container_stats(request).await?.into_inner().stats;
    Ok(stats.into_iter().filter_map(|stats| Some(stats.attributes?.metadata?.name)).collect())
}

#[tokio::test]
async fn stats_are_filtered_by_id_pod_and_labels_and_an_id_may_be_a_unique_beginning() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let mut containers = HashMap::new();
    let mut pods = HashMap::new();
    for name in ["a", "b"] {
        let pod = daemon.run_pod(&PodSpec::new(name).label("pod", name)).await?;
        containers.insert(name, pod.run(&ContainerSpec::sleeper(name).label("name", name).label("all", "")).await?);
        pods.insert(name, pod);
    }
    let filter = v1::ContainerStatsFilter::default;
    let label = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    for (filter, want) in [
        (filter(), &["a", "b"][..]),
        (v1::ContainerStatsFilter { id: containers["a"].id.clone(), ..filter() }, &["a"]),
        (v1::ContainerStatsFilter { id: containers["a"].id[..16].to_owned(), ..filter() }, &["a"]),
        (v1::ContainerStatsFilter { id: "nobody".to_owned(), ..filter() }, &[]),
        (v1::ContainerStatsFilter { pod_sandbox_id: pods["b"].id[..16].to_owned(), ..filter() }, &["b"]),
        (v1::ContainerStatsFilter { pod_sandbox_id: pods["b"].id.clone(), id: containers["a"].id.clone(), ..filter() }, &[]),
        (v1::ContainerStatsFilter { label_selector: label("name", "a"), ..filter() }, &["a"]),
        (v1::ContainerStatsFilter { label_selector: label("all", ""), ..filter() }, &["a", "b"]),
        (v1::ContainerStatsFilter { label_selector: label("name", "c"), ..filter() }, &[]),
    ] {
        let shown = format!("{filter:?}");
        assert_eq!(listed(&daemon, filter).await?, want.iter().map(|name| (*name).to_owned()).collect(), "{shown}");
    }
    let filter = v1::PodSandboxStatsFilter { label_selector: label("pod", "b"), ..Default::default() };
    let request = v1::ListPodSandboxStatsRequest { filter: Some(filter) };
    let stats = daemon.runtime().list_pod_sandbox_stats(request).await?.into_inner().stats;
    assert_eq!(stats.into_iter().map(|stats| stats.attributes.unwrap_or_default().id).collect::<Vec<_>>(), [pods["b"].id.clone()]);
    let stats = daemon.runtime().container_stats(v1::ContainerStatsRequest { container_id: "nobody".to_owned() }).await;
    assert_refused(stats, Code::NotFound, &["nobody"]);
    let stats = daemon.runtime().pod_sandbox_stats(v1::PodSandboxStatsRequest::default()).await;
    assert_refused(stats, Code::InvalidArgument, &["pod_sandbox_id"]);
    Ok(())
}

/// The daemon's open files below its cgroups: descriptor and path.
fn open_counters(daemon: &Daemon) -> Result<BTreeMap<String, String>> {
    let mut open = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()?))?.flatten() {
        if let Ok(target) = std::fs::read_link(entry.path())
            && target.to_string_lossy().contains(&format!("{}/", daemon.cgroup_parent()))
        {
            open.insert(entry.file_name().to_string_lossy().into_owned(), target.to_string_lossy().into_owned());
        }
    }
    Ok(open)
}

#[tokio::test]
async fn counters_are_opened_once_and_closed_when_their_container_ends() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("counted")).await?;
    let (stays, ends) = (pod.run(&ContainerSpec::sleeper("stays")).await?, pod.run(&ContainerSpec::sleeper("ends")).await?);
    assert_eq!(open_counters(&daemon)?, BTreeMap::new(), "nobody asked yet");
    listed(&daemon, v1::ContainerStatsFilter::default()).await?;
    let open = open_counters(&daemon)?;
    let of = |open: &BTreeMap<String, String>, id: &str| open.values().filter(|path| path.contains(id)).count();
    assert!(of(&open, &stays.id) >= 3 && of(&open, &stays.id) <= 12, "{open:?}");
    listed(&daemon, v1::ContainerStatsFilter::default()).await?;
    assert_eq!(open_counters(&daemon)?, open, "the same descriptors");
    ends.stop(0).await?;
    wait::until_true("its counters are closed", || open_counters(&daemon).is_ok_and(|open| of(&open, &ends.id) == 0)).await?;
    assert_eq!(of(&open_counters(&daemon)?, &stays.id), of(&open, &stays.id));
    assert_eq!(listed(&daemon, v1::ContainerStatsFilter::default()).await?, BTreeSet::from(["stays".to_owned()]));
    let stats = of_container(&daemon, &ends.id).await?;
    assert_eq!((stats.cpu, stats.memory, stats.attributes.unwrap_or_default().id), (None, None, ends.id.clone()));
    assert!(stats.writable_layer.is_some(), "its layer is there until it is removed");
    of_pod(&daemon, &pod.id).await?;
    pod.stop().await?;
    wait::until_true("the pod's counters are closed", || open_counters(&daemon).is_ok_and(|open| open.is_empty())).await?;
    Ok(())
}

/// The kernel tells of every file that is opened in the containers' cgroups, and of none that is read.
#[tokio::test]
async fn stats_of_many_containers_have_every_one_and_open_nothing_the_second_time() -> Result<()> {
    let many = usize::try_from(60 / wait::slowness())?;
    let daemon = Daemon::for_test().await?;
    let mut ids = BTreeSet::new();
    let mut directories = Vec::new();
    for index in 0..many {
        let container = daemon.run_pod(&PodSpec::new(&format!("pod-{index}"))).await?.run(&ContainerSpec::sleeper("c")).await?;
        directories.extend(limits::directories(&container).await?);
        ids.insert(container.id);
    }
    let told = || async {
        let stats = daemon.runtime().list_container_stats(v1::ListContainerStatsRequest::default()).await?.into_inner().stats;
        assert!(stats.iter().all(|stats| stats.cpu.is_some() && stats.memory.is_some()));
        anyhow::Ok(stats.into_iter().filter_map(|stats| Some(stats.attributes?.id)).collect::<BTreeSet<_>>())
    };
    let descriptors = || anyhow::Ok(std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()?))?.count());
    let before = descriptors()?;
    assert_eq!(told().await?, ids);
    let (open, count) = (open_counters(&daemon)?, descriptors()?);
    assert!(count > before && count <= before + 12 * many, "{before} and {count}");
    let opens = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    for directory in &directories {
        inotify::add_watch(&opens, directory, inotify::WatchFlags::OPEN)?;
    }
    for _ in 0..5 {
        assert_eq!(told().await?, ids);
    }
    assert_eq!(rustix::io::read(&opens, &mut [0_u8; 4096]), Err(Errno::AGAIN), "nothing was opened");
    assert_eq!((open_counters(&daemon)?, descriptors()?), (open, count), "the same descriptors");
    std::fs::read(directories[0].join("cgroup.procs"))?;
    assert!(rustix::io::read(&opens, &mut [0_u8; 4096]).is_ok(), "it would have been told");
    Ok(())
}

/// Metrics of one pod and its containers, by name: the labels and values of each sample.
async fn metrics_of(daemon: &Daemon, pod: &Pod) -> Result<HashMap<String, Vec<(Vec<String>, u64)>>> {
    let metrics = daemon.runtime().list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).await?.into_inner().pod_metrics;
    let of_pod = metrics.into_iter().find(|metrics| metrics.pod_sandbox_id == pod.id).context("the pod's metrics")?;
    let mut found: HashMap<String, Vec<_>> = HashMap::new();
    let all = of_pod.container_metrics.into_iter().flat_map(|of_container| of_container.metrics).chain(of_pod.metrics);
    for metric in all {
        found.entry(metric.name).or_default().push((metric.label_values, number(metric.value)?));
    }
    Ok(found)
}

/// What only some kernels and hosts count: pressure, huge pages (v2 does not know the most of them), devices that tell their I/O.
fn may_be_missing(name: &str) -> bool {
    ["container_pressure_", "container_hugetlb_", "container_blkio_", "container_fs_reads", "container_fs_writes"]
        .iter()
        .any(|beginning| name.starts_with(beginning))
}

#[tokio::test]
async fn every_metric_that_is_described_is_there_with_the_labels_of_its_description() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("metrics")).await?;
    let spec = ContainerSpec::sleeper("c").resources(|resources| {
        (resources.cpu_period, resources.cpu_quota, resources.cpu_shares) = (100_000, 20_000, 1024);
        (resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes) = (64 << 20, 64 << 20);
        resources.unified.insert("pids.max".to_owned(), "77".to_owned());
    });
    let container = pod.run(&spec).await?;
    container.sh("mkdir -p /var/lib/t && for i in 1 2 3; do echo hi >> /var/lib/t/$i; done; sync").await?;
    let descriptors = daemon.runtime().list_metric_descriptors(v1::ListMetricDescriptorsRequest {}).await?.into_inner().descriptors;
    let found = metrics_of(&daemon, &pod).await?;
    assert!(descriptors.len() >= 54, "{}", descriptors.len());
    for descriptor in &descriptors {
        assert!(!descriptor.help.is_empty());
        let Some(samples) = found.get(&descriptor.name) else {
            assert!(may_be_missing(&descriptor.name), "{} is missing", descriptor.name);
            continue;
        };
        for (labels, _) in samples {
            assert_eq!(labels.len(), descriptor.label_keys.len(), "{}", descriptor.name);
        }
    }
    assert!(found.keys().all(|name| descriptors.iter().any(|descriptor| descriptor.name == *name)));
    let value = |name: &str| found[name].iter().find(|(labels, _)| labels[0] == "c" || name.contains("network")).map(|(_, value)| *value);
    for (name, wanted) in [
        ("container_spec_cpu_period", 100_000),
        ("container_spec_cpu_quota", 20_000),
        ("container_spec_memory_limit_bytes", 64 << 20),
        ("container_spec_memory_swap_limit_bytes", 64 << 20),
        ("container_threads_max", 77),
        ("container_processes", 1),
        ("container_threads", 1),
        ("container_oom_events_total", 0),
    ] {
        assert_eq!(value(name), Some(wanted), "{name}");
    }
    assert!(value("container_memory_usage_bytes").is_some_and(|bytes| bytes > 0));
    assert!(value("container_file_descriptors").is_some_and(|descriptors| descriptors >= 3));
    let (labels, _) = &found["container_processes"][0];
    let image = &spec.config.image.as_ref().context("an image")?.image;
    assert_eq!(labels[..], ["c", &container.cgroup().await?, image, &container.id, "default", "metrics"]);
    Ok(())
}

#[tokio::test]
async fn the_daemon_may_open_more_files_than_it_was_given_and_containers_may_not() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions { open_files: Some(321), ..DaemonOptions::default() }).await?;
    let limits_of = |pid: i32| -> Result<Vec<String>> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).context("the limit")?;
        Ok(line.split_ascii_whitespace().take(2).map(str::to_owned).collect())
    };
    let of_daemon = limits_of(daemon.pid()?)?;
    assert_eq!(of_daemon[0], of_daemon[1], "as many as it may have");
    let pod = daemon.run_pod(&PodSpec::new("limited")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    let given = vec!["321".to_owned(), of_daemon[1].clone()];
    let monitor = daemon.monitor_of(&pod.id).context("the monitor")?;
    assert_eq!(limits_of(monitor)?, given);
    // Theirs are podbox's own, whatever it was given itself.
    for pid in [pod.pause_pid().await?, container.pid().await?] {
        assert_eq!(limits_of(pid)?[0], "1024", "process {pid}");
    }
    assert_eq!(container.sh("ulimit -Sn").await?, "1024");
    Ok(())
}
