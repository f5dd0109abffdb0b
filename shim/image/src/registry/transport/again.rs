//! When to ask again, and after how long.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// The first pause; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A server that wants more is left to the caller's own patience.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// An endpoint that is the last one is asked so often in all.
const ATTEMPTS: u32 = 5;
/// And one after which others can be asked.
const ATTEMPTS_OF_MIRROR: u32 = 2;

/// How often something was tried.
#[derive(Debug, Clone, Copy)]
pub(in crate::registry) struct Attempts {
    made: u32,
    max: u32,
}

impl Attempts {
    pub(in crate::registry) fn new(is_last_endpoint: bool) -> Self {
        Self { made: 0, max: if is_last_endpoint { ATTEMPTS } else { ATTEMPTS_OF_MIRROR } }
    }

    /// Counts a failure: how long to wait before the next attempt, `None` if there is none.
    pub(in crate::registry) fn failed(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        self.made += 1;
        if self.made >= self.max || retry_after.is_some_and(|wanted| wanted > RETRY_AFTER_MAX) {
            return None;
        }
        let backoff = (PAUSE_MIN * 2_u32.saturating_pow(self.made - 1)).min(PAUSE_MAX);
        // Many nodes that were turned away together do not come again together.
        let spread = RandomState::new().build_hasher().finish() % 512;
        let backoff = backoff.mul_f64(0.75 + spread as f64 / 1024.0);
        Some(backoff.max(retry_after.unwrap_or_default()))
    }

    /// It went on: what failed before does not count any more.
    pub(in crate::registry) fn progressed(&mut self) {
        self.made = 0;
    }
}

/// Waits.
pub(in crate::registry) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Whether a server that answers this may answer otherwise later.
pub(in crate::registry) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long the server wants to be left alone, if it says so in seconds.
pub(in crate::registry) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_and_heed_what_the_server_wants() {
        let mut attempts = Attempts::new(true);
        let pauses: Vec<_> = std::iter::from_fn(|| attempts.failed(None)).collect();
        assert_eq!(pauses.len(), 4);
        assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
        assert!(pauses.iter().sum::<Duration>() < Duration::from_secs(5), "{pauses:?}");
        let mut attempts = Attempts::new(false);
        assert!(attempts.failed(Some(Duration::from_secs(7))) >= Some(Duration::from_secs(7)));
        assert_eq!(attempts.failed(None), None);
        assert_eq!(Attempts::new(true).failed(Some(Duration::from_secs(3600))), None);
    }
}
