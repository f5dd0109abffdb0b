//! What podbox counts of its own doings, and the server that shows it to Prometheus where the configuration wants one.
//!
//! Counting is a few additions and costs nothing else; everything is worked out when somebody asks. What pods and containers use is not
//! here: the CRI's own calls tell that. Nothing here knows pods, records or the CRI: it is told numbers and names.

mod calls;
mod gauge;
mod process;
mod server;
mod text;

pub use gauge::Gauge;
pub use server::MetricsServer;

use calls::Calls;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use text::Page;

/// All counters of a daemon since its start.
#[derive(Debug)]
pub struct Metrics {
    started_at: SystemTime,
    calls: Mutex<Calls>,
    /// Calls that have begun and not ended.
    pub calls_under_way: Gauge,
    /// Streams of container events that somebody reads.
    pub event_subscribers: Gauge,
    monitors_started: AtomicU64,
    monitors_lost: AtomicU64,
    containers_ended: AtomicU64,
    containers_oom_killed: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started_at: SystemTime::now(),
            calls: Mutex::default(),
            calls_under_way: Gauge::default(),
            event_subscribers: Gauge::default(),
            monitors_started: AtomicU64::new(0),
            monitors_lost: AtomicU64::new(0),
            containers_ended: AtomicU64::new(0),
            containers_oom_killed: AtomicU64::new(0),
        }
    }
}

/// How many pods and containers there are now, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Population {
    /// Pods that are ready.
    pub pods_ready: u64,
    /// Pods that are not.
    pub pods_not_ready: u64,
    /// Containers that were not started yet.
    pub containers_created: u64,
    /// Containers that run.
    pub containers_running: u64,
    /// Containers that have ended.
    pub containers_exited: u64,
}

impl Metrics {
    /// A call ended, with the code `outcome`.
    pub fn count_call(&self, name: &str, outcome: &'static str, duration: Duration) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).count(name, outcome, duration);
    }

    /// A pod got a monitor.
    pub fn count_started_monitor(&self) {
        self.monitors_started.fetch_add(1, Ordering::Release);
    }

    /// A monitor was gone before its pod was stopped.
    pub fn count_lost_monitor(&self) {
        self.monitors_lost.fetch_add(1, Ordering::Release);
    }

    /// A container ended.
    pub fn count_end(&self, oom_killed: bool) {
        self.containers_ended.fetch_add(1, Ordering::Release);
        self.containers_oom_killed.fetch_add(u64::from(oom_killed), Ordering::Release);
    }

    /// The page that Prometheus reads. What is counted is true already: the population, which is asked for last, has it too.
    fn page(&self, population: impl FnOnce() -> Population) -> String {
        let mut page = Page::default();
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).show(&mut page);
        page.gauge("podbox_calls_under_way", "Calls that have begun and not ended.", self.calls_under_way.value());
        let counters = [
            ("podbox_monitors_started_total", "Monitors that were started, one a pod.", &self.monitors_started),
            ("podbox_monitors_lost_total", "Monitors that ended before their pod was stopped.", &self.monitors_lost),
            ("podbox_containers_ended_total", "Containers that ended.", &self.containers_ended),
            ("podbox_containers_oom_killed_total", "Containers that ended for want of memory.", &self.containers_oom_killed),
        ];
        for (name, help, counter) in counters {
            page.counter(name, help, counter.load(Ordering::Acquire));
        }
        let population = population();
        let pods = [("ready", population.pods_ready), ("not_ready", population.pods_not_ready)];
        page.by_label("podbox_pods", "Pod sandboxes by state.", "state", &pods);
        let containers = [
            ("created", population.containers_created),
            ("running", population.containers_running),
            ("exited", population.containers_exited),
        ];
        page.by_label("podbox_containers", "Containers by state.", "state", &containers);
        page.gauge("podbox_event_subscribers", "Streams of container events that are being read.", self.event_subscribers.value());
        let since = self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.gauge("process_start_time_seconds", "When the daemon was started, since 1970.", since.as_secs());
        process::show(&mut page);
        page.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_counter_with_its_type_and_help() {
        let metrics = Metrics::default();
        metrics.count_call("Version", "OK", Duration::from_millis(3));
        metrics.count_end(true);
        let _reader = metrics.event_subscribers.enter();
        let page = metrics.page(|| Population { pods_ready: 2, containers_running: 3, ..Population::default() });
        for line in [
            "podbox_calls_total{call=\"Version\",code=\"OK\"} 1",
            "podbox_pods{state=\"ready\"} 2",
            "podbox_containers{state=\"running\"} 3",
            "podbox_containers_oom_killed_total 1",
            "podbox_event_subscribers 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().expect("a name");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert_eq!(page.matches(&format!("# TYPE {family} ")).count(), 1, "{line}");
            assert_eq!(page.matches(&format!("# HELP {family} ")).count(), 1, "{line}");
        }
    }

    #[test]
    fn nothing_is_counted_that_the_population_has_not_got() {
        let metrics = Metrics::default();
        let page = metrics.page(|| {
            let before = Population { containers_running: 1, pods_ready: 1, ..Population::default() };
            metrics.count_end(false);
            metrics.count_lost_monitor();
            metrics.count_call("StopPodSandbox", "OK", Duration::from_millis(3));
            before
        });
        for line in ["podbox_containers_ended_total 0", "podbox_monitors_lost_total 0", "podbox_containers{state=\"running\"} 1"] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains("StopPodSandbox"), "{page}");
    }
}
