//! Ports of the node that lead into pods, and which pod has which.
//!
//! ```text
//! HostPort ──[the pod's addresses]──► one Forward a family ──► elements of the bridge's maps
//! ```
//!
//! Invariants of [`HostPorts`]:
//! - a port of an address belongs to at most one pod, and so does a port of all addresses: it and the same port of any one address of that
//!   family exclude each other, as they would for two sockets (`bind(2)`);
//! - what a pod holds is held whole or not at all, until it is released;
//! - what is [kept](HostPorts::keep) for the node belongs to no pod.
//!
//! Other sockets of the node are not looked at: whoever listens on a port that a pod is given hears nothing more from outside, as with every
//! implementation of host ports since they stopped to hold sockets of their own.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::address::PodAddresses;
use crate::owner::Owner;

/// What ports are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl PortProtocol {
    /// `IPPROTO_*`
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A port of the node that is to lead to a port of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// Of both ports.
    pub protocol: PortProtocol,
    /// The node's address; an unspecified one stands for all of its family, `None` for all of the families that the pod has.
    pub address: Option<IpAddr>,
    /// The node's port, not 0.
    pub port: u16,
    /// The pod's port, not 0.
    pub pod_port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{} port {} of {address}", self.protocol, self.port),
            None => write!(f, "{} port {}", self.protocol, self.port),
        }
    }
}

/// A pod cannot have a host port.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostPortError {
    /// Another pod has it, or one that stands for it.
    #[error("{port} belongs to pod {owner} already")]
    Taken {
        /// As it was asked for.
        port: HostPort,
        /// Whose it is.
        owner: Owner,
    },
    /// The pod asks for it, or for one that stands for it, more than once.
    #[error("{port} is asked for twice")]
    Twice {
        /// As it was asked for the second time.
        port: HostPort,
    },
    /// It is kept for the node.
    #[error("{port} is the node's: podbox itself listens there")]
    Kept {
        /// As it was asked for.
        port: HostPort,
    },
    /// An address leads to addresses of its family alone.
    #[error("{port} cannot lead to a pod that has no {} address", if .port.address.is_some_and(|address| address.is_ipv6()) { "IPv6" } else { "IPv4" })]
    OtherFamily {
        /// As it was asked for.
        port: HostPort,
    },
}

/// A host port for one family: what is sent there goes to one port of one address of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Forward {
    pub(crate) protocol: PortProtocol,
    /// `None`: every address of the node that is of the family of `to`.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) to: SocketAddr,
}

/// Protocol, port, and whether it is IPv6's.
type Key = (PortProtocol, u16, bool);

impl Forward {
    fn key(&self) -> Key {
        (self.protocol, self.port, self.to.is_ipv6())
    }
}

/// Whose a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder<'a> {
    Pod(&'a Owner),
    Node,
}

/// Who has which ports, for a look at many of them. An address that is `None` stands for all.
#[derive(Default)]
struct Holders<'a>(HashMap<Key, Vec<(Option<IpAddr>, Holder<'a>)>>);

impl<'a> Holders<'a> {
    fn insert(&mut self, key: Key, address: Option<IpAddr>, holder: Holder<'a>) {
        self.0.entry(key).or_default().push((address, holder));
    }

    /// Whose port excludes this one.
    fn of(&self, forward: &Forward) -> Option<Holder<'a>> {
        let holders = self.0.get(&forward.key())?;
        let excludes = |address: &Option<IpAddr>| address.is_none() || forward.address.is_none() || *address == forward.address;
        holders.iter().find(|(address, _)| excludes(address)).map(|(_, holder)| *holder)
    }
}

/// Which pod has which host ports, in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct HostPorts {
    ports: Arc<Mutex<Ports>>,
    rules: Arc<tokio::sync::Mutex<()>>,
}

/// The turn of who makes rules of what is held.
pub(crate) type RulesTurn = OwnedMutexGuard<()>;

#[derive(Debug, Default)]
struct Ports {
    pods: BTreeMap<Owner, Vec<Forward>>,
    /// Where the node listens.
    kept: Vec<(Key, Option<IpAddr>)>,
}

impl Ports {
    fn holders<'a>(&'a self, but: &Owner) -> Holders<'a> {
        let mut holders = Holders::default();
        self.kept.iter().for_each(|(key, address)| holders.insert(*key, *address, Holder::Node));
        for (owner, forwards) in self.pods.iter().filter(|(owner, _)| *owner != but) {
            forwards.iter().for_each(|forward| holders.insert(forward.key(), forward.address, Holder::Pod(owner)));
        }
        holders
    }

    /// Whose port excludes this one of the node's.
    fn holder(&self, key: Key, address: Option<IpAddr>) -> Option<&Owner> {
        let excludes =
            |forward: &Forward| forward.key() == key && (address.is_none() || forward.address.is_none() || forward.address == address);
        self.pods.iter().find(|(_, forwards)| forwards.iter().any(excludes)).map(|(owner, _)| owner)
    }
}

