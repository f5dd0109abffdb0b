//! Base chains of others that drop what is forwarded: those of a container engine, of a host's firewall.
//!
//! A packet passes all chains of a hook, and whoever drops it has the last word: no rule of ours can let through what another chain keeps
//! out. It can only be said.
//!
//! - Only a chain's policy is looked at. It may have rules that let pods' packets through, and one that accepts may end in a rule that drops
//!   everything, as firewalld's do: nobody can tell without working all rules off.
//! - Chains of legacy iptables (`x_tables`) are no chains of nftables, and are not seen; those of `iptables-nft` are.

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use ipnetwork::IpNetwork;

use super::attributes::Attributes;
use super::socket::{NFNL_SUBSYS_NFTABLES, NftSocket, message};
use crate::error::FirewallError;

/// `NFT_MSG_GETTABLE` and `NFT_MSG_GETCHAIN`
const GET_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 1;
const GET_CHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 4;
/// `struct nfgenmsg` of a question about all families.
const ALL_FAMILIES: [u8; HEADER_BYTES] = [0; HEADER_BYTES];
const HEADER_BYTES: usize = 4;
/// `NF_INET_FORWARD`
const HOOK_FORWARD: u32 = 2;
/// `NF_DROP`
const POLICY_DROP: u32 = 0;
/// `NFT_TABLE_F_DORMANT`
const FLAG_DORMANT: u32 = 1;

/// A chain of somebody else's that drops what is forwarded and what none of its rules accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardDrop {
    family: Reach,
    /// The table's name.
    pub table: String,
    /// The chain's name.
    pub chain: String,
}

/// Which packets the chains of a table see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Ipv4,
    Ipv6,
    Both,
}

impl fmt::Display for ForwardDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Reach::Ipv4 => "ip",
            Reach::Ipv6 => "ip6",
            Reach::Both => "inet",
        };
        write!(f, "chain {} of table {family} {}", self.chain, self.table)
    }
}

impl ForwardDrop {
    /// Whether it sees packets from or to addresses of a network.
    pub(in crate::bridge) fn concerns(&self, pods: &IpNetwork) -> bool {
        match self.family {
            Reach::Ipv4 => pods.is_ipv4(),
            Reach::Ipv6 => pods.is_ipv6(),
            Reach::Both => true,
        }
    }
}

/// All of the socket's network namespace. Costs one question, and a second one if there are some.
pub(in crate::bridge) fn forward_drops(socket: &NftSocket) -> Result<Vec<ForwardDrop>, FirewallError> {
    look(socket).map_err(|source| FirewallError::Chains { source })
}

fn look(socket: &NftSocket) -> io::Result<Vec<ForwardDrop>> {
    let mut drops = socket.dump(&message(GET_CHAIN, &ALL_FAMILIES), parse_chain)?;
    if !drops.is_empty() {
        let dormant = BTreeSet::from_iter(socket.dump(&message(GET_TABLE, &ALL_FAMILIES), parse_dormant)?);
        drops.retain(|drop| !dormant.contains(&(drop.family, drop.table.clone())));
    }
    Ok(drops)
}

/// Reads what follows the header of a dump's message: family, and attributes.
fn split(message: &[u8]) -> Option<(Reach, Attributes<'_>)> {
    let (header, attributes) = message.split_first_chunk::<HEADER_BYTES>()?;
    // NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6: bridge, netdev and arp have no packets to forward in this sense.
    let reach = match header[0] {
        1 => Reach::Both,
        2 => Reach::Ipv4,
        10 => Reach::Ipv6,
        _ => return None,
    };
    Some((reach, Attributes(attributes)))
}

fn parse_chain(message: &[u8]) -> Option<ForwardDrop> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    let (family, attributes) = split(message)?;
    let (mut table, mut chain, mut hook, mut policy) = (None, None, None, None);
    for attribute in attributes {
        match attribute.kind {
            TABLE => table = Some(attribute.text()),
            NAME => chain = Some(attribute.text()),
            HOOK => hook = Attributes(attribute.value).find(|part| part.kind == HOOK_NUMBER).and_then(|number| number.number()),
            POLICY => policy = attribute.number(),
            _ => {}
        }
    }
    let drops = hook == Some(HOOK_FORWARD) && policy == Some(POLICY_DROP);
    Some(ForwardDrop { family, table: table?, chain: chain? }).filter(|_| drops)
}

/// A table whose chains are switched off.
fn parse_dormant(message: &[u8]) -> Option<(Reach, String)> {
    const NAME: u16 = 1;
    const FLAGS: u16 = 2;
    let (family, attributes) = split(message)?;
    let (mut name, mut flags) = (None, 0);
    for attribute in attributes {
        match attribute.kind {
            NAME => name = Some(attribute.text()),
            FLAGS => flags = attribute.number().unwrap_or_default(),
            _ => {}
        }
    }
    name.filter(|_| flags & FLAG_DORMANT != 0).map(|name| (family, name))
}
