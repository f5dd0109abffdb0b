//! What changes, told to those who subscribe: a container, or a sandbox, was created, started, stopped or deleted.
//!
//! A change is what readers of the store see happen: it is told once it is shown, in the order in which it is shown. Without a
//! subscriber it costs nothing. Nobody is ever waited for: a subscriber that falls behind by more than [`BEHIND_MAX`] changes, or
//! [`BEHIND_BYTES_MAX`] of records, is let go at that moment, with everything that was kept for it. It hears of that when it reads again.

mod subscription;

pub use subscription::Subscription;

use super::{ContainerPhase, ContainerRecord, SandboxPhase, SandboxRecord};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use subscription::Subscriber;

/// Changes that are kept for a subscriber that does not read.
const BEHIND_MAX: usize = 1024;
/// Likewise, what the records that changed take as JSON, as a measure of what they take in memory. What changes without an event, as
/// limits do, is kept with the change that comes next, uncounted. One change is kept however large it is.
const BEHIND_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Subscribers at a time: each is an open connection of root's, and wants a message made for each change.
const SUBSCRIBERS_MAX: usize = 64;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is there.
    Created,
    /// Its process runs.
    Started,
    /// Its process has ended; of a sandbox: it is not ready any more.
    Stopped,
    /// It is gone.
    Deleted,
}

/// One change, with the pod as it was right after.
#[derive(Debug, Clone)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The container, or the sandbox, that it happened to.
    pub id: String,
    /// When, in nanoseconds since the epoch.
    pub at_ns: i64,
    /// The pod.
    pub sandbox: Option<Arc<SandboxRecord>>,
    /// The pod's containers.
    pub containers: Vec<Arc<ContainerRecord>>,
    /// What the record of that object takes as JSON.
    bytes: usize,
}

/// Nobody more can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{SUBSCRIBERS_MAX} callers are told of events already")]
pub struct TooManySubscribers;

/// Whom to tell; `None` once the daemon is about to end.
#[derive(Debug)]
pub(super) struct Feed(Mutex<Option<Vec<Subscriber>>>);

impl Feed {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    pub(super) fn subscribe(&self) -> Result<Subscription, TooManySubscribers> {
        let (subscriber, subscription) = subscription::pair();
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(subscribers) => {
                subscribers.retain(Subscriber::is_there);
                if subscribers.len() >= SUBSCRIBERS_MAX {
                    return Err(TooManySubscribers);
                }
                subscribers.push(subscriber);
            }
            // One that hears that there is nothing more to come.
            None => drop(subscriber),
        }
        Ok(subscription)
    }

    /// Tells everybody that there is nothing more to come.
    pub(super) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Tells `kinds` of what `id` names; its size in bytes and its pod are asked for only if somebody listens.
    pub(super) fn tell(
        &self,
        kinds: &[ChangeKind],
        id: &str,
        bytes: impl FnOnce() -> usize,
        pod: impl FnOnce() -> (Option<Arc<SandboxRecord>>, Vec<Arc<ContainerRecord>>),
    ) {
        let mut subscribers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(subscribers) = subscribers.as_mut().filter(|subscribers| !subscribers.is_empty() && !kinds.is_empty()) else { return };
        subscribers.retain(Subscriber::is_there);
        let (bytes, (sandbox, containers)) = (bytes(), pod());
        for kind in kinds {
            let change = Arc::new(Change {
                kind: *kind,
                id: id.to_owned(),
                at_ns: now_ns(),
                sandbox: sandbox.clone(),
                containers: containers.clone(),
                // The others of its pod are kept for the changes that made them what they are.
                bytes,
            });
            subscribers.retain(|subscriber| subscriber.tell(&change));
        }
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// How far an object's life has come; a later stage has been through those before, or has left them out.
fn container_stage(record: Option<&ContainerRecord>) -> usize {
    match record.map(|record| &record.phase) {
        None | Some(ContainerPhase::Creating) => 0,
        // Until its program runs it is no more than created.
        Some(ContainerPhase::Created | ContainerPhase::Starting) => 1,
        Some(ContainerPhase::Running { .. }) => 2,
        Some(ContainerPhase::Exited { .. }) => 3,
    }
}

/// What a container's new record says that its old one did not. One that could not be started goes from created to stopped.
pub(super) fn changes_of_container(old: Option<&ContainerRecord>, new: &ContainerRecord) -> Vec<ChangeKind> {
    match (container_stage(old), container_stage(Some(new))) {
        (0, 1) => vec![ChangeKind::Created],
        (0 | 1, 2) => vec![ChangeKind::Started],
        (0..=2, 3) => vec![ChangeKind::Stopped],
        _ => Vec::new(),
    }
}

/// What a sandbox's new record says that its old one did not. It is started by being made.
pub(super) fn changes_of_sandbox(old: Option<&SandboxRecord>, new: &SandboxRecord) -> Vec<ChangeKind> {
    match (old.map(|record| record.phase), new.phase) {
        (None | Some(SandboxPhase::Creating), SandboxPhase::Ready) => vec![ChangeKind::Created, ChangeKind::Started],
        (Some(SandboxPhase::Ready), SandboxPhase::NotReady) => vec![ChangeKind::Stopped],
        _ => Vec::new(),
    }
}
