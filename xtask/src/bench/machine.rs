//! What the measurements depend on: the machine and its kernel.

use podbox_tests::host;
use serde::Serialize;
use std::fs;
use std::process::Command;

/// As the kernel tells it; what it does not tell is `None`.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    /// `uname -r`
    pub(super) kernel: Option<String>,
    /// How many processors podbox may use.
    pub(super) cpus: Option<usize>,
    /// The processor's name.
    pub(super) cpu_model: Option<String>,
    /// Timer interrupts a second, which grace periods depend on.
    pub(super) hz: Option<u32>,
    /// Whether RCU grace periods are made short at the price of interrupts.
    pub(super) rcu_expedited: Option<bool>,
    /// `v2`, `v1`, or `v1 hybrid`: controllers in hierarchies of their own, beside a v2 hierarchy without any.
    pub(super) cgroup: &'static str,
    pub(super) memory_total_bytes: Option<u64>,
    /// Over the last minute, before the bench: other work makes all numbers worse.
    pub(super) load: Option<f64>,
}

impl Machine {
    pub(super) fn read() -> Self {
        Self {
            kernel: line("/proc/sys/kernel/osrelease"),
            cpus: std::thread::available_parallelism().ok().map(Into::into),
            cpu_model: field("/proc/cpuinfo", "model name"),
            hz: hz(),
            rcu_expedited: line("/sys/kernel/rcu_expedited").map(|value| value != "0"),
            cgroup: cgroup(),
            memory_total_bytes: memory("MemTotal"),
            load: line("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }
}

/// A line of `/proc/meminfo`, in bytes.
pub(super) fn memory(name: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, name)
}

/// `NAME:   123 kB` in a text of such lines, in bytes.
pub(super) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The kernel's configuration says it, where the distribution leaves that in `/boot` or the kernel shows it itself.
fn hz() -> Option<u32> {
    let config = format!("/boot/config-{}", line("/proc/sys/kernel/osrelease")?);
    let unzipped = || String::from_utf8(Command::new("zcat").arg("/proc/config.gz").output().ok()?.stdout).ok();
    let text = fs::read_to_string(config).ok().or_else(unzipped)?;
    text.lines().find_map(|line| line.strip_prefix("CONFIG_HZ=")?.parse().ok())
}

fn cgroup() -> &'static str {
    let hierarchies = host::cgroup_hierarchies();
    let unified = hierarchies.iter().any(|(_, root)| root.join("cgroup.controllers").exists());
    match (unified, hierarchies.len()) {
        (true, 1) => "v2",
        (true, _) => "v1 hybrid",
        (false, _) => "v1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_kilobytes_is_found_by_its_whole_name() {
        let text = "Rss:                1864 kB\nPss:                 201 kB\nPss_Dirty:           124 kB\n";
        assert_eq!(kilobytes(text, "Pss"), Some(201 * 1024));
        assert_eq!(kilobytes(text, "Swap"), None);
    }
}
