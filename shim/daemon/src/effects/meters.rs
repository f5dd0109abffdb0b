//! The counters of everything that runs: opened when somebody first asks, read in one pass, closed when it ends.
//!
//! No more descriptors are held than a part of what this process may have; of what goes beyond, the counters are opened and closed in
//! each pass. Nothing here runs unless it is asked.

use super::now_ns;
use super::open_files::open_files_max;
use podbox_cgroup::{Cgroup, CgroupPath, Error as CgroupError, Hierarchies, Meter, Usage};
use podbox_netns::{LinkCounters, PodLinks};
use podbox_plan::{ContainerId, SandboxId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The part of this process's descriptors that counters may take: the rest is for sockets, pipes and files.
const SHARE_OF_DESCRIPTORS: usize = 2;
/// A rate over less than this says more about the clock than about the CPU: the one before holds.
const RATE_INTERVAL_NS_MIN: i64 = 100_000_000;

/// Whose counters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A pod's own cgroup, and its network.
    Pod(SandboxId),
    /// A container's cgroup.
    Container(ContainerId),
}

/// Something to be measured.
#[derive(Debug, Clone)]
pub struct Target {
    /// Whose counters.
    pub subject: Subject,
    /// Below the hierarchies' roots.
    pub cgroup: String,
    /// When its cgroup's counters began at nothing, in nanoseconds since the Unix epoch; `None` where others may have used it before.
    pub since_ns: Option<i64>,
    /// A process in the network namespace to be counted.
    pub network_of: Option<i32>,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Reading {
    /// When, in nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// Of the cgroup.
    pub usage: Usage,
    /// CPU time a second since the reading before, in nanoseconds; `None` where there was none.
    pub nano_cores: Option<u64>,
    /// Of the network; empty where it was not asked for or is gone.
    pub links: Vec<LinkCounters>,
}

/// All counters that are open.
#[derive(Debug)]
pub struct Meters {
    host: Hierarchies,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    gauges: HashMap<Subject, Arc<Gauge>>,
    descriptors: usize,
}

/// The counters of one subject.
#[derive(Debug)]
struct Gauge {
    /// `None`: they are opened for each pass.
    open: Option<Opened>,
    rate: Mutex<Rate>,
}

#[derive(Debug)]
struct Opened {
    meter: Meter,
    links: Option<PodLinks>,
}

impl Opened {
    fn open(host: &Hierarchies, target: &Target) -> Result<Option<Self>, CgroupError> {
        let Ok(path) = CgroupPath::new(target.cgroup.as_str()) else { return Ok(None) };
        let meter = Meter::open(&Cgroup::at(host, &path))?;
        // A process that is gone has no traffic any more.
        let links = target.network_of.and_then(|pid| PodLinks::of_process(pid).ok());
        Ok(Some(Self { meter, links }))
    }

    fn descriptors(&self) -> usize {
        self.meter.descriptors() + usize::from(self.links.is_some())
    }
}

/// The CPU time at the last reading, and the rate up to it.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    last: Option<(i64, u64)>,
    nano_cores: Option<u64>,
}

impl Rate {
    fn update(&mut self, at_ns: i64, cpu_ns: u64) -> Option<u64> {
        let Some((last_ns, last_cpu_ns)) = self.last else {
            self.last = Some((at_ns, cpu_ns));
            return None;
        };
        let elapsed_ns = at_ns.saturating_sub(last_ns);
        if elapsed_ns < RATE_INTERVAL_NS_MIN && self.nano_cores.is_some() {
            return self.nano_cores;
        }
        if let Ok(elapsed_ns @ 1..) = u64::try_from(elapsed_ns) {
            let used = u128::from(cpu_ns.saturating_sub(last_cpu_ns)) * 1_000_000_000 / u128::from(elapsed_ns);
            self.nano_cores = u64::try_from(used).ok();
        }
        self.last = Some((at_ns, cpu_ns));
        self.nano_cores
    }
}

