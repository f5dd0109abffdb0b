//! Samples of one pod or container.

use super::families::{self as f, COMMON_LABELS, Family};
use crate::effects::{ContainerDetails, DiskSpace, LayerUsage, now_ns};
use crate::store::{ContainerRecord, SandboxRecord};
use podbox_cgroup::{DeviceIo, MemoryUsage, Pressure, Usage};
use podbox_netns::LinkCounters;
use podbox_proto::v1;

const NS_PER_SECOND: u64 = 1_000_000_000;
const US_PER_SECOND: u64 = 1_000_000;

/// The values of [`COMMON_LABELS`].
pub(super) struct Labels([String; COMMON_LABELS.len()]);

impl Labels {
    /// A container's.
    pub(super) fn of_container(sandbox: &SandboxRecord, record: &ContainerRecord) -> Self {
        let pod = &sandbox.config.metadata;
        let (name, image) = (record.config.metadata.name.clone(), record.config.image.image.clone());
        Self([name, record.cgroup.clone(), image, record.id.to_string(), pod.namespace.clone(), pod.name.clone()])
    }

    /// A pod's: no container, no image.
    pub(super) fn of_sandbox(record: &SandboxRecord) -> Self {
        let pod = &record.config.metadata;
        Self([String::new(), record.cgroup.clone(), String::new(), record.id.to_string(), pod.namespace.clone(), pod.name.clone()])
    }
}

/// Samples in the making, all of one moment.
pub(super) struct Samples {
    labels: Labels,
    at_ns: i64,
    metrics: Vec<v1::Metric>,
}

impl Samples {
    pub(super) fn new(labels: Labels, at_ns: i64) -> Self {
        Self { labels, at_ns, metrics: Vec::new() }
    }

    pub(super) fn finish(self) -> Vec<v1::Metric> {
        self.metrics
    }

