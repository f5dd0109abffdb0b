//! Pods that only wait: what each takes of the machine, and how long the daemon takes to list them.

use super::machine::{HostMemory, kilobytes};
use super::samples::{Percentiles, Samples, slope};
use anyhow::{Context, Result};
use podbox_tests::{Client, ContainerSpec, Daemon, Pod, PodSpec, host};
use serde::Serialize;
use std::fs;
use std::time::{Duration, Instant};

/// Memory is looked at without a pod, with all of them, and so often in between.
const STEPS: u32 = 5;
/// For what a pod's start leaves to be done by the kernel and the daemon.
const SETTLE: Duration = Duration::from_secs(2);
const IDLE_FOR: Duration = Duration::from_secs(10);
const LISTS: usize = 100;
const MIB: f64 = (1 << 20) as f64;

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) pods: u32,
    pub(super) memory: Memory,
    pub(super) cpu: Cpu,
    pub(super) list_pod_sandbox: Option<Percentiles>,
    pub(super) list_containers: Option<Percentiles>,
    /// The shortest call there is: what gRPC alone takes.
    pub(super) version: Option<Percentiles>,
}

/// In MiB. PSS counts what processes share in equal parts.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    /// PSS of all processes of a pod: how much it grows with each.
    pub(super) processes_per_pod: f64,
    /// Of these, the monitor's share.
    pub(super) monitor_per_pod: f64,
    /// How much less the host has available with each pod: processes, the daemon's growth and the kernel's own memory.
    pub(super) host_per_pod: f64,
    /// Pods, and what the host had available: other work on the machine shows as steps.
    pub(super) host_available_by_pods: Vec<(u32, f64)>,
    pub(super) daemon_without_pods: f64,
    pub(super) daemon_with_pods: f64,
}

/// In milliseconds of processor time, over [`IDLE_FOR`].
#[derive(Debug, Serialize)]
pub(super) struct Cpu {
    pub(super) seconds: u64,
    pub(super) daemon_ms: f64,
    pub(super) monitors_ms: f64,
}

/// One look, in bytes.
struct Look {
    pods: u32,
    daemon: u64,
    monitors: u64,
    others: u64,
    host_available: u64,
}

/// Runs the pods, measures, and ends them.
pub(super) async fn measure(daemon: &Daemon, pods: u32) -> Result<Idle> {
    let (mut running, mut host) = (Vec::new(), HostMemory::default());
    while !host.rests()? {
        tokio::time::sleep(HostMemory::PAUSE).await;
    }
    let mut looks = vec![Look::take(daemon, 0)?];
    for step in 1..=STEPS {
        while (running.len() as u64) < u64::from(pods) * u64::from(step) / u64::from(STEPS) {
            running.push(waiting_pod(daemon, running.len()).await?);
        }
        tokio::time::sleep(SETTLE).await;
        looks.push(Look::take(daemon, u32::try_from(running.len())?)?);
    }
    let cpu = processor_time(daemon).await?;
    let client = daemon.client();
    let list_pod_sandbox = timed(|| list_pods(&client)).await?.percentiles();
    let list_containers = timed(|| list_containers(&client)).await?.percentiles();
    let version = timed(|| version(&client)).await?.percentiles();
    for pod in running {
        pod.end().await?;
    }
    Ok(Idle { pods, memory: Memory::of(&looks), cpu, list_pod_sandbox, list_containers, version })
}

async fn waiting_pod(daemon: &Daemon, number: usize) -> Result<Pod> {
    let pod = daemon.run_pod(&PodSpec::new(&format!("idle-{number}"))).await?;
    pod.run(&ContainerSpec::sleeper("sleeper")).await?;
    Ok(pod)
}

async fn list_pods(client: &Client) -> Result<()> {
    client.pods().await?;
    Ok(())
}

async fn list_containers(client: &Client) -> Result<()> {
    client.containers().await?;
    Ok(())
}

async fn version(client: &Client) -> Result<()> {
    client.version().await?;
    Ok(())
}

