//! What pods and containers use: the answers to the stats and metrics calls.
//!
//! Each call is one pass over the counters of what it asks for, on a thread that may wait for the kernel. What ends meanwhile is not in
//! a list. Lists tell of what runs; a container asked for by its id may have ended, and has no more than its layer then.
//!
//! Stats open nothing (`effects/meters.rs`). Metrics, which one reader asks for every ten seconds or more, read the same counters and
//! then open what else there is of each container (`podbox_cgroup::Details`), one file at a time, and look at up to 100,000 of its
//! processes' descriptors.

mod families;
mod messages;
mod samples;

use super::Cri;
use crate::effects::{ContainerDetails, LayerUsage, Reading, Subject, Target, disk_space, read_details};
use crate::request::NetworkMode;
use crate::store::{ContainerPhase, ContainerRecord, LookupError, SandboxPhase, SandboxRecord};
use podbox_plan::{ContainerId, SandboxId};
use podbox_proto::v1;
use samples::{Labels, Samples};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tonic::Status;

type Readings = HashMap<Subject, Reading>;
type LayerUsages = HashMap<ContainerId, LayerUsage>;

/// Containers that run, each with when it began.
fn running(cri: &Cri) -> Vec<Arc<ContainerRecord>> {
    cri.store.containers().into_iter().filter(|record| record.pid().is_some()).collect()
}

/// Sandboxes whose pause runs.
fn ready(cri: &Cri) -> Vec<Arc<SandboxRecord>> {
    cri.store.sandboxes().into_iter().filter(|record| record.phase == SandboxPhase::Ready).collect()
}

fn started_at_ns(record: &ContainerRecord) -> i64 {
    match record.phase {
        ContainerPhase::Running { started_at_ns, .. } => started_at_ns,
        _ => record.created_at_ns,
    }
}

fn container_target(record: &ContainerRecord) -> Target {
    Target {
        subject: Subject::Container(record.id.clone()),
        cgroup: record.cgroup.clone(),
        since_ns: Some(started_at_ns(record)),
        network_of: None,
    }
}

/// The node's network is nobody's in particular, and not counted.
fn sandbox_target(record: &SandboxRecord) -> Target {
    let pause = record.pause.as_ref().filter(|_| record.config.network == NetworkMode::Pod);
    Target {
        subject: Subject::Pod(record.id.clone()),
        cgroup: record.cgroup.clone(),
        since_ns: None,
        network_of: pause.map(|pause| pause.pid),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Status::internal("reading the counters was cut off"))
}

/// One pass, after which no counters of what has ended are left open.
async fn measure(cri: &Cri, targets: Vec<Target>) -> Result<Readings, Status> {
    let node = cri.node.clone();
    let readings = blocking(move || node.meters.read(&targets)).await?;
    let alive: HashSet<Subject> = running(cri)
        .iter()
        .map(|record| Subject::Container(record.id.clone()))
        .chain(ready(cri).iter().map(|record| Subject::Pod(record.id.clone())))
        .collect();
    cri.node.meters.keep_only(|subject| alive.contains(subject));
    Ok(readings)
}

/// What containers have written, as far as it is known.
pub(super) async fn layers(cri: &Cri, containers: &[Arc<ContainerRecord>]) -> LayerUsages {
    let ids: Vec<ContainerId> = containers.iter().map(|record| record.id.clone()).collect();
    let usages = cri.node.layers.usage(&ids).await;
    let there: HashSet<ContainerId> = cri.store.containers().iter().map(|record| record.id.clone()).collect();
    cri.node.layers.keep_only(|id| there.contains(id));
    usages
}

/// What a filter says of an id: nothing, or the one object whose id begins like this.
enum Wanted<I> {
    Any,
    One(I),
    Nobody,
}

impl<I: PartialEq> Wanted<I> {
    fn of<R>(given: &str, find: impl FnOnce(&str) -> Result<Arc<R>, LookupError>, id: impl FnOnce(&R) -> &I) -> Self
    where
        I: Clone,
    {
        match given {
            "" => Self::Any,
            given => find(given).map_or(Self::Nobody, |record| Self::One(id(&record).clone())),
        }
    }

