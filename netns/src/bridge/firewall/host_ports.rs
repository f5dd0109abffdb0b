//! What leads from ports of the node into pods. Beside the rest of the table:
//!
//! ```text
//! map ports     { type inet_proto . inet_service : ipv4_addr . inet_service }
//! map addresses { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//! set targets   { type ipv4_addr . inet_proto . inet_service }
//! chain host_ports {
//!     dnat ip to ip daddr . meta l4proto . th dport map @addresses
//!     dnat ip to meta l4proto . th dport map @ports
//! }
//! chain prerouting { type nat hook prerouting priority -95; fib daddr type local goto host_ports }
//! chain output     { type nat hook output priority -95;     fib daddr type local goto host_ports }
//! chain postrouting {
//!     ip saddr @pods ip daddr . meta l4proto . th dport @targets ct status dnat oifname "BRIDGE" masquerade
//!     ip saddr 127.0.0.0/8 ip daddr . meta l4proto . th dport @targets ct status dnat oifname "BRIDGE" masquerade
//! }
//! chain guard {
//!     type filter hook prerouting priority raw;
//!     iifname "BRIDGE" ip daddr 127.0.0.0/8 drop
//!     iifname "BRIDGE" ip saddr 127.0.0.0/8 drop
//! }
//! ```
//!
//! - Only what is sent to an address of the node is looked at, in both hooks: what merely passes through keeps its destination.
//! - Of the chains that rewrite a destination the first to do so wins; by their priority these come after `kube-proxy`'s, so that a service
//!   keeps its port.
//! - A pod that calls the node's port from the same bridge would be answered by the other pod directly, and one that calls its own would
//!   hear from itself: such calls come from the bridge. So do calls from 127.0.0.1, which no pod could answer.
//! - 127.0.0.0/8 leaves the node only since the bridge's `route_localnet` is on, which lets pods address it, too: the guard keeps that out,
//!   as it would be without. IPv6 knows no such thing: `::1` is left alone (`ip6 daddr != ::1` in both hooks), whoever listens there.

use std::ffi::CStr;
use std::net::{IpAddr, Ipv6Addr};

use netlink_bindings::nftables::{Chained, CmpOps, Nfgenmsg, SetFlags};
use nix::errno::Errno;

use super::expressions::{
    FIRST, Link, compare, drop_packet, go_to, load_address, load_from_map, load_protocol_and_port, mask, masquerade, register_after,
    require_in_set, require_link_in, require_link_out, require_local_destination, require_rewritten_destination, rewrite_destination,
};
use super::{CHAIN, Family, NftSocket, PODS, POLICY_ACCEPT, families, table};
use crate::error::FirewallError;
use crate::host_port::Forward;

const PORTS: &CStr = c"ports";
const ADDRESSES: &CStr = c"addresses";
const TARGETS: &CStr = c"targets";
const HOST_PORTS: &CStr = c"host_ports";
const GUARD: &CStr = c"guard";
/// `NF_INET_PRE_ROUTING`
const HOOK_PREROUTING: u32 = 0;
/// `NF_INET_LOCAL_OUT`
const HOOK_OUTPUT: u32 = 3;
/// After kube-proxy's, which are at `NF_IP_PRI_NAT_DST`, -100.
const PRIORITY_DSTNAT: i32 = -95;
/// `NF_IP_PRI_RAW`
const PRIORITY_RAW: i32 = -300;
/// `nft`'s numbers for the types of keys' parts, which `nft list` shows, and how many bits each takes in the number of the whole.
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;
const TYPE_BITS: u32 = 6;
/// What protocols and ports take in a key.
const PART_BYTES: u32 = 4;
/// Elements of one message: an attribute, as their list is, has at most 65,535 bytes, and an element some seventy.
const ELEMENTS_A_MESSAGE: usize = 512;

/// What became of elements that were to be added.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::bridge) enum Added {
    /// They are there.
    Yes,
    /// There is no table of this bridge, or none with host ports: it is to be replaced by one with them.
    NoTable,
}

/// Lets what is sent to the node's ports go to pods. What is there already is fine.
pub(in crate::bridge) fn add(socket: &NftSocket, bridge: &str, forwards: &[Forward]) -> Result<Added, FirewallError> {
    for family in families() {
        let own = family.own(forwards);
        if own.is_empty() {
            continue;
        }
        match socket.transact(|batch| encode_elements(batch, &family, &table(bridge), &own, Change::Add)) {
            Err(error) if is_absent(&error) => return Ok(Added::NoTable),
            result => result?,
        }
    }
    Ok(Added::Yes)
}

