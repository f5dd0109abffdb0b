//! One pod's veth pair: its names, and the messages that make it.
//!
//! The pair is born in one message: both names, both MACs, both MTUs, the host end a port of the bridge, the other end in
//! the pod's namespace. The kernel heeds neither an alias nor "up" in that message, so a second one sets the host end
//! going. A crash between the two leaves a port that is known by its MAC and is *half-made*: it has no alias yet.

use std::os::fd::{AsFd, AsRawFd};

use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoPortKind, InfoVeth, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::address::PodAddresses;
use crate::error::BridgeError;
use crate::mac::MacAddress;
use crate::pod::POD_LINK;
use crate::rtnl;

/// How much of a sandbox id is in the link name: with the prefix, all that a name holds.
const ID_BYTES_IN_NAME: usize = 13;
/// `IFALIASZ` less the NUL.
const ID_BYTES_MAX: usize = 255;

/// The host end's name: `pb` and the first 13 bytes of the sandbox id, which is what people see of it elsewhere.
///
/// Ids are long random numbers. Should two share their beginning, the second pod is refused by alias.
pub(super) fn name(id: &str) -> Result<String, BridgeError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(ID_BYTES_IN_NAME..=ID_BYTES_MAX).contains(&id.len()) || !id.bytes().all(allowed) {
        return Err(BridgeError::SandboxId { id: id.to_owned() });
    }
    Ok(format!("pb{}", &id[..ID_BYTES_IN_NAME]))
}

/// The id of the pod whose host end `link` is, if it is one: the name must be the one the alias gives.
pub(super) fn id_of(link: &LinkMessage) -> Option<&str> {
    let id = rtnl::alias(link)?;
    let expected = name(id).ok()?;
    (rtnl::name(link)? == expected).then_some(id)
}

/// Whether `link`, which has the name that `id` gives, is a port of that pod: by its alias or, half-made, by its MAC and by
/// being a port of the bridge, or of none if the bridge was deleted meanwhile.
pub(super) fn is_of(link: &LinkMessage, id: &str, bridge_index: u32) -> bool {
    let is_here = rtnl::controller(link).is_none_or(|controller| controller == bridge_index);
    rtnl::alias(link) == Some(id) || (is_here && is_half_made(link))
}

/// The id of the pod whose host end `link` is, if it is on no bridge: the one that it was on is gone.
pub(super) fn orphan_id(link: &LinkMessage) -> Option<&str> {
    let is_ours = rtnl::controller(link).is_none() && rtnl::mac(link).is_some_and(MacAddress::is_port);
    id_of(link).filter(|_| is_ours)
}

/// Whether a port of the bridge is one whose making was cut short.
pub(super) fn is_half_made(link: &LinkMessage) -> bool {
    rtnl::alias(link).is_none() && rtnl::mac(link).is_some_and(MacAddress::is_port)
}

/// What one pod's pair is to be.
pub(super) struct Port {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) bridge_index: u32,
    pub(super) mtu_bytes: u32,
    pub(super) addresses: PodAddresses,
}

impl Port {
    pub(super) fn pod_mac(&self) -> MacAddress {
        MacAddress::of_pod(self.addresses.primary())
    }

    /// The message that makes the pair. `netns` must stay open until it is sent: it carries the number.
    pub(super) fn creation(&self, netns: impl AsFd) -> LinkMessage {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(POD_LINK)
            .address(self.pod_mac().octets().to_vec())
            .mtu(self.mtu_bytes)
            .setns_by_fd(netns.as_fd().as_raw_fd())
            .build();
        LinkVeth::new(&self.name, POD_LINK)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(MacAddress::of_port(self.addresses.primary()).octets().to_vec())
            .mtu(self.mtu_bytes)
            .controller(self.bridge_index)
            .build()
    }

    /// The message that puts a host end that stands on the bridge.
    pub(super) fn enslave(&self) -> LinkMessage {
        LinkUnspec::new_with_name(&self.name).controller(self.bridge_index).build()
    }

    /// The message that completes the host end and sets it going.
    ///
    /// Hairpin lets a pod reach itself through an address of the node that is translated back to it. With
    /// `proxy_arp_wifi` the bridge answers for pods it has neighbour entries of, instead of copying every request to every
    /// port; plain `proxy_arp` would also keep all other flooded packets from the port, and with them IPv6 neighbour
    /// discovery. The host end needs no IPv6 address: that is the bridge's.
    pub(super) fn start(&self, has_ipv6: bool) -> LinkMessage {
        let link = LinkMessageBuilder::<LinkBridgePort>::default()
            .name(&self.name)
            .alias(&self.id)
            .set_port_kind(InfoPortKind::Bridge)
            .hairpin(true)
            .proxy_arp_wifi(self.addresses.first_ipv4().is_some())
            .up();
        if !has_ipv6 {
            return link.build();
        }
        let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        link.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_address])).build()
    }
}
