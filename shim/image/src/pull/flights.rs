//! Work that several wait for and one does: begun by the first, shared by who comes meanwhile, given up when the last one leaves.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Work under way, by what it is for.
pub(super) struct Flights<K, T> {
    table: Mutex<HashMap<K, Weak<Flight<T>>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { table: Mutex::default() }
    }
}

/// One of them; everybody who waits holds it.
struct Flight<T> {
    task: AbortHandle,
    outcome: watch::Receiver<Option<T>>,
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        // Nobody waits any more; what has ended does not mind.
        self.task.abort();
    }
}

impl<K: Eq + Hash + Clone, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// Waits for the work of `key`, which `begin` begins if it is not under way. `None`: the runtime ended first.
    pub(super) async fn join<F: Future<Output = T> + Send + 'static>(&self, key: K, begin: impl FnOnce() -> F) -> Option<T> {
        let flight = self.board(key, begin);
        let mut outcome = flight.outcome.clone();
        outcome.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn board<F: Future<Output = T> + Send + 'static>(&self, key: K, begin: impl FnOnce() -> F) -> Arc<Flight<T>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, flight| flight.strong_count() > 0);
        // One that has ended is not boarded: what it found may have been removed since.
        let under_way = table.get(&key).and_then(Weak::upgrade).filter(|flight| flight.outcome.borrow().is_none());
        if let Some(flight) = under_way {
            return flight;
        }
        let (tell, outcome) = watch::channel(None);
        let work = begin();
        let task = tokio::spawn(async move {
            // Who does not wait any more need not be told.
            let _ = tell.send(Some(work.await));
        });
        let flight = Arc::new(Flight { task: task.abort_handle(), outcome });
        table.insert(key, Arc::downgrade(&flight));
        flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Bench {
        begun: AtomicU32,
        dropped: AtomicU32,
        go: Notify,
    }

    struct OnDrop(Arc<Bench>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.dropped.fetch_add(1, SeqCst);
        }
    }

    async fn work(bench: Arc<Bench>) -> u32 {
        let number = bench.begun.fetch_add(1, SeqCst);
        let _end = OnDrop(bench.clone());
        bench.go.notified().await;
        number
    }

    #[tokio::test]
    async fn who_comes_meanwhile_gets_the_same_and_who_comes_after_gets_another() {
        let (flights, bench) = (Flights::<u8, u32>::default(), Arc::new(Bench::default()));
        let join = || flights.join(1, || work(bench.clone()));
        let other = flights.join(2, || async { 77 });
        bench.go.notify_one();
        let all = tokio::join!(join(), join(), join(), other);
        assert_eq!(all, (Some(0), Some(0), Some(0), Some(77)));
        bench.go.notify_one();
        assert_eq!(join().await, Some(1));
    }

    #[tokio::test]
    async fn the_last_who_leaves_ends_it_and_nobody_before() {
        let (flights, bench) = (Arc::new(Flights::<u8, u32>::default()), Arc::new(Bench::default()));
        let waiter = || {
            let (flights, bench) = (flights.clone(), bench.clone());
            tokio::spawn(async move { flights.join(1, || work(bench)).await })
        };
        let (first, second) = (waiter(), waiter());
        while bench.begun.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        first.abort();
        assert!(first.await.is_err());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.dropped.load(SeqCst), 0, "the second one still waits");
        second.abort();
        while bench.dropped.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.begun.load(SeqCst), 1);
    }
}