    fn takes(&self, id: &I) -> bool {
        match self {
            Self::Any => true,
            Self::One(wanted) => wanted == id,
            Self::Nobody => false,
        }
    }
}

fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn message(cri: &Cri, record: &ContainerRecord, reading: Option<&Reading>, layers: &LayerUsages) -> v1::ContainerStats {
    let mountpoint = cri.node.config.root_dir.as_ref().to_string_lossy();
    messages::of_container(record, reading, layers.get(&record.id).map(|layer| messages::layer(&mountpoint, layer)))
}

/// The answer to ContainerStats.
pub(super) async fn container(cri: &Cri, id: &str) -> Result<v1::ContainerStats, Status> {
    let record = cri.container(id)?;
    let subject = Subject::Container(record.id.clone());
    let readings = match record.pid() {
        Some(_) => measure(cri, vec![container_target(&record)]).await?,
        None => Readings::new(),
    };
    let layers = layers(cri, std::slice::from_ref(&record)).await;
    Ok(message(cri, &record, readings.get(&subject), &layers))
}

/// Stats of the running containers that pass the filter.
pub(super) async fn containers(cri: &Cri, filter: Option<v1::ContainerStatsFilter>) -> Result<Vec<v1::ContainerStats>, Status> {
    let filter = filter.unwrap_or_default();
    let id = Wanted::of(&filter.id, |id| cri.store.container(id), |record| &record.id);
    let sandbox = Wanted::of(&filter.pod_sandbox_id, |id| cri.store.sandbox(id), |record: &SandboxRecord| &record.id);
    let mut records = running(cri);
    records.retain(|record| {
        id.takes(&record.id) && sandbox.takes(&record.sandbox_id) && has_labels(&record.config.labels, &filter.label_selector)
    });
    let readings = measure(cri, records.iter().map(|record| container_target(record)).collect()).await?;
    let layers = layers(cri, &records).await;
    let measured = records.iter().filter_map(|record| Some((record, readings.get(&Subject::Container(record.id.clone()))?)));
    Ok(measured.map(|(record, reading)| message(cri, record, Some(reading), &layers)).collect())
}

/// The answer to PodSandboxStats. One that is stopped has nothing but its name.
pub(super) async fn sandbox(cri: &Cri, id: &str) -> Result<v1::PodSandboxStats, Status> {
    let record = cri.sandbox(id)?;
    if record.phase != SandboxPhase::Ready {
        return Ok(messages::of_sandbox(&record, None, Vec::new()));
    }
    let stats = of_sandboxes(cri, vec![record.clone()]).await?.pop();
    Ok(stats.unwrap_or_else(|| messages::of_sandbox(&record, None, Vec::new())))
}

/// Stats of the ready sandboxes that pass the filter.
pub(super) async fn sandboxes(cri: &Cri, filter: Option<v1::PodSandboxStatsFilter>) -> Result<Vec<v1::PodSandboxStats>, Status> {
    let filter = filter.unwrap_or_default();
    let id = Wanted::of(&filter.id, |id| cri.store.sandbox(id), |record: &SandboxRecord| &record.id);
    let mut records = ready(cri);
    records.retain(|record| id.takes(&record.id) && has_labels(&record.config.labels, &filter.label_selector));
    of_sandboxes(cri, records).await
}

/// The running containers of each of these sandboxes.
fn by_sandbox(cri: &Cri, sandboxes: &[Arc<SandboxRecord>]) -> HashMap<SandboxId, Vec<Arc<ContainerRecord>>> {
    let mut containers: HashMap<SandboxId, Vec<_>> = sandboxes.iter().map(|record| (record.id.clone(), Vec::new())).collect();
    for record in running(cri) {
        if let Some(of_pod) = containers.get_mut(&record.sandbox_id) {
            of_pod.push(record);
        }
    }
    containers
}

