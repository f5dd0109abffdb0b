//! Who reaches whom, and as whom.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use podbox_netns::{AddressPool, Bridge, HostPorts};
use rtnetlink::{LinkBridge, LinkMessageBuilder, RouteMessageBuilder};

use crate::node::{Netns, Node, Pod, call, config, delete_nft_tables, on_node};
use crate::rules::settle_flows;

const DUAL: [&str; 2] = ["10.88.0.0/16", "fd00:88::/64"];

/// One connection, at the first try; what the callee sees as the caller.
fn caller_seen(from: &Netns, to: &Netns, address: IpAddr) -> IpAddr {
    let (target, accepted) = to.listen(address);
    from.call(target).unwrap_or_else(|error| panic!("no way to {address}: {error}"));
    accepted.join().unwrap()
}

#[test]
fn pods_reach_each_other_by_both_families_as_soon_as_they_are_attached() {
    on_node(async |_| {
        let config = config("pods0", &DUAL);
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config.subnets).unwrap();
        let a = Pod::attach(&bridge, &mut pool, 1).await;
        let b = Pod::attach(&bridge, &mut pool, 2).await;
        for (family, (a_ip, b_ip)) in a.ips().into_iter().zip(b.ips()).enumerate() {
            assert_eq!(caller_seen(&a.netns, &b.netns, b_ip), a_ip, "family {family}");
            assert_eq!(caller_seen(&b.netns, &a.netns, a_ip), b_ip, "family {family}");
        }
        let b_ips = b.ips();
        assert!(b_ips[0].is_ipv4() && b_ips[1].is_ipv6());
    });
}

#[test]
fn a_pods_ipv6_address_is_never_tentative() {
    on_node(async |_| {
        let config = config("pods0", &["fd00:88::/64"]);
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config.subnets).unwrap();
        let pod = Pod::attach(&bridge, &mut pool, 1).await;
        let flags = pod.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
        // Fifth column of if_inet6: IFA_F_TENTATIVE is 0x40.
        for line in flags.lines() {
            let flags = u8::from_str_radix(line.split_whitespace().nth(4).unwrap(), 16).unwrap();
            assert_eq!(flags & 0x40, 0, "{line}");
        }
        assert!(flags.contains("fd000088000000000000000000000002"), "{flags}");
    });
}

#[test]
fn node_and_pod_reach_each_other() {
    on_node(async |_| {
        let config = config("pods0", &DUAL);
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config.subnets).unwrap();
        let pod = Pod::attach(&bridge, &mut pool, 1).await;
        for (ip, gateway) in pod.ips().into_iter().zip(["10.88.0.1", "fd00:88::1"]) {
            let (target, accepted) = pod.netns.listen(ip);
            call(target).unwrap();
            assert_eq!(accepted.join().unwrap().to_string(), gateway);

            let listener = TcpListener::bind((gateway, 0)).unwrap();
            let target = listener.local_addr().unwrap();
            let caller = thread::spawn(move || {
                use std::io::Write;
                let (mut stream, caller) = listener.accept().unwrap();
                stream.write_all(b"pong").unwrap();
                caller.ip()
            });
            pod.netns.call(target).unwrap();
            assert_eq!(caller.join().unwrap(), ip);
        }
    });
}

/// The bridge forgets where a pod is that has been silent for five minutes.
#[test]
fn a_pod_that_the_bridge_has_forgotten_is_still_reached() {
    on_node(async |node: Node| {
        let config = config("pods0", &DUAL);
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config.subnets).unwrap();
        let a = Pod::attach(&bridge, &mut pool, 1).await;
        let b = Pod::attach(&bridge, &mut pool, 2).await;
        for ip in b.ips() {
            let forget = LinkMessageBuilder::<LinkBridge>::new("pods0").fdb_flush().build();
            node.rtnl.link().change(forget).execute().await.unwrap();
            let (target, accepted) = b.netns.listen(ip);
            call(target).unwrap();
            accepted.join().unwrap();
            let forget = LinkMessageBuilder::<LinkBridge>::new("pods0").fdb_flush().build();
            node.rtnl.link().change(forget).execute().await.unwrap();
            caller_seen(&a.netns, &b.netns, ip);
        }
    });
}

#[test]
fn what_leaves_the_node_comes_from_the_node_and_what_stays_does_not() {
    on_node(async |node: Node| {
        let outside = node.add_uplink(1500).await;
        let config = config("pods0", &DUAL);
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config.subnets).unwrap();
        let a = Pod::attach(&bridge, &mut pool, 1).await;
        let b = Pod::attach(&bridge, &mut pool, 2).await;
        for (there, here) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
            assert_eq!(caller_seen(&a.netns, &outside, there.parse().unwrap()).to_string(), here);
        }
        for (a_ip, b_ip) in a.ips().into_iter().zip(b.ips()) {
            assert_eq!(caller_seen(&a.netns, &b.netns, b_ip), a_ip);
        }
    });
}

