//! Files under `/proc/sys/net`. They show the network namespace of the thread that opens them.

use std::{fs, io};

use crate::error::SysctlError;

/// Writes `value` unless it is there already: most of these files act on being written, and a write wakes whoever
/// watches them.
pub(crate) fn set(path: String, value: &'static str) -> Result<(), SysctlError> {
    if get(&path)? == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| SysctlError::Write { path, value, source })
}

/// The value without its newline.
pub(crate) fn get(path: &str) -> Result<String, SysctlError> {
    let text = fs::read_to_string(path).map_err(|source| SysctlError::Read { path: path.to_owned(), source })?;
    Ok(text.trim_end().to_owned())
}

/// Whether the kernel does IPv6 on this link: not if it was disabled at boot, nor with an MTU below 1,280.
pub(crate) fn has_ipv6(link: &str) -> bool {
    fs::exists(ipv6_conf(link, "")).unwrap_or(false)
}

/// `/proc/sys/net/ipv6/conf/LINK/KEY`
pub(crate) fn ipv6_conf(link: &str, key: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{link}/{key}")
}

/// Lets the link take and send 127.0.0.0/8, which is otherwise for the node alone; or not, as it is from the start.
pub(crate) fn route_loopback_by(link: &str, route: bool) -> Result<(), SysctlError> {
    match set(format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"), if route { "1" } else { "0" }) {
        // A link that is gone routes nothing.
        Err(error) if !route && error.is_absent() => Ok(()),
        result => result,
    }
}

/// Lets the node pass on IPv4 packets between its links.
pub(crate) fn forward_ipv4() -> Result<(), SysctlError> {
    set("/proc/sys/net/ipv4/ip_forward".to_owned(), "1")
}

/// Lets the node pass on IPv6 packets between its links.
///
/// A router ignores router advertisements, so links that live by them would lose their default route: `accept_ra` 2
/// means "even when forwarding" and is set on those first. If the node forwards already, somebody else has decided.
pub(crate) fn forward_ipv6() -> Result<(), SysctlError> {
    const CONF: &str = "/proc/sys/net/ipv6/conf";
    let forwarding = ipv6_conf("all", "forwarding");
    if get(&forwarding)? == "1" {
        return Ok(());
    }
    let listing = |source: io::Error| SysctlError::Read { path: CONF.to_owned(), source };
    for entry in fs::read_dir(CONF).map_err(listing)? {
        let name = entry.map_err(listing)?.file_name();
        let Some(link) = name.to_str().filter(|link| !["all", "default", "lo"].contains(link)) else {
            continue;
        };
        let accept_ra = ipv6_conf(link, "accept_ra");
        // A link may go away between listing and reading: then there is nothing to keep.
        if get(&accept_ra).is_ok_and(|value| value == "1") {
            match set(accept_ra, "2") {
                Err(SysctlError::Write { source, .. } | SysctlError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
    }
    set(forwarding, "1")
}
