//! `kill -9` of the daemon in the middle of a call: a restart and the caller's retry converge, and nothing is left behind.
//!
//! The moments are spread over the time that the call takes when nothing disturbs it, and a little more. A control pod beside it must notice
//! nothing.

use anyhow::{Context, Result};
use podbox_proto::v1::{ContainerState, PodSandboxState};
use podbox_tests::{Census, Client, Container, ContainerSpec, Daemon, Pod, PodSpec, assert_refused, wait};
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// Moments for each call: 24, and fewer where each takes long.
fn moments() -> u32 {
    (24 / wait::slowness()).max(4)
}

/// How long each call takes undisturbed.
#[derive(Debug, Default)]
struct Durations {
    run: Duration,
    create: Duration,
    start: Duration,
    stop_container: Duration,
    remove_container: Duration,
    stop_pod: Duration,
    remove_pod: Duration,
}

/// The moment of a round within a call: the last ones are after its end.
fn moment(round: u32, call: Duration) -> Duration {
    // Not evenly spaced in each test: the rounds of one call are those of another shifted.
    call * (10 * round + round % 7) / (8 * moments())
}

/// A daemon with a pod that must notice nothing.
struct Sweep {
    daemon: Daemon,
    control: Pod,
    witness: Container,
    witness_pid: i32,
    before: Census,
    durations: Durations,
    /// Calls that the kill cut off.
    cut_off: u32,
}

impl Sweep {
    async fn begin() -> Result<Self> {
        let daemon = Daemon::for_test().await?;
        let control = daemon.run_pod(&PodSpec::new("control")).await?;
        // Counts, and has no children that would come and go.
        let witness = control.run(&ContainerSpec::command("witness", &["/bin/ping", "-i", "0.05", "127.0.0.1"])).await?;
        let witness_pid = witness.pid().await?;
        daemon.warm_up().await?;
        let durations = Self::measure(&daemon).await?;
        let before = Census::at_rest(&daemon).await?.without("descriptor");
        Ok(Self { daemon, control, witness, witness_pid, before, durations, cut_off: 0 })
    }

    async fn measure(daemon: &Daemon) -> Result<Durations> {
        let spec = PodSpec::new("undisturbed");
        let (pod, run) = timed(daemon.run_pod(&spec)).await?;
        let spec = ContainerSpec::sleeper("c");
        let (container, create) = timed(pod.create(&spec)).await?;
        let ((), start) = timed(container.start()).await?;
        let ((), stop_container) = timed(container.stop(0)).await?;
        let ((), remove_container) = timed(container.remove()).await?;
        pod.run(&spec).await?;
        let ((), stop_pod) = timed(pod.stop()).await?;
        let ((), remove_pod) = timed(pod.remove()).await?;
        Ok(Durations { run, create, start, stop_container, remove_container, stop_pod, remove_pod })
    }

