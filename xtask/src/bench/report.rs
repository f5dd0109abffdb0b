//! The bench's result, as tables and as JSON.

use super::baseline::Floor;
use super::critest::Critest;
use super::cycle::{CALLS, Cycles};
use super::idle::{Idle, mib_per_pod};
use super::images::Images;
use super::machine::Machine;
use super::samples::{Percentiles, Samples};
use super::streams::Streams;
use crate::terminal::{Colours, Side, Table, Tone};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many times the floor's p50 a pod's start may take.
const START_FLOORS_MAX: f64 = 3.0;
/// p50 of stopping and removing a container and its pod.
const TEARDOWN_MS_MAX: f64 = 15.0;
/// What the host has less for each pod.
const POD_MB_MAX: f64 = 0.6;
/// How much of what skopeo and tar take together a pull may take.
const PULL_TOOLS_MAX: f64 = 0.4;
const SECOND_PULL_MS_MAX: f64 = 20.0;
const PULL_MIB_MAX: f64 = 64.0;
/// p50 of a command that does nothing.
const EXEC_SYNC_MS_MAX: f64 = 3.0;
/// 500 MB a second, or as long as a pipe and a socket take.
const GIGABYTE_SECONDS_MAX: f64 = 1_073.741_824 / 500.0;
const MB_PER_MIB: f64 = 1.048_576;

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    floor: Stages,
    serial: Life,
    clients: Clients,
    idle: Idle,
    images: Images,
    streams: Streams,
    /// Where there is Go.
    critest: Option<Critest>,
    targets: Vec<Target>,
}

/// The same work in bare system calls.
#[derive(Debug, Serialize)]
struct Stages {
    stages: BTreeMap<&'static str, Percentiles>,
    start_p50_ms_by_batch: Vec<f64>,
    /// How many MiB less the host has available for each pod that waits: what the kernel alone takes.
    host_per_pod_mib: Option<f64>,
}

/// Pods from start to end.
#[derive(Debug, Serialize)]
struct Life {
    calls: BTreeMap<&'static str, Percentiles>,
    start: Option<Percentiles>,
    teardown: Option<Percentiles>,
    /// p50 of `start` by the floor's.
    start_floors: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Clients {
    clients: u32,
    #[serde(flatten)]
    life: Life,
    cycles_per_second: f64,
}

/// Pods by several clients.
pub(super) struct AtOnce {
    pub(super) cycles: Cycles,
    pub(super) clients: u32,
    /// How long they took for all of it.
    pub(super) took: Duration,
}

/// What is to be held.
#[derive(Debug, Serialize)]
struct Target {
    what: String,
    /// `None`: what came out says nothing.
    measured: Option<f64>,
    unit: &'static str,
    max: f64,
    holds: bool,
}

impl Stages {
    fn of(floor: &Floor) -> Self {
        let stages = [
            ("sandbox", &floor.sandbox),
            ("network", &floor.network),
            ("container", &floor.container),
            ("start", &floor.start),
            ("teardown", &floor.teardown),
            ("link", &floor.link),
        ];
        let stages = stages.into_iter().filter_map(|(stage, samples)| Some((stage, samples.percentiles()?))).collect();
        Self {
            stages,
            start_p50_ms_by_batch: floor.start_p50_ms_by_batch.clone(),
            host_per_pod_mib: mib_per_pod(&floor.available).map(|mib| -mib),
        }
    }

