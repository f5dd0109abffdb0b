//! What a daemon finds on disk when it starts.

use super::file::{make_private, read_versioned};
use super::{ContainerRecord, RecordError, SandboxRecord, Store};
use crate::plan::MONITOR_SOCKET;
use podbox_cgroup::CgroupPath;
use podbox_plan::{ContainerId, SandboxId};
use serde::de::IgnoredAny;
use std::path::{Path, PathBuf};

/// One pod as it stands on disk.
#[derive(Debug)]
pub struct LoadedPod {
    /// Its sandbox.
    pub sandbox: SandboxRecord,
    /// Its containers.
    pub containers: Vec<ContainerRecord>,
}

/// A pod whose record is of no use.
#[derive(Debug)]
pub struct DamagedPod {
    /// Its id, by its folder's name.
    pub id: SandboxId,
    /// Where its folder is now.
    pub folder: PathBuf,
}

/// What stands on disk.
#[derive(Debug)]
pub struct Loaded {
    /// Pods.
    pub pods: Vec<LoadedPod>,
    /// What is left of others.
    pub damaged: Vec<DamagedPod>,
}

impl Store {
    /// Empties the trash: what a crash kept from being removed there.
    pub fn empty_trash(&self) {
        if let Err(error) = std::fs::remove_dir_all(self.layout.trash())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the trash cannot be emptied");
        }
    }

    /// Reads every pod's records from disk; damaged ones are quarantined. Nothing is shown to readers yet.
    ///
    /// # Errors
    /// The folder of pods cannot be read, or another version of podbox wrote there.
    pub fn load(&self) -> Result<Loaded, RecordError> {
        self.check_versions()?;
        let mut loaded = Loaded { pods: Vec::new(), damaged: Vec::new() };
        for (folder, id) in folders(&self.layout.pods())? {
            let Ok(id) = SandboxId::try_from(id) else {
                self.quarantine(&folder, "its name is no sandbox id");
                continue;
            };
            let reason = match read_versioned::<SandboxRecord>(&self.layout.sandbox_record(&id)) {
                // Its making was cut off before anything was done, or else somebody took the record away.
                Err(error) if error.is_absent() && !folder.join(MONITOR_SOCKET).exists() => {
                    self.discard(&folder);
                    continue;
                }
                Err(error @ RecordError::OtherVersion { .. }) => return Err(error),
                Ok(sandbox) if sandbox.id == id && is_pods_cgroup(&sandbox.cgroup) => match self.load_containers(&sandbox) {
                    Ok(containers) => {
                        loaded.pods.push(LoadedPod { sandbox, containers });
                        continue;
                    }
                    Err(error @ RecordError::OtherVersion { .. }) => return Err(error),
                    Err(error) => error.to_string(),
                },
                Ok(_) => "the record is another sandbox's, or its cgroup is none".to_owned(),
                Err(error) => error.to_string(),
            };
            if let Some(folder) = self.quarantine(&folder, &reason) {
                loaded.damaged.push(DamagedPod { id, folder });
            }
        }
        Ok(loaded)
    }

    /// Before anything is moved: what is set aside is ended by the start that does it, or by none.
    fn check_versions(&self) -> Result<(), RecordError> {
        for (_, id) in folders(&self.layout.pods())? {
            let Ok(id) = SandboxId::try_from(id) else { continue };
            let containers = folders(&self.layout.containers(&id))?.into_iter().filter_map(|(_, id)| ContainerId::try_from(id).ok());
            let records = containers.map(|container| self.layout.container_record(&id, &container));
            for record in records.chain([self.layout.sandbox_record(&id)]) {
                if let Err(error @ RecordError::OtherVersion { .. }) = read_versioned::<IgnoredAny>(&record) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn load_containers(&self, sandbox: &SandboxRecord) -> Result<Vec<ContainerRecord>, RecordError> {
        let mut containers = Vec::new();
        for (folder, id) in folders(&self.layout.containers(&sandbox.id))? {
            let record = ContainerId::try_from(id)
                .ok()
                .map(|id| read_versioned::<ContainerRecord>(&self.layout.container_record(&sandbox.id, &id)).map(|record| (id, record)));
            match record {
                Some(Err(error @ RecordError::OtherVersion { .. })) => return Err(error),
                Some(Ok((id, record))) if record.id == id && record.sandbox_id == sandbox.id && is_below(&record, sandbox) => {
                    containers.push(record);
                }
                Some(Err(error)) if error.is_absent() => self.discard(&folder),
                Some(Ok(_)) => drop(self.quarantine(&folder, "the record is another container's, or its cgroup is not its pod's")),
                Some(Err(error)) => drop(self.quarantine(&folder, &error.to_string())),
                None => drop(self.quarantine(&folder, "its name is no container id")),
            }
        }
        Ok(containers)
    }

    /// A folder without a record: its making was cut off before anything was done.
    fn discard(&self, folder: &Path) {
        if let Err(error) = self.remove_folder(folder) {
            tracing::error!(folder = %folder.display(), %error, "an empty folder cannot be removed");
        }
    }

    /// Moves what cannot be understood out of the way, whole, for people to look at; tells where it is now.
    fn quarantine(&self, folder: &Path, reason: &str) -> Option<PathBuf> {
        let aside = self.layout.quarantine();
        let name = folder.file_name().unwrap_or_default();
        let moved = make_private(&aside).and_then(|()| {
            let target = aside.join(name);
            if target.exists() {
                std::fs::remove_dir_all(&target)?;
            }
            std::fs::rename(folder, &target).map(|()| target)
        });
        match moved {
            Ok(target) => {
                tracing::error!(folder = %folder.display(), reason, "a damaged record was quarantined");
                Some(target)
            }
            Err(error) => {
                tracing::error!(folder = %folder.display(), reason, %error, "a damaged record cannot be moved away");
                None
            }
        }
    }
}

/// The folders in a folder; none if it is not there.
fn folders(path: &Path) -> Result<Vec<(PathBuf, String)>, RecordError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(RecordError::Read { path: path.to_owned(), source }),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| RecordError::Read { path: path.to_owned(), source })?;
        folders.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
    }
    Ok(folders)
}

/// What is killed and removed by a record must be a pod's.
fn is_pods_cgroup(path: &str) -> bool {
    path != "/" && CgroupPath::new(path).is_ok()
}

fn is_below(record: &ContainerRecord, sandbox: &SandboxRecord) -> bool {
    record.cgroup == format!("{}/{}", sandbox.cgroup, record.id)
}
