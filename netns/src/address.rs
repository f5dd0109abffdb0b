//! Which pod has which addresses.
//!
//! Invariants of [`AddressPool`]:
//! - an address belongs to at most one pod, and only that pod's release frees it; the network address, the gateway (the first host address) and, for IPv4,
//!   the broadcast address belong to none;
//! - a freed address is not given again before the rest of its subnet has been gone through;
//! - a change of subnets touches new reservations only: addresses outside are still tracked until they are released.
//!
//! The pool does no I/O and does not know about links: the caller releases an address once its link is gone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, PoolError};
use crate::owner::Owner;

/// How many pods one bridge takes: the kernel's `BR_MAX_PORTS` is 1,024 and port numbers start at 1.
pub const PODS_MAX: usize = 1023;

/// The addresses of one pod, each with the prefix length of its subnet: at least one, IPv4 before IPv6.
///
/// Serialised as a list of strings such as `10.88.0.2/16`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<IpNetwork>", into = "Vec<IpNetwork>")]
pub struct PodAddresses(Vec<IpNetwork>);

impl PodAddresses {
    /// Puts IPv4 first and otherwise keeps the order.
    ///
    /// # Errors
    /// [`PoolError::NoAddress`] when the list is empty.
    pub fn new(mut addresses: Vec<IpNetwork>) -> Result<Self, PoolError> {
        if addresses.is_empty() {
            return Err(PoolError::NoAddress);
        }
        addresses.sort_by_key(IpNetwork::is_ipv6);
        Ok(Self(addresses))
    }

    /// The address that is *the* pod IP where only one can be told.
    #[must_use]
    pub fn primary(&self) -> IpAddr {
        self.0[0].ip()
    }

    /// All addresses with their prefix lengths, the primary first.
    #[must_use]
    pub fn as_slice(&self) -> &[IpNetwork] {
        &self.0
    }

    /// The first address of each family: the one whose gateway gets the default route.
    pub(crate) fn first_of_each_family(&self) -> impl Iterator<Item = &IpNetwork> {
        let first_v4 = self.0.iter().find(|address| address.is_ipv4());
        let first_v6 = self.0.iter().find(|address| address.is_ipv6());
        first_v4.into_iter().chain(first_v6)
    }

    /// The first IPv4 address.
    pub(crate) fn first_ipv4(&self) -> Option<Ipv4Addr> {
        self.0.iter().find_map(|address| match address.ip() {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })
    }
}

impl TryFrom<Vec<IpNetwork>> for PodAddresses {
    type Error = PoolError;

    fn try_from(addresses: Vec<IpNetwork>) -> Result<Self, PoolError> {
        Self::new(addresses)
    }
}

impl From<PodAddresses> for Vec<IpNetwork> {
    fn from(addresses: PodAddresses) -> Self {
        addresses.0
    }
}

/// The bridge's own address in `subnet`: its first host address, with the subnet's prefix length.
pub(crate) fn gateway(subnet: IpNetwork) -> IpNetwork {
    let ip = address_at(subnet, 1);
    IpNetwork::new(ip, subnet.prefix()).expect("the prefix length is that of a network of the same family")
}

/// Checks that pods can be given addresses out of every one of `subnets`.
pub(crate) fn validate_subnets(subnets: &[IpNetwork]) -> Result<(), ConfigError> {
    if subnets.is_empty() {
        return Err(ConfigError::NoSubnet);
    }
    for (i, &subnet) in subnets.iter().enumerate() {
        if subnet.ip() != subnet.network() {
            return Err(ConfigError::HostBits { subnet });
        }
        if last_offset(subnet) < 2 {
            return Err(ConfigError::SubnetTooSmall { subnet });
        }
        // Of two overlapping blocks one contains the network address of the other.
        let overlaps = |other: &&IpNetwork| other.contains(subnet.ip()) || subnet.contains(other.ip());
        if let Some(&other) = subnets[..i].iter().find(overlaps) {
            return Err(ConfigError::SubnetsOverlap { subnet, other });
        }
    }
    Ok(())
}

/// Distance from the network address to the last one a pod may have; below 2 there is none.
fn last_offset(subnet: IpNetwork) -> u128 {
    let host_bits = |width: u8| u32::from(width - subnet.prefix());
    match subnet {
        IpNetwork::V4(_) => (1_u128 << host_bits(32)).saturating_sub(2),
        IpNetwork::V6(_) => u128::MAX.checked_shr(128 - host_bits(128)).unwrap_or(0),
    }
}

fn address_at(subnet: IpNetwork, offset: u128) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(network) => {
            let offset = u32::try_from(offset).expect("offsets stay within the subnet");
            Ipv4Addr::from(u32::from(network) + offset).into()
        }
        IpAddr::V6(network) => Ipv6Addr::from(u128::from(network) + offset).into(),
    }
}

fn offset_of(subnet: IpNetwork, address: IpAddr) -> Option<u128> {
    match (subnet.network(), address) {
        _ if !subnet.contains(address) => None,
        (IpAddr::V4(network), IpAddr::V4(address)) => Some(u128::from(u32::from(address) - u32::from(network))),
        (IpAddr::V6(network), IpAddr::V6(address)) => Some(u128::from(address) - u128::from(network)),
        _ => None,
    }
}

/// One subnet and where the search for the next free address starts.
#[derive(Debug, Clone)]
struct Range {
    subnet: IpNetwork,
    /// Offset of the address given last; 1, the gateway, before the first.
    last_given: u128,
}

impl Range {
    fn new(subnet: IpNetwork) -> Self {
        Self { subnet, last_given: 1 }
    }