    fn p50_ms(&self, stage: &str) -> Option<f64> {
        self.stages.get(stage).map(|stage| stage.p50_ms)
    }
}

impl Life {
    fn of(cycles: &Cycles, floor: &Stages) -> Self {
        let percentiles = |(call, samples): (&&'static str, &Samples)| Some((*call, samples.percentiles()?));
        let start = cycles.start.percentiles();
        Self {
            calls: CALLS.iter().zip(&cycles.calls).filter_map(percentiles).collect(),
            start,
            teardown: cycles.teardown.percentiles(),
            start_floors: start.zip(floor.p50_ms("start")).map(|(start, floor)| start.p50_ms / floor),
        }
    }
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        serial: &Cycles,
        floor: &Floor,
        at_once: &AtOnce,
        idle: Idle,
        images: Images,
        streams: Streams,
    ) -> Self {
        let floor = Stages::of(floor);
        let serial = Life::of(serial, &floor);
        let life = Life::of(&at_once.cycles, &floor);
        let cycles = life.start.map_or(0, |start| start.count);
        let clients = Clients { clients: at_once.clients, life, cycles_per_second: cycles as f64 / at_once.took.as_secs_f64() };
        // No pod gives memory back: something else did.
        let host_mb = Some(idle.memory.host_per_pod * MB_PER_MIB).filter(|megabytes| *megabytes > 0.0);
        let measured = [
            ("pod start, p50", serial.start_floors, "× floor", START_FLOORS_MAX),
            ("teardown, p50", serial.teardown.map(|teardown| teardown.p50_ms), "ms", TEARDOWN_MS_MAX),
            ("memory a pod, of the host", host_mb, "MB", POD_MB_MAX),
            ("ExecSync, p50", serial.calls.get("ExecSync").map(|exec| exec.p50_ms), "ms", EXEC_SYNC_MS_MAX),
            ("a gigabyte of a command's output", Some(streams.exec_seconds), "s", GIGABYTE_SECONDS_MAX.max(streams.floor_seconds)),
            ("pull of 200 MB", Some(images.pull_ms / images.tools_ms), "× skopeo and tar", PULL_TOOLS_MAX),
            ("pull of what is there", Some(images.second_pull_ms), "ms", SECOND_PULL_MS_MAX),
            ("the daemon's memory while pulling", Some(images.peak_mib), "MiB", PULL_MIB_MAX),
        ];
        let target = |(what, measured, unit, max): (&str, Option<f64>, _, _)| {
            let holds = measured.is_some_and(|measured| measured <= max);
            Target { what: what.to_owned(), measured, unit, max, holds }
        };
        let targets = measured.into_iter().map(target).collect();
        Self { machine, floor, serial, clients, idle, images, streams, critest: None, targets }
    }

    /// With what critest found.
    pub(super) fn with_critest(self, critest: Option<Critest>) -> Self {
        Self { critest, ..self }
    }

    /// For people.
    pub(super) fn print(&self, colours: Colours) {
        let heading = |text: &str| println!("\n{}", colours.paint(Tone::Heading, text));
        heading("Machine");
        print!("{}", self.machine_table(colours));
        heading("The floor: the same work in bare system calls (ms)");
        print!("{}", self.floor_table(colours));
        let batches: Vec<String> = self.floor.start_p50_ms_by_batch.iter().map(|p50| format!("{p50:.2}")).collect();
        println!("p50 of start in each batch, in their order: {}", batches.join(", "));
        heading("One pod after the other (ms)");
        print!("{}", self.life_table(&self.serial, colours));
        heading(&format!("{} clients at once (ms); {:.1} whole cycles a second", self.clients.clients, self.clients.cycles_per_second));
        print!("{}", self.life_table(&self.clients.life, colours));
        heading(&format!("{} pods that wait", self.idle.pods));
        print!("{}", self.idle_table(colours));
        let looks = self.idle.memory.host_available_by_pods.iter().map(|(pods, available)| format!("{available:.0} with {pods}"));
        println!("MiB that the host had available, by pods: {}", looks.collect::<Vec<_>>().join(", "));
        let Images { rounds, plain_mib, packed_mib, .. } = &self.images;
        heading(&format!(
            "An image of the node's own files in ten layers from loopback, {plain_mib:.0} MiB, packed {packed_mib:.0}, median of {rounds}"
        ));
        print!("{}", self.images_table(colours));
        let Streams { rounds, bytes, exec_seconds, floor_seconds } = &self.streams;
        heading(&format!("{} MiB of a command's output, median of {rounds}", bytes >> 20));
        print!("{}", self.streams_table(colours, *bytes as f64 / 1e6, *exec_seconds, *floor_seconds));
        if let Some(critest) = &self.critest {
            heading("critest's own benchmark (ms)");
            print!("{}", critest_table(critest, colours));
            println!("what critest wrote is in {}", critest.folder.display());
        }
        heading("Targets");
        print!("{}", self.targets_table(colours));
    }

