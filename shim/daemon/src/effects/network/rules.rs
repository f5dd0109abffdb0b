//! The bridge's rules, which others can delete: `nft flush ruleset`, `systemctl restart nftables`.
//!
//! A task sleeps until the kernel tells of that, and has them made anew, as they were when the bridge was opened. A program that deletes them
//! again and again has no fight with podbox, but a new set of rules once a second at most.

use crate::chain::Chain;
use podbox_netns::{Bridge, RulesLost};
use std::time::Duration;
use tokio::task::AbortHandle;

/// Between two makings of the rules; what is lost meanwhile is made up for after it.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause is doubled while they cannot be made, up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Keeps the rules of one bridge as long as this value lives.
#[derive(Debug)]
pub(super) struct RulesKeeper(AbortHandle);

impl Drop for RulesKeeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RulesKeeper {
    /// Must be called in a tokio runtime.
    pub(super) fn of(bridge: Bridge) -> Self {
        Self(tokio::spawn(keep(bridge)).abort_handle())
    }
}

async fn keep(bridge: Bridge) {
    loop {
        let mut pause = PAUSE;
        // A loss that could not be heard of is as good as one that was.
        let mut outcome = bridge.rules_lost().await.map(|lost| report(bridge.name(), lost));
        loop {
            if outcome.is_ok() {
                outcome = bridge.restore_rules().await;
            }
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(bridge = %bridge.name(), error = %Chain(&error), "the rules of the pod network may be lost: trying again")
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            outcome = Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn report(bridge: &str, lost: RulesLost) {
    let programs: Vec<_> = lost.programs.into_iter().collect();
    let tables: Vec<_> = lost.tables.into_iter().collect();
    if tables.is_empty() {
        tracing::warn!(bridge, "nftables changed faster than podbox could hear of it: the rules of table podbox-{bridge} are made anew");
    } else {
        tracing::warn!(bridge, ?programs, "rules of table {} were deleted by another program: they are made anew", tables.join(" and "));
    }
}
