//! A port of the node for SCTP, which needs a kernel that has it: data arrives in the pod.

use anyhow::{Context, Result};
use podbox_proto::v1;
use podbox_tests::network::NetworkNamespace;
use podbox_tests::{Daemon, PodSpec, host, wait};
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{self, AddressFamily, SocketType};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

const PORT: u16 = 12_001;
const POD_PORT: u16 = 8080;

#[tokio::test]
async fn what_is_sent_to_an_sctp_port_arrives_in_the_pod() -> Result<()> {
    let is_there = net::socket(AddressFamily::INET, SocketType::STREAM, Some(net::ipproto::SCTP));
    if is_there.is_err_and(|error| error == Errno::PROTONOSUPPORT) {
        host::lacks("SCTP");
        return Ok(());
    }
    let daemon = Daemon::for_test().await?;
    let pod = {
        let port = v1::PortMapping {
            protocol: v1::Protocol::Sctp.into(),
            container_port: i32::from(POD_PORT),
            host_port: i32::from(PORT),
            ..Default::default()
        };
        daemon.run_pod(&PodSpec::new("a").with(|config| config.port_mappings = vec![port])).await?
    };
    let inside = NetworkNamespace::of_process(pod.pause_pid().await?)?;
    let listener = inside.run(|| {
        let socket = sctp()?;
        net::bind(&socket, &SocketAddr::from(([0, 0, 0, 0], POD_PORT)))?;
        net::listen(&socket, 1)?;
        Ok(socket)
    })?;
    let outside = NetworkNamespace::outside(daemon.network())?;
    // From the node itself, and from another machine.
    for (from, to) in [(daemon.network(), Ipv4Addr::LOCALHOST), (&outside, Ipv4Addr::new(192, 0, 2, 1))] {
        let client = from.run(|| {
            let socket = sctp()?;
            net::connect(&socket, &SocketAddr::from((to, PORT))).with_context(|| format!("connect to {to}"))?;
            Ok(TcpStream::from(socket))
        })?;
        let (mut client, mut server) = (client, TcpStream::from(net::accept(&listener)?));
        client.write_all(b"over SCTP")?;
        let mut received = [0; 9];
        server.read_exact(&mut received)?;
        assert_eq!(&received, b"over SCTP", "by way of {to}");
    }
    pod.end().await?;
    Ok(())
}

/// A socket of SCTP's that is a stream (RFC 6458, section 4), with deadlines.
fn sctp() -> Result<OwnedFd> {
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, Some(net::ipproto::SCTP))?;
    for side in [Timeout::Recv, Timeout::Send] {
        net::sockopt::set_socket_timeout(&socket, side, Some(wait::scaled(wait::DEADLINE)))?;
    }
    Ok(socket)
}
