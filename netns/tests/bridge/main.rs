//! The built-in bridge on the real kernel. Needs root.
//!
//! Every test has a node of its own: a network namespace made for it, on a thread of its own. Pods, and what lies outside
//! the node, are namespaces held by nothing but a file descriptor. All of it is gone when the test ends, however it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod host_ports;
mod lifecycle;
mod node;
mod ports;
mod rules;
mod traffic;
