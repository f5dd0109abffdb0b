//! What podbox knows of its pods: records on disk, and a snapshot of them in memory for lists and status calls.
//!
//! A record is one JSON file an object, written to a temporary name and renamed: a reader, and a daemon after a crash, sees
//! the one before or the one after. `/run` is boot-scoped, so nothing is synced to disk; a record of another boot is known by its
//! `boot_id`. A damaged record is moved to `quarantine/` and never stops the daemon.
//!
//! Only `pod` writes here. Readers take an [`Arc`] of a record and hold no lock meanwhile. Where both maps are locked, containers come first.
//! What readers see change is told to those who subscribe ([`Change`]).

mod feed;
mod file;
mod load;
mod record;

pub use feed::{Change, ChangeKind, Subscription, TooManySubscribers};
pub use file::{RecordError, read_record, write_record};
pub use load::{DamagedPod, Loaded, LoadedPod};
pub use record::{
    ContainerPhase, ContainerRecord, ExitReason, ImageIdentity, MadeContainer, PauseRecord, RECORD_VERSION, SandboxPhase, SandboxRecord,
};

use crate::chain::Chain;
use crate::plan::Layout;
use crate::request::Resources;
use feed::{Feed, changes_of_container, changes_of_sandbox};
use file::{json_bytes, make_private};
use ipnetwork::IpNetwork;
use podbox_cgroup::Made;
use podbox_plan::{ContainerId, SandboxId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// All records.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    sandboxes: RwLock<BTreeMap<SandboxId, Arc<SandboxRecord>>>,
    containers: RwLock<BTreeMap<ContainerId, Arc<ContainerRecord>>>,
    /// Cgroup directories that podbox made for a pod that is gone, and that others were using then.
    shared_cgroups: Mutex<SharedCgroups>,
    feed: Feed,
}

#[derive(Debug)]
struct SharedCgroups {
    made: Made,
    /// The file says the same.
    is_written: bool,
}

