//! Durations of one call, and what is said of them.

use serde::Serialize;
use std::time::Duration;

/// As many as were measured, in no order.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Vec<Duration>);

/// In milliseconds; each is one of the samples (nearest rank).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    /// How many samples there were.
    pub(super) count: usize,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p99_ms: f64,
}

impl Samples {
    pub(super) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// `None` of nothing.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at =
            |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).map(|sample| sample.as_secs_f64() * 1e3);
        Some(Percentiles { count: sorted.len(), p50_ms: at(50)?, p90_ms: at(90)?, p99_ms: at(99)? })
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<T: IntoIterator<Item = Duration>>(samples: T) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// How much `y` grows with `x`: the line through the points that has the least squares. `None` of fewer than two different `x`.
pub(super) fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let common: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (spread > 0.0).then(|| common / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let hundred: Samples = (1..=100).rev().map(Duration::from_millis).collect();
        let found = hundred.percentiles().expect("there are samples");
        assert_eq!(found, Percentiles { count: 100, p50_ms: 50.0, p90_ms: 90.0, p99_ms: 99.0 });
        let one: Samples = [Duration::from_millis(7)].into_iter().collect();
        assert_eq!(one.percentiles().map(|found| (found.p50_ms, found.p99_ms)), Some((7.0, 7.0)));
        assert_eq!(Samples::default().percentiles(), None);
    }

    #[test]
    fn the_slope_is_that_of_the_best_line() {
        assert_eq!(slope(&[(0.0, 1.0), (10.0, 21.0), (20.0, 41.0)]), Some(2.0));
        assert_eq!(slope(&[(5.0, 1.0), (5.0, 3.0)]), None);
        assert_eq!(slope(&[]), None);
    }
}
