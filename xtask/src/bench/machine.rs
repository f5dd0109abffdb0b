//! What the measurements depend on: the machine and its kernel.

use anyhow::{Context, Result};
use podbox_tests::host;
use serde::Serialize;
use std::fs;
use std::process::Command;
use std::time::Duration;

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
fn memory(name: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, name)
}

/// What the host has available, and whether that still changes of itself: what ended a moment ago is given back little by little.
#[derive(Debug, Default)]
pub(super) struct HostMemory {
    looks: Vec<u64>,
}

impl HostMemory {
    /// Between looks.
    pub(super) const PAUSE: Duration = Duration::from_secs(1);
    const STEADY_LOOKS: usize = 5;
    const STEADY_BYTES: u64 = 1 << 20;
    /// Whoever else is at work does not end it.
    const LOOKS_MAX: usize = 60;

    /// Looks once more: whether it is at rest, or will not come to it.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn rests(&mut self) -> Result<bool> {
        self.looks.push(Self::available()?);
        Ok(Self::is_steady(&self.looks) || self.looks.len() >= Self::LOOKS_MAX)
    }

    fn is_steady(looks: &[u64]) -> bool {
        let Some(last) = looks.len().checked_sub(Self::STEADY_LOOKS).map(|first| &looks[first..]) else { return false };
        let (least, most) = (last.iter().min(), last.iter().max());
        least.zip(most).is_some_and(|(least, most)| most - least < Self::STEADY_BYTES)
    }

    /// In bytes.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn available() -> Result<u64> {
        memory("MemAvailable").context("the host tells no MemAvailable")
    }
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
    fn memory_rests_when_it_has_changed_little_for_some_looks() {
        let looks = [0, 9, 10, 10, 10, 10, 10].map(|mib: u64| mib << 20);
        assert!(!HostMemory::is_steady(&looks[..4]), "too few");
        assert!(!HostMemory::is_steady(&looks[..6]), "a mebibyte");
        assert!(HostMemory::is_steady(&looks));
    }

    #[test]
    fn a_line_in_kilobytes_is_found_by_its_whole_name() {
        let text = "Rss:                1864 kB\nPss:                 201 kB\nPss_Dirty:           124 kB\n";
        assert_eq!(kilobytes(text, "Pss"), Some(201 * 1024));
        assert_eq!(kilobytes(text, "Swap"), None);
    }
}
