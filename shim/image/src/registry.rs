//! The client's side of the OCI distribution protocol: from a name to verified documents and blobs.
//!
//! ```text
//! hosts         which endpoints a registry's name stands for: hosts.toml, in containerd's format
//! credentials   what a caller, or a docker config.json, has for a host
//! transport     one request: TLS, proxies, redirects, timeouts, repetition
//! challenge     what a 401 asks for
//! session       one image's requests: endpoints in their order, authorization
//! blob          a blob, resumed where it broke off
//! ```
//!
//! What holds throughout:
//!
//! - Credentials go to the registry that they are for and to the token server it names, over TLS unless that registry is asked in
//!   plain HTTP itself. They follow no redirect to another origin, and mirrors get their own or none.
//! - What `hosts.toml` says of TLS holds for the host it is written for. Another origin that a registry sends us to, for a blob or a
//!   token, is spoken to by its own folder's settings, or by none, and is shown no certificate of ours.
//! - Plain HTTP is spoken where `hosts.toml` says so, and to loopback addresses for which there is no `hosts.toml` (their port
//!   being other than 443). A redirect never leads from HTTPS to plain HTTP.
//! - No URL of a redirect or token server is in any error: their queries are secrets.
//! - Whatever a server says, what is kept in memory is bounded, and a server that says nothing is given up on.
//!
//! reqwest speaks HTTP, but follows no redirect and repeats nothing by itself: what is sent again and with which headers is
//! decided here. Knows of an image its blobs' digests and sizes, and no more.

mod blob;
mod challenge;
mod credentials;
mod error;
mod hosts;
mod session;
mod transport;

pub(crate) use blob::BlobSink;
pub use credentials::{AuthFile, AuthFileError, Credentials, HelperError, InvalidCredentials, is_address_of};
pub use error::{Message, RegistryError, TransferError};
pub use hosts::HostsError;
pub(crate) use session::{Document, Origin, Session};
pub(crate) use transport::Transport;

use std::time::Duration;

/// How patient the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// A server that sends nothing for so long is given up on, or asked again.
    pub progress: Duration,
    /// To make a connection, TLS included.
    pub connect: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { progress: Duration::from_secs(60), connect: Duration::from_secs(15) }
    }
}

/// The host that serves `docker.io`.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
const DOCKER_HUB: &str = "docker.io";

/// The host of `host`, `host:port` or `[address]:port`, and the port.
fn split_port(host: &str) -> (&str, Option<&str>) {
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    // An address of version 6 without brackets has no port.
    let is_name = |name: &str| !name.is_empty() && (name.ends_with(']') || !name.contains(':'));
    match host.rsplit_once(':') {
        Some((name, port)) if is_name(name) && is_port(port) => (name, Some(port)),
        _ => (host, None),
    }
}

/// `host` or `host:port` of an address.
fn host_of(url: &reqwest::Url) -> String {
    let name = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
}

/// Whether a host without its port is this machine.
fn is_loopback(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}
