//! GetContainerEvents: what happens to containers and sandboxes, as it happens.
//!
//! A sandbox's events carry its own id as the container's, which is how the kubelet's event-driven relist knows other runtimes' too.

use super::stream::Pieces;
use super::{Cri, containers, sandboxes};
use crate::store::{Change, ChangeKind};
use futures_util::stream;
use podbox_proto::v1;
use tonic::Status;

/// Events from now on. A caller that does not keep up gets an error and the end of the stream: it has to list anew.
///
/// Its stream and its connection are its own to close: nothing is kept for it any more, and its place is another's.
pub(super) fn subscribe(cri: &Cri) -> Result<Pieces<v1::ContainerEventResponse>, Status> {
    let subscription = cri.store.subscribe().map_err(|full| Status::resource_exhausted(full.to_string()))?;
    // Counted for as long as the stream is held.
    let counted = cri.node.metrics.event_subscribers.enter();
    Ok(Box::pin(stream::unfold(Some((subscription, counted)), async |subscribed| {
        let (mut subscription, counted) = subscribed?;
        match subscription.next().await? {
            Ok(change) => Some((Ok(message(&change)), Some((subscription, counted)))),
            Err(behind) => Some((Err(Status::data_loss(format!("{behind}: list anew"))), None)),
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
