//! Trying again until it is done, for what nobody else would see to: the first attempt when it is asked for, the others later,
//! each after a pause twice as long as the one before.

use crate::chain::Chain;
use std::error::Error;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// The pauses between attempts at one thing.
#[derive(Debug)]
pub(super) struct Pauses {
    due: Duration,
    longest: Duration,
}

impl Pauses {
    pub fn new() -> Self {
        Self::of_at_most(LONGEST)
    }

    /// For what somebody waits for.
    pub fn of_at_most(longest: Duration) -> Self {
        Self { due: FIRST, longest }
    }

    /// The one that is due now.
    pub fn next(&mut self) -> Duration {
        let due = self.due;
        self.due = (due * 2).min(self.longest);
        due
    }
}

/// Makes attempts until one succeeds. A daemon that ends drops this: the next one finds what is left by the record.
pub(super) async fn until_done<E: Error + 'static, F: Future<Output = Result<(), E>>>(
    what: &'static str,
    id: &str,
    mut attempt: impl FnMut() -> F,
) {
    let mut pauses = Pauses::new();
    while let Err(error) = attempt().await {
        tracing::error!(id, error = %Chain(&error), "{what}: trying again");
        tokio::time::sleep(pauses.next()).await;
    }
}

/// Makes one attempt, and all further ones that it may take behind the caller's back.
pub(super) async fn now_or_later<E, F, A>(what: &'static str, id: String, mut attempt: A)
where
    E: Error + Send + 'static,
    F: Future<Output = Result<(), E>> + Send,
    A: FnMut() -> F + Send + 'static,
{
    let Err(error) = attempt().await else { return };
    tracing::error!(id, error = %Chain(&error), "{what}: trying again");
    tokio::spawn(async move {
        tokio::time::sleep(FIRST).await;
        until_done(what, &id, attempt).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut pauses = Pauses::new();
        let taken: Vec<Duration> = (0..12).map(|_| pauses.next()).collect();
        assert_eq!(taken[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(taken[11], LONGEST);
    }
}
