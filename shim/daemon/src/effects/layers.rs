//! What containers have written to their own layers.
//!
//! Measuring one means walking it, which may take long: so what was measured is remembered, and measured again in the background only
//! when somebody asks and it is old. One walk runs at a time, and a tree that takes long is walked the more rarely. Whoever asks for
//! one that was never measured waits for that, but not long.

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
    measured: Notify,
}

#[derive(Default)]
struct Table {
    known: HashMap<ContainerId, Known>,
    queue: VecDeque<ContainerId>,
    walking: bool,
}

#[derive(Default)]
struct Known {
    usage: Option<LayerUsage>,
    /// `None`: it is due.
    rests_until: Option<Instant>,
    queued: bool,
    tried: bool,
}

impl Layers {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(images: Arc<ImageStore>) -> Self {
        Self { images, table: Mutex::default(), measured: Notify::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last known usage of each container's layer.
    pub async fn usage(self: &Arc<Self>, containers: &[ContainerId]) -> HashMap<ContainerId, LayerUsage> {
        if self.enqueue(containers) {
            let layers = self.clone();
            tokio::task::spawn_blocking(move || layers.walk());
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
            if !known.queued && known.rests_until.is_none_or(|until| until <= now) {
                known.queued = true;
                table.queue.push_back(id.clone());
            }
        }
        let begin = !table.walking && !table.queue.is_empty();
        table.walking |= begin;
        begin
    }

    async fn all_tried(&self, containers: &[ContainerId]) {
        loop {
            let mut measured = std::pin::pin!(self.measured.notified());
            measured.as_mut().enable();
            let missing = {
                let table = self.table();
                containers.iter().any(|id| table.known.get(id).is_some_and(|known| !known.tried))
            };
            if !missing {
                return;
            }
            measured.await;
        }
    }

    /// Measures until the queue is empty.
    fn walk(&self) {
        loop {
            let id = {
                let table = &mut *self.table();
                let Some(id) = table.queue.pop_front() else {
                    table.walking = false;
                    return;
                };
                id
            };
            let begun = Instant::now();
            let usage = self.images.snapshot_usage(id.as_str());
            let took = begun.elapsed();
            {
                let mut table = self.table();
                if let Some(known) = table.known.get_mut(&id) {
                    // One that cannot be read, or is on its way out, keeps what was known of it.
                    if let Ok(Some(usage)) = usage {
                        known.usage = Some(LayerUsage { at_ns: now_ns(), usage });
                    }
                    known.rests_until = Some(Instant::now() + AGE_MIN.max(took * REST));
                    known.queued = false;
                    known.tried = true;
                }
            }
            self.measured.notify_waiters();
        }
    }

    /// Forgets the containers that are gone.
    pub fn keep_only(&self, is_there: impl Fn(&ContainerId) -> bool) {
        self.table().known.retain(|id, _| is_there(id));
    }
}
