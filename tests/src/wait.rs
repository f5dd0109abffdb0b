//! Waiting for what comes soon, with a deadline that is generous.

use anyhow::{Result, bail};
use std::future::Future;
use std::time::{Duration, Instant};

/// Long enough for anything that is not broken, on a machine that has other things to do.
pub const DEADLINE: Duration = Duration::from_secs(30);

const STEP: Duration = Duration::from_millis(10);

/// Waits until a look finds something.
///
/// # Errors
/// Nothing was found until [`DEADLINE`]; the error says what was waited for.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> Result<T> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain: {what}", DEADLINE.as_secs());
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
