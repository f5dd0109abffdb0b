//! A route netlink socket for a thread that may wait: several orders go in one datagram, and nothing else runs between.
//!
//! The kernel works a datagram off and queues every answer before `send` returns, so answers are only collected.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use rtnetlink::{AddressMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::is_no_device;

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// One thing to do, with the flags it needs beside "request" and "acknowledge".
pub(crate) struct Order {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Order {
    pub(crate) fn create_link(link: LinkMessage) -> Self {
        Self { message: RouteNetlinkMessage::NewLink(link), flags: CREATE }
    }

    pub(crate) fn change_link(link: LinkMessage) -> Self {
        Self { message: RouteNetlinkMessage::NewLink(link), flags: 0 }
    }

    pub(crate) fn up(index: u32) -> Self {
        Self::change_link(LinkUnspec::new_with_index(index).up().build())
    }

    pub(crate) fn delete_link(index: u32) -> Self {
        let mut link = LinkMessage::default();
        link.header.index = index;
        Self { message: RouteNetlinkMessage::DelLink(link), flags: 0 }
    }

    /// An address usable at once: without duplicate address detection for IPv6.
    pub(crate) fn add_address(index: u32, address: IpNetwork) -> Self {
        let message = match address.ip() {
            IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, address.prefix()).build(),
            IpAddr::V6(ip) => {
                let builder = AddressMessageBuilder::<Ipv6Addr>::new().index(index);
                let mut message = builder.address(ip, address.prefix()).build();
                message.header.flags |= AddressHeaderFlags::Nodad;
                message
            }
        };
        Self { message: RouteNetlinkMessage::NewAddress(message), flags: CREATE }
    }

    pub(crate) fn add_default_route(index: u32, gateway: IpAddr) -> Self {
        let route = match gateway {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(ip).output_interface(index).build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(ip).output_interface(index).build(),
        };
        Self { message: RouteNetlinkMessage::NewRoute(route), flags: CREATE }
    }

    /// A permanent neighbour entry, in place of one that is there.
    pub(crate) fn set_neighbour(index: u32, address: Ipv4Addr, mac: [u8; 6]) -> Self {
        let mut message = neighbour(index, address);
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        Self { message: RouteNetlinkMessage::NewNeighbour(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
    }

    pub(crate) fn delete_neighbour(index: u32, address: Ipv4Addr) -> Self {
        Self { message: RouteNetlinkMessage::DelNeighbour(neighbour(index, address)), flags: 0 }
    }
}

fn neighbour(index: u32, address: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    message
}

/// An order that was not carried out. Later ones of the same datagram may have been.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Place among the orders given.
    pub(crate) order: usize,
    pub(crate) source: io::Error,
}

/// A socket of the network namespace of the thread that opened it.
pub(crate) struct DirectRtnl(Socket);

impl DirectRtnl {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Carries out one order.
    pub(crate) fn order(&self, order: Order) -> io::Result<()> {
        self.orders([order]).map_err(|refusal| refusal.source)
    }

    /// Carries out several. All are tried; the first refusal is told.
    pub(crate) fn orders(&self, orders: impl IntoIterator<Item = Order>) -> Result<(), Refusal> {
        let requests = orders.into_iter().map(|order| {
            let mut request = NetlinkMessage::from(order.message);
            request.header.flags = NLM_F_REQUEST | NLM_F_ACK | order.flags;
            request
        });
        let requests: Vec<_> = requests.collect();
        let asked = requests.len();
        let answers = self.exchange(requests).map_err(|source| Refusal { order: 0, source })?;
        let mut done = 0;
        for (order, payload) in answers {
            match payload {
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(Refusal { order, source: error.to_io() });
                }
                NetlinkPayload::Error(_) => done += 1,
                _ => {}
            }
        }
        let unconfirmed = || Refusal { order: done, source: io::ErrorKind::UnexpectedEof.into() };
        if done == asked { Ok(()) } else { Err(unconfirmed()) }
    }

    /// The link of that name, if there is one. On Linux 6.8 and later asking also makes a pending change of carrier
    /// take effect before the answer.
    pub(crate) fn link(&self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(message));
        request.header.flags = NLM_F_REQUEST;
        for (_, payload) in self.exchange(vec![request])? {
            match payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => return Ok(Some(link)),
                NetlinkPayload::Error(error) if is_no_device(&error.to_io()) => return Ok(None),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Sends the requests as one datagram and collects what comes back, each with the place of its request.
    fn exchange(
        &self,
        requests: Vec<NetlinkMessage<RouteNetlinkMessage>>,
    ) -> io::Result<Vec<(usize, NetlinkPayload<RouteNetlinkMessage>)>> {
        let mut datagram = Vec::new();
        for (place, mut request) in requests.into_iter().enumerate() {
            request.header.sequence_number = u32::try_from(place).expect("a handful of orders");
            request.finalize();
            let start = datagram.len();
            datagram.resize(start + request.buffer_len().next_multiple_of(4), 0);
            request.serialize(&mut datagram[start..start + request.buffer_len()]);
        }
        self.0.send(&datagram, 0)?;
        let mut answers = Vec::new();
        loop {
            let datagram = match self.0.recv_from_full() {
                Ok((datagram, _)) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(answers),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram).map_err(io::Error::other)?;
            answers.push((answer.header.sequence_number as usize, answer.payload));
        }
    }
}
