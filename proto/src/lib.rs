//! The Kubernetes Container Runtime Interface, v1, as of cri-api 0.37.2: messages, server traits and clients for all
//! 43 calls, and the descriptor set for gRPC reflection.
//!
//! Everything in [`v1`] is generated from `runtime/v1/api.proto` and committed, so that a build needs no generator:
//! change the `.proto`, then run `cargo xtask codegen`. The one thing written by hand is the `Debug` of credentials.
//!
//! Invariants: names, numbers, types and flags equal upstream's (`tests/upstream.rs`); maps are ordered, so equal
//! messages encode to equal bytes; the `Debug` of a message never shows a credential (`tests/wire.rs`).
//!
//! Does not know: any meaning of a message. Validation, defaults and errors belong to the daemon.

mod redact;

/// Package `runtime.v1`: the messages, [`runtime_service_server`](v1::runtime_service_server),
/// [`image_service_server`](v1::image_service_server), and a client module for each.
///
/// Enum fields are `i32`, read with the getter of the same name (an unknown number reads as the default) or, to refuse
/// unknown numbers, with the enum's `TryFrom<i32>`.
#[allow(clippy::all, missing_docs, rustdoc::all, unused_qualifications)]
#[rustfmt::skip]
pub mod v1 {
    include!("runtime.v1.rs");
}

/// Encoded `google.protobuf.FileDescriptorSet` of package `runtime.v1`, without comments and positions.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("descriptor.bin");