/// Takes back what [`add`] did. What is not there is fine.
pub(in crate::bridge) fn delete(socket: &NftSocket, bridge: &str, forwards: &[Forward]) -> Result<(), FirewallError> {
    for family in families() {
        let own = family.own(forwards);
        if own.is_empty() {
            continue;
        }
        let deleted = socket.transact(|batch| {
            // Deleting what is not there is an error: so it is added first, if it is not there.
            encode_elements(batch, &family, &table(bridge), &own, Change::Add);
            encode_elements(batch, &family, &table(bridge), &own, Change::Delete);
        });
        match deleted {
            Err(error) if is_absent(&error) => {}
            result => result?,
        }
    }
    Ok(())
}

fn is_absent(error: &FirewallError) -> bool {
    matches!(error, FirewallError::Refused { source, .. } if source.raw_os_error() == Some(Errno::ENOENT as i32))
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Delete,
}

/// A map or set, by what its keys are made of.
struct Kind<'a> {
    name: &'a CStr,
    /// Tells the sets of one batch apart.
    number: u32,
    has_address: bool,
    is_map: bool,
}

const KINDS: [Kind<'static>; 3] = [
    Kind { name: PORTS, number: 3, has_address: false, is_map: true },
    Kind { name: ADDRESSES, number: 4, has_address: true, is_map: true },
    Kind { name: TARGETS, number: 5, has_address: true, is_map: false },
];

/// All of it, of a table that has neither maps nor chains for it yet.
pub(super) fn encode(batch: &mut Chained<'_>, family: &Family, table: &CStr, bridge: &str, forwards: &[Forward]) {
    let header = family.header();
    for kind in &KINDS {
        encode_set(batch, family, table, kind);
    }
    encode_elements(batch, family, table, forwards, Change::Add);
    batch.request().set_create().op_newchain_do(&header).encode().push_table(table).push_name(HOST_PORTS);
    for map in [ADDRESSES, PORTS] {
        let mut request = batch.request().set_create().set_append().op_newrule_do(&header);
        let rule = request.encode().push_table(table).push_chain(HOST_PORTS).nested_expressions();
        let rule = if map == ADDRESSES {
            let rule = load_address(rule, family.destination_offset, family.address_bytes);
            load_protocol_and_port(rule, register_after(FIRST, family.address_bytes))
        } else {
            load_protocol_and_port(rule, FIRST)
        };
        rewrite_destination(load_from_map(rule, map), family.nfproto, family.address_bytes);
    }
    for (name, hook) in [(c"prerouting", HOOK_PREROUTING), (c"output", HOOK_OUTPUT)] {
        encode_base_chain(batch, &header, table, name, c"nat", (hook, PRIORITY_DSTNAT));
        let mut request = batch.request().set_create().set_append().op_newrule_do(&header);
        let rule = request.encode().push_table(table).push_chain(name).nested_expressions();
        let rule = if family.is_ipv6() {
            let rule = load_address(rule, family.destination_offset, family.address_bytes);
            compare(rule, CmpOps::Neq, &Ipv6Addr::LOCALHOST.octets())
        } else {
            rule
        };
        go_to(require_local_destination(rule), HOST_PORTS);
    }
    encode_masquerade(batch, family, table, bridge, Caller::Pod);
    if !family.is_ipv6() {
        encode_masquerade(batch, family, table, bridge, Caller::Loopback);
        encode_guard(batch, family, table, bridge);
    }
}

fn encode_base_chain(batch: &mut Chained<'_>, header: &Nfgenmsg, table: &CStr, name: &CStr, kind: &CStr, (hook, priority): (u32, i32)) {
    let mut request = batch.request().set_create().op_newchain_do(header);
    let chain = request.encode().push_table(table).push_name(name).nested_hook();
    let chain = chain.push_num(hook).push_priority(priority).end_nested();
    chain.push_policy(POLICY_ACCEPT).push_type(kind);
}

fn encode_set(batch: &mut Chained<'_>, family: &Family, table: &CStr, kind: &Kind<'_>) {
    let port_type = (INET_PROTO << TYPE_BITS) | INET_SERVICE;
    let (key_type, key_bytes) = if kind.has_address {
        ((family.key_type << (2 * TYPE_BITS)) | port_type, family.address_bytes + 2 * PART_BYTES)
    } else {
        (port_type, 2 * PART_BYTES)
    };
    let header = family.header();
    let mut request = batch.request().set_create().op_newset_do(&header);
    let set = request.encode().push_table(table).push_name(kind.name);
    let set = set.push_key_type(key_type).push_key_len(key_bytes).push_id(kind.number);
    if kind.is_map {
        let data_type = (family.key_type << TYPE_BITS) | INET_SERVICE;
        let set = set.push_flags(SetFlags::Map as u32).push_data_type(data_type);
        set.push_data_len(family.address_bytes + PART_BYTES);
    } else {
        set.push_flags(0);
    }
}

