//! One subscriber: what it has yet to read, and how it ends.

use super::{BEHIND_BYTES_MAX, BEHIND_MAX, Change};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;

/// The reader did not keep up: what was kept for it is dropped, and nothing more is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{changes} changes came faster than they were read")]
pub struct Behind {
    /// How many were dropped.
    pub changes: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    NothingMoreToCome,
    Behind(Behind),
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    news: Notify,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        self.waiting().end.get_or_insert(end);
        self.news.notify_one();
    }
}

/// The end that is told.
#[derive(Debug)]
pub(super) struct Subscriber(Weak<Queue>);

/// The end that reads; dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription(Arc<Queue>);

pub(super) fn pair() -> (Subscriber, Subscription) {
    let queue = Arc::new(Queue::default());
    (Subscriber(Arc::downgrade(&queue)), Subscription(queue))
}

impl Subscriber {
    pub(super) fn is_there(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// False: it is gone, or is to go.
    pub(super) fn tell(&self, change: &Arc<Change>) -> bool {
        let Some(queue) = self.0.upgrade() else { return false };
        let mut waiting = queue.waiting();
        let fits = waiting.changes.len() < BEHIND_MAX && waiting.bytes + change.bytes <= BEHIND_BYTES_MAX;
        if fits || waiting.changes.is_empty() {
            waiting.bytes += change.bytes;
            waiting.changes.push_back(change.clone());
            drop(waiting);
            queue.news.notify_one();
            return true;
        }
        let behind = Behind { changes: waiting.changes.len() + 1 };
        waiting.changes = VecDeque::new();
        drop(waiting);
        queue.end(End::Behind(behind));
        false
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Some(queue) = self.0.upgrade() {
            // One that is behind has its end already.
            queue.end(End::NothingMoreToCome);
        }
    }
}

impl Subscription {
    /// The next change; `None`: there is nothing more to come. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// Changes were missed: this is the end.
    pub async fn next(&mut self) -> Option<Result<Arc<Change>, Behind>> {
        loop {
            {
                let mut waiting = self.0.waiting();
                if let Some(change) = waiting.changes.pop_front() {
                    waiting.bytes -= change.bytes;
                    return Some(Ok(change));
                }
                match waiting.end {
                    Some(End::Behind(behind)) => return Some(Err(behind)),
                    Some(End::NothingMoreToCome) => return None,
                    None => {}
                }
            }
            self.0.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ChangeKind;
    use super::*;

    fn change(bytes: usize) -> Arc<Change> {
        Arc::new(Change { kind: ChangeKind::Created, id: String::new(), at_ns: 0, sandbox: None, containers: Vec::new(), bytes })
    }

    #[tokio::test]
    async fn one_that_falls_behind_is_let_go_with_all_that_was_kept_for_it() {
        for (bytes, kept) in [(0, BEHIND_MAX), (BEHIND_BYTES_MAX / 4, 4), (2 * BEHIND_BYTES_MAX, 1)] {
            let (subscriber, mut subscription) = pair();
            let change = change(bytes);
            assert!((0..kept).all(|_| subscriber.tell(&change)));
            assert_eq!(Arc::strong_count(&change), kept + 1);
            assert!(!subscriber.tell(&change));
            assert_eq!(Arc::strong_count(&change), 1, "{bytes}");
            drop(subscriber);
            let end = subscription.next().await.expect("the end").map(drop);
            assert_eq!(end, Err(Behind { changes: kept + 1 }), "{bytes}");
        }
    }

    #[tokio::test]
    async fn one_that_reads_hears_all_and_then_the_end() {
        let (subscriber, mut subscription) = pair();
        for _ in 0..3 * BEHIND_MAX {
            assert!(subscriber.tell(&change(BEHIND_BYTES_MAX)));
            assert!(subscription.next().await.expect("a change").is_ok());
        }
        assert!(subscriber.tell(&change(1)));
        drop(subscriber);
        assert!(subscription.next().await.expect("what was told before").is_ok());
        assert!(subscription.next().await.is_none());
    }
}
