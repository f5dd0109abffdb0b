//! Flows that the kernel remembers the way they were before a host port came or went.
//!
//! Rules that rewrite a destination are asked for a flow's first packet alone. What comes after goes where that one went: to the node, if
//! the port did not lead to a pod yet; to an address that is nobody's, if it does not any more. TCP notices and calls anew; a caller by UDP
//! that goes on calling from the same port would keep the flow alive for ever. So such flows are forgotten.
//!
//! The like goes for what pods send to others: what went out as it is goes on so, and finds no way back, whatever it is. After rules were lost
//! and made anew, such flows are forgotten as well.
//!
//! They are found by looking at all and deleted one by one, by what tells a flow from all others: a request that names less is, to kernels
//! before Linux 5.8, one to forget everything.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::attributes::Attributes;
use super::socket::{NftSocket, message};
use super::{Family, families};
use crate::error::FirewallError;
use crate::host_port::{Forward, PortProtocol};

/// `NFNL_SUBSYS_CTNETLINK << 8`, with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// `IPCTNL_MSG_CT_GET_STATS`
const GET_STATISTICS: u16 = 1 << 8 | 5;

/// What happened to host ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bridge) enum Turn {
    /// They lead to a pod from now on.
    Came,
    /// They do not any more.
    Went,
}

/// Whether the kernel tells of flows at all.
pub(in crate::bridge) fn tells_of_flows(socket: &NftSocket) -> Result<bool, FirewallError> {
    match socket.order(&message(GET_STATISTICS, &[0; 4])) {
        Err(error) if is_unknown(&error) => Ok(false),
        told => told.map(|()| true).map_err(|source| FirewallError::Flows { source }),
    }
}

/// Forgets what `turn` of these has made untrue. Without such flows, or a kernel that would tell of them, nothing is done.
pub(in crate::bridge) fn forget_flows(socket: &NftSocket, forwards: &[Forward], turn: Turn) -> Result<(), FirewallError> {
    for family in families() {
        let udp: Vec<_> = family.own(forwards).into_iter().filter(|forward| forward.protocol == PortProtocol::Udp).collect();
        if !udp.is_empty() {
            let mut by_port: HashMap<u16, Vec<&Forward>> = HashMap::new();
            udp.iter().for_each(|forward| by_port.entry(forward.port).or_default().push(forward));
            forget(socket, &family, |flow, own| {
                by_port.get(&flow.sent_to.port()).is_some_and(|some| some.iter().any(|forward| flow.is_untrue(forward, turn, own)))
            })?;
        }
    }
    Ok(())
}

/// Forgets what pods of these networks began to send to others while nothing was masqueraded, and what nobody answered: nobody can. What is
/// answered goes by another way, and stays.
pub(in crate::bridge) fn forget_unmasqueraded(socket: &NftSocket, pods: &[IpNetwork]) -> Result<(), FirewallError> {
    for family in families() {
        if pods.iter().any(|pods| pods.is_ipv6() == family.is_ipv6()) {
            forget(socket, &family, |flow, own| flow.lacks_masquerade(pods, family.multicast, own))?;
        }
    }
    Ok(())
}

/// Those that are meant, which is told with the node's addresses.
fn forget(socket: &NftSocket, family: &Family, is_meant: impl Fn(&Flow, &HashSet<IpAddr>) -> bool) -> Result<(), FirewallError> {
    let failed = |source| FirewallError::Flows { source };
    let own = own_addresses().map_err(failed)?;
    // There may be far more than are meant.
    let pick = |message: &[u8]| Flow::parse(message).filter(|flow| is_meant(flow, &own));
    let flows = match socket.dump(&message(GET, &header(family)), pick) {
        // Without conntrack's messages in the kernel, nobody can tell.
        Err(error) if is_unknown(&error) => return Ok(()),
        flows => flows.map_err(failed)?,
    };
    for flow in flows {
        let body = [&header(family)[..], &flow.identity].concat();
        match socket.order(&message(DELETE, &body)) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            result => result.map_err(failed)?,
        }
    }
    Ok(())
}

/// `struct nfgenmsg`
fn header(family: &Family) -> [u8; 4] {
    [family.nfproto, 0, 0, 0]
}

fn is_unknown(error: &io::Error) -> bool {
    [Errno::EINVAL, Errno::EOPNOTSUPP].map(|errno| Some(errno as i32)).contains(&error.raw_os_error())
}

/// A flow, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    protocol: u8,
    /// Who sent its first packet.
    sent_by: IpAddr,
    /// Where that was sent.
    sent_to: SocketAddr,
    /// Where it is answered from: there it went.
    went_to: SocketAddr,
    /// Where an answer is sent: whom it seemed to come from.
    seemed_by: IpAddr,
    is_answered: bool,
    /// The attributes that name it: its tuple, its id, its zone.
    identity: Vec<u8>,
}

impl Flow {
    /// Reads what follows the header of a dump's message.
    fn parse(message: &[u8]) -> Option<Self> {
        const TUPLE_ORIGINAL: u16 = 1;
        const TUPLE_REPLY: u16 = 2;
        const STATUS: u16 = 3;
        /// `IPS_SEEN_REPLY`
        const SEEN_REPLY: u32 = 1 << 1;
        const ID: u16 = 12;
        const ZONE: u16 = 18;
        const HEADER_BYTES: usize = 4;
        let (mut original, mut reply, mut status, mut identity) = (None, None, 0, Vec::new());
        for attribute in Attributes(message.get(HEADER_BYTES..)?) {
            match attribute.kind {
                TUPLE_ORIGINAL => original = Tuple::parse(attribute.value),
                TUPLE_REPLY => reply = Tuple::parse(attribute.value),
                STATUS => status = attribute.number().unwrap_or_default(),
                _ => {}
            }
            if [TUPLE_ORIGINAL, ID, ZONE].contains(&attribute.kind) {
                identity.extend_from_slice(attribute.whole);
                identity.resize(identity.len().next_multiple_of(4), 0);
            }
        }
        let (original, reply) = (original?, reply?);
        Some(Self {
            protocol: original.protocol,
            sent_by: original.source.ip(),
            sent_to: original.destination,
            went_to: reply.source,
            seemed_by: reply.destination.ip(),
            is_answered: status & SEEN_REPLY != 0,
            identity,
        })
    }

