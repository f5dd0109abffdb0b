//! The CRI's two services, as tonic serves them.
//!
//! A call is checked by `request`, done by `pod`, answered from `store`. Lists and status calls make no system call; stats do. Here alone
//! are gRPC's codes ([`status`]), and here alone do records become messages again.

mod containers;
mod events;
mod image_service;
mod images;
mod info;
mod log;
mod node;
mod runtime_service;
mod sandboxes;
mod stats;
mod status;
mod stream;
mod streaming;

pub use log::LogCalls;
pub use streaming::PodStreams;

use crate::effects::Node;
use crate::pod::Pods;
use crate::store::Store;
use podbox_stream::Tickets;
use std::sync::Arc;

/// What answering needs. Both services are made of it.
#[derive(Clone)]
pub struct Cri {
    node: Arc<Node>,
    store: Arc<Store>,
    pods: Arc<Pods>,
    tickets: Tickets,
}

impl Cri {
    /// The services of a node; `tickets` are of the server that streaming clients are sent to.
    #[must_use]
    pub fn new(node: Arc<Node>, store: Arc<Store>, pods: Arc<Pods>, tickets: Tickets) -> Self {
        Self { node, store, pods, tickets }
    }
}