#[test]
fn pods_of_two_bridges_reach_each_other_through_the_node_and_are_masqueraded() {
    on_node(async |_| {
        let one = config("one0", &["10.1.0.0/24"]);
        let two = config("two0", &["10.2.0.0/24"]);
        let (bridge_one, bridge_two) =
            (Bridge::open(&one, &HostPorts::default()).await.unwrap(), Bridge::open(&two, &HostPorts::default()).await.unwrap());
        let a = Pod::attach(&bridge_one, &mut AddressPool::new(&one.subnets).unwrap(), 1).await;
        let b = Pod::attach(&bridge_two, &mut AddressPool::new(&two.subnets).unwrap(), 2).await;
        let seen = caller_seen(&a.netns, &b.netns, b.ips()[0]);
        assert_eq!(seen.to_string(), "10.2.0.1", "to one bridge the other is outside");
    });
}

#[test]
fn pods_of_an_earlier_subnet_keep_their_network() {
    on_node(async |node: Node| {
        let outside = node.add_uplink(1500).await;
        let config = config("pods0", &["10.1.0.0/24"]);
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config.subnets).unwrap();
        let old = Pod::attach(&bridge, &mut pool, 1).await;
        let subnets = ["10.2.0.0/24".parse().unwrap(), "fd00:2::/64".parse().unwrap()];
        pool.set_subnets(&subnets).unwrap();
        bridge.set_subnets(&subnets).await.unwrap();
        let new = Pod::attach(&bridge, &mut pool, 2).await;
        assert_eq!(new.ips(), ["10.2.0.2".parse::<IpAddr>().unwrap(), "fd00:2::2".parse().unwrap()]);
        for pod in [&old, &new] {
            let seen = caller_seen(&pod.netns, &outside, "192.0.2.2".parse().unwrap());
            assert_eq!(seen.to_string(), "192.0.2.1");
        }
        let seen = caller_seen(&new.netns, &outside, "2001:db8::2".parse().unwrap());
        assert_eq!(seen.to_string(), "2001:db8::1");
        // By way of the node, both being pod networks.
        assert_eq!(caller_seen(&old.netns, &new.netns, new.ips()[0]), old.ips()[0]);
        let addresses = node.addresses("pods0").await;
        assert!(addresses.contains(&"10.1.0.1/24".parse().unwrap()), "{addresses:?}");
    });
}

/// Its packets would go on as they began, with an address that the outside has no way back to.
#[test]
fn who_goes_on_calling_outside_is_masqueraded_again_once_the_rules_are_back() {
    on_node(async |node: Node| {
        let outside = node.add_uplink(1500).await;
        let config = config("pods0", &["10.88.0.0/16", "fd00:88::/64"]);
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let pod = Pod::attach(&bridge, &mut AddressPool::new(&config.subnets).unwrap(), 1).await;
        // Others' chains see to it that a flow is settled meanwhile.
        for family in ["ip", "ip6"] {
            settle_flows(family, "postrouting");
        }
        for (any, target, node) in [("0.0.0.0:0", "192.0.2.2:53", "192.0.2.1"), ("[::]:0", "[2001:db8::2]:53", "2001:db8::1")] {
            let target: std::net::SocketAddr = target.parse().unwrap();
            let server = outside.run(move || UdpSocket::bind(target).unwrap());
            server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let client = pod.netns.run(move || UdpSocket::bind(any).unwrap());
            let call = || {
                client.send_to(b"?", target).unwrap();
                server.recv_from(&mut [0; 16]).unwrap().1
            };
            delete_nft_tables("podbox-pods0");
            let from = call().ip();
            assert!(pod.ips().contains(&from), "as it is: {from}");
            bridge.restore_rules().await.unwrap();
            assert_eq!(call().ip().to_string(), node);
        }
        // Now there is a way back.
        let pods = RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix("10.88.0.0".parse().unwrap(), 16);
        let pods = pods.gateway("192.0.2.1".parse().unwrap()).build();
        outside.ask(async |outside: Node| outside.rtnl.route().add(pods).execute().await.unwrap());
        let server = outside.run(|| UdpSocket::bind("192.0.2.2:54").unwrap());
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let client = pod.netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let call = || {
            client.send_to(b"?", "192.0.2.2:54").unwrap();
            let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
            server.send_to(b"!", from).unwrap();
            client.recv_from(&mut [0; 16]).unwrap();
            from
        };
        delete_nft_tables("podbox-pods0");
        let from = call();
        assert!(pod.ips().contains(&from.ip()), "as it is: {from}");
        bridge.restore_rules().await.unwrap();
        assert_eq!(call(), from, "what is answered is let alone");
    });
}
