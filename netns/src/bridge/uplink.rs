//! Where the node's packets leave, and how large they may be there.

use std::io;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType};

use crate::rtnl::Rtnl;

/// What pods get on a node without a default route.
const MTU_DEFAULT_BYTES: u32 = 1500;

/// The MTU of the best default route of each family in the main table, by the route's own metric or else its links';
/// of several the smallest.
pub(super) async fn mtu_bytes(rtnl: &Rtnl) -> io::Result<u32> {
    let mut mtus = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let routes = rtnl.routes(family).await?;
        let Some(route) = routes.iter().filter(|route| is_default(route)).min_by_key(|route| priority(route)) else {
            continue;
        };
        if let Some(mtu_bytes) = metric_mtu_bytes(route) {
            mtus.push(mtu_bytes);
            continue;
        }
        for index in links(route) {
            mtus.extend(rtnl.mtu_bytes(index).await?);
        }
    }
    Ok(mtus.into_iter().min().unwrap_or(MTU_DEFAULT_BYTES))
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0
        && route.header.table == RouteHeader::RT_TABLE_MAIN
        && route.header.kind == RouteType::Unicast
}

/// `RTA_PRIORITY`, the lower the better; IPv4 leaves out 0.
fn priority(route: &RouteMessage) -> u32 {
    let priority = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    priority.unwrap_or(0)
}

fn metric_mtu_bytes(route: &RouteMessage) -> Option<u32> {
    let metrics = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    })?;
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu_bytes) => Some(*mtu_bytes),
        _ => None,
    })
}

/// Indices of the links the route may use: one, or one for each next hop.
fn links(route: &RouteMessage) -> Vec<u32> {
    let mut links = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    links
}
