//! Changing the limits of what is there already.
//!
//! What is asked for is written down, then the cgroup is changed, then the record: what a daemon that dies in between has begun the
//! next one carries out. What cannot be written down is taken back.

use super::PodError;
use super::teardown::blocking;
use crate::chain::Chain;
use crate::effects::{Node, check_limits, undo_container_update, update_container_cgroup};
use crate::plan::{PlanError, set_spec_resources};
use crate::request::Resources;
use crate::store::ContainerRecord;
use podbox_cgroup::Changes;
use std::sync::Arc;

/// An update that the kernel took.
#[derive(Debug)]
pub(super) struct Updated {
    /// What the container has now.
    pub resources: Resources,
    /// The way back.
    pub changes: Changes,
}

/// Changes a container's cgroup; after a failure it is as it was.
pub(super) async fn update_container(node: Arc<Node>, record: ContainerRecord, asked: Resources) -> Result<Updated, PodError> {
    blocking(move || {
        let resources = record.config.resources.merged_with(&asked);
        check_limits(&asked, &resources)?;
        let changes = update_container_cgroup(&node.hierarchies, &record.cgroup, &asked, &resources)?;
        Ok(Updated { resources, changes })
    })
    .await
}

/// Takes an update back that could not be written down.
pub(super) async fn undo_update(record: ContainerRecord, changes: Changes) {
    let id = record.id.clone();
    let undone = blocking(move || Ok(undo_container_update(&record.cgroup, changes)?)).await;
    if let Err(error) = undone {
        tracing::error!(container = %id, error = %Chain(&error), "limits that are not on record stay");
    }
}

/// The record of a container with other limits.
pub(super) fn with_resources(record: &ContainerRecord, resources: Resources) -> Result<ContainerRecord, PlanError> {
    let mut record = record.clone();
    if let Some(made) = &mut record.made {
        set_spec_resources(&mut made.plan.spec, &resources)?;
    }
    record.config.resources = resources;
    Ok(record)
}