fn encode_elements(batch: &mut Chained<'_>, family: &Family, table: &CStr, forwards: &[Forward], change: Change) {
    for kind in &KINDS {
        let mut elements: Vec<_> = forwards.iter().filter_map(|forward| element(kind, forward)).collect();
        // Several ports of the node may lead to the same one of a pod.
        elements.sort();
        elements.dedup();
        for elements in elements.chunks(ELEMENTS_A_MESSAGE) {
            encode_change(batch, &family.header(), (table, kind.name), elements, change);
        }
    }
}

fn encode_change(batch: &mut Chained<'_>, header: &Nfgenmsg, (table, set): (&CStr, &CStr), elements: &[Element], change: Change) {
    match change {
        Change::Add => {
            let mut request = batch.request().set_create().op_newsetelem_do(header);
            let mut list = request.encode().push_table(table).push_set(set).nested_elements();
            for (key, data) in elements {
                let entry = list.nested_elem().nested_key().push_value(key).end_nested();
                list = match data {
                    Some(data) => entry.nested_data().push_value(data).end_nested().end_nested(),
                    None => entry.end_nested(),
                };
            }
        }
        Change::Delete => {
            let mut request = batch.request().op_delsetelem_do(header);
            let mut list = request.encode().push_table(table).push_set(set).nested_elements();
            for (key, _) in elements {
                list = list.nested_elem().nested_key().push_value(key).end_nested().end_nested();
            }
        }
    }
}

/// A key and, in a map, where it leads.
type Element = (Vec<u8>, Option<Vec<u8>>);

/// `None` if this forward does not belong here.
fn element(kind: &Kind<'_>, forward: &Forward) -> Option<Element> {
    let number = forward.protocol.number();
    let (address, port) = if kind.is_map { (forward.address, forward.port) } else { (Some(forward.to.ip()), forward.to.port()) };
    if address.is_some() != kind.has_address {
        return None;
    }
    let mut key = address.map(octets).unwrap_or_default();
    key.extend([number, 0, 0, 0]);
    key.extend(port_part(port));
    let data = kind.is_map.then(|| [octets(forward.to.ip()), port_part(forward.to.port()).to_vec()].concat());
    Some((key, data))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn port_part(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// Whose calls come from the bridge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Pod,
    Loopback,
}

fn encode_masquerade(batch: &mut Chained<'_>, family: &Family, table: &CStr, bridge: &str, caller: Caller) {
    let header = family.header();
    let mut request = batch.request().set_create().set_append().op_newrule_do(&header);
    let rule = request.encode().push_table(table).push_chain(CHAIN).nested_expressions();
    let rule = load_address(rule, family.source_offset, family.address_bytes);
    let rule = match caller {
        Caller::Pod => require_in_set(rule, PODS, 0),
        Caller::Loopback => compare(mask(rule, &[255, 0, 0, 0]), CmpOps::Eq, &[127, 0, 0, 0]),
    };
    let rule = load_address(rule, family.destination_offset, family.address_bytes);
    let rule = load_protocol_and_port(rule, register_after(FIRST, family.address_bytes));
    let rule = require_rewritten_destination(require_in_set(rule, TARGETS, 0));
    masquerade(require_link_out(rule, Link::Is(bridge)));
}

fn encode_guard(batch: &mut Chained<'_>, family: &Family, table: &CStr, bridge: &str) {
    let header = family.header();
    encode_base_chain(batch, &header, table, GUARD, c"filter", (HOOK_PREROUTING, PRIORITY_RAW));
    for offset in [family.destination_offset, family.source_offset] {
        let mut request = batch.request().set_create().set_append().op_newrule_do(&header);
        let rule = request.encode().push_table(table).push_chain(GUARD).nested_expressions();
        let rule = require_link_in(rule, Link::Is(bridge));
        let rule = load_address(rule, offset, family.address_bytes);
        drop_packet(compare(mask(rule, &[255, 0, 0, 0]), CmpOps::Eq, &[127, 0, 0, 0]));
    }
}
