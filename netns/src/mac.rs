//! Ethernet addresses derived from IP addresses.
//!
//! A pod that gets the address of one that went away also gets its MAC, so no neighbour table is ever stale, and an entry
//! that we made for an address can be told from one that somebody else did. The host end of the veth pair is derived likewise.
//!
//! The first two bytes tell what the link is. The kernel sets a MAC in the same moment as it makes a link, but an alias
//! only later: so they are also the mark of what is ours.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Of the pod's end of a veth pair. Like those below: locally administered, unicast.
const POD_PREFIX: [u8; 2] = [0x0a, 0x58];
/// Of the host end of a veth pair.
const PORT_PREFIX: [u8; 2] = [0x0a, 0x59];
/// Of a bridge.
const BRIDGE_PREFIX: [u8; 2] = [0x0a, 0x5a];

/// A 48-bit Ethernet address, written `0a:58:0a:00:00:02`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// The text is not six two-digit hexadecimal bytes joined by colons.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not an Ethernet address")]
pub struct ParseMacError {
    text: String,
}

impl MacAddress {
    /// The MAC of the pod that owns `address`.
    pub(crate) fn of_pod(address: IpAddr) -> Self {
        Self::derived(POD_PREFIX, address)
    }

    /// The MAC of the host end of the veth pair of the pod that owns `address`.
    pub(crate) fn of_port(address: IpAddr) -> Self {
        Self::derived(PORT_PREFIX, address)
    }

    /// The MAC of the bridge that has `address` as a gateway.
    pub(crate) fn of_bridge(address: IpAddr) -> Self {
        Self::derived(BRIDGE_PREFIX, address)
    }

    /// Whether `bytes` is a MAC of [`MacAddress::of_port`].
    pub(crate) fn is_port(bytes: &[u8]) -> bool {
        bytes.starts_with(&PORT_PREFIX)
    }

    /// Whether `bytes` is a MAC of [`MacAddress::of_bridge`].
    pub(crate) fn is_bridge(bytes: &[u8]) -> bool {
        bytes.starts_with(&BRIDGE_PREFIX)
    }

    /// For IPv6 the last four bytes: the pool hands out the low addresses of a subnet, so they differ there.
    fn derived(prefix: [u8; 2], address: IpAddr) -> Self {
        let low = match address {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.octets();
                [a, b, c, d]
            }
        };
        let [a, b] = prefix;
        let [c, d, e, f] = low;
        Self([a, b, c, d, e, f])
    }

    /// The six bytes in transmission order.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let fail = || ParseMacError { text: text.to_owned() };
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit())).ok_or_else(fail)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| fail())?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(fail()),
        }
    }
}

impl TryFrom<String> for MacAddress {
    type Error = ParseMacError;

    fn try_from(text: String) -> Result<Self, ParseMacError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn the_mac_tells_what_the_link_is_and_ends_in_the_address() {
        let address = IpAddr::from([10, 88, 1, 7]);
        assert_eq!(MacAddress::of_pod(address).to_string(), "0a:58:0a:58:01:07");
        let (port, bridge) = (MacAddress::of_port(address), MacAddress::of_bridge(address));
        assert!(MacAddress::is_port(&port.octets()) && !MacAddress::is_port(&bridge.octets()));
        assert!(MacAddress::is_bridge(&bridge.octets()) && !MacAddress::is_bridge(&port.octets()));
    }

    #[test]
    fn text_and_back() {
        let mac = MacAddress::of_pod(IpAddr::V6("fd00::1:2".parse().unwrap()));
        assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
        for bad in ["", "0a:58", "0a:58:0a:58:01:07:00", "0a:58:0a:58:01:+7", "0a-58-0a-58-01-07"] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }
}
