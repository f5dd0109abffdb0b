//! An image of 200 MB of the node's own files in ten layers from a registry on loopback: pulled by podbox, and beside it what plain tools take for the same,
//! `skopeo copy` into a folder and `tar` of each layer. In turns, since the machine's pace changes.

use super::node_files;
use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use podbox_proto::v1;
use podbox_tests::registry::{Compression, Format, Pushed};
use podbox_tests::{Content, Daemon, DaemonOptions, Registry, RegistryOptions, host};
use serde::Serialize;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const LAYERS: usize = 10;
const LAYER_BYTES: u64 = 20 << 20;
const MIB: f64 = (1 << 20) as f64;
const ROUNDS: usize = 5;
const PORT: u16 = 5000;

/// Medians of the rounds.
#[derive(Debug, Serialize)]
pub(super) struct Images {
    pub(super) rounds: usize,
    /// Its layers, unpacked and as they are downloaded.
    pub(super) plain_mib: f64,
    pub(super) packed_mib: f64,
    /// PullImage of what is not there, and the daemon's processor time for it.
    pub(super) pull_ms: f64,
    pub(super) pull_cpu_ms: f64,
    /// PullImage of what is there.
    pub(super) second_pull_ms: f64,
    /// The most memory that the daemon ever had.
    pub(super) peak_mib: f64,
    /// The tools, and their processor time.
    pub(super) tools_ms: f64,
    pub(super) tools_cpu_ms: f64,
}

#[derive(Default)]
struct Rounds {
    pull: Vec<Duration>,
    pull_cpu: Vec<Duration>,
    second: Vec<Duration>,
    tools: Vec<Duration>,
    tools_cpu: Vec<Duration>,
}

/// Measures with a daemon of its own.
pub(super) async fn measure(options: DaemonOptions) -> Result<Images> {
    let daemon = Daemon::start(options).await?;
    let mut content = Content::default();
    let (config, layers) = node_files::image(LAYERS, LAYER_BYTES)?;
    let plain_mib = layers.iter().map(Vec::len).sum::<usize>() as f64 / MIB;
    let pushed = content.push_parts("large", "latest", config, layers, Compression::Gzip, Format::Oci)?;
    let packed_mib = pushed.layers.iter().map(|digest| content.blobs[digest].len()).sum::<usize>() as f64 / MIB;
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &content).await?.quiet();
    let name = format!("{}/large:latest", registry.host());
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        let (took, cpu) = tools(&daemon, &name, &pushed)?;
        rounds.tools.push(took);
        rounds.tools_cpu.push(cpu);
        let before = processor_time(daemon.pid()?)?;
        rounds.pull.push(pull(&daemon, &name, &pushed.id).await?);
        rounds.pull_cpu.push(processor_time(daemon.pid()?)?.saturating_sub(before));
        rounds.second.push(pull(&daemon, &name, &pushed.id).await?);
        let image = Some(v1::ImageSpec { image: name.clone(), ..Default::default() });
        daemon.images().remove_image(v1::RemoveImageRequest { image }).await.context("RemoveImage")?;
    }
    let peak = host::status_field(daemon.pid()?, "VmHWM")?;
    let peak: f64 = peak.trim_end_matches("kB").trim().parse().context("VmHWM")?;
    Ok(Images {
        rounds: ROUNDS,
        plain_mib,
        packed_mib,
        pull_ms: median_ms(rounds.pull),
        pull_cpu_ms: median_ms(rounds.pull_cpu),
        second_pull_ms: median_ms(rounds.second),
        peak_mib: peak / 1024.0,
        tools_ms: median_ms(rounds.tools),
        tools_cpu_ms: median_ms(rounds.tools_cpu),
    })
}

async fn pull(daemon: &Daemon, name: &str, id: &str) -> Result<Duration> {
    let image = Some(v1::ImageSpec { image: name.to_owned(), ..Default::default() });
    let request = v1::PullImageRequest { image, ..Default::default() };
    let mut images = daemon.images();
    let begun = Instant::now();
    let answer = images.pull_image(request).await.context("PullImage")?.into_inner();
    let took = begun.elapsed();
    ensure!(answer.image_ref == id, "another image was pulled");
    Ok(took)
}

/// Wall and processor time of the tools.
fn tools(daemon: &Daemon, name: &str, pushed: &Pushed) -> Result<(Duration, Duration)> {
    let folder = tempfile::tempdir_in(daemon.directory()).context("make a folder")?;
    let (copy, trees) = (folder.path().join("copy"), folder.path().join("trees"));
    std::fs::create_dir(&trees).context("make a folder")?;
    let (begun, before) = (Instant::now(), children_time()?);
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
    skopeo.arg(format!("docker://{name}")).arg(format!("dir:{}", copy.display()));
    daemon.network().run(|| execute(&mut skopeo))?;
    for layer in &pushed.layers {
        unpack(&copy.join(layer.trim_start_matches("sha256:")), &trees)?;
    }
    Ok((begun.elapsed(), children_time()?.saturating_sub(before)))
}

fn unpack(layer: &Path, below: &Path) -> Result<()> {
    let name = layer.file_name().context("a layer's file")?;
    let tree = below.join(name);
    std::fs::create_dir(&tree).context("make a folder")?;
    execute(Command::new("tar").arg("-xzf").arg(layer).arg("-C").arg(tree))
}

fn execute(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("execute {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Of all programs that were executed here and have ended.
fn children_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("read the children's processor time")?;
    let microseconds = [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Ok(Duration::from_micros(u64::try_from(microseconds.iter().sum::<i64>()).unwrap_or_default()))
}

/// Of all threads of a process, those that have ended too. In ticks of the clock, mostly ten milliseconds.
fn processor_time(pid: i32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read the daemon's processor time")?;
    // The name in the second field may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn median_ms(mut durations: Vec<Duration>) -> f64 {
    durations.sort_unstable();
    durations.get(durations.len() / 2).map_or(0.0, |median| median.as_secs_f64() * 1e3)
}
