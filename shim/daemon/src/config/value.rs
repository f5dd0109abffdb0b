//! Values of the configuration that are more than text.

use ipnetwork::IpNetwork;
use podbox_netns::{AddressPool, BridgeConfig, ConfigError as NetworkFault};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Why a value is refused; the key stands before it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidValue {
    /// A relative path.
    #[error("an absolute path without `..` is due, not {0:?}")]
    NotAbsolute(String),
    /// A bridge or subnets that no pod network can be made of.
    #[error(transparent)]
    Network(#[from] NetworkFault),
    /// Not an address and a port.
    #[error("an address and a port are due, like 127.0.0.1:0, not {0:?}")]
    Address(String),
    /// An address that others could reach.
    #[error("a loopback address is due, like 127.0.0.1:9500, not {0}: whoever reaches it can read it")]
    NotLoopback(SocketAddr),
    /// Not the name of a registry.
    #[error("a registry is due, `host` or `host:port` with a dot or a port, not {0:?}")]
    Registry(String),
    /// A time that is none, or too long to be one.
    #[error("1 to {TIMEOUT_SECONDS_MAX} seconds are due, not {0}")]
    Timeout(u32),
    /// The same, for a session.
    #[error("1 to {IDLE_SECONDS_MAX} seconds are due, not {0}")]
    Idle(u32),
}

const TIMEOUT_SECONDS_MAX: u32 = 3600;
/// A week.
const IDLE_SECONDS_MAX: u32 = 7 * 24 * 3600;

macro_rules! checked_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, InvalidValue> {
                Self::parse(text)
            }
        }
    };
}

fn is_plain_absolute(text: &str) -> bool {
    let path = Path::new(text);
    path.is_absolute() && !text.contains('\0') && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// A path from the root without `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct AbsolutePath(PathBuf);

impl AbsolutePath {
    fn parse(text: String) -> Result<Self, InvalidValue> {
        if is_plain_absolute(&text) { Ok(Self(text.into())) } else { Err(InvalidValue::NotAbsolute(text)) }
    }

    /// A path that is known to be fine.
    pub(super) fn constant(text: &'static str) -> Self {
        Self(text.into())
    }
}

impl AsRef<Path> for AbsolutePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

checked_text!(AbsolutePath);

/// A cgroup's path below the roots of the hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct CgroupParent(String);

impl CgroupParent {
    fn parse(text: String) -> Result<Self, InvalidValue> {
        if is_plain_absolute(&text) { Ok(Self(text)) } else { Err(InvalidValue::NotAbsolute(text)) }
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for CgroupParent {
    fn default() -> Self {
        Self("/podbox".to_owned())
    }
}

checked_text!(CgroupParent);

/// The name of a network interface (`netdevice(7)`: under 16 bytes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct BridgeName(String);

impl BridgeName {
    fn parse(text: String) -> Result<Self, InvalidValue> {
        let bridge = BridgeConfig { name: text, subnets: Subnets::default().0 };
        bridge.validate()?;
        Ok(Self(bridge.name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for BridgeName {
    fn default() -> Self {
        Self("podbox0".to_owned())
    }
}

checked_text!(BridgeName);

/// Networks that pods get their addresses from, one address of each: at least one, none overlapping another, none without room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<IpNetwork>")]
pub struct Subnets(Vec<IpNetwork>);

impl Subnets {
    /// In the order of the file.
    pub fn as_slice(&self) -> &[IpNetwork] {
        &self.0
    }
}

impl Default for Subnets {
    fn default() -> Self {
        let subnet = |text: &str| text.parse().expect("the built-in subnets are well-formed");
        Self(vec![subnet("10.88.0.0/16"), subnet("fd00:10:88::/64")])
    }
}

impl TryFrom<Vec<IpNetwork>> for Subnets {
    type Error = InvalidValue;

    fn try_from(subnets: Vec<IpNetwork>) -> Result<Self, InvalidValue> {
        // Whatever the pool takes is fine.
        AddressPool::new(&subnets)?;
        Ok(Self(subnets))
    }
}

/// The host of a registry, with or without a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RegistryHost(String);

impl RegistryHost {
    fn parse(text: String) -> Result<Self, InvalidValue> {
        if podbox_image::reference::is_registry(&text) { Ok(Self(text)) } else { Err(InvalidValue::Registry(text)) }
    }

    /// The host.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RegistryHost {
    fn default() -> Self {
        Self("docker.io".to_owned())
    }
}

checked_text!(RegistryHost);

/// How long a registry may be silent, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct ProgressTimeout(u32);

impl ProgressTimeout {
    /// In seconds, at least one.
    pub fn seconds(self) -> u32 {
        self.0
    }
}

impl Default for ProgressTimeout {
    fn default() -> Self {
        Self(60)
    }
}

impl TryFrom<u32> for ProgressTimeout {
    type Error = InvalidValue;

    fn try_from(seconds: u32) -> Result<Self, InvalidValue> {
        if (1..=TIMEOUT_SECONDS_MAX).contains(&seconds) { Ok(Self(seconds)) } else { Err(InvalidValue::Timeout(seconds)) }
    }
}

/// How long nothing may move in a session, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct IdleTimeout(u32);

impl IdleTimeout {
    /// At least a second.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl Default for IdleTimeout {
    /// What the kubelet's `streamingConnectionIdleTimeout` is.
    fn default() -> Self {
        Self(4 * 3600)
    }
}

impl TryFrom<u32> for IdleTimeout {
    type Error = InvalidValue;

    fn try_from(seconds: u32) -> Result<Self, InvalidValue> {
        if (1..=IDLE_SECONDS_MAX).contains(&seconds) { Ok(Self(seconds)) } else { Err(InvalidValue::Idle(seconds)) }
    }
}

/// An address and a port to listen on; port 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress(pub SocketAddr);

impl ListenAddress {
    fn parse(text: String) -> Result<Self, InvalidValue> {
        text.parse().map(Self).map_err(|_| InvalidValue::Address(text))
    }
}

impl Default for ListenAddress {
    fn default() -> Self {
        Self(SocketAddr::from(([127, 0, 0, 1], 0)))
    }
}

checked_text!(ListenAddress);

/// A loopback address and a port, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct OptionalAddress(pub Option<SocketAddr>);

impl OptionalAddress {
    fn parse(text: String) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let ListenAddress(address) = ListenAddress::parse(text)?;
        if address.ip().to_canonical().is_loopback() { Ok(Self(Some(address))) } else { Err(InvalidValue::NotLoopback(address)) }
    }
}

checked_text!(OptionalAddress);

impl fmt::Display for CgroupParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
