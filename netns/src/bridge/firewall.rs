//! The rules of a bridge: one nftables table per address family, `podbox-BRIDGE`.
//!
//! ```text
//! table ip podbox-BRIDGE {
//!     set pods   { type ipv4_addr; flags interval; elements = { POD SUBNETS } }
//!     set direct { type ipv4_addr; flags interval; elements = { POD SUBNETS, 224.0.0.0/4 } }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat;
//!         ip saddr @pods ip daddr != @direct oifname != "BRIDGE" masquerade
//!     }
//! }
//! ```
//!
//! and, where a pod has [host ports](host_ports), what leads there.
//!
//! A table is always replaced as a whole, in one transaction: there is no moment without the rules, and nothing of an
//! earlier version of it is left. What a pod's host ports are is added to it and taken from it element by element. The name
//! carries the bridge's, so bridges do not meet; other chains for the same pods belong into the same table.
//!
//! The tables have no owner (`NFT_TABLE_F_OWNER`): administrators can look at them and edit them, kernels before Linux 6.9 would take them away
//! with the daemon, and to write them anew when somebody [deleted](watch) of them protects them as well.

mod attributes;
mod conntrack;
mod expressions;
mod foreign;
mod host_ports;
mod ranges;
mod socket;
mod watch;

use std::ffi::{CStr, CString};

use ipnetwork::IpNetwork;
use netlink_bindings::nftables::{Chained, LookupFlags, Nfgenmsg, SetElemFlags, SetFlags};
use nix::errno::Errno;

use crate::error::FirewallError;
use crate::host_port::Forward;
pub(super) use conntrack::{Turn, forget_flows, forget_unmasqueraded, tells_of_flows};
use expressions::{Link, load_address, masquerade, require_in_set, require_link_out};
pub use foreign::ForwardDrop;
pub(super) use foreign::forward_drops;
pub(super) use host_ports::{Added, add, delete};
use ranges::ranges;
pub(super) use socket::NftSocket;
pub use watch::RulesLost;
pub(super) use watch::Watch;

/// What pods send from.
const PODS: &CStr = c"pods";
/// Where it goes as it is.
const DIRECT: &CStr = c"direct";
const CHAIN: &CStr = c"postrouting";
/// `NF_INET_POST_ROUTING`
const HOOK_POSTROUTING: u32 = 4;
/// `NF_IP_PRI_NAT_SRC`
const PRIORITY_SRCNAT: i32 = 100;
/// `NF_ACCEPT`
const POLICY_ACCEPT: u32 = 1;

/// What differs between `table ip` and `table ip6`.
struct Family {
    /// `NFPROTO_*`
    nfproto: u8,
    /// nft's number for the type of the sets' keys, which `nft list` shows.
    key_type: u32,
    address_bytes: u32,
    source_offset: u32,
    destination_offset: u32,
    multicast: IpNetwork,
}

/// What the table of a bridge is made of.
pub(super) struct Rules<'a> {
    /// The bridge's name.
    pub(super) bridge: &'a str,
    /// Where pods have their addresses.
    pub(super) pods: &'a [IpNetwork],
    /// What leads into pods.
    pub(super) forwards: &'a [Forward],
}

fn families() -> [Family; 2] {
    let network = |text: &str| text.parse::<IpNetwork>().expect("a constant");
    let v4 =
        Family { nfproto: 2, key_type: 7, address_bytes: 4, source_offset: 12, destination_offset: 16, multicast: network("224.0.0.0/4") };
    let v6 =
        Family { nfproto: 10, key_type: 8, address_bytes: 16, source_offset: 8, destination_offset: 24, multicast: network("ff00::/8") };
    [v4, v6]
}

/// Replaces the tables of a bridge. A family without a network has no table afterwards.
pub(super) fn replace(socket: &NftSocket, rules: &Rules<'_>) -> Result<(), FirewallError> {
    for family in families() {
        let pods: Vec<_> = rules.pods.iter().copied().filter(|pod| pod.is_ipv6() == family.is_ipv6()).collect();
        if pods.is_empty() {
            remove_family(socket, rules.bridge, &family)?;
        } else {
            let forwards = family.own(rules.forwards);
            socket.transact(|batch| encode_table(batch, &family, rules.bridge, &pods, &forwards))?;
        }
    }
    Ok(())
}

/// Removes the tables of `bridge`. None there is fine.
pub(super) fn remove(socket: &NftSocket, bridge: &str) -> Result<(), FirewallError> {
    families().iter().try_for_each(|family| remove_family(socket, bridge, family))
}

