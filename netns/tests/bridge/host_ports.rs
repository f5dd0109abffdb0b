//! Ports of the node that lead into pods: who gets in, as whom, and who does not any more.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use podbox_netns::{AddressPool, Bridge, BridgeConfig, HostPort, HostPorts, Owner, PortProtocol};
use rtnetlink::RouteMessageBuilder;

use crate::node::{Netns, Node, Pod, config, delete_nft_tables, id, nft_rules, nft_tables, on_node};
use crate::rules::settle_flows;

const DUAL: [&str; 2] = ["10.88.0.0/16", "fd00:88::/64"];
const POD_PORT: u16 = 8000;
/// Of the bridge's masquerade, one a family.
const RULES_WITHOUT: usize = 2;

/// A node with an uplink and a bridge.
struct Stage {
    outside: Netns,
    bridge: Bridge,
    config: BridgeConfig,
    pool: AddressPool,
    ports: HostPorts,
}

impl Stage {
    async fn set(node: &Node) -> Self {
        let outside = node.add_uplink(1500).await;
        let (config, ports) = (config("pods0", &DUAL), HostPorts::default());
        let bridge = Bridge::open(&config, &ports).await.unwrap();
        let pool = AddressPool::new(&config.subnets).unwrap();
        Self { outside, bridge, config, pool, ports }
    }

    /// With these host ports, and a server by TCP and UDP that tells callers its number, and who they are.
    async fn pod(&mut self, number: u64, ports: &[HostPort]) -> (Pod, Server) {
        let pod = Pod::attach(&self.bridge, &mut self.pool, number).await;
        self.ports.reserve(&Owner::new(&pod.id), &pod.attachment.addresses, ports).unwrap();
        self.bridge.publish(&pod.id).await.unwrap();
        let server = Server::start(&pod.netns, POD_PORT, &format!("pod{number}"));
        (pod, server)
    }
}

fn port(protocol: PortProtocol, address: &str, port: u16) -> HostPort {
    let address = (!address.is_empty()).then(|| address.parse().unwrap());
    HostPort { protocol, address, port, pod_port: POD_PORT }
}

/// Answers "NAME ADDRESS-OF-CALLER" until it is dropped.
struct Server(Arc<AtomicBool>);

