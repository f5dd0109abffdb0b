//! What the end-to-end tests, the demo and the benchmarks stand on: a daemon of one's own, images made by hand, requests with sane
//! defaults, and a census that proves that nothing is left.
//!
//! Everything runs the real binary on the real kernel. Each [`Daemon`] has a directory, a network namespace and a cgroup of its own,
//! so that any number of them run side by side, and takes everything with it when it is dropped, after a failure too.
//!
//! Does not know: what podbox promises. That stands in `tests/tests`, a file a theme, and in the commands of xtask.

// A tonic::Status is what the caller sees of the daemon; a box around it would be in every test's way.
#![allow(clippy::result_large_err)]

pub mod apparmor;
pub mod binary;
pub mod census;
pub mod client;
pub mod crictl;
pub mod daemon;
pub mod executions;
pub mod expect;
pub mod flag;
mod footprint;
pub mod fuse;
pub mod host;
pub mod image;
mod intruder;
pub mod limits;
pub mod network;
pub mod older_monitor;
pub mod pod;
pub mod probe;
pub mod programs;
pub mod pulls;
pub mod registry;
pub mod spec;
pub mod streams;
pub mod wait;

pub use census::Census;
pub use client::Client;
pub use crictl::Crictl;
pub use daemon::{Daemon, DaemonOptions};
pub use expect::assert_refused;
pub use image::TestImage;
pub use intruder::Intruder;
pub use pod::{Container, ContainerSpec, Pod, PodSpec};
pub use registry::{Content, HostileRegistry, Registry, RegistryOptions};
