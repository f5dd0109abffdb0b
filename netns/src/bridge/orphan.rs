//! What has outlived its other half: pods' links whose bridge was deleted, or is not the one that is meant any more, and entries for
//! addresses whose pod is gone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::attach::delete_neighbour;
use super::port::{self, Port};
use super::{Bridge, Shared};
use crate::address::{PodAddresses, gateway};
use crate::error::BridgeError;
use crate::mac::MacAddress;
use crate::rtnl::{self, Order, Rtnl, is_no_device};
use crate::sysctl;

impl Bridge {
    /// The ids of pods whose links are on no bridge: the one that they were on was deleted. Pods of other bridges are among
    /// them, if those are gone as well.
    ///
    /// # Errors
    /// The links cannot be listed.
    pub async fn orphans(&self) -> Result<Vec<String>, BridgeError> {
        let Shared { name, rtnl, .. } = &*self.shared;
        let links = rtnl.links().await;
        let links = links.map_err(|source| BridgeError::ListOrphans { bridge: name.clone(), source })?;
        Ok(links.iter().filter_map(port::orphan_id).map(str::to_owned).collect())
    }

    /// Puts the link of an orphan, which has `addresses`, on this bridge. The inside of the pod is as it was: it reaches
    /// others and is reached again. A link that has gone meanwhile is fine.
    ///
    /// # Errors
    /// The link is on no bridge still, or pods do not find it.
    pub async fn reattach(&self, id: &str, addresses: &PodAddresses) -> Result<(), BridgeError> {
        let Shared { name: bridge, index, mtu_bytes, rtnl, .. } = &*self.shared;
        let (bridge_index, mtu_bytes) = (*index, *mtu_bytes);
        // The bridge was made for the subnets of today; this pod may be of yesterday's.
        let present = rtnl.addresses(bridge_index).await;
        let present = present.map_err(|source| BridgeError::ListAddresses { bridge: bridge.clone(), source })?;
        if addresses.as_slice().iter().any(|&address| !present.contains(&gateway(address))) {
            self.serve(addresses.as_slice()).await?;
        }
        let port = Port { name: port::name(id)?, id: id.to_owned(), bridge_index, mtu_bytes, addresses: addresses.clone() };
        let failed = |source| BridgeError::Reattach { bridge: bridge.clone(), link: port.name.clone(), id: port.id.clone(), source };
        let node = self.open_direct()?;
        match node.order(Order::change_link(port.enslave())) {
            // And with it whoever could be found there: no entry may say that it can.
            Err(error) if is_no_device(&error) => return Ok(()),
            enslaved => enslaved.map_err(failed)?,
        }
        let mut orders = vec![Order::change_link(port.start(sysctl::has_ipv6(&port.name)))];
        orders.extend(addresses.first_ipv4().map(|address| Order::set_neighbour(bridge_index, address, port.pod_mac().octets())));
        match node.orders(orders) {
            Err(refusal) if !is_no_device(&refusal.source) => Err(failed(refusal.source)),
            _ => Ok(()),
        }
    }

    /// Deletes the entries that say where pods are, of addresses that no pod has: what a daemon left that died between the
    /// end of a pod's namespace, which takes the link, and [`Bridge::detach`]. Entries that are not ours stay.
    ///
    /// # Errors
    /// The entries cannot be listed or deleted.
    pub async fn delete_stale_neighbours(&self, is_taken: impl Fn(IpAddr) -> bool) -> Result<(), BridgeError> {
        let Shared { name, index, rtnl, .. } = &*self.shared;
        let entries = rtnl.permanent_neighbours(*index).await;
        let entries = entries.map_err(|source| BridgeError::ListNeighbours { bridge: name.clone(), source })?;
        let is_ours = |(address, mac): &(Ipv4Addr, Vec<u8>)| MacAddress::of_pod((*address).into()).octets() == mac.as_slice();
        let stale = entries.into_iter().filter(is_ours).map(|(address, _)| address).filter(|&address| !is_taken(address.into()));
        let stale: Vec<Ipv4Addr> = stale.collect();
        if stale.is_empty() {
            return Ok(());
        }
        let node = self.open_direct()?;
        stale.into_iter().try_for_each(|address| {
            let deleted = delete_neighbour(&node, *index, address);
            deleted.map_err(|source| BridgeError::DeleteNeighbour { bridge: name.clone(), address: address.into(), source })
        })
    }
}

/// The ids of pods whose links are on other bridges than `bridge`, each with the name of that other one. Pods of other daemons are among them.
/// Must be called in a tokio runtime.
///
/// # Errors
/// The links cannot be listed.
pub async fn pods_elsewhere(bridge: &str) -> Result<BTreeMap<String, String>, BridgeError> {
    let failed = |source| BridgeError::ListOrphans { bridge: bridge.to_owned(), source };
    let links = Rtnl::open().map_err(failed)?.links().await.map_err(failed)?;
    let names: BTreeMap<u32, &str> = links.iter().filter_map(|link| Some((link.header.index, rtnl::name(link)?))).collect();
    let elsewhere = links.iter().filter_map(|link| {
        let other = names.get(&rtnl::controller(link)?).filter(|other| **other != bridge)?;
        Some((port::id_of(link)?.to_owned(), (*other).to_owned()))
    });
    Ok(elsewhere.collect())
}