impl Server {
    fn start(netns: &Netns, port: u16, name: &str) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, name) = (is_over.clone(), name.to_owned());
        let listeners = netns.run(move || {
            let any = SocketAddr::from(([0_u16; 8], port));
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
        });
        let (tcp, udp) = listeners;
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok((mut stream, caller)) = tcp.accept() {
                    let _ = stream.write_all(format!("{name} {}", caller.ip().to_canonical()).as_bytes());
                }
                if let Ok((_, caller)) = udp.recv_from(&mut [0; 16]) {
                    let _ = udp.send_to(format!("{name} {}", caller.ip().to_canonical()).as_bytes(), caller);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self(is_over)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the calling thread's namespace hears by TCP; `None`: nobody answers.
fn by_tcp(target: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn by_udp(socket: &UdpSocket, target: SocketAddr) -> Option<String> {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    // What the node says about a port where nobody listens comes with one of the next calls.
    for _ in 0..3 {
        let mut answer = [0; 64];
        if socket.send_to(b"?", target).is_ok()
            && let Ok((length, _)) = socket.recv_from(&mut answer)
        {
            return Some(String::from_utf8_lossy(&answer[..length]).into_owned());
        }
    }
    None
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// On another thread of this node's.
fn here<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(ask).join().unwrap()
}

#[test]
fn a_host_port_leads_into_the_pod_from_everywhere() {
    on_node(async |node: Node| {
        let mut stage = Stage::set(&node).await;
        let all = [port(PortProtocol::Tcp, "", 80), port(PortProtocol::Udp, "", 53), port(PortProtocol::Sctp, "", 80)];
        let (pod, _server) = stage.pod(1, &all).await;
        let other = Pod::attach(&stage.bridge, &mut stage.pool, 2).await;
        let gateway = ["10.88.0.1", "fd00:88::1"];
        // Who calls, what, and who it is to the pod.
        let node_calls = [("127.0.0.1", gateway[0]), ("192.0.2.1", "192.0.2.1"), ("10.88.0.1", gateway[0]), ("2001:db8::1", "2001:db8::1")];
        for (address, seen) in node_calls {
            assert_eq!(here(move || by_tcp(at(address, 80))).unwrap(), format!("pod1 {seen}"), "the node calls {address}");
            let socket = UdpSocket::bind((if address.contains(':') { "::" } else { "0.0.0.0" }, 0)).unwrap();
            assert_eq!(by_udp(&socket, at(address, 53)).unwrap(), format!("pod1 {seen}"), "the node calls {address} by UDP");
        }
        for (caller, name) in [(&other.netns, "another pod"), (&pod.netns, "the pod itself")] {
            for (address, seen) in [("192.0.2.1", gateway[0]), ("10.88.0.1", gateway[0]), ("2001:db8::1", gateway[1])] {
                let answer = caller.run(move || by_tcp(at(address, 80)));
                assert_eq!(answer.unwrap_or_default(), format!("pod1 {seen}"), "{name} calls {address}");
            }
        }
        for (address, seen) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let answer = stage.outside.run(move || by_tcp(at(address, 80)));
            assert_eq!(answer.unwrap(), format!("pod1 {seen}"), "outside keeps its address");
        }
        // What merely has the same port number is nobody's business.
        let _outside = Server::start(&stage.outside, 80, "outside");
        assert_eq!(other.netns.run(|| by_tcp(at("192.0.2.2", 80))).unwrap(), "outside 192.0.2.1");
        let ip = other.ips()[0];
        let _other = Server::start(&other.netns, 80, "other");
        assert_eq!(pod.netns.run(move || by_tcp(SocketAddr::new(ip, 80))).unwrap(), format!("other {}", pod.ips()[0]));
    });
}

#[test]
fn a_port_of_one_address_is_no_port_of_another() {
    on_node(async |node: Node| {
        let mut stage = Stage::set(&node).await;
        let ports = [port(PortProtocol::Tcp, "127.0.0.1", 80), port(PortProtocol::Tcp, "::", 81), port(PortProtocol::Tcp, "0.0.0.0", 82)];
        let (_pod, _server) = stage.pod(1, &ports).await;
        for (address, port, leads) in [
            ("127.0.0.1", 80, true),
            ("192.0.2.1", 80, false),
            ("2001:db8::1", 80, false),
            ("127.0.0.1", 81, false),
            ("2001:db8::1", 81, true),
            ("192.0.2.1", 82, true),
            ("2001:db8::1", 82, false),
        ] {
            assert_eq!(here(move || by_tcp(at(address, port))).is_some(), leads, "{address} {port}");
        }
    });
}

#[test]
fn what_a_pod_had_leads_nowhere_afterwards_and_others_keep_theirs() {
    on_node(async |node: Node| {
        let mut stage = Stage::set(&node).await;
        let (a, _a) = stage.pod(1, &[port(PortProtocol::Tcp, "", 80)]).await;
        let (b, _b) = stage.pod(2, &[port(PortProtocol::Tcp, "", 81)]).await;
        stage.bridge.publish(&a.id).await.expect("a repetition");
        stage.bridge.withdraw(&a.id).await.unwrap();
        assert_eq!(here(|| by_tcp(at("127.0.0.1", 80))), None);
        assert!(here(|| by_tcp(at("127.0.0.1", 81))).is_some());
        stage.bridge.withdraw(&a.id).await.expect("nothing is left to do");
        stage.bridge.withdraw(&b.id).await.unwrap();
        assert_eq!(here(|| by_tcp(at("127.0.0.1", 81))), None);
        assert_eq!(nft_rules(), RULES_WITHOUT, "nothing is left of it");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/conf/pods0/route_localnet").unwrap().trim(), "0");
    });
}

/// One attribute of netlink's holds some thousand elements, and the room that a socket has by itself not many more.
#[test]
fn thousands_of_ports_all_lead_into_the_pod_and_nowhere_afterwards() {
    on_node(async |node: Node| {
        const FIRST: u16 = 10_000;
        const LAST: u16 = 25_000;
        let mut stage = Stage::set(&node).await;
        let (_other, _other_server) = stage.pod(1, &[port(PortProtocol::Tcp, "", 80)]).await;
        let many: Vec<HostPort> = (FIRST..=LAST).map(|number| port(PortProtocol::Tcp, "", number)).collect();
        let (pod, _server) = stage.pod(2, &many).await;
        let some = [FIRST, FIRST + 511, FIRST + 512, FIRST + 5_461, LAST];
        let all_lead = |led: bool| {
            for number in some {
                for address in ["192.0.2.1", "2001:db8::1"] {
                    assert_eq!(here(move || by_tcp(at(address, number))).is_some(), led, "{address} {number}");
                }
            }
            assert!(here(|| by_tcp(at("2001:db8::1", 80))).is_some(), "the other pod's");
        };
        all_lead(true);
        // All rules at once.
        stage.bridge = Bridge::open(&stage.config, &stage.ports).await.unwrap();
        all_lead(true);
        stage.bridge.withdraw(&pod.id).await.unwrap();
        all_lead(false);
        // The kernel refuses a port that leads elsewhere.
        let (_heir, _heirs_server) = stage.pod(3, &many[15_000..]).await;
        assert_eq!(here(|| by_tcp(at("192.0.2.1", LAST))).unwrap(), "pod3 192.0.2.1");
    });
}

#[test]
fn who_listens_on_ipv6s_loopback_is_heard_there_whatever_port_a_pod_has() {
    on_node(async |node: Node| {
        let mut stage = Stage::set(&node).await;
        let own = TcpListener::bind("[::1]:80").unwrap();
        thread::spawn(move || own.accept().unwrap().0.write_all(b"node").unwrap());
        let (_pod, _server) = stage.pod(1, &[port(PortProtocol::Tcp, "", 80)]).await;
        assert_eq!(here(|| by_tcp(at("::1", 80))).unwrap(), "node");
        assert!(here(|| by_tcp(at("2001:db8::1", 80))).unwrap().starts_with("pod1"));
    });
}

#[test]
fn the_last_ports_of_a_bridge_that_was_deleted_are_withdrawn() {
    on_node(async |node: Node| {
        let mut stage = Stage::set(&node).await;
        let (a, _a) = stage.pod(1, &[port(PortProtocol::Tcp, "", 80)]).await;
        node.delete("pods0").await;
        stage.bridge.withdraw(&a.id).await.unwrap();
        assert_eq!(here(|| by_tcp(at("192.0.2.1", 80))), None);
    });
}

/// It waited for its turn while somebody else opened the bridge anew.
#[test]
fn who_still_has_the_bridge_of_before_takes_no_rules_from_the_one_in_its_place() {
    on_node(async |node: Node| {
        let mut stage = Stage::set(&node).await;
        let (a, _a) = stage.pod(1, &[port(PortProtocol::Tcp, "", 80)]).await;
        node.delete("pods0").await;
        let _again = Bridge::open(&stage.config, &stage.ports).await.unwrap();
        let tables = nft_tables();
        assert_eq!(tables.len(), 2, "{tables:?}");
        stage.bridge.withdraw(&a.id).await.unwrap();
        assert_eq!(nft_tables(), tables);
        assert_eq!(here(|| by_tcp(at("192.0.2.1", 80))), None);
    });
}

/// As after a restart of the daemon: what it knows is what its records say.
#[test]
fn a_bridge_that_is_opened_again_has_the_ports_that_are_reserved_and_no_others() {
    on_node(async |node: Node| {
        let mut stage = Stage::set(&node).await;
        let (a, _a) = stage.pod(1, &[port(PortProtocol::Tcp, "", 80)]).await;
        let (_b, _b_server) = stage.pod(2, &[port(PortProtocol::Tcp, "", 81)]).await;
        let known = HostPorts::default();
        known.reserve(&Owner::new(&a.id), &a.attachment.addresses, &[port(PortProtocol::Tcp, "", 80)]).unwrap();
        let bridge = Bridge::open(&stage.config, &known).await.unwrap();
        assert!(here(|| by_tcp(at("127.0.0.1", 80))).is_some());
        assert_eq!(here(|| by_tcp(at("127.0.0.1", 81))), None);
        // And where somebody has deleted all rules of the node, the next pod brings back everybody's.
        delete_nft_tables("podbox-pods0");
        assert_eq!(here(|| by_tcp(at("192.0.2.1", 80))), None);
        let pod = Pod::attach(&bridge, &mut stage.pool, 3).await;
        known.reserve(&Owner::new(&pod.id), &pod.attachment.addresses, &[port(PortProtocol::Tcp, "", 83)]).unwrap();
        bridge.publish(&pod.id).await.unwrap();
        assert!(here(|| by_tcp(at("192.0.2.1", 80))).is_some());
        delete_nft_tables("podbox-pods0");
        bridge.withdraw(&pod.id).await.expect("they are gone already");
    });
}

#[test]
fn ports_are_withdrawn_without_the_bridge_too() {
    on_node(async |node: Node| {
        let mut stage = Stage::set(&node).await;
        let (a, _a) = stage.pod(1, &[port(PortProtocol::Tcp, "", 80)]).await;
        let (_b, _b_server) = stage.pod(2, &[port(PortProtocol::Tcp, "", 81)]).await;
        podbox_netns::withdraw_host_ports("pods0", &stage.ports, &a.id).await.unwrap();
        assert_eq!(here(|| by_tcp(at("127.0.0.1", 80))), None);
        assert!(here(|| by_tcp(at("127.0.0.1", 81))).is_some());
        podbox_netns::withdraw_host_ports("pods0", &stage.ports, &id(9)).await.expect("it has none");
    });
}

/// Rules are asked for the first packet of a flow alone, and this flow never ends.
#[test]
fn who_goes_on_calling_by_udp_is_heard_by_whom_the_port_leads_to() {
    on_node(async |node: Node| {
        let mut stage = Stage::set(&node).await;
        let nodes_own = UdpSocket::bind("0.0.0.0:53").unwrap();
        thread::spawn(move || {
            while let Ok((_, caller)) = nodes_own.recv_from(&mut [0; 16]) {
                let _ = nodes_own.send_to(b"node", caller);
            }
        });
        let outside = stage.outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let call = |socket: &UdpSocket| by_udp(socket, at("192.0.2.1", 53)).unwrap_or_default();
        assert_eq!(call(&outside), "node");
        let (a, _a) = stage.pod(1, &[port(PortProtocol::Udp, "", 53)]).await;
        assert_eq!(call(&outside), "pod1 192.0.2.2");
        stage.bridge.withdraw(&a.id).await.unwrap();
        let (_pod, _b) = stage.pod(2, &[port(PortProtocol::Udp, "192.0.2.1", 53)]).await;
        assert_eq!(call(&outside), "pod2 192.0.2.2");
        // Who began while somebody else had deleted the rules. Others' chains see to it that a flow is settled by then.
        settle_flows("ip", "prerouting");
        delete_nft_tables("podbox-pods0");
        let outside = stage.outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        assert_eq!(call(&outside), "node");
        stage.bridge.restore_rules().await.unwrap();
        assert_eq!(call(&outside), "pod2 192.0.2.2");
    });
}

/// A pod that is root of its network may send anything. Seen to get in without the guard's rules.
#[test]
fn no_pod_reaches_what_listens_on_the_nodes_loopback() {
    on_node(async |node: Node| {
        let mut stage = Stage::set(&node).await;
        let (_pod, _server) = stage.pod(1, &[port(PortProtocol::Tcp, "", 80)]).await;
        let evil = Pod::attach(&stage.bridge, &mut stage.pool, 2).await;
        let secret = TcpListener::bind("127.0.0.1:9000").unwrap();
        secret.set_nonblocking(true).unwrap();
        evil.netns.run(|| {
            for link in ["all", "eth0"] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"), "1").unwrap();
            }
        });
        evil.netns.ask(async |inside: Node| {
            inside.remove_address("lo", "127.0.0.1/8").await;
            let gateway = "10.88.0.1".parse().unwrap();
            let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix("127.0.0.1".parse().unwrap(), 32);
            inside.rtnl.route().add(route.gateway(gateway).build()).execute().await.unwrap();
        });
        let gets_in = evil.netns.run(|| TcpStream::connect_timeout(&at("127.0.0.1", 9000), Duration::from_secs(2)).is_ok());
        assert!(!gets_in, "to the node's loopback");
        assert!(secret.accept().is_err(), "nobody came");
        // Nor what it sends as 127.0.0.1, not even where packets from an address of one's own are let in.
        for link in ["all", "pods0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/accept_local"), "1").unwrap();
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").unwrap();
        }
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let heard = UdpSocket::bind("10.88.0.1:9001").unwrap();
        heard.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        evil.netns.ask(async |inside: Node| inside.add_address("eth0", "127.0.0.1/32").await);
        evil.netns.run(move || {
            let socket = UdpSocket::bind((own, 0)).unwrap();
            socket.send_to(b"as the node", "10.88.0.1:9001").unwrap();
        });
        assert!(heard.recv_from(&mut [0; 16]).is_err(), "it must not be heard");
    });
}
