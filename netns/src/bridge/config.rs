//! What a bridge is to be, before anything is made.

use ipnetwork::IpNetwork;

use crate::address::validate_subnets;
use crate::error::ConfigError;

/// Longest link name without its NUL, in bytes (`IFNAMSIZ` less one).
const NAME_BYTES_MAX: usize = 15;

/// One bridge: its name, and the subnets its pods get addresses out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Link name: 1 to 15 bytes of letters, digits, `-`, `_` and `.`. Two daemons in one network namespace need different
    /// names: [`BridgeClaim`](crate::BridgeClaim) sees to it.
    pub name: String,
    /// At least one, of either family, not overlapping. Every pod gets one address out of each; the first of each
    /// family has the pod's default route.
    pub subnets: Vec<IpNetwork>,
}

impl BridgeConfig {
    /// Checks name and subnets.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        // The last three would name directories of `/proc/sys/net/ipv6/conf` that stand for something else.
        let reserved = ["", ".", "..", "all", "default", "lo"];
        if self.name.len() > NAME_BYTES_MAX || reserved.contains(&self.name.as_str()) || !self.name.bytes().all(allowed) {
            return Err(ConfigError::BridgeName { name: self.name.clone() });
        }
        validate_subnets(&self.subnets)
    }
}
