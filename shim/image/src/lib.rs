//! Images: references, import of archives, pulls from registries, verified layers unpacked once, snapshots for containers, removal.
//!
//! Everything below one root directory belongs to an [`ImageStore`]. An image is its configuration (whose SHA-256 is the
//! image ID) and the layers the configuration lists; a layer is unpacked once, into an overlayfs lower directory named
//! by its diff ID, and shared by every image and container that uses it.
//!
//! What holds throughout:
//!
//! - Nothing from an image is trusted before its digest matched, and nothing is visible to others before that.
//! - Names inside an image are resolved by the kernel below a directory descriptor, never by joining path strings.
//! - Whatever an image says, memory is bounded: documents, headers, lists and file reads all have limits ([`Limits`]).
//! - Everything here blocks, pulls aside; callers with an async runtime use a thread meant for that.
//!
//! This crate knows neither the CRI nor the daemon: it mounts nothing and starts nothing.

mod archive;
mod bounded;
mod decompress;
pub mod digest;
mod document;
mod error;
mod excerpt;
mod import;
mod pull;
pub mod reference;
pub mod registry;
mod rootfs;
mod store;
mod tarstream;
pub mod tree;
mod unpack;
pub mod user;

pub use digest::Digest;
pub use document::ImageConfig;
pub use error::Error;
pub use import::Progress;
pub use pull::{Observer, PullError, PullOptions, PullProgress, Puller};
pub use reference::{Reference, ReferenceError};
pub use registry::{AuthFile, Credentials, Patience, RegistryError};
pub use rootfs::{RootFs, RootFsError};
pub use store::record::ImageRecord;
pub use store::snapshot::{Snapshot, TakenSnapshot};
pub use store::{DEFAULT_REGISTRY, ImageStore, StoreOptions};
pub use tarstream::TarError;
pub use tree::Usage;
pub use unpack::{Limits, UnpackError};