    /// The next free offset after the one given last, round the end. At most one step more than there are addresses
    /// taken, so the size of the subnet does not matter.
    fn next_free(&self, taken: &BTreeMap<IpAddr, Owner>) -> Option<u128> {
        let last = last_offset(self.subnet);
        let mut offset = self.last_given;
        for _ in 0..=taken.len() {
            offset = if offset >= last { 2 } else { offset + 1 };
            if !taken.contains_key(&address_at(self.subnet, offset)) {
                return Some(offset);
            }
        }
        None
    }

    /// A restored address moves the start beyond it: what was freed just before a restart is reused late as well.
    fn note(&mut self, address: IpAddr) {
        if let Some(offset) = offset_of(self.subnet, address) {
            self.last_given = self.last_given.max(offset);
        }
    }
}

/// The addresses of all pods of one bridge, in memory.
#[derive(Debug, Clone)]
pub struct AddressPool {
    ranges: Vec<Range>,
    taken: BTreeMap<IpAddr, Owner>,
    pods: BTreeMap<Owner, PodAddresses>,
}

impl AddressPool {
    /// An empty pool that gives every pod one address out of each of `subnets`.
    ///
    /// # Errors
    /// As [`BridgeConfig::validate`](crate::BridgeConfig::validate) does for subnets.
    pub fn new(subnets: &[IpNetwork]) -> Result<Self, ConfigError> {
        validate_subnets(subnets)?;
        let ranges = subnets.iter().copied().map(Range::new).collect();
        Ok(Self { ranges, taken: BTreeMap::new(), pods: BTreeMap::new() })
    }

    /// Gives `owner` one address out of each subnet, or nothing at all. An owner that has addresses keeps those.
    ///
    /// # Errors
    /// [`PoolError::SubnetFull`] and [`PoolError::TooManyPods`]; the pool is unchanged then.
    pub fn reserve(&mut self, owner: &Owner) -> Result<PodAddresses, PoolError> {
        if let Some(addresses) = self.pods.get(owner) {
            return Ok(addresses.clone());
        }
        if self.pods.len() >= PODS_MAX {
            return Err(PoolError::TooManyPods { pods_max: PODS_MAX });
        }
        let mut offsets = Vec::with_capacity(self.ranges.len());
        for range in &self.ranges {
            let free = range.next_free(&self.taken);
            offsets.push(free.ok_or(PoolError::SubnetFull { subnet: range.subnet })?);
        }
        let mut addresses = Vec::with_capacity(offsets.len());
        for (range, offset) in self.ranges.iter_mut().zip(offsets) {
            range.last_given = offset;
            let address = IpNetwork::new(address_at(range.subnet, offset), range.subnet.prefix());
            addresses.push(address.expect("the prefix length is that of a network of the same family"));
        }
        let addresses = PodAddresses::new(addresses)?;
        self.enter(owner, &addresses);
        Ok(addresses)
    }

    /// Takes addresses that `owner` already has, from the records, inside the subnets or not. All or none. The first to
    /// claim an address has it: restore those first whose claim is the better one.
    ///
    /// # Errors
    /// [`PoolError::Taken`] when another pod has one of them.
    pub fn restore(&mut self, owner: &Owner, addresses: &PodAddresses) -> Result<(), PoolError> {
        for address in addresses.as_slice().iter().map(IpNetwork::ip) {
            if let Some(other) = self.taken.get(&address).filter(|other| *other != owner) {
                return Err(PoolError::Taken { address, owner: other.clone() });
            }
        }
        self.release(owner);
        for address in addresses.as_slice() {
            self.ranges.iter_mut().for_each(|range| range.note(address.ip()));
        }
        self.enter(owner, addresses);
        Ok(())
    }

    fn enter(&mut self, owner: &Owner, addresses: &PodAddresses) {
        self.taken.extend(addresses.as_slice().iter().map(|address| (address.ip(), owner.clone())));
        self.pods.insert(owner.clone(), addresses.clone());
    }

    /// Frees what `owner` has, after its link is gone. One that has nothing, or no more, frees nothing.
    pub fn release(&mut self, owner: &Owner) {
        for address in self.pods.remove(owner).iter().flat_map(PodAddresses::as_slice) {
            self.taken.remove(&address.ip());
        }
    }

    /// What `owner` has.
    #[must_use]
    pub fn addresses(&self, owner: &Owner) -> Option<&PodAddresses> {
        self.pods.get(owner)
    }

    /// Whether a pod has this address.
    #[must_use]
    pub fn is_taken(&self, address: IpAddr) -> bool {
        self.taken.contains_key(&address)
    }

    /// From now on pods get addresses out of `subnets`; those that have others keep them until they are released.
    ///
    /// # Errors
    /// As [`AddressPool::new`]; the pool is unchanged then.
    pub fn set_subnets(&mut self, subnets: &[IpNetwork]) -> Result<(), ConfigError> {
        validate_subnets(subnets)?;
        let ranges = subnets.iter().map(|&subnet| {
            let known = self.ranges.iter().find(|range| range.subnet == subnet);
            known.cloned().unwrap_or_else(|| {
                let mut range = Range::new(subnet);
                self.taken.keys().for_each(|&ip| range.note(ip));
                range
            })
        });
        self.ranges = ranges.collect();
        Ok(())
    }

    /// The subnets new pods get addresses out of.
    pub fn subnets(&self) -> impl Iterator<Item = IpNetwork> {
        self.ranges.iter().map(|range| range.subnet)
    }

    /// How many pods hold addresses now.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.pods.len()
    }
}
