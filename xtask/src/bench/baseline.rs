//! The floor, measured by this program started anew ([`super::floor`] wants a process of a single thread).

use super::samples::Samples;
use anyhow::{Context, Result, ensure};
use podbox_tests::{ContainerSpec, Daemon, PodSpec, TestImage};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Not counted, in each batch.
const WARMUP_ROUNDS: u32 = 3;

/// What the floor needs: the very pause and the very layer that podbox uses.
pub(super) struct Baseline {
    pause: PathBuf,
    lower: PathBuf,
    scratch: PathBuf,
}

/// A line that the floor prints for each round.
#[derive(Deserialize)]
struct Round {
    sandbox_us: u64,
    network_us: u64,
    container_us: u64,
    start_us: u64,
    teardown_us: u64,
    link_us: u64,
}

/// What it prints of the pods that it held.
#[derive(Deserialize)]
struct Held {
    available: Vec<(u32, u64)>,
}

/// By stage; see [`super::floor`] for what each is.
#[derive(Debug, Default)]
pub(super) struct Floor {
    pub(super) sandbox: Samples,
    pub(super) network: Samples,
    pub(super) container: Samples,
    pub(super) start: Samples,
    pub(super) teardown: Samples,
    pub(super) link: Samples,
    /// p50 of `start` in each batch, in milliseconds: how far the machine drifted.
    pub(super) start_p50_ms_by_batch: Vec<f64>,
    /// Pods that it held, and how many bytes the host had available beside them.
    pub(super) available: Vec<(u32, u64)>,
}

impl Baseline {
    /// Copies pause out of a pod.
    pub(super) async fn prepare(daemon: &Daemon, image: &TestImage) -> Result<Self> {
        let (pause, _) = daemon.scratch("pause")?;
        let (scratch, lower) = (daemon.directory().join("floor"), layer_with_busybox(&daemon.root_dir())?);
        std::fs::create_dir(&scratch).context("make a folder for the floor")?;
        let pod = daemon.run_pod(&PodSpec::new("floor")).await?;
        let container = pod.run(&ContainerSpec::sleeper("floor").image(&image.name)).await?;
        let running = format!("/proc/{}/exe", pod.pause_pid().await?);
        std::fs::copy(&running, &pause).with_context(|| format!("copy {running}"))?;
        container.stop(0).await?;
        pod.end().await?;
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&pause, executable).context("make pause executable")?;
        Ok(Self { pause, lower, scratch })
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        let own = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(own);
        command.arg("bench-floor").args(arguments);
        command.arg("--pause").arg(&self.pause).arg("--lower").arg(&self.lower).arg("--scratch").arg(&self.scratch);
        let output = command.stderr(Stdio::inherit()).output().context("start the floor")?;
        ensure!(output.status.success(), "the floor: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Pods that wait, and how many bytes the host had available beside them.
    pub(super) fn hold(&self, pods: u32) -> Result<Vec<(u32, u64)>> {
        let output = self.output(&["--rounds", "1", "--warmup", "0", "--hold", &pods.to_string()])?;
        let line = output.lines().find(|line| line.contains("available")).context("the floor held no pods")?;
        let held: Held = serde_json::from_str(line).with_context(|| format!("parse {line}"))?;
        Ok(held.available)
    }

    /// One batch.
    pub(super) fn run(&self, rounds: u32) -> Result<Floor> {
        let output = self.output(&["--rounds", &rounds.to_string(), "--warmup", &WARMUP_ROUNDS.to_string()])?;
        let mut floor = Floor::default();
        for line in output.lines().filter(|line| line.contains("start_us")) {
            let round: Round = serde_json::from_str(line).with_context(|| format!("parse {line}"))?;
            floor.push(&round);
        }
        floor.start_p50_ms_by_batch = floor.start.percentiles().map(|start| start.p50_ms).into_iter().collect();
        Ok(floor)
    }
}

impl Floor {
    fn push(&mut self, round: &Round) {
        let stages = [
            (&mut self.sandbox, round.sandbox_us),
            (&mut self.network, round.network_us),
            (&mut self.container, round.container_us),
            (&mut self.start, round.start_us),
            (&mut self.teardown, round.teardown_us),
            (&mut self.link, round.link_us),
        ];
        stages.into_iter().for_each(|(stage, us)| stage.push(Duration::from_micros(us)));
    }

    /// Takes another batch in.
    pub(super) fn add(&mut self, batch: Self) {
        let Self { sandbox, network, container, start, teardown, link, start_p50_ms_by_batch, available } = batch;
        self.sandbox.extend(sandbox);
        self.network.extend(network);
        self.container.extend(container);
        self.start.extend(start);
        self.teardown.extend(teardown);
        self.link.extend(link);
        self.start_p50_ms_by_batch.extend(start_p50_ms_by_batch);
        self.available.extend(available);
    }
}

/// The unpacked layer, which is the only one.
fn layer_with_busybox(root_dir: &Path) -> Result<PathBuf> {
    let layers = std::fs::read_dir(root_dir.join("layers")).context("list the layers")?;
    let mut layers = layers.flatten().map(|layer| layer.path().join("fs"));
    layers.find(|layer| layer.join("bin/busybox").exists()).context("no layer has busybox")
}
