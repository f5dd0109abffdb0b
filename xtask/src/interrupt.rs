//! SIGINT and SIGTERM as errors, so that what was begun is ended in the ordinary way.

use anyhow::{Context, Result};
use std::fmt;
use tokio::signal::unix::{SignalKind, signal};

/// The signal that came, as an error.
#[derive(Debug)]
pub(crate) enum Interrupted {
    Sigint,
    Sigterm,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sigint => "interrupted",
            Self::Sigterm => "terminated",
        })
    }
}

impl std::error::Error for Interrupted {}

/// What `work` gives, unless a signal comes first: then `work` is dropped where it waits.
///
/// # Errors
/// Those of `work`, and [`Interrupted`].
pub(crate) async fn or_else<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut interrupted = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut terminated = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    tokio::select! {
        done = work => done,
        _ = interrupted.recv() => Err(Interrupted::Sigint.into()),
        _ = terminated.recv() => Err(Interrupted::Sigterm.into()),
    }
}