    /// A sample; what was not measured has none. `labels` are as many as the family's.
    fn add(&mut self, family: &Family, labels: &[&str], value: impl Into<Option<u64>>) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let Some(value) = value.into() else { return };
        self.metrics.push(v1::Metric {
            name: family.name.to_owned(),
            timestamp: self.at_ns,
            metric_type: family.kind.into(),
            label_values: self.labels.0.iter().map(String::as_str).chain(labels.iter().copied()).map(str::to_owned).collect(),
            value: Some(v1::UInt64Value { value }),
        });
    }

    /// What is measured for the stats as well.
    pub(super) fn usage(&mut self, usage: &Usage) {
        self.add(&f::CPU_USAGE, &["total"], usage.cpu_ns.map(|time| time / NS_PER_SECOND));
        self.add(&f::THREADS, &[], usage.tasks);
        if let Some(memory) = &usage.memory {
            self.memory(memory);
            let swap = usage.swap.unwrap_or_default();
            self.add(&f::MEMORY_SWAP, &[], swap.usage_bytes);
            let both = memory.limit_bytes.zip(usage.swap.and_then(|swap| swap.limit_bytes)).map(|(memory, swap)| memory + swap);
            self.add(&f::SPEC_SWAP_LIMIT, &[], both.unwrap_or(0));
        }
        self.pressure(&f::CPU_WAITING, &f::CPU_STALLED, usage.pressures.cpu);
        self.pressure(&f::MEMORY_WAITING, &f::MEMORY_STALLED, usage.pressures.memory);
        self.pressure(&f::IO_WAITING, &f::IO_STALLED, usage.pressures.io);
    }

    fn memory(&mut self, memory: &MemoryUsage) {
        self.add(&f::MEMORY_CACHE, &[], memory.cache_bytes);
        self.add(&f::MEMORY_MAPPED, &[], memory.mapped_bytes);
        self.add(&f::MEMORY_RSS, &[], memory.rss_bytes);
        self.add(&f::MEMORY_USAGE, &[], memory.usage_bytes);
        self.add(&f::MEMORY_WORKING_SET, &[], memory.working_set_bytes());
        self.add(&f::SPEC_MEMORY_LIMIT, &[], memory.limit_bytes.unwrap_or(0));
        // The kernel counts a cgroup together with all below it.
        for (kind, faults) in [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)] {
            self.add(&f::MEMORY_FAILURES, &[kind, "hierarchy"], faults);
        }
    }

    fn pressure(&mut self, waiting: &Family, stalled: &Family, pressure: Option<Pressure>) {
        let Some(Pressure { some, full }) = pressure else { return };
        self.add(waiting, &[], some.total_us / US_PER_SECOND);
        self.add(stalled, &[], full.unwrap_or_default().total_us / US_PER_SECOND);
    }

    /// The rest of a container's, which asked for so many CPU shares.
    pub(super) fn details(&mut self, details: &ContainerDetails, asked_shares: u64) {
        let cpu = &details.cgroup.cpu;
        self.add(&f::CPU_USER, &[], cpu.user_ns.map(|time| time / NS_PER_SECOND));
        self.add(&f::CPU_SYSTEM, &[], cpu.system_ns.map(|time| time / NS_PER_SECOND));
        self.add(&f::CFS_PERIODS, &[], cpu.periods);
        self.add(&f::CFS_THROTTLED_PERIODS, &[], cpu.throttled_periods);
        self.add(&f::CFS_THROTTLED, &[], cpu.throttled_ns.map(|time| time / NS_PER_SECOND));
        self.add(&f::SPEC_CPU_PERIOD, &[], cpu.period_us);
        self.add(&f::SPEC_CPU_QUOTA, &[], cpu.quota_us);
        self.add(&f::SPEC_CPU_SHARES, &[], cpu.shares_as_asked(asked_shares));
        let memory = &details.cgroup.memory;
        self.add(&f::MEMORY_KERNEL, &[], memory.kernel_bytes);
        self.add(&f::MEMORY_MAX, &[], memory.max_usage_bytes);
        self.add(&f::MEMORY_FAILCNT, &[], memory.limit_hits);
        self.add(&f::OOM_EVENTS, &[], memory.oom_kills);
        self.add(&f::SPEC_MEMORY_RESERVATION, &[], memory.reservation_bytes.unwrap_or(0));
        self.add(&f::THREADS_MAX, &[], details.cgroup.tasks_limit.map(Option::unwrap_or_default));
        for huge in &details.cgroup.hugetlb {
            self.add(&f::HUGETLB, &[&huge.page_size], huge.usage_bytes);
            self.add(&f::HUGETLB_MAX, &[&huge.page_size], huge.max_usage_bytes);
        }
        for io in details.cgroup.io.iter().flatten() {
            self.device(io);
        }
        self.add(&f::PROCESSES, &[], details.processes);
        self.add(&f::DESCRIPTORS, &[], details.descriptors);
        self.add(&f::SOCKETS, &[], details.sockets);
        self.add(&f::ULIMITS, &["max_open_files"], details.open_files_max);
    }

    fn device(&mut self, io: &DeviceIo) {
        let device = io.device_name().map(|name| format!("/dev/{name}")).unwrap_or_default();
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.written_bytes), ("Discard", io.discarded_bytes)] {
            self.add(&f::BLKIO, &[&device, &major, &minor, operation], bytes);
        }
        self.add(&f::FS_READ_BYTES, &[&device], io.read_bytes);
        self.add(&f::FS_READS, &[&device], io.reads);
        self.add(&f::FS_WRITTEN_BYTES, &[&device], io.written_bytes);
        self.add(&f::FS_WRITES, &[&device], io.writes);
    }

    /// A container's beginning, and that it is there.
    pub(super) fn life(&mut self, started_at_ns: i64) {
        let seconds = |ns: i64| u64::try_from(ns).unwrap_or(0) / NS_PER_SECOND;
        self.add(&f::START_TIME, &[], seconds(started_at_ns));
        self.add(&f::LAST_SEEN, &[], seconds(now_ns()));
    }

    /// A container's layer, and the file system it is on. The layer is no device.
    pub(super) fn disk(&mut self, layer: Option<&LayerUsage>, space: Option<DiskSpace>) {
        self.add(&f::FS_USAGE, &[""], layer.map(|layer| layer.usage.bytes));
        self.add(&f::FS_LIMIT, &[""], space.map(|space| space.size_bytes));
        self.add(&f::FS_INODES, &[""], space.map(|space| space.inodes));
        self.add(&f::FS_INODES_FREE, &[""], space.map(|space| space.inodes_free));
    }

    /// A pod's links.
    pub(super) fn network(&mut self, links: &[LinkCounters]) {
        for LinkCounters { name, received, sent } in links {
            let name = [name.as_str()];
            self.add(&f::RECEIVED_BYTES, &name, received.bytes);
            self.add(&f::RECEIVED_PACKETS, &name, received.packets);
            self.add(&f::RECEIVED_ERRORS, &name, received.errors);
            self.add(&f::RECEIVED_DROPPED, &name, received.dropped);
            self.add(&f::SENT_BYTES, &name, sent.bytes);
            self.add(&f::SENT_PACKETS, &name, sent.packets);
            self.add(&f::SENT_ERRORS, &name, sent.errors);
            self.add(&f::SENT_DROPPED, &name, sent.dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_the_labels_of_its_descriptor() {
        let mut samples = Samples::new(Labels(std::array::from_fn(|_| String::new())), 7);
        let stalls = Some(Pressure { some: podbox_cgroup::Stall { total_us: 2_500_000, ..Default::default() }, full: None });
        let pressures = podbox_cgroup::Pressures { cpu: stalls, memory: stalls, io: stalls };
        samples.usage(&Usage { cpu_ns: Some(3_900_000_000), memory: Some(MemoryUsage::default()), swap: None, pressures, tasks: Some(1) });
        let mut details = ContainerDetails { open_files_max: Some(1), ..ContainerDetails::default() };
        details.cgroup.io = Some(vec![DeviceIo::default()]);
        details.cgroup.hugetlb =
            vec![podbox_cgroup::HugetlbUsage { page_size: "2MB".to_owned(), usage_bytes: 0, max_usage_bytes: Some(0) }];
        let (cpu, memory) = (&mut details.cgroup.cpu, &mut details.cgroup.memory);
        for number in [&mut cpu.user_ns, &mut cpu.system_ns, &mut cpu.periods, &mut cpu.throttled_periods, &mut cpu.throttled_ns] {
            *number = Some(0);
        }
        (cpu.quota_us, cpu.period_us, cpu.weight) = (Some(1), Some(1), Some(1));
        for number in [&mut memory.kernel_bytes, &mut memory.max_usage_bytes, &mut memory.limit_hits, &mut memory.oom_kills] {
            *number = Some(0);
        }
        details.cgroup.tasks_limit = Some(None);
        samples.details(&details, 512);
        samples.life(1);
        samples.disk(Some(&LayerUsage { at_ns: 1, usage: podbox_image::Usage::default() }), Some(DiskSpace::default()));
        samples.network(&[LinkCounters::default()]);
        let metrics = samples.finish();
        for family in f::ALL {
            let descriptor = family.descriptor();
            let sample = metrics.iter().find(|metric| metric.name == descriptor.name);
            let sample = sample.unwrap_or_else(|| panic!("{} has no sample", descriptor.name));
            assert_eq!(sample.label_values.len(), descriptor.label_keys.len(), "{}", descriptor.name);
            assert!(!descriptor.help.is_empty());
        }
        let value = |name: &str| metrics.iter().find(|metric| metric.name == name).and_then(|metric| metric.value);
        assert_eq!(value("container_cpu_usage_seconds_total"), Some(v1::UInt64Value { value: 3 }));
        assert_eq!(value("container_pressure_io_waiting_seconds_total"), Some(v1::UInt64Value { value: 2 }));
    }
}