impl Meters {
    /// No counters yet.
    #[must_use]
    pub fn new(host: Hierarchies) -> Self {
        Self { host, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures; to be called where one may wait for the kernel. What is gone meanwhile is not in the answer.
    #[must_use]
    pub fn read(&self, targets: &[Target]) -> HashMap<Subject, Reading> {
        let mut readings = HashMap::with_capacity(targets.len());
        for target in targets {
            match self.read_one(target) {
                Ok(Some(reading)) => drop(readings.insert(target.subject.clone(), reading)),
                Ok(None) => {}
                Err(error) => tracing::warn!(cgroup = target.cgroup, error = %crate::chain::Chain(&error), "not measured"),
            }
        }
        readings
    }

    fn read_one(&self, target: &Target) -> Result<Option<Reading>, CgroupError> {
        let known = self.table().gauges.get(&target.subject).cloned();
        let (gauge, for_once) = match known {
            Some(gauge) if gauge.open.is_some() => (gauge, None),
            Some(gauge) => (gauge, Opened::open(&self.host, target)?),
            None => self.begin(target)?,
        };
        let Some(opened) = gauge.open.as_ref().or(for_once.as_ref()) else { return Ok(None) };
        let at_ns = now_ns();
        let Some(usage) = opened.meter.read()? else { return Ok(None) };
        let links = opened.links.as_ref().and_then(|links| links.read().ok()).unwrap_or_default();
        let mut rate = gauge.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let nano_cores = usage.cpu_ns.and_then(|cpu_ns| rate.update(at_ns, cpu_ns));
        Ok(Some(Reading { at_ns, usage, nano_cores, links }))
    }

    /// Opens counters, to be kept if there is room; otherwise they are the second part of the answer.
    fn begin(&self, target: &Target) -> Result<(Arc<Gauge>, Option<Opened>), CgroupError> {
        let opened = Opened::open(&self.host, target)?;
        let descriptors = opened.as_ref().map_or(0, Opened::descriptors);
        let rate = Mutex::new(Rate { last: target.since_ns.map(|since| (since, 0)), nano_cores: None });
        let mut table = self.table();
        let room = table.descriptors.saturating_add(descriptors) <= open_files_max() / SHARE_OF_DESCRIPTORS;
        let (open, for_once) = if room { (opened, None) } else { (None, opened) };
        if room {
            table.descriptors += descriptors;
        }
        let gauge = Arc::new(Gauge { open, rate });
        // Two calls at once may both have opened them: what the first put there goes.
        if let Some(first) = table.gauges.insert(target.subject.clone(), gauge.clone()) {
            table.descriptors -= first.open.as_ref().map_or(0, Opened::descriptors);
        }
        Ok((gauge, for_once))
    }

    /// Closes the counters of what has ended.
    pub fn close(&self, subject: &Subject) {
        let mut table = self.table();
        if let Some(gauge) = table.gauges.remove(subject) {
            table.descriptors -= gauge.open.as_ref().map_or(0, Opened::descriptors);
        }
    }

    /// Closes those of all that does not run any more: a pass that began before an end may have opened them after it.
    pub fn keep_only(&self, runs: impl Fn(&Subject) -> bool) {
        let mut table = self.table();
        table.gauges.retain(|subject, _| runs(subject));
        table.descriptors = table.gauges.values().filter_map(|gauge| gauge.open.as_ref()).map(Opened::descriptors).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_time_since_the_reading_before() {
        const SECOND: i64 = 1_000_000_000;
        let mut rate = Rate { last: Some((0, 0)), nano_cores: None };
        assert_eq!(rate.update(10 * SECOND, 5_000_000_000), Some(500_000_000), "half a core since the start");
        assert_eq!(rate.update(12 * SECOND, 9_000_000_000), Some(2_000_000_000), "two cores since then");
        assert_eq!(rate.update(12 * SECOND + 5, 9_000_000_000), Some(2_000_000_000), "too soon to say anything new");
        assert_eq!(rate.update(11 * SECOND, 9_000_000_000), Some(2_000_000_000), "a clock that was set back");
        let mut of_pod = Rate::default();
        assert_eq!(of_pod.update(SECOND, 7), None, "nothing to compare with");
        assert_eq!(of_pod.update(2 * SECOND, 1_000_000_007), Some(1_000_000_000));
    }
}
