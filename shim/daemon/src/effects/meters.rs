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
use std::time::{Duration, Instant};

/// The part of this process's descriptors that counters may take: the rest is for sockets, pipes and files.
const SHARE_OF_DESCRIPTORS: usize = 2;
/// A rate over less than this says more about the clock than about the CPU: the one before holds.
const RATE_INTERVAL_MIN: Duration = Duration::from_millis(100);

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

/// The CPU time at the last reading, and the rate up to it. Its time is no clock that somebody may set.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    last: Option<(Instant, u64)>,
    nano_cores: Option<u64>,
}

impl Rate {
    /// Of what began with no CPU time so long ago; `None` where nobody can tell, since the clock was set back since.
    fn since(began_ns: Option<i64>) -> Self {
        let age = began_ns.and_then(|began_ns| u64::try_from(now_ns().saturating_sub(began_ns)).ok());
        let began = age.and_then(|age_ns| Instant::now().checked_sub(Duration::from_nanos(age_ns)));
        Self { last: began.map(|began| (began, 0)), nano_cores: None }
    }

    fn update(&mut self, at: Instant, cpu_ns: u64) -> Option<u64> {
        let Some((last, last_cpu_ns)) = self.last else {
            self.last = Some((at, cpu_ns));
            return None;
        };
        let elapsed = at.saturating_duration_since(last);
        if elapsed < RATE_INTERVAL_MIN && self.nano_cores.is_some() {
            return self.nano_cores;
        }
        if !elapsed.is_zero() {
            let used = u128::from(cpu_ns.saturating_sub(last_cpu_ns)) * 1_000_000_000 / elapsed.as_nanos();
            self.nano_cores = u64::try_from(used).ok();
        }
        self.last = Some((at, cpu_ns));
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
        let (at_ns, at) = (now_ns(), Instant::now());
        let Some(usage) = opened.meter.read()? else { return Ok(None) };
        let links = opened.links.as_ref().and_then(|links| links.read().ok()).unwrap_or_default();
        let mut rate = gauge.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let nano_cores = usage.cpu_ns.and_then(|cpu_ns| rate.update(at, cpu_ns));
        Ok(Some(Reading { at_ns, usage, nano_cores, links }))
    }

    /// Opens counters, to be kept if there is room; otherwise they are the second part of the answer.
    fn begin(&self, target: &Target) -> Result<(Arc<Gauge>, Option<Opened>), CgroupError> {
        let opened = Opened::open(&self.host, target)?;
        let descriptors = opened.as_ref().map_or(0, Opened::descriptors);
        let rate = Mutex::new(Rate::since(target.since_ns));
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
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut rate = Rate { last: Some((start, 0)), nano_cores: None };
        assert_eq!(rate.update(after(10), 5_000_000_000), Some(500_000_000), "half a core since the start");
        assert_eq!(rate.update(after(12), 9_000_000_000), Some(2_000_000_000), "two cores since then");
        assert_eq!(rate.update(after(12) + Duration::from_nanos(5), 9_000_000_000), Some(2_000_000_000), "too soon to say anything new");
        let mut of_pod = Rate::default();
        assert_eq!(of_pod.update(after(1), 7), None, "nothing to compare with");
        assert_eq!(of_pod.update(after(2), 1_000_000_007), Some(1_000_000_000));
    }

    #[test]
    fn a_beginning_that_the_clock_puts_into_the_future_is_none() {
        assert!(Rate::since(Some(now_ns() - 1_000_000_000)).last.is_some_and(|(began, _)| began.elapsed() >= Duration::from_secs(1)));
        assert!(Rate::since(Some(now_ns() + 3_600_000_000_000)).last.is_none());
        assert!(Rate::since(None).last.is_none());
    }
}
