//! What containers have written to their own layers.
//!
//! Measuring one means walking it, which may take long: so what was measured is remembered, and measured again in the background only
//! when somebody asks and it is old. One walk runs at a time, a tree that takes long is walked the more rarely, and all walks
//! together take a bounded part of the time, however many containers there are. Layers that take long share a part of their own: the
//! others wait for no more than one such walk. Whoever asks for one that was never measured waits for that, but not long; such walks come
//! first and at once, one a container, and what they take is made up for by those to come.

use super::now_ns;
use podbox_image::{ImageStore, Usage};
use podbox_plan::ContainerId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What is younger than this is not measured again.
const AGE_MIN: Duration = Duration::from_secs(10);
/// A walk is repeated after this many times its own length at the earliest: it takes at most a twentieth of a core.
const REST: u32 = 20;
/// A walk and the rest of its lane after it take this many times its length: together, the walks of a lane take at most a tenth of a
/// core.
const PERIOD_OF_ALL: u32 = 10;
/// What takes longer is slow.
const QUICK: Duration = Duration::from_secs(1);
/// Walks of so long in all need no rest in between, if there was none for long: small layers are measured in one go.
const BURST: Duration = Duration::from_millis(300);
/// How long somebody waits for what was never measured.
const PATIENCE: Duration = Duration::from_millis(300);

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerUsage {
    /// When, in nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// Space and inodes.
    pub usage: Usage,
}

/// The layers of all containers.
pub struct Layers {
    images: Arc<ImageStore>,
    table: Mutex<Table>,
    /// One was put in the queue.
    queued: Notify,
    measured: Notify,
}

#[derive(Default)]
struct Table {
    known: HashMap<ContainerId, Known>,
    /// Those never measured before.
    first: VecDeque<ContainerId>,
    /// Those to be measured again.
    quick: Lane,
    slow: Lane,
    walking: bool,
}

/// Layers that wait for one another.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<ContainerId>,
    pace: Pace,
}

/// How much time was walked lately.
#[derive(Debug, Default)]
struct Pace {
    /// When all that was walked will have been rested for.
    rested_at: Option<Instant>,
}

impl Pace {
    /// Counts a walk.
    fn add(&mut self, begun: Instant, took: Duration) {
        // A long rest saves up no more than this.
        let idle_since = begun.checked_sub(BURST * PERIOD_OF_ALL).unwrap_or(begun);
        let from = self.rested_at.map_or(idle_since, |rested_at| rested_at.max(idle_since));
        self.rested_at = Some(from + took * PERIOD_OF_ALL);
    }

    /// How long no layer is to be walked again; zero: it may be now.
    fn rest(&self, now: Instant) -> Duration {
        self.rested_at.map_or(Duration::ZERO, |rested_at| rested_at.saturating_duration_since(now))
    }
}

/// What the walker does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Walk(ContainerId),
    Rest(Duration),
    End,
}

impl Table {
    fn next(&mut self, now: Instant) -> Next {
        if let Some(id) = self.first.pop_front() {
            return Next::Walk(id);
        }
        let mut rest: Option<Duration> = None;
        for lane in [&mut self.quick, &mut self.slow] {
            // What is gone meanwhile need not be waited for.
            lane.waiting.retain(|id| self.known.contains_key(id));
            let due = lane.pace.rest(now);
            if !due.is_zero() && !lane.waiting.is_empty() {
                rest = Some(rest.map_or(due, |rest| rest.min(due)));
            } else if let Some(id) = lane.waiting.pop_front() {
                return Next::Walk(id);
            }
        }
        self.walking = rest.is_some();
        rest.map_or(Next::End, Next::Rest)
    }

    /// By how long a layer took.
    fn lane(&mut self, took: Duration) -> &mut Lane {
        if took <= QUICK { &mut self.quick } else { &mut self.slow }
    }
}

#[derive(Default)]
struct Known {
    usage: Option<LayerUsage>,
    /// `None`: it is due.
    rests_until: Option<Instant>,
    queued: bool,
    /// How long it took last; `None`: it was never tried.
    took: Option<Duration>,
}

