//! Calls: how many, what came of them, how long they took.

use super::text::Page;
use std::collections::BTreeMap;
use std::time::Duration;

/// The CRI has 43 calls, and podbox serves a few more. Whoever makes names up is counted under one.
const NAMES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
const OTHER: &str = "other";

/// Upper bounds in seconds: from what a list takes to what the kubelet waits for.
const BOUNDS_S: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];

/// By name.
#[derive(Debug, Default)]
pub(super) struct Calls(BTreeMap<String, Call>);

#[derive(Debug, Default)]
struct Call {
    by_outcome: BTreeMap<&'static str, u64>,
    /// Not cumulated; what took longer than the last bound is in none.
    by_duration: [u64; BOUNDS_S.len()],
    count: u64,
    total: Duration,
}

impl Calls {
    pub(super) fn count(&mut self, name: &str, outcome: &'static str, duration: Duration) {
        let is_name = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let known = self.0.contains_key(name);
        let name = if is_name && (known || self.0.len() < NAMES_MAX) { name } else { OTHER };
        let call = self.0.entry(name.to_owned()).or_default();
        *call.by_outcome.entry(outcome).or_default() += 1;
        if let Some(place) = BOUNDS_S.iter().position(|bound| duration.as_secs_f64() <= *bound) {
            call.by_duration[place] += 1;
        }
        call.count += 1;
        call.total += duration;
    }

    pub(super) fn show(&self, page: &mut Page) {
        page.family("podbox_calls_total", "Calls that were answered, by the code of the answer.", "counter");
        for (name, call) in &self.0 {
            for (code, count) in &call.by_outcome {
                page.sample("podbox_calls_total", &[("call", name), ("code", code)], *count);
            }
        }
        let family = "podbox_call_duration_seconds";
        page.family(family, "How long calls took, streams up to their beginning.", "histogram");
        for (name, call) in &self.0 {
            let mut below = 0;
            for (bound, count) in BOUNDS_S.iter().zip(call.by_duration) {
                below += count;
                page.sample(&format!("{family}_bucket"), &[("call", name), ("le", &bound.to_string())], below);
            }
            page.sample(&format!("{family}_bucket"), &[("call", name), ("le", "+Inf")], call.count);
            page.sample(&format!("{family}_sum"), &[("call", name)], call.total.as_secs_f64());
            page.sample(&format!("{family}_count"), &[("call", name)], call.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_cumulated_and_what_is_beyond_every_bound_is_counted() {
        let mut calls = Calls::default();
        for milliseconds in [1, 2, 600, 500_000] {
            calls.count("StopContainer", "OK", Duration::from_millis(milliseconds));
        }
        let mut page = Page::default();
        calls.show(&mut page);
        let page = page.finish();
        let name = "podbox_call_duration_seconds";
        for (le, count) in [("0.0005", 0), ("0.001", 1), ("0.0025", 2), ("0.5", 2), ("1", 3), ("120", 3), ("+Inf", 4)] {
            assert!(page.contains(&format!("{name}_bucket{{call=\"StopContainer\",le=\"{le}\"}} {count}\n")), "{le}: {page}");
        }
        assert!(page.contains(&format!("{name}_count{{call=\"StopContainer\"}} 4\n")), "{page}");
        assert!(page.contains(&format!("{name}_sum{{call=\"StopContainer\"}} 500.603\n")), "{page}");
    }

    #[test]
    fn made_up_names_are_one_series() {
        let mut calls = Calls::default();
        for number in 0..10_000 {
            calls.count(&format!("Call{number}"), "UNIMPLEMENTED", Duration::ZERO);
        }
        calls.count("bad\"name\n", "UNIMPLEMENTED", Duration::ZERO);
        calls.count(&"x".repeat(100_000), "UNIMPLEMENTED", Duration::ZERO);
        assert_eq!(calls.0.len(), NAMES_MAX + 1);
        assert_eq!(calls.0[OTHER].count, 10_002 - NAMES_MAX as u64);
    }
}
