//! `PortMapping`: ports of the node that lead into the pod.

use super::RequestError;
use super::common::{enum_value, shortened};
use podbox_netns::{HostPort, PortProtocol};
use podbox_proto::v1;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PROTOCOL: &str = "config.port_mappings.protocol";
const HOST_IP: &str = "config.port_mappings.host_ip";
const HOST_PORT: &str = "config.port_mappings.host_port";
const CONTAINER_PORT: &str = "config.port_mappings.container_port";
/// The kubelet sends one for each port that the pod's containers name; more than these fit into no object of Kubernetes'.
const MAPPINGS_MAX: usize = 16_384;

/// The mappings that name a host port; the others ask for nothing. What stands there twice is there once.
pub(super) fn host_ports(mappings: &[v1::PortMapping]) -> Result<Vec<HostPort>, RequestError> {
    if mappings.len() > MAPPINGS_MAX {
        let reason = format!("{} mappings are over the limit of {MAPPINGS_MAX}", mappings.len());
        return Err(RequestError::invalid("config.port_mappings", reason));
    }
    let (mut ports, mut seen) = (Vec::new(), HashSet::new());
    for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
        let port = HostPort {
            protocol: match enum_value(PROTOCOL, mapping.protocol)? {
                v1::Protocol::Tcp => PortProtocol::Tcp,
                v1::Protocol::Udp => PortProtocol::Udp,
                v1::Protocol::Sctp => PortProtocol::Sctp,
            },
            address: host_ip(&mapping.host_ip)?,
            port: port(HOST_PORT, mapping.host_port)?,
            pod_port: port(CONTAINER_PORT, mapping.container_port)?,
        };
        if seen.insert(port.clone()) {
            ports.push(port);
        }
    }
    Ok(ports)
}

fn port(field: &'static str, number: i32) -> Result<u16, RequestError> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| RequestError::invalid(field, format!("{number} is no port")))
}

/// An IPv4 address that is written as an IPv6 one is one of IPv4.
fn host_ip(text: &str) -> Result<Option<IpAddr>, RequestError> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<IpAddr>() {
        Ok(address) if address.to_canonical().is_multicast() || address.to_canonical() == IpAddr::V4(Ipv4Addr::BROADCAST) => {
            Err(RequestError::invalid(HOST_IP, format!("{address} is an address of many nodes")))
        }
        Ok(address) if address == IpAddr::V6(Ipv6Addr::LOCALHOST) => {
            Err(RequestError::invalid(HOST_IP, "::1 cannot lead into a pod: what is sent there does not leave the node's own loopback"))
        }
        Ok(address) => Ok(Some(address.to_canonical())),
        Err(_) => Err(RequestError::invalid(HOST_IP, format!("{:?} is no address", shortened(text)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(protocol: i32, host_ip: &str, host_port: i32, container_port: i32) -> v1::PortMapping {
        v1::PortMapping { protocol, container_port, host_port, host_ip: host_ip.to_owned() }
    }

    #[test]
    fn what_names_no_host_port_asks_for_nothing_and_what_stands_twice_is_there_once() {
        let twice = mapping(1, "::ffff:127.0.0.1", 53, 5353);
        let found = host_ports(&[mapping(9, "x", 0, -1), twice.clone(), twice, mapping(2, "::", 53, 5353)]).expect("they are sound");
        let found: Vec<String> = found.iter().map(|port| format!("{port} to {}", port.pod_port)).collect();
        assert_eq!(found, ["UDP port 53 of 127.0.0.1 to 5353", "SCTP port 53 of :: to 5353"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_named() {
        for (mapping, field) in [
            (mapping(3, "", 80, 80), PROTOCOL),
            (mapping(0, "localhost", 80, 80), HOST_IP),
            (mapping(0, "224.0.0.1", 80, 80), HOST_IP),
            (mapping(0, "255.255.255.255", 80, 80), HOST_IP),
            (mapping(0, "::1", 80, 80), HOST_IP),
            (mapping(0, "", 65_536, 80), HOST_PORT),
            (mapping(0, "", -1, 80), HOST_PORT),
            (mapping(0, "", 80, 0), CONTAINER_PORT),
            (mapping(0, "", 80, 65_536), CONTAINER_PORT),
        ] {
            let error = host_ports(std::slice::from_ref(&mapping)).expect_err(field);
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