impl Layers {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(images: Arc<ImageStore>) -> Self {
        Self { images, table: Mutex::default(), queued: Notify::new(), measured: Notify::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last known usage of each container's layer.
    pub async fn usage(self: &Arc<Self>, containers: &[ContainerId]) -> HashMap<ContainerId, LayerUsage> {
        if self.enqueue(containers) {
            tokio::spawn(self.clone().walk());
        }
        // What is not there in time comes with the next call.
        let _ = tokio::time::timeout(PATIENCE, self.all_tried(containers)).await;
        let table = self.table();
        let usage = |id: &ContainerId| Some((id.clone(), table.known.get(id)?.usage?));
        containers.iter().filter_map(usage).collect()
    }

    /// Puts what is due in the queue; true if somebody has to begin walking.
    fn enqueue(&self, containers: &[ContainerId]) -> bool {
        let now = Instant::now();
        let table = &mut *self.table();
        for id in containers {
            let known = table.known.entry(id.clone()).or_default();
            if known.queued || known.rests_until.is_some_and(|until| until > now) {
                continue;
            }
            known.queued = true;
            let queue = match known.took {
                Some(took) => &mut table.lane(took).waiting,
                None => &mut table.first,
            };
            queue.push_back(id.clone());
        }
        let is_due = !table.first.is_empty() || !table.quick.waiting.is_empty() || !table.slow.waiting.is_empty();
        if is_due {
            // The walker may rest for others.
            self.queued.notify_one();
        }
        let begin = is_due && !table.walking;
        table.walking |= begin;
        begin
    }

    async fn all_tried(&self, containers: &[ContainerId]) {
        loop {
            let mut measured = std::pin::pin!(self.measured.notified());
            measured.as_mut().enable();
            let missing = {
                let table = self.table();
                containers.iter().any(|id| table.known.get(id).is_some_and(|known| known.took.is_none()))
            };
            if !missing {
                return;
            }
            measured.await;
        }
    }

    /// Measures until the queues are empty.
    async fn walk(self: Arc<Self>) {
        loop {
            let next = self.table().next(Instant::now());
            match next {
                Next::Walk(id) => {
                    let (begun, images, walked) = (Instant::now(), self.images.clone(), id.clone());
                    // What is walked is walked to its end, also if the daemon ends. One that cannot be read, or is on its way out,
                    // keeps what was known of it.
                    let usage = tokio::task::spawn_blocking(move || images.snapshot_usage(walked.as_str())).await;
                    self.record(&id, begun, usage.ok().and_then(Result::ok).flatten());
                    self.measured.notify_waiters();
                }
                // Of what comes meanwhile it is told.
                Next::Rest(rest) => drop(tokio::time::timeout(rest, self.queued.notified()).await),
                Next::End => return,
            }
        }
    }

    fn record(&self, id: &ContainerId, begun: Instant, usage: Option<Usage>) {
        let now = Instant::now();
        let took = now.saturating_duration_since(begun);
        let table = &mut *self.table();
        table.lane(took).pace.add(begun, took);
        if let Some(known) = table.known.get_mut(id) {
            known.usage = usage.map(|usage| LayerUsage { at_ns: now_ns(), usage }).or(known.usage);
            known.rests_until = Some(now + AGE_MIN.max(took * REST));
            known.queued = false;
            known.took = Some(took);
        }
    }

    /// Forgets the containers that are gone.
    pub fn keep_only(&self, is_there: impl Fn(&ContainerId) -> bool) {
        self.table().known.retain(|id, _| is_there(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks of `took` each for `span`, as often as the pace lets.
    fn walked_in(span: Duration, took: Duration) -> Duration {
        let start = Instant::now();
        let (mut pace, mut now, mut walked) = (Pace::default(), start, Duration::ZERO);
        while now < start + span {
            now += pace.rest(now);
            pace.add(now, took);
            now += took;
            walked += took;
        }
        walked
    }

    #[test]
    fn walks_of_any_length_take_a_tenth_of_the_time_together() {
        let hour = Duration::from_secs(3600);
        for took in [Duration::from_millis(1), Duration::from_millis(700), Duration::from_secs(60)] {
            let walked = walked_in(hour, took);
            assert!(walked <= hour / 10 + BURST + took * 2, "{walked:?} by {took:?}");
            assert!(walked >= hour / 11, "{walked:?} by {took:?}: it is not idle either");
        }
    }

    #[test]
    fn small_layers_are_walked_in_one_go_and_long_idleness_saves_up_no_more_than_that() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for walk in 1..=29_u32 {
            pace.add(start, Duration::from_millis(10));
            assert_eq!(pace.rest(start), Duration::ZERO, "walk {walk}");
        }
        let later = start + Duration::from_secs(100_000);
        pace.add(later, BURST + Duration::from_millis(100));
        assert_eq!(pace.rest(later), Duration::from_secs(1));
    }

    #[test]
    fn what_was_never_measured_does_not_wait_for_the_rest_of_what_was() {
        let (old, new) = (ContainerId::from_random([1; 32]), ContainerId::from_random([2; 32]));
        let now = Instant::now();
        let mut table = Table::default();
        table.known.insert(old.clone(), Known::default());
        table.quick.waiting.push_back(old.clone());
        table.quick.pace.add(now, Duration::from_secs(10));
        assert!(matches!(table.next(now), Next::Rest(rest) if rest > Duration::from_secs(80)));
        table.first.push_back(new.clone());
        assert_eq!(table.next(now), Next::Walk(new));
        let rested = now + Duration::from_secs(100);
        assert_eq!((table.next(rested), table.next(rested)), (Next::Walk(old), Next::End));
    }
    #[test]
    fn layers_that_take_long_wait_for_one_another_alone() {
        let [slow, other, quick] = [1, 2, 3].map(|byte| ContainerId::from_random([byte; 32]));
        let now = Instant::now();
        let mut table = Table::default();
        for (id, took) in [(&slow, 60_000), (&other, 2_000), (&quick, 5)] {
            table.known.insert(id.clone(), Known::default());
            table.lane(Duration::from_millis(took)).waiting.push_back(id.clone());
        }
        table.lane(Duration::from_secs(60)).pace.add(now, Duration::from_secs(60));
        assert_eq!(table.next(now), Next::Walk(quick));
        assert!(matches!(table.next(now), Next::Rest(rest) if rest > Duration::from_secs(500)));
        let rested = now + Duration::from_secs(600);
        assert_eq!((table.next(rested), table.next(rested), table.next(rested)), (Next::Walk(slow), Next::Walk(other), Next::End));
    }
    #[tokio::test]
    async fn a_walker_that_rests_is_told_of_what_may_be_walked() {
        let root = tempfile::tempdir().expect("a folder");
        let layers = Layers::new(Arc::new(ImageStore::open(root.path()).expect("a store")));
        let quick = ContainerId::from_random([3; 32]);
        {
            let mut table = layers.table();
            table.walking = true;
            table.known.insert(quick.clone(), Known { took: Some(Duration::from_millis(5)), ..Known::default() });
        }
        assert!(!layers.enqueue(&[quick]), "somebody walks already");
        tokio::time::timeout(Duration::from_secs(60), layers.queued.notified()).await.expect("the walker is told");
    }
}
