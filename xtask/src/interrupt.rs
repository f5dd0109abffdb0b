//! SIGINT and SIGTERM as errors, so that what was begun is ended in the ordinary way.

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// What `work` gives, unless a signal comes first: then `work` is dropped where it waits.
///
/// # Errors
/// Those of `work`, and that it was interrupted.
pub(crate) async fn or_else<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut interrupted = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut terminated = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    tokio::select! {
        done = work => done,
        _ = interrupted.recv() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    }
}
