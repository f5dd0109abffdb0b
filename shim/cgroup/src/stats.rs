//! What a cgroup and all below it use, as the kernel counts it.
//!
//! [`Meter`] is for what is asked often: it holds what it reads open, so that a pass over many cgroups opens nothing. What is open
//! costs the kernel a page each, so only that is held which the kubelet asks for every few seconds: at most nine files a cgroup. The
//! rest, [`Details`], is asked for by one reader of metrics every ten seconds or more; held, it would take twice as many descriptors
//! again. So it is opened when it is asked for, and closed at once: some fifteen files a cgroup, one after the other, and two more
//! for each size of huge pages. Reading either may block: the kernel brings its counters up to date first.
//!
//! What a kernel does not count is `None`, never a zero that looks like a measurement.

mod details;
mod io;
mod meter;
mod pressure;
mod text;

pub use details::{CpuDetails, Details, HugetlbUsage, MemoryDetails};
pub use io::DeviceIo;
pub use meter::Meter;
pub use pressure::{Pressure, Pressures, Stall};

/// v1 has no word for "no limit": it says the largest number of bytes that is whole pages. Anything near it is none.
const V1_UNLIMITED: u64 = 1 << 62;

/// What a [`Meter`] reads.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU time of all its processes, those that ended too, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory.
    pub memory: Option<MemoryUsage>,
    /// Swap; `None` where the kernel does not account it to cgroups.
    pub swap: Option<SwapUsage>,
    /// Time lost for want of something.
    pub pressures: Pressures,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// Memory of a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// All that is charged to it, page cache included.
    pub usage_bytes: u64,
    /// Page cache that nobody used lately: what the kernel takes back first.
    pub inactive_file_bytes: u64,
    /// Anonymous memory, huge pages included.
    pub rss_bytes: u64,
    /// Page cache, memory of tmpfs included.
    pub cache_bytes: u64,
    /// File pages that are mapped.
    pub mapped_bytes: u64,
    /// Page faults since the start.
    pub page_faults: u64,
    /// Those of them that had to wait for a disk.
    pub major_page_faults: u64,
    /// `None` without a limit. On v1 the least of its own and its ancestors'.
    pub limit_bytes: Option<u64>,
}

impl MemoryUsage {
    /// Usage less the page cache that nobody used lately: what the kubelet evicts by.
    #[must_use]
    pub fn working_set_bytes(&self) -> u64 {
        self.usage_bytes.saturating_sub(self.inactive_file_bytes)
    }

    /// What is left of the limit beside the working set; `None` without a limit.
    #[must_use]
    pub fn available_bytes(&self) -> Option<u64> {
        self.limit_bytes.map(|limit| limit.saturating_sub(self.working_set_bytes()))
    }
}

/// Swap of a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwapUsage {
    /// In use.
    pub usage_bytes: u64,
    /// Of swap alone; `None` without a limit.
    pub limit_bytes: Option<u64>,
}

impl SwapUsage {
    /// What is left of the limit; `None` without a limit.
    #[must_use]
    pub fn available_bytes(&self) -> Option<u64> {
        self.limit_bytes.map(|limit| limit.saturating_sub(self.usage_bytes))
    }
}