async fn timed<F: Future<Output = Result<()>>>(call: impl Fn() -> F) -> Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..LISTS {
        let started = Instant::now();
        call().await?;
        samples.push(started.elapsed());
    }
    Ok(samples)
}

impl Look {
    fn take(daemon: &Daemon, pods: u32) -> Result<Self> {
        let host_available = HostMemory::available()?;
        let monitor_pids = monitors(daemon);
        let others = members_of_pods(daemon).into_iter().filter(|pid| !monitor_pids.contains(pid));
        Ok(Self {
            pods,
            daemon: pss(daemon.pid()?)?,
            others: others.map(pss).sum::<Result<u64>>()?,
            monitors: monitor_pids.into_iter().map(pss).sum::<Result<u64>>()?,
            host_available,
        })
    }
}

impl Memory {
    fn of(looks: &[Look]) -> Self {
        let per_pod = |of: fn(&Look) -> u64| {
            let points: Vec<(u32, u64)> = looks.iter().map(|look| (look.pods, of(look))).collect();
            mib_per_pod(&points).unwrap_or_default()
        };
        let daemon = |look: Option<&Look>| look.map_or(0.0, |look| look.daemon as f64 / MIB);
        Self {
            processes_per_pod: per_pod(|look| look.monitors + look.others),
            monitor_per_pod: per_pod(|look| look.monitors),
            host_per_pod: -per_pod(|look| look.host_available),
            host_available_by_pods: looks.iter().map(|look| (look.pods, look.host_available as f64 / MIB)).collect(),
            daemon_without_pods: daemon(looks.first()),
            daemon_with_pods: daemon(looks.last()),
        }
    }
}

/// How many MiB come with each pod, of pods and bytes.
pub(super) fn mib_per_pod(points: &[(u32, u64)]) -> Option<f64> {
    let points: Vec<(f64, f64)> = points.iter().map(|(pods, bytes)| (f64::from(*pods), *bytes as f64 / MIB)).collect();
    slope(&points)
}

async fn processor_time(daemon: &Daemon) -> Result<Cpu> {
    let own = daemon.pid()?;
    let monitors = monitors(daemon);
    let all = || anyhow::Ok((ran_ns(own)?, monitors.iter().map(|pid| ran_ns(*pid)).sum::<Result<u64>>()?));
    let before = all()?;
    tokio::time::sleep(IDLE_FOR).await;
    let after = all()?;
    let ms = |before: u64, after: u64| after.saturating_sub(before) as f64 / 1e6;
    Ok(Cpu { seconds: IDLE_FOR.as_secs(), daemon_ms: ms(before.0, after.0), monitors_ms: ms(before.1, after.1) })
}

/// Process ids of all monitors.
fn monitors(daemon: &Daemon) -> Vec<i32> {
    let pods = daemon.recorded_pods();
    let monitors = host::processes_named("podbox-monitor").into_iter();
    monitors.filter(|(_, words)| words.get(1).is_some_and(|pod| pods.contains(pod))).map(|(pid, _)| pid).collect()
}

/// Process ids of all pauses and containers: every hierarchy has them, so that one tells of all.
fn members_of_pods(daemon: &Daemon) -> Vec<i32> {
    let tops = host::cgroup_hierarchies().into_iter().map(|(_, root)| root.join(daemon.cgroup_parent().trim_start_matches('/')));
    let cgroups = tops.map(|top| host::directories_below(&top)).find(|cgroups| !cgroups.is_empty()).unwrap_or_default();
    let members = cgroups.iter().map(|cgroup| fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default());
    members.flat_map(|pids| pids.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).collect()
}

/// In bytes.
fn pss(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    kilobytes(&text, "Pss").with_context(|| format!("{path} has no Pss"))
}

/// All threads' time on a processor; finer than the ticks of `/proc/PID/stat`.
fn ran_ns(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&path).with_context(|| path.clone())? {
        let path = task.context("list the threads")?.path().join("schedstat");
        // A thread may end between the listing and the look.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let ran = text.split(' ').next().and_then(|ran| ran.parse::<u64>().ok());
        sum += ran.with_context(|| format!("parse {}: {text}", path.display()))?;
    }
    Ok(sum)
}