/// What one pass over sandboxes and their running containers found.
struct Measured {
    containers: HashMap<SandboxId, Vec<Arc<ContainerRecord>>>,
    readings: Readings,
    layers: LayerUsages,
}

async fn measure_sandboxes(cri: &Cri, sandboxes: &[Arc<SandboxRecord>]) -> Result<Measured, Status> {
    let containers = by_sandbox(cri, sandboxes);
    let targets = sandboxes.iter().map(|record| sandbox_target(record));
    let targets = targets.chain(containers.values().flatten().map(|record| container_target(record))).collect();
    let readings = measure(cri, targets).await?;
    let all: Vec<_> = containers.values().flatten().cloned().collect();
    let layers = layers(cri, &all).await;
    Ok(Measured { containers, readings, layers })
}

async fn of_sandboxes(cri: &Cri, sandboxes: Vec<Arc<SandboxRecord>>) -> Result<Vec<v1::PodSandboxStats>, Status> {
    let Measured { containers, readings, layers } = measure_sandboxes(cri, &sandboxes).await?;
    let of_container = |record: &Arc<ContainerRecord>| {
        let reading = readings.get(&Subject::Container(record.id.clone()))?;
        Some(message(cri, record, Some(reading), &layers))
    };
    let of_sandbox = |record: &Arc<SandboxRecord>| {
        let reading = readings.get(&Subject::Pod(record.id.clone()))?;
        let of_pod = containers[&record.id].iter().filter_map(of_container).collect();
        Some(messages::of_sandbox(record, Some(reading), of_pod))
    };
    Ok(sandboxes.iter().filter_map(of_sandbox).collect())
}

/// The answer to ListMetricDescriptors.
pub(super) fn descriptors() -> Vec<v1::MetricDescriptor> {
    families::ALL.iter().map(|family| family.descriptor()).collect()
}

/// Metrics of the ready sandboxes and their running containers, by cAdvisor's names.
pub(super) async fn metrics(cri: &Cri) -> Result<Vec<v1::PodSandboxMetrics>, Status> {
    let sandboxes = ready(cri);
    let Measured { containers, readings, layers } = measure_sandboxes(cri, &sandboxes).await?;
    let all: Vec<_> = containers.values().flatten().cloned().collect();
    let node = cri.node.clone();
    let (details, space) = blocking(move || {
        let of = |record: &Arc<ContainerRecord>| read_details(&node.hierarchies, &record.cgroup, record.pid().unwrap_or_default());
        let details: HashMap<ContainerId, ContainerDetails> = all.iter().map(|record| (record.id.clone(), of(record))).collect();
        (details, disk_space(node.config.root_dir.as_ref()))
    })
    .await?;
    let of_container = |sandbox: &SandboxRecord, record: &ContainerRecord| {
        let reading = readings.get(&Subject::Container(record.id.clone()))?;
        let mut samples = Samples::new(Labels::of_container(sandbox, record), reading.at_ns);
        samples.usage(&reading.usage);
        samples.details(details.get(&record.id)?, record.config.resources.cpu_shares);
        samples.life(started_at_ns(record));
        samples.disk(layers.get(&record.id), space);
        Some(v1::ContainerMetrics { container_id: record.id.to_string(), metrics: samples.finish() })
    };
    let of_sandbox = |record: &Arc<SandboxRecord>| {
        let reading = readings.get(&Subject::Pod(record.id.clone()))?;
        let mut samples = Samples::new(Labels::of_sandbox(record), reading.at_ns);
        samples.usage(&reading.usage);
        samples.network(&reading.links);
        let container_metrics = containers[&record.id].iter().filter_map(|container| of_container(record, container)).collect();
        Some(v1::PodSandboxMetrics { pod_sandbox_id: record.id.to_string(), metrics: samples.finish(), container_metrics })
    };
    Ok(sandboxes.iter().filter_map(of_sandbox).collect())
}