impl HostPorts {
    fn lock(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else makes rules of what is held: who looked at it earlier must not be done later. That goes for a bridge that is
    /// gone and the one in its place, too.
    pub(crate) async fn rules_turn(&self) -> RulesTurn {
        self.rules.clone().lock_owned().await
    }

    /// Keeps the TCP port of a socket of the node's from all pods, from now on.
    ///
    /// # Errors
    /// The pod that has it already; nothing is kept then.
    pub fn keep(&self, socket: SocketAddr) -> Result<(), Owner> {
        let mut ports = self.lock();
        let ip = socket.ip().to_canonical();
        let address = Some(ip).filter(|ip| !ip.is_unspecified());
        // One that listens on all addresses of IPv6 listens on those of IPv4, too (ipv6(7), IPV6_V6ONLY).
        let families = if address.is_none() && ip.is_ipv6() { vec![false, true] } else { vec![ip.is_ipv6()] };
        let kept: Vec<_> = families.into_iter().map(|is_ipv6| ((PortProtocol::Tcp, socket.port(), is_ipv6), address)).collect();
        if let Some(owner) = kept.iter().find_map(|(key, address)| ports.holder(*key, *address)) {
            return Err(owner.clone());
        }
        ports.kept.extend(kept);
        Ok(())
    }

    /// Takes host ports for `owner`, whose pod has `addresses`, in place of what it had: all or none.
    ///
    /// # Errors
    /// Another pod has one of them, or the node has; one is asked for twice; the pod has no address for one to lead to.
    pub fn reserve(&self, owner: &Owner, addresses: &PodAddresses, host_ports: &[HostPort]) -> Result<(), HostPortError> {
        let mut ports = self.lock();
        let mut holders = ports.holders(owner);
        let mut forwards: Vec<Forward> = Vec::new();
        for port in host_ports {
            for forward in forwards_of(port, addresses)? {
                let port = || port.clone();
                match holders.of(&forward) {
                    None => holders.insert(forward.key(), forward.address, Holder::Pod(owner)),
                    Some(Holder::Node) => return Err(HostPortError::Kept { port: port() }),
                    Some(Holder::Pod(other)) if other == owner => return Err(HostPortError::Twice { port: port() }),
                    Some(Holder::Pod(other)) => return Err(HostPortError::Taken { port: port(), owner: other.clone() }),
                }
                forwards.push(forward);
            }
        }
        if forwards.is_empty() {
            ports.pods.remove(owner);
        } else {
            ports.pods.insert(owner.clone(), forwards);
        }
        Ok(())
    }

    /// Frees what `owner` has, once nothing leads to it any more.
    pub fn release(&self, owner: &Owner) {
        self.lock().pods.remove(owner);
    }

    /// What leads to `owner`'s pod.
    pub(crate) fn of(&self, owner: &Owner) -> Vec<Forward> {
        self.lock().pods.get(owner).cloned().unwrap_or_default()
    }

    /// What leads to all pods.
    pub(crate) fn all(&self) -> Vec<Forward> {
        self.lock().pods.values().flatten().copied().collect()
    }

    /// What leads to all pods but that of `owner`.
    pub(crate) fn all_but(&self, owner: &Owner) -> Vec<Forward> {
        self.lock().pods.iter().filter(|(other, _)| *other != owner).flat_map(|(_, forwards)| forwards).copied().collect()
    }
}

fn forwards_of(port: &HostPort, addresses: &PodAddresses) -> Result<Vec<Forward>, HostPortError> {
    let of_family = |address: &&IpNetwork| port.address.is_none_or(|asked| asked.is_ipv6() == address.is_ipv6());
    let forwards: Vec<_> = addresses
        .first_of_each_family()
        .filter(of_family)
        .map(|address| Forward {
            protocol: port.protocol,
            address: port.address.filter(|asked| !asked.is_unspecified()),
            port: port.port,
            to: SocketAddr::new(address.ip(), port.pod_port),
        })
        .collect();
    if forwards.is_empty() { Err(HostPortError::OtherFamily { port: port.clone() }) } else { Ok(forwards) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PortProtocol::{Sctp, Tcp, Udp};

    fn port(protocol: PortProtocol, address: &str, port: u16) -> HostPort {
        let address = (!address.is_empty()).then(|| address.parse().expect("an address"));
        HostPort { protocol, address, port, pod_port: 80 }
    }

    fn addresses(number: u8) -> PodAddresses {
        let texts = [format!("10.1.0.{number}/24"), format!("fd00::{number}/64")];
        PodAddresses::new(texts.iter().map(|text| text.parse().expect("an address")).collect()).expect("some")
    }

    #[test]
    fn a_port_is_one_pods_and_the_error_names_the_other() {
        let ports = HostPorts::default();
        let (a, b) = (Owner::new("a"), Owner::new("b"));
        ports.reserve(&a, &addresses(2), &[port(Tcp, "", 80), port(Udp, "127.0.0.1", 53)]).expect("free");
        for (taken, is_taken) in [
            (port(Tcp, "", 80), true),
            (port(Tcp, "0.0.0.0", 80), true),
            (port(Tcp, "192.0.2.1", 80), true),
            (port(Tcp, "2001:db8::1", 80), true),
            (port(Sctp, "", 80), false),
            (port(Tcp, "", 81), false),
            (port(Udp, "127.0.0.1", 53), true),
            (port(Udp, "", 53), true),
            (port(Udp, "192.0.2.1", 53), false),
            (port(Udp, "::", 53), false),
        ] {
            let reserved = ports.reserve(&b, &addresses(3), &[port(Tcp, "", 7), taken.clone()]);
            match reserved {
                Err(HostPortError::Taken { port, owner }) => assert!(is_taken && port == taken && owner == a, "{taken}"),
                Err(error) => panic!("{taken}: {error}"),
                Ok(()) => assert!(!is_taken, "{taken}"),
            }
            assert_eq!(ports.of(&b).is_empty(), is_taken, "all or none: {taken}");
            ports.release(&b);
        }
        ports.release(&a);
        ports.reserve(&b, &addresses(3), &[port(Tcp, "", 80)]).expect("free again");
    }

    #[test]
    fn a_pod_does_not_get_the_same_port_twice() {
        let ports = HostPorts::default();
        let both = [port(Tcp, "", 80), port(Tcp, "127.0.0.1", 80)];
        let error = ports.reserve(&Owner::new("a"), &addresses(2), &both).expect_err("twice");
        assert_eq!(error.to_string(), "TCP port 80 of 127.0.0.1 is asked for twice");
    }

    #[test]
    fn no_pod_gets_where_the_node_listens_nor_the_node_what_a_pod_has() {
        let ports = HostPorts::default();
        let (a, b) = (Owner::new("a"), Owner::new("b"));
        let socket = |text: &str| text.parse::<SocketAddr>().expect("an address");
        ports.reserve(&a, &addresses(2), &[port(Tcp, "192.0.2.1", 80), port(Udp, "", 81)]).expect("free");
        for (kept, is_taken) in [
            ("192.0.2.1:80", true),
            ("[::ffff:192.0.2.1]:80", true),
            ("[::ffff:192.0.2.4]:80", false),
            ("0.0.0.0:80", true),
            ("[::]:80", true),
            ("192.0.2.2:80", false),
            ("[2001:db8::1]:80", false),
            ("[::]:81", false),
        ] {
            let due = if is_taken { Err(a.clone()) } else { Ok(()) };
            assert_eq!(ports.keep(socket(kept)), due, "{kept}");
        }
        for (asked, is_kept) in [
            (port(Tcp, "192.0.2.2", 80), true),
            (port(Tcp, "", 80), true),
            (port(Tcp, "192.0.2.3", 80), false),
            (port(Tcp, "192.0.2.4", 80), true),
            (port(Tcp, "192.0.2.2", 81), true),
            (port(Tcp, "::", 81), true),
            (port(Sctp, "", 81), false),
        ] {
            let reserved = ports.reserve(&b, &addresses(3), std::slice::from_ref(&asked));
            assert_eq!(reserved, if is_kept { Err(HostPortError::Kept { port: asked.clone() }) } else { Ok(()) }, "{asked}");
            ports.release(&b);
        }
    }

    #[test]
    fn a_port_leads_to_the_pods_address_of_its_family() {
        let ports = HostPorts::default();
        let a = Owner::new("a");
        ports.reserve(&a, &addresses(2), &[port(Tcp, "", 80), port(Tcp, "::", 81), port(Tcp, "127.0.0.1", 82)]).expect("free");
        let found: Vec<_> = ports.of(&a).iter().map(|forward| (forward.address, forward.port, forward.to.to_string())).collect();
        let local = Some(IpAddr::from([127, 0, 0, 1]));
        let due = [(None, 80, "10.1.0.2:80"), (None, 80, "[fd00::2]:80"), (None, 81, "[fd00::2]:80"), (local, 82, "10.1.0.2:80")];
        assert_eq!(found, due.map(|(address, port, to)| (address, port, to.to_owned())));
        let v4_only = PodAddresses::new(vec!["10.1.0.3/24".parse().expect("an address")]).expect("some");
        let error = ports.reserve(&Owner::new("b"), &v4_only, &[port(Tcp, "::1", 90)]).expect_err("no address to lead to");
        assert_eq!(error.to_string(), "TCP port 90 of ::1 cannot lead to a pod that has no IPv6 address");
    }
}
