//! Why an image could not be pulled.

use std::sync::Arc;

use crate::Error;
use crate::reference::ReferenceError;
use crate::registry::RegistryError;

/// A pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name is malformed.
    #[error("parse an image name")]
    Reference(#[source] ReferenceError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What came cannot be used, or the store failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// A layer that this image shares, maybe with one that is pulled at the same time.
    #[error(transparent)]
    Layer(Arc<PullError>),
    /// The node has no thread to unpack a layer with.
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
    /// The process ends.
    #[error("the pull was cut off")]
    CutOff,
}

impl PullError {
    /// The error itself, of whichever layer.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Layer(error) => error.cause(),
            error => error,
        }
    }
}