    /// As the rules have it: see the table.
    fn lacks_masquerade(&self, pods: &[IpNetwork], multicast: IpNetwork, own: &HashSet<IpAddr>) -> bool {
        let is_pods = |address: IpAddr| pods.iter().any(|pods| pods.contains(address));
        let to = self.went_to.ip();
        let goes_out = is_pods(self.sent_by) && !is_pods(to) && !multicast.contains(to);
        goes_out && !self.is_answered && self.seemed_by == self.sent_by && !to.is_loopback() && !own.contains(&to)
    }

    /// `own`: the node's addresses.
    fn is_untrue(&self, forward: &Forward, turn: Turn, own: &HashSet<IpAddr>) -> bool {
        if self.protocol != forward.protocol.number() || self.sent_to.port() != forward.port {
            return false;
        }
        match turn {
            Turn::Came => {
                let to = self.sent_to.ip();
                let is_the_nodes = || to.is_loopback() || own.contains(&to);
                self.went_to != forward.to && forward.address.map_or_else(is_the_nodes, |address| address == to)
            }
            Turn::Went => self.went_to == forward.to,
        }
    }
}

/// Of all links of this network namespace.
fn own_addresses() -> io::Result<HashSet<IpAddr>> {
    let of = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(getifaddrs()?.filter_map(|link| link.address.and_then(of)).collect())
}

/// One direction of a flow.
struct Tuple {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Tuple {
    fn parse(bytes: &[u8]) -> Option<Self> {
        const IP: u16 = 1;
        const PROTOCOL: u16 = 2;
        let (mut source, mut destination) = (None, None);
        let (mut protocol, mut from, mut to) = (None, None, None);
        for part in Attributes(bytes) {
            match part.kind {
                IP => {
                    for address in Attributes(part.value) {
                        // CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST
                        match address.kind {
                            1 | 3 => source = ip(address.value),
                            2 | 4 => destination = ip(address.value),
                            _ => {}
                        }
                    }
                }
                PROTOCOL => {
                    for number in Attributes(part.value) {
                        // CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT
                        match number.kind {
                            1 => protocol = number.value.first().copied(),
                            2 => from = port(number.value),
                            3 => to = port(number.value),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        // Some protocols have no ports.
        let [from, to] = [from, to].map(Option::unwrap_or_default);
        Some(Self { protocol: protocol?, source: SocketAddr::new(source?, from), destination: SocketAddr::new(destination?, to) })
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

fn port(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("short");
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(kind: u16, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let ip = [attribute(1, &from.0), attribute(2, &to.0)].concat();
        let protocol = [attribute(1, &[17]), attribute(2, &from.1.to_be_bytes()), attribute(3, &to.1.to_be_bytes())].concat();
        attribute(kind | 0x8000, &[attribute(1 | 0x8000, &ip), attribute(2 | 0x8000, &protocol)].concat())
    }

    #[test]
    fn a_flow_is_named_by_its_tuple_and_id_and_told_by_where_it_went() {
        const CALLER: ([u8; 4], u16) = ([192, 0, 2, 2], 4000);
        let original = tuple(1, CALLER, ([127, 0, 0, 1], 53));
        let id = attribute(12, &[1, 2, 3, 4]);
        let message =
            [vec![2, 0, 0, 0], original.clone(), tuple(2, ([10, 1, 0, 2], 5353), CALLER), attribute(3, &[0; 4]), id.clone()].concat();
        let flow = Flow::parse(&message).expect("a flow");
        assert_eq!(flow.sent_to.to_string(), "127.0.0.1:53");
        assert_eq!(flow.went_to.to_string(), "10.1.0.2:5353");
        assert_eq!(flow.identity, [original, id].concat());
        let forward = |address: Option<&str>, to: &str| Forward {
            protocol: PortProtocol::Udp,
            address: address.map(|address| address.parse().expect("an address")),
            port: 53,
            to: to.parse().expect("an address"),
        };
        let own = HashSet::new();
        for (address, to, came, went) in [
            (None, "10.1.0.2:5353", false, true),
            (None, "10.1.0.3:5353", true, false),
            (Some("127.0.0.1"), "10.1.0.3:5353", true, false),
            (Some("192.0.2.1"), "10.1.0.3:5353", false, false),
        ] {
            assert_eq!(flow.is_untrue(&forward(address, to), Turn::Came, &own), came, "{address:?} {to}");
            assert_eq!(flow.is_untrue(&forward(address, to), Turn::Went, &own), went, "{address:?} {to}");
        }
    }

    #[test]
    fn what_is_cut_short_is_no_flow() {
        let original = tuple(1, ([192, 0, 2, 2], 4000), ([127, 0, 0, 1], 53));
        for length in 0..original.len() {
            assert_eq!(Flow::parse(&[&[2, 0, 0, 0], &original[..length]].concat()), None);
        }
        assert_eq!(Flow::parse(&[]), None);
    }
}