fn remove_family(socket: &NftSocket, bridge: &str, family: &Family) -> Result<(), FirewallError> {
    match socket.transact(|batch| encode_removal(batch, &family.header(), &table(bridge))) {
        // A kernel without this family has no table of it.
        Err(FirewallError::Refused { source, .. })
            if [Errno::EAFNOSUPPORT as i32, Errno::EOPNOTSUPP as i32].map(Some).contains(&source.raw_os_error()) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn table(bridge: &str) -> CString {
    CString::new(format!("podbox-{bridge}")).expect("a validated bridge name has no NUL")
}

impl Family {
    fn header(&self) -> Nfgenmsg {
        Nfgenmsg { nfgen_family: self.nfproto, ..Nfgenmsg::new() }
    }

    fn is_ipv6(&self) -> bool {
        self.multicast.is_ipv6()
    }

    /// As `nft` calls it.
    fn name(&self) -> &'static str {
        if self.is_ipv6() { "ip6" } else { "ip" }
    }

    /// Those that lead to addresses of this family.
    fn own(&self, forwards: &[Forward]) -> Vec<Forward> {
        forwards.iter().copied().filter(|forward| forward.to.is_ipv6() == self.is_ipv6()).collect()
    }
}

/// Deleting what is not there is an error: so it is made first, if it is not there.
fn encode_removal(batch: &mut Chained<'_>, header: &Nfgenmsg, table: &CStr) {
    batch.request().set_create().op_newtable_do(header).encode().push_name(table);
    batch.request().op_deltable_do(header).encode().push_name(table);
}

fn encode_table(batch: &mut Chained<'_>, family: &Family, bridge: &str, pods: &[IpNetwork], forwards: &[Forward]) {
    let header = family.header();
    let table = table(bridge);
    encode_removal(batch, &header, &table);
    batch.request().set_create().op_newtable_do(&header).encode().push_name(&table);
    let direct: Vec<_> = pods.iter().copied().chain([family.multicast]).collect();
    encode_set(batch, family, &table, (PODS, 1), pods);
    encode_set(batch, family, &table, (DIRECT, 2), &direct);
    encode_chain(batch, &header, &table);
    encode_masquerade(batch, family, &table, bridge);
    if !forwards.is_empty() {
        host_ports::encode(batch, family, &table, bridge, forwards);
    }
}

/// A set of intervals: the first address of each, and the first one after it marked as an end. An interval that reaches
/// the last address of all has no end. The number tells the sets of one batch apart.
fn encode_set(batch: &mut Chained<'_>, family: &Family, table: &CStr, (name, number): (&CStr, u32), networks: &[IpNetwork]) {
    let header = family.header();
    let mut request = batch.request().set_create().op_newset_do(&header);
    let set = request.encode().push_table(table).push_name(name).push_flags(SetFlags::Interval as u32);
    set.push_key_type(family.key_type).push_key_len(family.address_bytes).push_id(number);

    let mut request = batch.request().set_create().op_newsetelem_do(&header);
    let mut elements = request.encode().push_table(table).push_set(name).nested_elements();
    for range in ranges(networks) {
        elements = elements.nested_elem().nested_key().push_value(&range.first).end_nested().end_nested();
        if let Some(beyond) = &range.beyond {
            let end = elements.nested_elem().push_flags(&(SetElemFlags::IntervalEnd as u32).to_be_bytes());
            elements = end.nested_key().push_value(beyond).end_nested().end_nested();
        }
    }
}

fn encode_chain(batch: &mut Chained<'_>, header: &Nfgenmsg, table: &CStr) {
    let mut request = batch.request().set_create().op_newchain_do(header);
    let chain = request.encode().push_table(table).push_name(CHAIN).nested_hook();
    let chain = chain.push_num(HOOK_POSTROUTING).push_priority(PRIORITY_SRCNAT).end_nested();
    chain.push_policy(POLICY_ACCEPT).push_type(c"nat");
}

fn encode_masquerade(batch: &mut Chained<'_>, family: &Family, table: &CStr, bridge: &str) {
    let mut request = batch.request().set_create().set_append().op_newrule_do(&family.header());
    let rule = request.encode().push_table(table).push_chain(CHAIN).nested_expressions();
    let rule = load_address(rule, family.source_offset, family.address_bytes);
    let rule = require_in_set(rule, PODS, 0);
    let rule = load_address(rule, family.destination_offset, family.address_bytes);
    let rule = require_in_set(rule, DIRECT, LookupFlags::Invert as u32);
    masquerade(require_link_out(rule, Link::OtherThan(bridge)));
}
