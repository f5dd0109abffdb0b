//! Route netlink without anything between: one socket, one datagram a batch, one answer a message.

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;
use rustix::net::{AddressFamily as SocketFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

const LOOPBACK_INDEX: u32 = 1;
const NO_SUCH_DEVICE: i32 = rustix::io::Errno::NODEV.raw_os_error();
/// An answer holds an error number and at most the message it is about.
const ANSWERS_BYTES: usize = 16 * 1024;

/// Bound to the network namespace that it was opened in.
pub(super) struct Socket(OwnedFd);

impl Socket {
    pub(super) fn open() -> Result<Self> {
        let socket = socket_with(SocketFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        Ok(Self(socket.context("open a netlink socket")?))
    }

    /// With its address, and up; the loopback too. Its index.
    pub(super) fn make_bridge(&self, name: &str, gateway: Ipv4Addr, prefix: u8) -> Result<u32> {
        let mut bridge = named(name);
        bridge.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        up(&mut bridge);
        self.request(&[create(RouteNetlinkMessage::NewLink(bridge))]).with_context(|| format!("make the bridge {name}"))?;
        let index = if_nametoindex(name).with_context(|| format!("find the bridge {name}"))?;
        self.request(&[set_up(LOOPBACK_INDEX), address(index, gateway, prefix)]).context("configure the bridge")?;
        Ok(index)
    }

    /// `host` in the bridge here and up, `peer` in the namespace of process `pid`: that end cannot go up before the other exists.
    pub(super) fn make_pair(&self, host: &str, peer: &str, bridge_index: u32, pid: u32) -> Result<()> {
        let mut inside = named(peer);
        inside.attributes.push(LinkAttribute::NetNsPid(pid));
        let mut pair = named(host);
        let data = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inside)));
        pair.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), data]));
        pair.attributes.push(LinkAttribute::Controller(bridge_index));
        up(&mut pair);
        self.request(&[create(RouteNetlinkMessage::NewLink(pair))]).with_context(|| format!("make the pair {host}"))
    }

    /// Loopback, link, address and default route, where this socket was opened.
    pub(super) fn configure_pod(&self, link: &str, pod: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> Result<()> {
        let index = if_nametoindex(link).with_context(|| format!("find {link} in the pod"))?;
        self.request(&[set_up(LOOPBACK_INDEX), set_up(index), address(index, pod, prefix), default_route(gateway)])
            .context("configure the pod's link")
    }

    /// What is gone already, with the namespace of its peer, is success.
    pub(super) fn delete_link(&self, name: &str) -> Result<()> {
        let deleted = self.request(&[(RouteNetlinkMessage::DelLink(named(name)), 0)]);
        match deleted {
            Err(fault) if fault.root_cause().downcast_ref().and_then(io::Error::raw_os_error) == Some(NO_SUCH_DEVICE) => Ok(()),
            other => other.with_context(|| format!("delete {name}")),
        }
    }

    /// Sends all at once; the first refusal is the error.
    fn request(&self, messages: &[(RouteNetlinkMessage, u16)]) -> Result<()> {
        let mut batch = Vec::new();
        for ((message, flags), sequence) in messages.iter().zip(1..) {
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            header.sequence_number = sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message.clone()));
            message.finalize();
            let start = batch.len();
            batch.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut batch[start..]);
        }
        send(&self.0, &batch, SendFlags::empty()).context("send")?;
        self.answers(messages.len())
    }

    fn answers(&self, count: usize) -> Result<()> {
        let mut buffer = vec![0; ANSWERS_BYTES];
        let mut heard = 0;
        while heard < count {
            let (length, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()).context("receive")?;
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).context("parse an answer")?;
                heard += 1;
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io()).with_context(|| format!("message {}", answer.header.sequence_number));
                    }
                    NetlinkPayload::Error(_) => {}
                    other => bail!("an answer that was not asked for: {other:?}"),
                }
                let taken = usize::try_from(answer.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(taken..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

fn create(message: RouteNetlinkMessage) -> (RouteNetlinkMessage, u16) {
    (message, NLM_F_CREATE | NLM_F_EXCL)
}

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link
}

fn up(link: &mut LinkMessage) {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
}

fn set_up(index: u32) -> (RouteNetlinkMessage, u16) {
    let mut link = LinkMessage::default();
    link.header.index = index;
    up(&mut link);
    (RouteNetlinkMessage::SetLink(link), 0)
}

fn address(index: u32, address: Ipv4Addr, prefix: u8) -> (RouteNetlinkMessage, u16) {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(IpAddr::V4(address)), AddressAttribute::Address(IpAddr::V4(address))];
    create(RouteNetlinkMessage::NewAddress(message))
}

fn default_route(gateway: Ipv4Addr) -> (RouteNetlinkMessage, u16) {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway))];
    create(RouteNetlinkMessage::NewRoute(route))
}
