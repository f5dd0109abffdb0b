//! Networks as the disjoint intervals that nftables wants: it refuses overlapping ones.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Addresses from `first` up to but not including `beyond`, in network byte order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: Vec<u8>,
    /// `None` when the interval reaches the last address of all.
    pub(super) beyond: Option<Vec<u8>>,
}

/// The union of `networks`, which are all of one family, in ascending order and with adjacent ones joined.
pub(super) fn ranges(networks: &[IpNetwork]) -> Vec<Range> {
    let mut spans: Vec<(u128, u128)> = networks.iter().map(|network| (number(network.network()), number(network.broadcast()))).collect();
    spans.sort_unstable();
    let mut joined: Vec<(u128, u128)> = Vec::with_capacity(spans.len());
    for (first, last) in spans {
        match joined.last_mut() {
            Some((_, previous_last)) if first <= previous_last.saturating_add(1) => {
                *previous_last = last.max(*previous_last);
            }
            _ => joined.push((first, last)),
        }
    }
    let is_ipv4 = networks.iter().any(IpNetwork::is_ipv4);
    let ranges = joined.into_iter().map(|(first, last)| Range {
        first: bytes(first, is_ipv4).expect("the first address of a network is an address"),
        beyond: last.checked_add(1).and_then(|beyond| bytes(beyond, is_ipv4)),
    });
    ranges.collect()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn bytes(number: u128, is_ipv4: bool) -> Option<Vec<u8>> {
    if is_ipv4 { Some(u32::try_from(number).ok()?.to_be_bytes().to_vec()) } else { Some(number.to_be_bytes().to_vec()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn overlapping_and_adjacent_networks_are_joined() {
        let found = ranges(&networks(&["10.0.1.0/24", "10.0.0.1/24", "10.0.0.0/25", "224.0.0.0/4"]));
        let expected = [
            Range { first: vec![10, 0, 0, 0], beyond: Some(vec![10, 0, 2, 0]) },
            Range { first: vec![224, 0, 0, 0], beyond: Some(vec![240, 0, 0, 0]) },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_last_network_of_all_has_no_end() {
        let found = ranges(&networks(&["ff00::/8"]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].beyond, None);
        assert_eq!(ranges(&networks(&["255.255.255.0/24"]))[0].beyond, None);
    }
}
