//! Waiting for what comes soon, with a deadline that is generous.

use crate::host::runs;
use anyhow::{Result, bail};
use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Long enough for anything that is not broken, on a machine that has other things to do; see [`scaled`].
pub const DEADLINE: Duration = Duration::from_secs(30);

const STEP: Duration = Duration::from_millis(10);

/// How many times slower than a machine of today this one may be, from `PODBOX_TEST_SLOWNESS`: one that is emulated is.
#[must_use]
pub fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| std::env::var("PODBOX_TEST_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1))
}

/// A deadline as it is on this machine. What this module and [`crate::Census`] wait for is scaled by them; a test scales what it
/// compares with the clock itself.
#[must_use]
pub fn scaled(deadline: Duration) -> Duration {
    deadline * slowness()
}

/// Waits until a look finds something.
///
/// # Errors
/// Nothing was found until [`DEADLINE`], scaled; the error says what was waited for.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> Result<T> {
    let end = Instant::now() + scaled(DEADLINE);
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain: {what}", scaled(DEADLINE).as_secs());
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Waits until a condition holds.
///
/// # Errors
/// It did not until [`DEADLINE`].
pub async fn until_true(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    until(what, || std::future::ready(holds().then_some(()))).await
}

/// Waits until processes have ended. Asks the kernel, not a daemon.
///
/// # Errors
/// They did not until [`DEADLINE`].
pub async fn ended(pids: &[i32]) -> Result<()> {
    until_true("the processes end", || !pids.iter().any(|pid| runs(*pid))).await
}
