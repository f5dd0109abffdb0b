//! The metrics that there are, by the names and with the labels that cAdvisor gives them: dashboards and alerts ask for these.
//!
//! The CRI's values are whole numbers: seconds are cut off.

use podbox_proto::v1;
use podbox_proto::v1::MetricType::{self, Counter, Gauge};

/// What every sample has, before the labels of its family.
pub(super) const COMMON_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// Samples that mean the same.
#[derive(Debug)]
pub(super) struct Family {
    pub name: &'static str,
    pub kind: MetricType,
    help: &'static str,
    /// Beside [`COMMON_LABELS`].
    pub labels: &'static [&'static str],
}

impl Family {
    /// As ListMetricDescriptors tells it.
    pub(super) fn descriptor(&self) -> v1::MetricDescriptor {
        v1::MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: COMMON_LABELS.iter().chain(self.labels).map(|label| (*label).to_owned()).collect(),
        }
    }
}

macro_rules! families {
    ($($key:ident = $kind:ident $name:literal $labels:tt: $help:literal;)*) => {
        $(pub(super) const $key: Family = Family { name: $name, kind: $kind, help: $help, labels: &$labels };)*

        /// Every one of them.
        pub(super) const ALL: &[Family] = &[$($key),*];
    };
}

families! {
    BLKIO = Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"]: "Bytes to and from a block device, by operation.";
    CFS_PERIODS = Counter "container_cpu_cfs_periods_total" []: "Periods of the CPU quota that passed.";
    CFS_THROTTLED_PERIODS = Counter "container_cpu_cfs_throttled_periods_total" []: "Periods in which the CPU quota was used up.";
    CFS_THROTTLED = Counter "container_cpu_cfs_throttled_seconds_total" []: "Time spent waiting for the next period of the CPU quota.";
    CPU_SYSTEM = Counter "container_cpu_system_seconds_total" []: "CPU time in the kernel.";
    CPU_USAGE = Counter "container_cpu_usage_seconds_total" ["cpu"]: "CPU time.";
    CPU_USER = Counter "container_cpu_user_seconds_total" []: "CPU time in user mode.";
    DESCRIPTORS = Gauge "container_file_descriptors" []: "Open file descriptors of all processes.";
    FS_INODES_FREE = Gauge "container_fs_inodes_free" ["device"]: "Inodes that are free where the container's layer is.";
    FS_INODES = Gauge "container_fs_inodes_total" ["device"]: "Inodes there are where the container's layer is.";
    FS_LIMIT = Gauge "container_fs_limit_bytes" ["device"]: "Size of the file system that the container's layer is on.";
    FS_READ_BYTES = Counter "container_fs_reads_bytes_total" ["device"]: "Bytes read from a block device.";
    FS_READS = Counter "container_fs_reads_total" ["device"]: "Requests that read from a block device.";
    FS_USAGE = Gauge "container_fs_usage_bytes" ["device"]: "Space that the container's layer takes.";
    FS_WRITTEN_BYTES = Counter "container_fs_writes_bytes_total" ["device"]: "Bytes written to a block device.";
    FS_WRITES = Counter "container_fs_writes_total" ["device"]: "Requests that wrote to a block device.";
    HUGETLB_MAX = Gauge "container_hugetlb_max_usage_bytes" ["pagesize"]: "The most memory in huge pages that was ever used.";
    HUGETLB = Gauge "container_hugetlb_usage_bytes" ["pagesize"]: "Memory in huge pages.";
    LAST_SEEN = Gauge "container_last_seen" []: "When the container was last seen running, since 1970.";
    MEMORY_CACHE = Gauge "container_memory_cache" []: "Page cache.";
    MEMORY_FAILCNT = Counter "container_memory_failcnt" []: "How often the memory limit was hit.";
    MEMORY_FAILURES = Counter "container_memory_failures_total" ["failure_type", "scope"]: "Page faults.";
    MEMORY_KERNEL = Gauge "container_memory_kernel_usage" []: "Memory of the kernel on the container's behalf.";
    MEMORY_MAPPED = Gauge "container_memory_mapped_file" []: "Mapped file pages.";
    MEMORY_MAX = Gauge "container_memory_max_usage_bytes" []: "The most memory that was ever used.";
    MEMORY_RSS = Gauge "container_memory_rss" []: "Anonymous memory.";
    MEMORY_SWAP = Gauge "container_memory_swap" []: "Swap.";
    MEMORY_USAGE = Gauge "container_memory_usage_bytes" []: "Memory, page cache included.";
    MEMORY_WORKING_SET = Gauge "container_memory_working_set_bytes" []: "Memory less the page cache that nobody used lately.";
    RECEIVED_BYTES = Counter "container_network_receive_bytes_total" ["interface"]: "Bytes received.";
    RECEIVED_ERRORS = Counter "container_network_receive_errors_total" ["interface"]: "Packets received with errors.";
    RECEIVED_DROPPED = Counter "container_network_receive_packets_dropped_total" ["interface"]: "Packets dropped while receiving.";
    RECEIVED_PACKETS = Counter "container_network_receive_packets_total" ["interface"]: "Packets received.";
    SENT_BYTES = Counter "container_network_transmit_bytes_total" ["interface"]: "Bytes sent.";
    SENT_ERRORS = Counter "container_network_transmit_errors_total" ["interface"]: "Packets that could not be sent.";
    SENT_DROPPED = Counter "container_network_transmit_packets_dropped_total" ["interface"]: "Packets dropped while sending.";
    SENT_PACKETS = Counter "container_network_transmit_packets_total" ["interface"]: "Packets sent.";
    OOM_EVENTS = Counter "container_oom_events_total" []: "Processes killed for want of memory.";
    CPU_STALLED = Counter "container_pressure_cpu_stalled_seconds_total" []: "Time in which no task got the CPU it wanted.";
    CPU_WAITING = Counter "container_pressure_cpu_waiting_seconds_total" []: "Time in which some task waited for the CPU.";
    IO_STALLED = Counter "container_pressure_io_stalled_seconds_total" []: "Time in which all tasks waited for I/O.";
    IO_WAITING = Counter "container_pressure_io_waiting_seconds_total" []: "Time in which some task waited for I/O.";
    MEMORY_STALLED = Counter "container_pressure_memory_stalled_seconds_total" []: "Time in which all tasks waited for memory.";
    MEMORY_WAITING = Counter "container_pressure_memory_waiting_seconds_total" []: "Time in which some task waited for memory.";
    PROCESSES = Gauge "container_processes" []: "Processes.";
    SOCKETS = Gauge "container_sockets" []: "Open sockets of all processes.";
    SPEC_CPU_PERIOD = Gauge "container_spec_cpu_period" []: "Period of the CPU quota, in microseconds.";
    SPEC_CPU_QUOTA = Gauge "container_spec_cpu_quota" []: "CPU quota, in microseconds a period.";
    SPEC_CPU_SHARES = Gauge "container_spec_cpu_shares" []: "CPU shares.";
    SPEC_MEMORY_LIMIT = Gauge "container_spec_memory_limit_bytes" []: "Memory limit; 0 is none.";
    SPEC_MEMORY_RESERVATION = Gauge "container_spec_memory_reservation_limit_bytes" []: "Memory that is kept, or brought back to, when it is short; 0 is none.";
    SPEC_SWAP_LIMIT = Gauge "container_spec_memory_swap_limit_bytes" []: "Limit of memory and swap together; 0 is none.";
    START_TIME = Gauge "container_start_time_seconds" []: "When the container was started, since 1970.";
    THREADS = Gauge "container_threads" []: "Threads.";
    THREADS_MAX = Gauge "container_threads_max" []: "Threads that there may be; 0 is any number.";
    ULIMITS = Gauge "container_ulimits_soft" ["ulimit"]: "Soft limits of the container's init.";
}
