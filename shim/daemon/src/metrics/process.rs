//! What the daemon itself uses, by the names that Prometheus' own clients have for it.

use super::text::Page;
use rustix::process::{Resource, getrlimit};

/// What cannot be read is left out.
pub(super) fn show(page: &mut Page) {
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the one that reads this.
        page.gauge("process_open_fds", "Descriptors that are open.", descriptors.count().saturating_sub(1));
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        page.gauge("process_max_fds", "Descriptors that may be open.", limit);
    }
    if let Some([size, resident]) = pages() {
        let page_bytes = rustix::param::page_size() as u64;
        page.gauge("process_virtual_memory_bytes", "Address space.", size * page_bytes);
        page.gauge("process_resident_memory_bytes", "Memory.", resident * page_bytes);
    }
    if let Some(ticks) = cpu_ticks() {
        #[allow(clippy::cast_precision_loss, reason = "2^53 ticks are millions of years")]
        let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        page.counter("process_cpu_seconds_total", "CPU time, in user mode and in the kernel.", seconds);
    }
}

/// `proc_pid_statm(5)`: size and resident.
fn pages() -> Option<[u64; 2]> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

/// `proc_pid_stat(5)`: utime and stime, fields 14 and 15; the name before them may hold anything.
fn cpu_ticks() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}
