//! Pods come and go.
//!
//! ```text
//! attach:  create pair ─▶ start host end ─▶ set up pod ─▶ neighbour ─▶ carrier
//!              │ full, taken      └────────────┴── error ──┴────────────┘
//!              ▼                                     ▼
//!            error                          delete the pair, error
//! ```
//!
//! All of it is done by one thread made for it, from the node's namespace into the pod's: a few system calls in a row.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;
use std::{io, thread};

use rtnetlink::packet_route::link::LinkMessage;
use serde::{Deserialize, Serialize};

use super::port::{self, Port};
use super::{Bridge, Shared, our_bridge};
use crate::address::{PODS_MAX, PodAddresses};
use crate::error::BridgeError;
use crate::mac::MacAddress;
use crate::pod;
use crate::rtnl::{self, DirectRtnl, Order, is_no_device};
use crate::sysctl;

/// How often the host end's carrier is asked for, and how long between: on Linux 6.8 and later the first answer is
/// right, earlier kernels take a moment to notice.
const CARRIER_ATTEMPTS_MAX: u32 = 100;
const CARRIER_PAUSE: Duration = Duration::from_millis(5);

/// What was made for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Link name of the host end of the veth pair.
    pub host_ifname: String,
    /// MAC of the pod's `eth0`.
    pub mac: MacAddress,
    /// MTU of both ends.
    pub mtu_bytes: u32,
    /// What `eth0` was given.
    pub addresses: PodAddresses,
}

impl Bridge {
    /// Gives the pod `id`, whose network namespace is `netns`, an `eth0` with `addresses`, default routes by the
    /// bridge, and a working `lo`. When this returns packets pass.
    ///
    /// The namespace must have no `eth0`; a pair left over from an earlier attempt for the same `id` is replaced.
    /// One operation for one pod at a time. Do not drop the future half-way: the work goes on to its end, and nobody would
    /// know when a [`Bridge::detach`] may follow.
    ///
    /// # Errors
    /// [`BridgeError::BridgeFull`] for pod 1,024; [`BridgeError::ForeignPort`] when the link name is in use by
    /// something else; otherwise the step that failed. No link is left behind.
    pub async fn attach(&self, id: &str, netns: OwnedFd, addresses: &PodAddresses) -> Result<Attachment, BridgeError> {
        let Shared { index, mtu_bytes, .. } = *self.shared;
        let name = port::name(id)?;
        let port = Port { name, id: id.to_owned(), bridge_index: index, mtu_bytes, addresses: addresses.clone() };
        let bridge = self.clone();
        let attached = pod::on_own_thread(move || bridge.attach_here(port, &netns)).await;
        attached.map_err(|source| BridgeError::Pod { id: id.to_owned(), source })?
    }

    /// Takes the pod `id` off the bridge by deleting its veth pair, and the entry that says where `addresses` are: those that
    /// are this pod's, `None` if none is. Nothing there is fine, and a link of the same name that is not this pod's is left
    /// alone. The addresses may be given to another pod afterwards.
    ///
    /// # Errors
    /// The kernel would not tell about the link, or not delete it.
    pub async fn detach(&self, id: &str, addresses: Option<&PodAddresses>) -> Result<(), BridgeError> {
        let name = port::name(id)?;
        let address = addresses.and_then(PodAddresses::first_ipv4);
        let (bridge, owned_id) = (self.clone(), id.to_owned());
        let detached = pod::on_own_thread(move || bridge.detach_here(&bridge.open_direct()?, &name, &owned_id, address)).await;
        detached.map_err(|source| BridgeError::Pod { id: id.to_owned(), source })?
    }

