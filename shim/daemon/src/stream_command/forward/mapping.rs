//! What is forwarded: `[ADDRESS:]LOCAL:REMOTE`.

use anyhow::Context;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use tokio::net::TcpListener;

/// A port that is free for IPv4 may be taken for IPv6; so often another one is tried.
const FREE_PORT_TRIES: usize = 16;

/// A local port, and the pod's port that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// Where to listen; `None`: on both loopback addresses.
    address: Option<IpAddr>,
    /// 0: one that is free.
    local: u16,
    /// The pod's.
    pub remote: u16,
}

/// What is no mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// An address that is none, or IPv6 without brackets.
    #[error("{0:?} is no IP address; IPv6 addresses stand in brackets")]
    Address(String),
    /// A port that is none.
    #[error("{0:?} is no port: 1 to 65535 are due")]
    Port(String),
    /// Too many or too few parts.
    #[error("[ADDRESS:]LOCAL:REMOTE, :REMOTE or one port for both is due")]
    Shape,
}

impl FromStr for PortMapping {
    type Err = MappingError;

    fn from_str(text: &str) -> Result<Self, MappingError> {
        let (address, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, ports) = rest.split_once("]:").ok_or(MappingError::Shape)?;
                let parsed = address.parse::<Ipv6Addr>().map_err(|_| MappingError::Address(address.to_owned()))?;
                (Some(IpAddr::V6(parsed)), ports)
            }
            None => match text.rsplitn(3, ':').collect::<Vec<_>>()[..] {
                [_, _, address] => {
                    let parsed = address.parse::<Ipv4Addr>().map_err(|_| MappingError::Address(address.to_owned()))?;
                    (Some(IpAddr::V4(parsed)), &text[address.len() + 1..])
                }
                _ => (None, text),
            },
        };
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| MappingError::Port(text.to_owned()));
        let (local, remote) = match ports.split_once(':') {
            Some(("" | "0", remote)) => (0, port(remote)?),
            Some((local, remote)) => (port(local)?, port(remote)?),
            None if address.is_none() => (port(ports)?, port(ports)?),
            None => return Err(MappingError::Shape),
        };
        Ok(Self { address, local, remote })
    }
}

impl PortMapping {
    /// Listens. A node without IPv6, or without IPv4, is listened on with what it has.
    pub(super) async fn listen(&self) -> anyhow::Result<Vec<TcpListener>> {
        let Some(address) = self.address else { return self.listen_on_loopback().await };
        Ok(vec![bind(address, self.local).await?])
    }

    async fn listen_on_loopback(&self) -> anyhow::Result<Vec<TcpListener>> {
        let mut tries_left = if self.local == 0 { FREE_PORT_TRIES } else { 1 };
        loop {
            tries_left -= 1;
            let first = match bind(IpAddr::V4(Ipv4Addr::LOCALHOST), self.local).await {
                Ok(listener) => listener,
                Err(error) if is_absent(&error) => return Ok(vec![bind(IpAddr::V6(Ipv6Addr::LOCALHOST), self.local).await?]),
                Err(error) => return Err(error),
            };
            let port = first.local_addr().context("ask for the port")?.port();
            match bind(IpAddr::V6(Ipv6Addr::LOCALHOST), port).await {
                Ok(second) => return Ok(vec![first, second]),
                Err(error) if is_absent(&error) => return Ok(vec![first]),
                Err(error) if tries_left == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }
}

async fn bind(address: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(address, port);
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

/// Whether the node has no such address, as without IPv6.
fn is_absent(error: &anyhow::Error) -> bool {
    let Some(error) = error.downcast_ref::<std::io::Error>() else { return false };
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_what_was_said_or_refused() {
        let mapping = |address: Option<&str>, local, remote| {
            Ok(PortMapping { address: address.map(|address| address.parse().expect("an address")), local, remote })
        };
        for (text, expected) in [
            ("80", mapping(None, 80, 80)),
            ("8080:80", mapping(None, 8080, 80)),
            (":80", mapping(None, 0, 80)),
            ("0:80", mapping(None, 0, 80)),
            ("0.0.0.0:8080:80", mapping(Some("0.0.0.0"), 8080, 80)),
            ("10.0.0.1::80", mapping(Some("10.0.0.1"), 0, 80)),
            ("[::1]:8080:80", mapping(Some("::1"), 8080, 80)),
            ("0", Err(MappingError::Port("0".to_owned()))),
            ("80:", Err(MappingError::Port(String::new()))),
            ("65536:1", Err(MappingError::Port("65536".to_owned()))),
            ("::1:80:80", Err(MappingError::Address("::1".to_owned()))),
            ("host:80:80", Err(MappingError::Address("host".to_owned()))),
            ("[::1]:80", Err(MappingError::Shape)),
            ("[::1", Err(MappingError::Shape)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }
}