    /// Makes a call, kills the daemon meanwhile, and starts it again. What the call answered is given back.
    async fn crash<T>(
        &mut self,
        after: Duration,
        call: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<Result<T, Status>>
    where
        T: Send + 'static,
    {
        let call = tokio::spawn(call);
        tokio::time::sleep(after).await;
        self.daemon.kill_9()?;
        let answer = call.await.context("the call")?;
        self.cut_off += u32::from(answer.is_err());
        self.daemon.start_again().await?;
        Ok(answer)
    }

    /// Nothing of the round is left, and the control pod is as it was.
    async fn settle(&self, round: u32) -> Result<()> {
        let settled = Census::settle(&self.daemon, &self.before, wait::DEADLINE).await;
        settled.with_context(|| format!("round {round}; undisturbed: {:?}", self.durations))?;
        assert_eq!(self.witness.pid().await?, self.witness_pid);
        assert_eq!(self.control.state().await?, PodSandboxState::SandboxReady);
        Ok(())
    }

    async fn end(self) -> Result<()> {
        assert!(self.cut_off > 0, "no call was ever cut off: {:?}", self.durations);
        for (number, line) in self.witness.log_lines()?.iter().skip(1).enumerate() {
            let text = String::from_utf8_lossy(&line.text);
            assert!(text.contains(&format!("seq={number} ")), "the control pod's log has no gap: {text} where {number} is due");
        }
        Ok(self.control.end().await?)
    }

    fn client(&self) -> Client {
        self.daemon.client()
    }

    /// The pod of a spec: made by a retry, or by the call whose answer was lost.
    async fn retry_pod(&self, spec: &PodSpec) -> Result<Pod> {
        let pod = match self.daemon.run_pod(spec).await {
            Ok(pod) => pod,
            Err(status) => {
                assert_refused::<()>(Err(status), Code::AlreadyExists, &[spec.name()]);
                let pods = self.client().pods().await?;
                let found = pods.iter().find(|pod| pod.metadata == spec.config.metadata).context("a name that is taken is listed")?;
                Pod::adopt(&self.client(), &found.id, Pod::request(&self.daemon.logs(), spec))
            }
        };
        let pods = self.client().pods().await?;
        assert_eq!(pods.iter().filter(|pod| pod.metadata == spec.config.metadata).count(), 1, "exactly one");
        Ok(pod)
    }

    async fn retry_container(&self, pod: &Pod, spec: &ContainerSpec) -> Result<Container> {
        match pod.create(spec).await {
            Ok(container) => Ok(container),
            Err(status) => {
                assert_refused::<()>(Err(status), Code::AlreadyExists, &["container"]);
                let containers = self.client().containers().await?;
                let found =
                    containers.iter().find(|container| container.pod_sandbox_id == pod.id).context("a name that is taken is listed")?;
                Ok(Container::adopt(&self.client(), &found.id, Path::new("")))
            }
        }
    }
}

async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> Result<(T, Duration), Status> {
    let begun = Instant::now();
    Ok((call.await?, begun.elapsed()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_middle_of_run_pod_sandbox() -> Result<()> {
    let mut sweep = Sweep::begin().await?;
    for round in 0..2 * moments() {
        let spec = PodSpec::new(&format!("run{round}"));
        let (client, logs, asked) = (sweep.client(), sweep.daemon.logs(), spec.clone());
        let after = moment(round / 2, sweep.durations.run);
        let answer = sweep.crash(after, async move { Pod::run_new(&client, &logs, &asked).await }).await?;
        // Every other time nobody asks again: what was not told of is gone, or listed.
        if round % 2 == 0 {
            let pod = sweep.retry_pod(&spec).await?;
            if let Ok(told) = answer {
                assert_eq!(told.id, pod.id, "what was told holds");
            }
            assert_eq!(pod.run(&ContainerSpec::shell("c", "exit 7")).await?.exit_code().await?, 7, "it is a whole pod");
        }
        for pod in sweep.client().pods().await?.iter().filter(|pod| pod.id != sweep.control.id) {
            assert_eq!(pod.state(), PodSandboxState::SandboxReady, "what is half-made is not shown");
            Pod::adopt(&sweep.client(), &pod.id, spec.config.clone()).end().await?;
        }
        sweep.settle(round).await?;
    }
    sweep.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_middle_of_create_and_start_container() -> Result<()> {
    let mut sweep = Sweep::begin().await?;
    for round in 0..moments() {
        let pod = sweep.daemon.run_pod(&PodSpec::new(&format!("pod{round}"))).await?;
        let spec = ContainerSpec::sleeper("c");
        let (asked, of) = (spec.clone(), pod.clone());
        let after = moment(round, sweep.durations.create);
        let _ = sweep.crash(after, async move { of.create(&asked).await }).await?;
        let container = sweep.retry_container(&pod, &spec).await?;
        assert_eq!(container.state().await?, ContainerState::ContainerCreated);
        let starting = container.clone();
        let after = moment(round, sweep.durations.start);
        let answer = sweep.crash(after, async move { starting.start().await }).await?;
        match container.state().await? {
            ContainerState::ContainerCreated => {
                assert!(answer.is_err(), "what was told holds");
                container.start().await?;
            }
            ContainerState::ContainerRunning => {}
            other => anyhow::bail!("round {round}: {other:?}: {:?}", container.status().await?),
        }
        assert_eq!(container.sh("echo runs").await?, "runs");
        container.stop(0).await?;
        assert_eq!(container.exit_code().await?, 137);
        pod.end().await?;
        sweep.settle(round).await?;
    }
    sweep.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_middle_of_stop_and_remove_container() -> Result<()> {
    let mut sweep = Sweep::begin().await?;
    let pod = sweep.daemon.run_pod(&PodSpec::new("pod")).await?;
    pod.create(&ContainerSpec::sleeper("first")).await?.remove().await?;
    sweep.before = Census::at_rest(&sweep.daemon).await?.without("descriptor");
    for round in 0..moments() {
        let container = pod.run(&ContainerSpec::sleeper("c")).await?;
        let target = container.clone();
        if round % 2 == 0 {
            let after = moment(round, sweep.durations.stop_container);
            let _ = sweep.crash(after, async move { target.stop(0).await }).await?;
            container.stop(0).await?;
            assert_eq!(container.exit_code().await?, 137);
        } else {
            let after = moment(round, sweep.durations.remove_container + sweep.durations.stop_container);
            let _ = sweep.crash(after, async move { target.remove().await }).await?;
        }
        container.remove().await?;
        assert_refused(container.status().await, Code::NotFound, &[&container.id]);
        sweep.settle(round).await?;
    }
    pod.end().await?;
    sweep.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_middle_of_stop_and_remove_pod_sandbox() -> Result<()> {
    let mut sweep = Sweep::begin().await?;
    for round in 0..2 * moments() {
        let pod = sweep.daemon.run_pod(&PodSpec::new(&format!("pod{round}"))).await?;
        pod.run(&ContainerSpec::sleeper("c")).await?;
        let target = pod.clone();
        if round % 2 == 0 {
            let after = moment(round / 2, sweep.durations.stop_pod);
            let _ = sweep.crash(after, async move { target.stop().await }).await?;
            pod.stop().await?;
            assert_eq!(pod.state().await?, PodSandboxState::SandboxNotready);
        } else {
            let after = moment(round / 2, sweep.durations.stop_pod + sweep.durations.remove_pod);
            let _ = sweep.crash(after, async move { target.remove().await }).await?;
        }
        pod.end().await?;
        assert_refused(pod.status().await, Code::NotFound, &[&pod.id]);
        sweep.settle(round).await?;
    }
    sweep.end().await
}

/// And once more while the next daemon takes over what this one left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_middle_of_the_take_over() -> Result<()> {
    let mut sweep = Sweep::begin().await?;
    let begun = Instant::now();
    sweep.daemon.restart().await?;
    let take_over = begun.elapsed();
    for round in 0..moments() {
        let spec = PodSpec::new(&format!("pod{round}"));
        let (client, logs, asked) = (sweep.client(), sweep.daemon.logs(), spec.clone());
        let after = moment(7 * round % moments(), sweep.durations.run);
        let _ = sweep.crash(after, async move { Pod::run_new(&client, &logs, &asked).await }).await?;
        sweep.daemon.kill_9()?;
        sweep.daemon.spawn()?;
        tokio::time::sleep(moment(round, take_over)).await;
        sweep.daemon.restart().await?;
        sweep.retry_pod(&spec).await?.end().await?;
        sweep.settle(round).await?;
    }
    sweep.end().await
}
