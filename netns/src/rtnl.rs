//! Route netlink: links, addresses, routes, neighbours.
//!
//! [`Rtnl`] is a connection served by the caller's runtime, for questions with long answers and for what is done once.
//! [`DirectRtnl`] is for threads made for one pod, where every turn of the runtime would cost more than the work.
//!
//! Errors are the kernel's errno as [`io::Error`]; who asked adds what for.

mod direct;

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, State};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use tokio::task::JoinHandle;

pub(crate) use direct::{DirectRtnl, Order};

/// `EEXIST`: the object is there already.
pub(crate) fn is_exists(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}

/// `ENODEV`: no link of that name or index.
pub(crate) fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}

/// `EXFULL`: what `br_add_if` answers when every port number is in use.
pub(crate) fn is_bridge_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EXFULL as i32)
}

fn errno(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

/// A served connection. The socket is closed when this is dropped.
pub(crate) struct Rtnl {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Rtnl {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rtnl {
    /// A connection in the network namespace of the calling thread, served by a task of the current runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// The link of that name, if there is one.
    pub(crate) async fn link(&self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut links = self.handle.link().get().match_name(name).execute();
        match links.try_next().await {
            Ok(link) => Ok(link),
            Err(error) => Some(errno(error)).filter(|error| !is_no_device(error)).map_or(Ok(None), Err),
        }
    }

    /// The MTU of a link, by index.
    pub(crate) async fn mtu_bytes(&self, index: u32) -> io::Result<Option<u32>> {
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links.try_next().await.map_err(errno)?;
        Ok(link.as_ref().and_then(mtu_bytes))
    }

    /// All ports of a bridge; the kernel filters.
    pub(crate) async fn ports(&self, bridge: u32) -> io::Result<Vec<LinkMessage>> {
        let mut request = self.handle.link().get();
        request.message_mut().attributes.push(LinkAttribute::Controller(bridge));
        let links: Vec<_> = request.execute().try_collect().await.map_err(errno)?;
        // A kernel that ignores the filter would list every link.
        Ok(links.into_iter().filter(|link| controller(link) == Some(bridge)).collect())
    }

    /// Every link of the namespace.
    pub(crate) async fn links(&self) -> io::Result<Vec<LinkMessage>> {
        self.handle.link().get().execute().try_collect().await.map_err(errno)
    }

    /// The permanent IPv4 neighbours of a link, each with its link-layer address.
    pub(crate) async fn permanent_neighbours(&self, index: u32) -> io::Result<Vec<(Ipv4Addr, Vec<u8>)>> {
        let messages: Vec<_> = self.handle.neighbours().get().execute().try_collect().await.map_err(errno)?;
        let permanent = messages.iter().filter(|entry| entry.header.ifindex == index && entry.header.state == NeighbourState::Permanent);
        Ok(permanent.filter_map(ipv4_neighbour).collect())
    }

    pub(crate) async fn create_link(&self, link: LinkMessage) -> io::Result<()> {
        self.handle.link().add(link).execute().await.map_err(errno)
    }

    /// Sets the MTU by `RTM_SETLINK`: on a bridge that pins it, whatever its ports have.
    pub(crate) async fn set_mtu_and_up(&self, index: u32, mtu_bytes: u32) -> io::Result<()> {
        let link = LinkMessageBuilder::<LinkUnspec>::new().index(index).mtu(mtu_bytes).up().build();
        self.handle.link().set(link).execute().await.map_err(errno)
    }

    pub(crate) async fn delete_link(&self, index: u32) -> io::Result<()> {
        self.handle.link().del(index).execute().await.map_err(errno)
    }

    /// Adds an address, usable at once: without duplicate address detection for IPv6.
    pub(crate) async fn add_address(&self, index: u32, address: IpNetwork) -> io::Result<()> {
        let mut request = self.handle.address().add(index, address.ip(), address.prefix());
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(errno)
    }

    /// The addresses of a link, without link-local ones.
    pub(crate) async fn addresses(&self, index: u32) -> io::Result<Vec<IpNetwork>> {
        let request = self.handle.address().get().set_link_index_filter(index);
        let messages: Vec<_> = request.execute().try_collect().await.map_err(errno)?;
        let addresses = messages.iter().filter_map(|message| {
            let ip = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            })?;
            let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
            IpNetwork::new(ip, message.header.prefix_len).ok().filter(|_| !link_local)
        });
        Ok(addresses.collect())
    }

    /// Every route of one family, in whatever table.
    pub(crate) async fn routes(&self, family: AddressFamily) -> io::Result<Vec<RouteMessage>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        self.handle.route().get(message).execute().try_collect().await.map_err(errno)
    }
}

fn ipv4_neighbour(entry: &NeighbourMessage) -> Option<(Ipv4Addr, Vec<u8>)> {
    let address = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _ => None,
    })?;
    let mac = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => Some(mac.clone()),
        _ => None,
    })?;
    Some((address, mac))
}

/// What a link says of itself.
pub(crate) fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

pub(crate) fn alias(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias.as_str()),
        _ => None,
    })
}

pub(crate) fn mac(link: &LinkMessage) -> Option<&[u8]> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => Some(mac.as_slice()),
        _ => None,
    })
}

pub(crate) fn is_oper_up(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::OperState(State::Up)))
}

fn mtu_bytes(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu_bytes) => Some(*mtu_bytes),
        _ => None,
    })
}

pub(crate) fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}