    fn machine_table(&self, colours: Colours) -> Table {
        let mut table = Table::new(colours, &[("FACT", Side::Left), ("VALUE", Side::Left)]);
        let machine = &self.machine;
        let shown = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
        for (fact, value) in [
            ("kernel", shown(machine.kernel.clone())),
            ("timer interrupts a second", shown(machine.hz.map(|hz| hz.to_string()))),
            ("RCU expedited", shown(machine.rcu_expedited.map(|expedited| expedited.to_string()))),
            ("cgroups", machine.cgroup.to_owned()),
            ("processor", shown(machine.cpu_model.clone())),
            ("processors", shown(machine.cpus.map(|cpus| cpus.to_string()))),
            ("memory", shown(machine.memory_total_bytes.map(|bytes| format!("{} MiB", bytes >> 20)))),
            ("load before the bench", shown(machine.load.map(|load| format!("{load:.2}")))),
        ] {
            table.row([plain(fact), plain(value)]);
        }
        table
    }

    fn floor_table(&self, colours: Colours) -> Table {
        let mut table = Table::new(colours, &percentile_columns("STAGE")[..4]);
        for stage in ["sandbox", "network", "container", "start", "teardown", "link"] {
            if let Some(percentiles) = self.floor.stages.get(stage) {
                let [p50, p90, p99] = percentile_cells(percentiles);
                table.row([plain(stage), p50, p90, p99]);
            }
        }
        table
    }

    fn life_table(&self, life: &Life, colours: Colours) -> Table {
        let mut table = Table::new(colours, &percentile_columns("CALL"));
        for call in CALLS {
            if let Some(percentiles) = life.calls.get(call) {
                let [p50, p90, p99] = percentile_cells(percentiles);
                table.row([plain(call), p50, p90, p99, plain("")]);
            }
        }
        for (what, percentiles, stage) in [("pod start", life.start, "start"), ("teardown", life.teardown, "teardown")] {
            if let (Some(percentiles), Some(floor)) = (percentiles, self.floor.p50_ms(stage)) {
                let [p50, p90, p99] = percentile_cells(&percentiles);
                table.row([plain(what), p50, p90, p99, plain(format!("{:.2}", percentiles.p50_ms / floor))]);
            }
        }
        table
    }

    fn idle_table(&self, colours: Colours) -> Table {
        let mut table = Table::new(colours, &[("WHAT", Side::Left), ("VALUE", Side::Right)]);
        let Idle { memory, cpu, .. } = &self.idle;
        let mib = |value: f64| format!("{value:.3} MiB");
        let calls = [
            ("ListPodSandbox, p50", self.idle.list_pod_sandbox),
            ("ListContainers, p50", self.idle.list_containers),
            ("Version, p50", self.idle.version),
        ];
        let mut rows = vec![
            ("memory a pod, of its processes (PSS)".to_owned(), mib(memory.processes_per_pod)),
            ("  of this the monitor".to_owned(), mib(memory.monitor_per_pod)),
            ("memory a pod, of the host (MemAvailable)".to_owned(), mib(memory.host_per_pod)),
            ("  the same of the floor's pods".to_owned(), self.floor.host_per_pod_mib.map_or_else(|| "not measured".to_owned(), mib)),
            ("the daemon without pods (PSS)".to_owned(), mib(memory.daemon_without_pods)),
            ("the daemon with all pods (PSS)".to_owned(), mib(memory.daemon_with_pods)),
            (format!("processor time of the daemon in {} s", cpu.seconds), format!("{:.2} ms", cpu.daemon_ms)),
            (format!("processor time of all monitors in {} s", cpu.seconds), format!("{:.2} ms", cpu.monitors_ms)),
        ];
        rows.extend(calls.into_iter().filter_map(|(call, took)| Some((call.to_owned(), format!("{:.2} ms", took?.p50_ms)))));
        for (what, value) in rows {
            table.row([plain(what), plain(value)]);
        }
        table
    }

