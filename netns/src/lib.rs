//! Pod networks, made with netlink and a few sysctls alone: no program is executed and no plugin is called.
//!
//! - [`AddressPool`] decides which pod has which addresses. It is plain memory; whoever keeps the records restores it.
//! - [`Bridge`] is the built-in backend: one Linux bridge, a veth pair per pod, masquerade for what leaves the node.
//! - [`HostPorts`] decides which pod has which ports of the node; the bridge forwards them.
//! - [`BridgeClaim`] keeps a second daemon from a bridge that one serves already.
//! - [`PodLinks`] counts what went through a pod's links.
//! - [`dial_loopback`] connects to what listens in a namespace.
//! - [`loopback_up`] brings up `lo` in a namespace, whatever the backend.
//!
//! A backend that calls CNI plugins would stand beside `bridge` as `cni`; both speak in [`PodAddresses`], pod ids and
//! namespace file descriptors, and neither knows what a PodSandbox is, where records are kept, or who asks.
//!
//! Invariants:
//! - Everything acts in the network namespace of the thread that opened the [`Bridge`]; all threads of the caller's
//!   runtime must share that namespace. Pod namespaces are entered by short-lived threads of our own only.
//! - The kernel is the record of what exists. A link carries its pod's id as its alias, so a restarted daemon needs no
//!   state of ours to find, replace or remove it, and a link that is not known to be ours is never deleted.

mod address;
mod bridge;
mod claim;
mod counters;
mod dial;
mod error;
mod host_port;
mod mac;
mod owner;
mod pod;
mod rtnl;
mod sysctl;

pub use address::{AddressPool, PODS_MAX, PodAddresses};
pub use bridge::{Attachment, Bridge, BridgeConfig, ForwardDrop, RulesLost, delete_port, pods_elsewhere, withdraw_host_ports};
pub use claim::BridgeClaim;
pub use counters::{CountersError, LinkCounters, PodLinks, Traffic};
pub use dial::dial_loopback;
pub use error::{BridgeError, ClaimError, ConfigError, DialError, FirewallError, PodNetnsError, PoolError, SysctlError};
pub use host_port::{HostPort, HostPortError, HostPorts, PortProtocol};
pub use ipnetwork::IpNetwork;
pub use mac::{MacAddress, ParseMacError};
pub use owner::Owner;
pub use pod::loopback_up;
