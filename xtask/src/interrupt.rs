//! SIGINT and SIGTERM as errors, so that what was begun is ended in the ordinary way.

use anyhow::{Context, Result};
use std::fmt;
use std::sync::OnceLock;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The signal that came, as an error.
#[derive(Debug, Clone, Copy)]
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

/// The last signal that came.
type Signals = watch::Receiver<Option<Interrupted>>;

/// What `work` gives, unless a signal comes first, or came since the first call: then `work` is dropped where it waits. From the first call
/// on signals do nothing else.
///
/// # Errors
/// Those of `work`, and [`Interrupted`].
pub(crate) async fn or_else<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut signals = signals()?;
    tokio::select! {
        biased;
        came = signals.wait_for(Option::is_some) => {
            let came = came.context("the watch for signals has ended")?;
            Err(came.context("no signal")?.into())
        }
        done = work => done,
    }
}

/// Those of this program, which a thread of its own watches for as long as it runs.
fn signals() -> Result<Signals> {
    static SIGNALS: OnceLock<Result<Signals, String>> = OnceLock::new();
    SIGNALS.get_or_init(|| watch_signals().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

fn watch_signals() -> Result<Signals> {
    let (sender, signals) = watch::channel(None);
    let runtime = Builder::new_current_thread().enable_io().build().context("start the asynchronous runtime")?;
    // From here on none is missed.
    let (mut interrupted, mut terminated) = {
        let _inside = runtime.enter();
        let handle = |kind, name| signal(kind).with_context(|| format!("handle {name}"));
        (handle(SignalKind::interrupt(), "SIGINT")?, handle(SignalKind::terminate(), "SIGTERM")?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let came = tokio::select! {
                    _ = interrupted.recv() => Interrupted::Sigint,
                    _ = terminated.recv() => Interrupted::Sigterm,
                };
                sender.send_replace(Some(came));
            }
        })
    });
    Ok(signals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, raise};

    // A signal stays for all that comes after it in this process: no other test may wait for one.
    #[tokio::test]
    async fn a_signal_ends_what_is_waited_for_and_what_comes_after_it() {
        assert_eq!(or_else(async { Ok(1) }).await.expect("no signal came"), 1);
        let work = async {
            raise(Signal::SIGTERM).context("raise a signal")?;
            std::future::pending::<Result<()>>().await
        };
        for ended in [or_else(work).await, or_else(async { Ok(()) }).await] {
            assert!(ended.expect_err("a signal came").is::<Interrupted>());
        }
    }
}
