//! A pod's whole life, each call of it timed.

use super::samples::Samples;
use anyhow::{Context, Result, ensure};
use podbox_proto::v1;
use podbox_tests::client::RuntimeClient;
use podbox_tests::{Client, ContainerSpec, Pod, PodSpec};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The calls of a cycle, in their order.
pub(super) const CALLS: [&str; 8] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];
/// How many of them are the pod's start.
const START: usize = 3;
/// Which of them is the first of the pod's teardown.
const TEARDOWN: usize = 4;

/// Durations of many cycles.
#[derive(Debug, Default)]
pub(super) struct Cycles {
    /// As [`CALLS`] has them.
    pub(super) calls: [Samples; CALLS.len()],
    /// RunPodSandbox, CreateContainer and StartContainer together.
    pub(super) start: Samples,
    /// StopContainer, RemoveContainer, StopPodSandbox and RemovePodSandbox together.
    pub(super) teardown: Samples,
}

impl Cycles {
    fn push(&mut self, took: [Duration; CALLS.len()]) {
        self.calls.iter_mut().zip(took).for_each(|(samples, took)| samples.push(took));
        self.start.push(took[..START].iter().sum());
        self.teardown.push(took[TEARDOWN..].iter().sum());
    }

    /// Takes others in.
    pub(super) fn extend(&mut self, other: Self) {
        self.calls.iter_mut().zip(other.calls).for_each(|(samples, others)| samples.extend(others));
        self.start.extend(other.start);
        self.teardown.extend(other.teardown);
    }
}

/// So many cycles by one client.
pub(super) async fn one_after_the_other(client: &Client, logs: &Path, pods: u32) -> Result<Cycles> {
    let mut runtime = client.runtime();
    let mut cycles = Cycles::default();
    for _ in 0..pods {
        cycles.push(cycle(&mut runtime, logs).await?);
    }
    Ok(cycles)
}

/// So many cycles by so many clients, each with a connection of its own; and how long all of it took.
pub(super) async fn at_once(client: &Client, logs: &Path, pods: u32, clients: u32) -> Result<(Cycles, Duration)> {
    let begun = Arc::new(AtomicU32::new(0));
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (begun, client, logs) = (Arc::clone(&begun), client.separate(), logs.to_owned());
        running.spawn(async move {
            let mut runtime = client.runtime();
            let mut cycles = Cycles::default();
            while begun.fetch_add(1, Ordering::Relaxed) < pods {
                cycles.push(cycle(&mut runtime, &logs).await?);
            }
            anyhow::Ok(cycles)
        });
    }
    let mut all = Cycles::default();
    while let Some(done) = running.join_next().await {
        all.extend(done.context("a client panicked")??);
    }
    Ok((all, started.elapsed()))
}

async fn cycle(runtime: &mut RuntimeClient, logs: &Path) -> Result<[Duration; CALLS.len()]> {
    let mut clock = Clock::start();
    let config = Pod::request(logs, &PodSpec::new("bench"));
    let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    clock.reset();
    let pod_sandbox_id = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    clock.lap();

    let container = Some(ContainerSpec::sleeper("sleeper").config);
    let request = v1::CreateContainerRequest { pod_sandbox_id: pod_sandbox_id.clone(), config: container, sandbox_config: Some(config) };
    clock.reset();
    let container_id = runtime.create_container(request).await?.into_inner().container_id;
    clock.lap();
    runtime.start_container(v1::StartContainerRequest { container_id: container_id.clone() }).await?;
    clock.lap();
    let exec = v1::ExecSyncRequest { container_id: container_id.clone(), cmd: vec!["/bin/true".to_owned()], timeout: 10 };
    let exit_code = runtime.exec_sync(exec).await?.into_inner().exit_code;
    clock.lap();
    ensure!(exit_code == 0, "/bin/true ended with {exit_code}");
    runtime.stop_container(v1::StopContainerRequest { container_id: container_id.clone(), timeout: 0 }).await?;
    clock.lap();
    runtime.remove_container(v1::RemoveContainerRequest { container_id }).await?;
    clock.lap();
    runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await?;
    clock.lap();
    runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await?;
    clock.lap();
    Ok(clock.took)
}

/// From call to call.
struct Clock {
    since: Instant,
    took: [Duration; CALLS.len()],
    calls: usize,
}

impl Clock {
    fn start() -> Self {
        Self { since: Instant::now(), took: Default::default(), calls: 0 }
    }

    /// Leaves out what was between.
    fn reset(&mut self) {
        self.since = Instant::now();
    }

    fn lap(&mut self) {
        let now = Instant::now();
        self.took[self.calls] = now - std::mem::replace(&mut self.since, now);
        self.calls += 1;
    }
}