    fn images_table(&self, colours: Colours) -> Table {
        let mut table = Table::new(colours, &[("WHAT", Side::Left), ("VALUE", Side::Right)]);
        let Images { pull_ms, pull_cpu_ms, second_pull_ms, peak_mib, tools_ms, tools_cpu_ms, .. } = &self.images;
        for (what, value) in [
            ("pull", format!("{pull_ms:.0} ms")),
            ("  processor time of the daemon", format!("{pull_cpu_ms:.0} ms")),
            ("the same with skopeo copy and tar", format!("{tools_ms:.0} ms")),
            ("  processor time of both", format!("{tools_cpu_ms:.0} ms")),
            ("pull of what is there", format!("{second_pull_ms:.1} ms")),
            ("most memory that the daemon had", format!("{peak_mib:.1} MiB")),
        ] {
            table.row([plain(what), plain(value)]);
        }
        table
    }

    fn streams_table(&self, colours: Colours, megabytes: f64, exec_seconds: f64, floor_seconds: f64) -> Table {
        let mut table = Table::new(colours, &[("WHAT", Side::Left), ("VALUE", Side::Right)]);
        for (what, value) in [
            ("exec over SPDY", format!("{:.0} MB/s", megabytes / exec_seconds)),
            ("a pipe and a socket", format!("{:.0} MB/s", megabytes / floor_seconds)),
            ("of what these give", format!("{:.2}", floor_seconds / exec_seconds)),
        ] {
            table.row([plain(what), plain(value)]);
        }
        table
    }

    fn targets_table(&self, colours: Colours) -> Table {
        let columns = [("WHAT", Side::Left), ("MEASURED", Side::Right), ("AT MOST", Side::Right), ("", Side::Left), ("HOLDS", Side::Left)];
        let mut table = Table::new(colours, &columns);
        for target in &self.targets {
            let verdict = if target.holds { "yes" } else { "NO" };
            let shown = |value: Option<f64>| plain(value.map_or_else(|| "nothing".to_owned(), |value| format!("{value:.2}")));
            let (measured, max) = (shown(target.measured), shown(Some(target.max)));
            table.row([plain(target.what.clone()), measured, max, plain(target.unit), (verdict.to_owned(), Tone::of(target.holds))]);
        }
        table
    }
}

fn critest_table(critest: &Critest, colours: Colours) -> Table {
    let [operation, p50, p90, p99, _] = percentile_columns("CALL");
    let columns = [("OF", Side::Left), operation, ("COUNT", Side::Right), p50, p90, p99];
    let mut table = Table::new(colours, &columns);
    for operation in &critest.operations {
        let [p50, p90, p99] = percentile_cells(&operation.percentiles);
        table.row([plain(operation.object), plain(operation.name.clone()), plain(operation.percentiles.count.to_string()), p50, p90, p99]);
    }
    table
}

fn percentile_columns(first: &'static str) -> [(&'static str, Side); 5] {
    [(first, Side::Left), ("P50", Side::Right), ("P90", Side::Right), ("P99", Side::Right), ("× FLOOR", Side::Right)]
}

fn percentile_cells(percentiles: &Percentiles) -> [(String, Tone); 3] {
    [percentiles.p50_ms, percentiles.p90_ms, percentiles.p99_ms].map(|ms| plain(format!("{ms:.2}")))
}

fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}
