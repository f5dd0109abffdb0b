//! GetContainerEvents: what happens to containers and sandboxes, as it happens.
//!
//! A sandbox's events carry its own id as the container's, which is how the kubelet's event-driven relist knows other runtimes' too.

use super::stream::Pieces;
use super::{Cri, containers, sandboxes};
use crate::store::{Change, ChangeKind};
use futures_util::stream;
use podbox_proto::v1;
use tokio::sync::broadcast::error::RecvError;
use tonic::Status;

/// Events from now on. A caller that does not keep up gets an error and the end of the stream: it has to list anew.
pub(super) fn subscribe(cri: &Cri) -> Result<Pieces<v1::ContainerEventResponse>, Status> {
    let changes = cri.store.subscribe().map_err(|full| Status::resource_exhausted(full.to_string()))?;
    // Counted for as long as the stream is held.
    let counted = cri.node.metrics.event_subscribers.enter();
    Ok(Box::pin(stream::unfold(Some((changes, counted)), async |subscription| {
        let (mut changes, counted) = subscription?;
        match changes.recv().await {
            Ok(change) => Some((Ok(message(&change)), Some((changes, counted)))),
            Err(RecvError::Lagged(missed)) => {
                Some((Err(Status::data_loss(format!("{missed} events came faster than they were read: list anew"))), None))
            }
            Err(RecvError::Closed) => None,
        }
    })))
}

fn message(change: &Change) -> v1::ContainerEventResponse {
    let kind = match change.kind {
        ChangeKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        ChangeKind::Started => v1::ContainerEventType::ContainerStartedEvent,
        ChangeKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        ChangeKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    v1::ContainerEventResponse {
        container_id: change.id.clone(),
        container_event_type: kind.into(),
        created_at: change.at_ns,
        pod_sandbox_status: change.sandbox.as_deref().map(sandboxes::status_of),
        containers_statuses: change.containers.iter().map(|record| containers::status_of(record)).collect(),
    }
}