/// No object, or several, go by an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// None.
    #[error("{object} {id:?} is not there")]
    NotFound {
        /// "sandbox" or "container".
        object: &'static str,
        /// As it was asked for, shortened.
        id: String,
    },
    /// Several.
    #[error("{object} {id:?} is the beginning of more than one id")]
    Ambiguous {
        /// "sandbox" or "container".
        object: &'static str,
        /// As it was asked for, shortened.
        id: String,
    },
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// A pod's containers that callers may see.
fn of_pod(containers: &BTreeMap<ContainerId, Arc<ContainerRecord>>, id: &SandboxId) -> Vec<Arc<ContainerRecord>> {
    let in_pod = |record: &&Arc<ContainerRecord>| record.sandbox_id == *id && record.phase != ContainerPhase::Creating;
    containers.values().filter(in_pod).cloned().collect()
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// An empty store; [`Store::load`] reads what is on disk.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        let made = read_record(&layout.shared_cgroups()).unwrap_or_default();
        Self {
            layout,
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            shared_cgroups: Mutex::new(SharedCgroups { made, is_written: true }),
            feed: Feed::new(),
        }
    }

    /// Writes a sandbox's record and shows it to readers.
    ///
    /// # Errors
    /// The file cannot be written: readers still see the one before.
    pub fn save_sandbox(&self, record: &SandboxRecord) -> Result<(), RecordError> {
        write_record(&self.layout.sandbox_record(&record.id), record)?;
        self.show_sandbox(record);
        Ok(())
    }

    /// Writes a sandbox's record, which readers see when it is shown to them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_sandbox(&self, record: &SandboxRecord) -> Result<(), RecordError> {
        write_record(&self.layout.sandbox_record(&record.id), record)
    }

    /// Writes a container's record and shows it to readers.
    ///
    /// # Errors
    /// The file cannot be written: readers still see the one before.
    pub fn save_container(&self, record: &ContainerRecord) -> Result<(), RecordError> {
        write_record(&self.layout.container_record(&record.sandbox_id, &record.id), record)?;
        self.show_container(record);
        Ok(())
    }

    /// Shows a sandbox's new state to readers although it could not be written: what the kernel did is true all the same.
    pub fn show_sandbox(&self, record: &SandboxRecord) {
        // Both locks until all is told: changes come in the order in which they are shown.
        let containers = read(&self.containers);
        let mut sandboxes = write(&self.sandboxes);
        let shown = Arc::new(record.clone());
        let old = sandboxes.insert(record.id.clone(), shown.clone());
        let kinds = changes_of_sandbox(old.as_deref(), record);
        self.feed.tell(&kinds, record.id.as_str(), || json_bytes(record), || (Some(shown), of_pod(&containers, &record.id)));
    }

    /// Shows a container's new state to readers although it could not be written.
    pub fn show_container(&self, record: &ContainerRecord) {
        let mut containers = write(&self.containers);
        let old = containers.insert(record.id.clone(), Arc::new(record.clone()));
        let kinds = changes_of_container(old.as_deref(), record);
        let pod = || (read(&self.sandboxes).get(&record.sandbox_id).cloned(), of_pod(&containers, &record.sandbox_id));
        self.feed.tell(&kinds, record.id.as_str(), || json_bytes(record), pod);
    }

    /// Forgets a sandbox. Its folder is removed by whoever tears the pod down.
    pub fn forget_sandbox(&self, id: &SandboxId) {
        let containers = read(&self.containers);
        let Some(old) = write(&self.sandboxes).remove(id).filter(|old| old.phase != SandboxPhase::Creating) else { return };
        self.feed.tell(&[ChangeKind::Deleted], id.as_str(), || json_bytes(&*old), || (Some(old.clone()), of_pod(&containers, id)));
    }

    /// Forgets a container.
    pub fn forget_container(&self, id: &ContainerId) {
        let mut containers = write(&self.containers);
        let Some(old) = containers.remove(id).filter(|old| old.phase != ContainerPhase::Creating) else { return };
        let pod = || (read(&self.sandboxes).get(&old.sandbox_id).cloned(), of_pod(&containers, &old.sandbox_id));
        self.feed.tell(&[ChangeKind::Deleted], id.as_str(), || json_bytes(&*old), pod);
    }

    /// From now on every change of what readers see.
    ///
    /// # Errors
    /// Enough callers are told already.
    pub fn subscribe(&self) -> Result<Subscription, TooManySubscribers> {
        self.feed.subscribe()
    }

    /// Ends all subscriptions: the daemon is about to end.
    pub fn end_subscriptions(&self) {
        self.feed.close();
    }

    /// All sandboxes that callers may see: not those whose making has not ended.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<Arc<SandboxRecord>> {
        read(&self.sandboxes).values().filter(|record| record.phase != SandboxPhase::Creating).cloned().collect()
    }

    /// All containers that callers may see.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<ContainerRecord>> {
        read(&self.containers).values().filter(|record| record.phase != ContainerPhase::Creating).cloned().collect()
    }

    /// The sandbox with this id or unique beginning of one.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn sandbox(&self, id: &str) -> Result<Arc<SandboxRecord>, LookupError> {
        let visible = |record: &Arc<SandboxRecord>| record.phase != SandboxPhase::Creating;
        lookup(&read(&self.sandboxes), "sandbox", id, SandboxId::as_str, visible)
    }

    /// The container with this id or unique beginning of one.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn container(&self, id: &str) -> Result<Arc<ContainerRecord>, LookupError> {
        let visible = |record: &Arc<ContainerRecord>| record.phase != ContainerPhase::Creating;
        lookup(&read(&self.containers), "container", id, ContainerId::as_str, visible)
    }

    /// Removes a sandbox's folder with all its records, as one step: a crash leaves all of it or nothing that counts.
    ///
    /// # Errors
    /// The folder cannot be moved away; it stands as it stood.
    pub fn remove_sandbox_folder(&self, id: &SandboxId) -> Result<(), RecordError> {
        self.remove_folder(&self.layout.pod(id))
    }

    /// Removes a container's folder, as one step.
    ///
    /// # Errors
    /// The folder cannot be moved away; it stands as it stood.
    pub fn remove_container_folder(&self, sandbox: &SandboxId, id: &ContainerId) -> Result<(), RecordError> {
        self.remove_folder(&self.layout.container(sandbox, id))
    }

    /// Writes down the subnets that the kubelet set.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_subnets(&self, subnets: &[IpNetwork]) -> Result<(), RecordError> {
        write_record(&self.layout.network(), &subnets)
    }

    /// Writes down the limits that a container is about to get.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin_update(&self, record: &ContainerRecord, asked: &Resources) -> Result<(), RecordError> {
        write_record(&self.layout.container_update(&record.sandbox_id, &record.id), asked)
    }

    /// The limits that a container was about to get when the daemon died.
    #[must_use]
    pub fn begun_update(&self, record: &ContainerRecord) -> Option<Resources> {
        read_record(&self.layout.container_update(&record.sandbox_id, &record.id)).ok()
    }

    /// What was begun is in the record, or taken back.
    pub fn end_update(&self, record: &ContainerRecord) {
        let path = self.layout.container_update(&record.sandbox_id, &record.id);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(path = %path.display(), %error, "an update that is over stays written down");
        }
    }

    /// Makes a pod's cgroups while none are removed. Of what is absent the record has noted a part, `noted`; the rest was another pod's, which
    /// ended since: whatever the pod makes anew of that is put on the list of what pods share, before it is made.
    ///
    /// # Errors
    /// As `absent` and `make`, or the list cannot be written.
    pub fn make_cgroups<T, E: From<RecordError>>(
        &self,
        noted: &Made,
        absent: impl FnOnce() -> Result<Made, E>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut shared = self.shared_cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        let unnoted = absent()?.without(noted);
        if !unnoted.directories().is_empty() {
            let mut made = shared.made.clone();
            made.merge(unnoted);
            self.write_shared_cgroups(&made)?;
            *shared = SharedCgroups { made, is_written: true };
        }
        make()
    }

    /// Removes cgroup directories that a pod made, and those that pods before it could not remove since others were using them; what is
    /// still used is kept for the next. One at a time: of pods that end at once, the last one finds nobody in what they shared.
    ///
    /// # Errors
    /// As `remove`. That the list cannot be written is logged: a daemon after this one would not know of what is in it, and the stop of
    /// a pod makes room, or may be all that does.
    pub fn remove_cgroups<E>(&self, made: Made, remove: impl FnOnce(&Made) -> Result<(), E>) -> Result<(), E> {
        let mut shared = self.shared_cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = shared.made.clone();
        all.merge(made);
        let removed = remove(&all);
        let remaining = all.remaining();
        if remaining != shared.made || !shared.is_written {
            let written = self.write_shared_cgroups(&remaining);
            if let Err(error) = &written {
                tracing::error!(error = %Chain(error), "the list of cgroups that others use yet is behind");
            }
            *shared = SharedCgroups { made: remaining, is_written: written.is_ok() };
        }
        removed
    }

    fn write_shared_cgroups(&self, remaining: &Made) -> Result<(), RecordError> {
        let path = self.layout.shared_cgroups();
        if !remaining.directories().is_empty() {
            return write_record(&path, remaining);
        }
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(RecordError::Write { path, source }),
            _ => Ok(()),
        }
    }

    fn remove_folder(&self, folder: &Path) -> Result<(), RecordError> {
        let trash = self.layout.trash();
        let failed = |source| RecordError::Write { path: folder.to_owned(), source };
        make_private(&trash).map_err(failed)?;
        let aside = trash.join(folder.file_name().unwrap_or_default());
        match std::fs::rename(folder, &aside) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        }
        std::fs::remove_dir_all(&aside).map_err(failed)
    }
}

fn lookup<I: Ord + Clone, R>(
    map: &BTreeMap<I, Arc<R>>,
    object: &'static str,
    id: &str,
    text: impl Fn(&I) -> &str,
    visible: impl Fn(&Arc<R>) -> bool,
) -> Result<Arc<R>, LookupError> {
    let shown = || id.chars().take(64).collect();
    if id.is_empty() {
        return Err(LookupError::NotFound { object, id: shown() });
    }
    let mut found = map.iter().filter(|(key, record)| text(key).starts_with(id) && visible(record)).map(|(_, record)| record);
    match (found.next(), found.next()) {
        (None, _) => Err(LookupError::NotFound { object, id: shown() }),
        (Some(record), None) => Ok(record.clone()),
        (Some(_), Some(_)) => Err(LookupError::Ambiguous { object, id: shown() }),
    }
}