    /// The ids of pods that are attached to this bridge but not `live`: what an earlier daemon left, for
    /// [`Bridge::detach`].
    ///
    /// # Errors
    /// The ports cannot be listed.
    pub async fn stale(&self, live: impl Fn(&str) -> bool) -> Result<Vec<String>, BridgeError> {
        let Shared { name, index, rtnl, .. } = &*self.shared;
        let ports = rtnl.ports(*index).await;
        let ports = ports.map_err(|source| BridgeError::ListPorts { bridge: name.clone(), source })?;
        let ids = ports.iter().filter_map(port::id_of).filter(|id| !live(id));
        Ok(ids.map(str::to_owned).collect())
    }

    /// Deletes what a daemon left that died between the two messages that make a port.
    pub(super) async fn delete_half_made_ports(&self) -> Result<(), BridgeError> {
        let Shared { name, index, rtnl, .. } = &*self.shared;
        let ports = rtnl.ports(*index).await;
        let ports = ports.map_err(|source| BridgeError::ListPorts { bridge: name.clone(), source })?;
        for port in ports.iter().filter(|port| port::is_half_made(port)) {
            match rtnl.delete_link(port.header.index).await {
                Err(error) if !is_no_device(&error) => {
                    let link = rtnl::name(port).unwrap_or("without a name").to_owned();
                    return Err(BridgeError::DeleteHalfMade { link, source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn open_direct(&self) -> Result<DirectRtnl, BridgeError> {
        DirectRtnl::open().map_err(|source| BridgeError::Open { bridge: self.shared.name.clone(), source })
    }

    /// Leaves the calling thread in the pod's namespace.
    fn attach_here(&self, port: Port, netns: &OwnedFd) -> Result<Attachment, BridgeError> {
        let node = self.open_direct()?;
        self.create(&node, &port, netns)?;
        if let Err(error) = self.set_up(&node, &port, netns) {
            // What failed first is worth telling; should this fail too, the caller's own detach reports it.
            let _ = self.detach_here(&node, &port.name, &port.id, port.addresses.first_ipv4());
            return Err(error);
        }
        let mac = port.pod_mac();
        Ok(Attachment { host_ifname: port.name, mac, mtu_bytes: port.mtu_bytes, addresses: port.addresses })
    }

    /// The link may be gone, with the pod's namespace, and the entry for its address still stand.
    fn detach_here(&self, node: &DirectRtnl, name: &str, id: &str, address: Option<Ipv4Addr>) -> Result<(), BridgeError> {
        let index = self.shared.index;
        delete_link(node, name, id, |link| port::is_of(link, id, index))?;
        let deleted = address.map_or(Ok(()), |address| delete_neighbour(node, index, address));
        deleted.map_err(|source| BridgeError::DeletePort { link: name.to_owned(), id: id.to_owned(), source })
    }

    /// Makes the pair, in place of one that an earlier attempt for the same pod left.
    fn create(&self, node: &DirectRtnl, port: &Port, netns: &OwnedFd) -> Result<(), BridgeError> {
        let (link, id) = (port.name.clone(), port.id.clone());
        let mut created = node.order(Order::create_link(port.creation(netns)));
        if created.as_ref().is_err_and(rtnl::is_exists) {
            // Either name may be the one that exists: ours on the node or `eth0` in the pod.
            let found = node.link(&port.name);
            let found = found.map_err(|source| BridgeError::GetLink { link: link.clone(), source })?;
            if let Some(existing) = found {
                if !port::is_of(&existing, &port.id, port.bridge_index) {
                    return Err(BridgeError::ForeignPort { link, id });
                }
                self.detach_here(node, &port.name, &port.id, port.addresses.first_ipv4())?;
                created = node.order(Order::create_link(port.creation(netns)));
            }
        }
        created.map_err(|error| {
            if rtnl::is_bridge_full(&error) {
                BridgeError::BridgeFull { bridge: self.shared.name.clone(), id, pods_max: PODS_MAX }
            } else {
                BridgeError::CreatePort { link, id, source: error }
            }
        })
    }

    /// Everything after the pair exists.
    fn set_up(&self, node: &DirectRtnl, port: &Port, netns: &OwnedFd) -> Result<(), BridgeError> {
        let started = node.order(Order::change_link(port.start(sysctl::has_ipv6(&port.name))));
        started.map_err(|source| start_failed(port, source))?;
        let set_up = pod::set_up(netns, &port.addresses);
        set_up.map_err(|source| BridgeError::Pod { id: port.id.clone(), source })?;
        self.add_neighbour(node, port)?;
        wait_for_carrier(node, port)
    }

    /// Lets the bridge answer ARP for the pod, and the node reach it without asking.
    fn add_neighbour(&self, node: &DirectRtnl, port: &Port) -> Result<(), BridgeError> {
        let Shared { name, index, .. } = &*self.shared;
        let Some(address) = port.addresses.first_ipv4() else {
            return Ok(());
        };
        let set = node.order(Order::set_neighbour(*index, address, port.pod_mac().octets()));
        set.map_err(|source| BridgeError::AddNeighbour { bridge: name.clone(), address: address.into(), id: port.id.clone(), source })
    }
}

/// As [`Bridge::detach`], where the bridge of that name cannot be opened, or is somebody else's by now.
///
/// # Errors
/// The kernel would not tell about the link, or not delete it.
pub async fn delete_port(bridge: &str, id: &str, addresses: Option<&PodAddresses>) -> Result<(), BridgeError> {
    let (name, owned_id, bridge) = (port::name(id)?, id.to_owned(), bridge.to_owned());
    let address = addresses.and_then(PodAddresses::first_ipv4);
    let deleted = pod::on_own_thread(move || {
        let failed = |link: &str| {
            let link = link.to_owned();
            |source| BridgeError::GetLink { link, source }
        };
        let node = DirectRtnl::open().map_err(failed(&name))?;
        delete_link(&node, &name, &owned_id, |link| port::id_of(link) == Some(&owned_id))?;
        let found = node.link(&bridge).map_err(failed(&bridge))?;
        match (found.and_then(|link| our_bridge(&link, &bridge).ok()), address) {
            (Some(index), Some(address)) => delete_neighbour(&node, index, address).map_err(|source| BridgeError::DeleteNeighbour {
                bridge,
                address: address.into(),
                source,
            }),
            _ => Ok(()),
        }
    });
    deleted.await.map_err(|source| BridgeError::Pod { id: id.to_owned(), source })?
}

/// The kernel does not return before nobody can be using the link any more, some 20 ms.
fn delete_link(node: &DirectRtnl, name: &str, id: &str, is_the_pods: impl Fn(&LinkMessage) -> bool) -> Result<(), BridgeError> {
    let found = node.link(name);
    let found = found.map_err(|source| BridgeError::GetLink { link: name.to_owned(), source })?;
    let Some(link) = found.filter(is_the_pods) else { return Ok(()) };
    match node.order(Order::delete_link(link.header.index)) {
        Err(error) if !is_no_device(&error) => Err(BridgeError::DeletePort { link: name.to_owned(), id: id.to_owned(), source: error }),
        _ => Ok(()),
    }
}

/// No entry, or no bridge any more, is fine.
pub(super) fn delete_neighbour(node: &DirectRtnl, index: u32, address: Ipv4Addr) -> io::Result<()> {
    match node.order(Order::delete_neighbour(index, address)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && !is_no_device(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The bridge passes packets to a port once its carrier has been noticed.
fn wait_for_carrier(node: &DirectRtnl, port: &Port) -> Result<(), BridgeError> {
    for _ in 0..CARRIER_ATTEMPTS_MAX {
        let link = node.link(&port.name).map_err(|source| start_failed(port, source))?;
        if link.is_some_and(|link| rtnl::is_oper_up(&link)) {
            return Ok(());
        }
        thread::sleep(CARRIER_PAUSE);
    }
    Err(BridgeError::PortDown { link: port.name.clone(), id: port.id.clone() })
}

fn start_failed(port: &Port, source: io::Error) -> BridgeError {
    BridgeError::StartPort { link: port.name.clone(), id: port.id.clone(), source }
}
