//! The bridge itself: made, taken over, changed, removed.

use std::fs;

use podbox_netns::{AddressPool, Bridge, BridgeError, HostPorts, Owner, PodAddresses};

use crate::node::{Netns, Node, Pod, config, id, mac, mtu, nft_rules, nft_tables, on_node};

const DUAL: [&str; 2] = ["10.88.0.0/16", "fd00:88::/64"];

/// An operation in flight can move between threads, as the daemon's do.
#[allow(dead_code)]
fn futures_are_send(bridge: &Bridge, netns: std::os::fd::OwnedFd, addresses: &PodAddresses) {
    fn is_send<T: Send>(_: T) {}
    is_send(Bridge::open(&config("pods0", &[]), &HostPorts::default()));
    is_send(bridge.set_subnets(&[]));
    is_send(bridge.attach("", netns, addresses));
    is_send(bridge.detach("", Some(addresses)));
    is_send(bridge.orphans());
    is_send(bridge.reattach("", addresses));
    is_send(bridge.delete_stale_neighbours(|_| true));
    is_send(bridge.stale(|_| true));
    is_send(bridge.clone().remove());
}

#[test]
fn opening_again_takes_over_what_is_there() {
    on_node(async |node: Node| {
        let config = config("pods0", &DUAL);
        let first = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config.subnets).unwrap();
        let before = Pod::attach(&first, &mut pool, 1).await;
        let (links, addresses) = (node.link_names().await, node.addresses("pods0").await);
        let second = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        assert_eq!(node.link_names().await, links);
        assert_eq!(node.addresses("pods0").await, addresses);
        let mut tables = nft_tables();
        tables.sort();
        assert_eq!(tables, ["podbox-pods0", "podbox-pods0"], "one for each family");
        assert_eq!(nft_rules(), 2);
        drop(first);
        let after = Pod::attach(&second, &mut pool, 2).await;
        for ip in before.ips() {
            let (target, accepted) = before.netns.listen(ip);
            after.netns.call(target).unwrap();
            accepted.join().unwrap();
        }
    });
}

#[test]
fn mac_and_mtu_of_the_bridge_stay_as_pods_come_and_go() {
    on_node(async |node: Node| {
        let _outside = node.add_uplink(9000).await;
        let config = config("pods0", &DUAL);
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config.subnets).unwrap();
        let fresh = node.link("pods0").await.unwrap();
        assert_eq!((mac(&fresh), mtu(&fresh)), (vec![0x0a, 0x5a, 10, 88, 0, 1], 9000));
        let pod = Pod::attach(&bridge, &mut pool, 1).await;
        node.add_foreign_port("small0", node.index("pods0").await).await;
        let with_ports = node.link("pods0").await.unwrap();
        assert_eq!((mac(&with_ports), mtu(&with_ports)), (mac(&fresh), 9000), "a port of 1,500 has joined");
        pod.detach(&bridge).await;
        let empty = node.link("pods0").await.unwrap();
        assert_eq!((mac(&empty), mtu(&empty)), (mac(&fresh), 9000));
    });
}

#[test]
fn what_a_crash_left_half_made_is_deleted_and_only_that() {
    on_node(async |node: Node| {
        let config = config("pods0", &DUAL);
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let pod = Pod::attach(&bridge, &mut AddressPool::new(&config.subnets).unwrap(), 1).await;
        let index = node.index("pods0").await;
        let half_made = rtnetlink::LinkIfb::new("pb0123456789abc").controller(index).address(vec![0x0a, 0x59, 10, 88, 0, 9]);
        node.rtnl.link().add(half_made.build()).execute().await.unwrap();
        node.add_foreign_port("foreign0", index).await;
        Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let mut links = node.link_names().await;
        links.sort();
        assert_eq!(links, ["foreign0", "lo", &pod.attachment.host_ifname, "pods0"]);
    });
}

#[test]
fn without_a_default_route_the_mtu_is_1500() {
    on_node(async |_| {
        let bridge = Bridge::open(&config("pods0", &DUAL), &HostPorts::default()).await.unwrap();
        assert_eq!(bridge.mtu_bytes(), 1500);
    });
}

#[test]
fn a_node_with_too_small_an_mtu_for_ipv6_still_has_ipv4_pods() {
    on_node(async |node: Node| {
        let _outside = node.add_uplink(1500).await;
        let small = rtnetlink::LinkUnspec::new_with_name("uplink").mtu(1200).build();
        node.rtnl.link().change(small).execute().await.unwrap();
        let config = config("pods0", &["10.88.0.0/16"]);
        Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let pod = Pod::attach(&bridge, &mut AddressPool::new(&config.subnets).unwrap(), 1).await;
        assert_eq!(pod.attachment.mtu_bytes, 1200);
    });
}

#[test]
fn the_node_forwards_and_its_uplink_still_heeds_router_advertisements() {
    on_node(async |node: Node| {
        let _outside = node.add_uplink(1500).await;
        let read = |path: &str| fs::read_to_string(path).unwrap().trim().to_owned();
        assert_eq!(read("/proc/sys/net/ipv6/conf/all/forwarding"), "0");
        assert_eq!(read("/proc/sys/net/ipv6/conf/uplink/accept_ra"), "1");
        Bridge::open(&config("pods0", &DUAL), &HostPorts::default()).await.unwrap();
        assert_eq!(read("/proc/sys/net/ipv4/ip_forward"), "1");
        assert_eq!(read("/proc/sys/net/ipv6/conf/all/forwarding"), "1");
        assert_eq!(read("/proc/sys/net/ipv6/conf/uplink/accept_ra"), "2");
        assert_eq!(read("/proc/sys/net/ipv6/conf/pods0/accept_ra"), "0");
    });
}

#[test]
fn a_node_of_ipv4_pods_alone_does_not_forward_ipv6() {
    on_node(async |_| {
        Bridge::open(&config("pods0", &["10.88.0.0/16"]), &HostPorts::default()).await.unwrap();
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap().trim(), "0");
        assert_eq!(nft_tables(), ["podbox-pods0"]);
    });
}

#[test]
fn somebody_elses_link_is_not_taken_over() {
    on_node(async |node: Node| {
        node.add_foreign_link("pods0").await;
        let theirs = rtnetlink::LinkBridge::new("theirs0").build();
        node.rtnl.link().add(theirs).execute().await.unwrap();
        for name in ["pods0", "theirs0"] {
            let error = Bridge::open(&config(name, &DUAL), &HostPorts::default()).await.unwrap_err();
            assert!(matches!(&error, BridgeError::ForeignBridge { bridge } if bridge == name), "{error}");
            assert!(!node.addresses(name).await.iter().any(ipnetwork::IpNetwork::is_ipv4));
        }
        assert!(nft_tables().is_empty());
    });
}

#[test]
fn two_bridges_do_not_meet() {
    on_node(async |node: Node| {
        let one = Bridge::open(&config("one0", &["10.1.0.0/24"]), &HostPorts::default()).await.unwrap();
        let two = Bridge::open(&config("two0", &["10.2.0.0/24"]), &HostPorts::default()).await.unwrap();
        let mut tables = nft_tables();
        tables.sort();
        assert_eq!(tables, ["podbox-one0", "podbox-two0"]);
        one.remove().await.unwrap();
        assert_eq!(nft_tables(), ["podbox-two0"]);
        assert!(node.link("one0").await.is_none());
        assert_eq!(node.addresses("two0").await[0], "10.2.0.1/24".parse().unwrap());
        two.remove().await.unwrap();
    });
}

/// Pods of an earlier subnet, too: their gateway went with the bridge.
#[test]
fn a_bridge_that_was_deleted_is_made_again_and_its_pods_are_put_on_it() {
    on_node(async |node: Node| {
        let bridge = Bridge::open(&config("pods0", &["10.77.0.0/24"]), &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config("pods0", &["10.77.0.0/24"]).subnets).unwrap();
        let early = Pod::attach(&bridge, &mut pool, 1).await;
        let later = config("pods0", &DUAL);
        bridge.set_subnets(&later.subnets).await.unwrap();
        pool.set_subnets(&later.subnets).unwrap();
        let pod = Pod::attach(&bridge, &mut pool, 2).await;
        assert!(bridge.stands().await.unwrap() && bridge.orphans().await.unwrap().is_empty());
        node.delete("pods0").await;
        assert!(!bridge.stands().await.unwrap());
        let netns = Netns::new();
        bridge.attach(&id(3), netns.fd(), &pool.reserve(&Owner::new(&id(3))).unwrap()).await.unwrap_err();
        let again = Bridge::open(&later, &HostPorts::default()).await.unwrap();
        assert!(again.stands().await.unwrap() && !bridge.stands().await.unwrap());
        let mut orphans = again.orphans().await.unwrap();
        orphans.sort();
        let mut expected = [early.id.clone(), pod.id.clone()];
        expected.sort();
        assert_eq!(orphans, expected, "and no rest of the attempt");
        for pod in [&early, &pod] {
            again.reattach(&pod.id, &pod.attachment.addresses).await.unwrap();
        }
        assert!(again.orphans().await.unwrap().is_empty());
        let fresh = Pod::attach(&again, &mut pool, 4).await;
        for (from, to) in [(&early, &fresh), (&fresh, &pod), (&pod, &early)] {
            let (target, accepted) = to.netns.listen(to.ips()[0]);
            from.netns.call(target).unwrap();
            accepted.join().unwrap();
        }
        // A pod that went at that moment is found nowhere.
        let gone = pool.reserve(&Owner::new(&id(5))).unwrap();
        again.reattach(&id(5), &gone).await.unwrap();
        assert!(!node.neighbours("pods0").await.contains(&gone.as_slice()[0].ip()));
    });
}

#[test]
fn a_pods_link_goes_without_its_bridge_and_nobody_elses_does() {
    on_node(async |node: Node| {
        let bridge = Bridge::open(&config("pods0", &DUAL), &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config("pods0", &DUAL).subnets).unwrap();
        let pods = [Pod::attach(&bridge, &mut pool, 1).await, Pod::attach(&bridge, &mut pool, 2).await];
        let [on_a_bridge, orphan] = &pods;
        let has = async |pod: &Pod| node.link(&pod.attachment.host_ifname).await.is_some();
        podbox_netns::delete_port("pods0", &on_a_bridge.id, Some(&on_a_bridge.attachment.addresses)).await.unwrap();
        assert_eq!((has(on_a_bridge).await, has(orphan).await), (false, true));
        assert_eq!(node.neighbours("pods0").await, [orphan.ips()[0]]);
        node.delete("pods0").await;
        // The name alone does not make a link a pod's.
        let other = format!("{}-another", &orphan.id[..13]);
        podbox_netns::delete_port("pods0", &other, None).await.unwrap();
        assert!(has(orphan).await);
        for _ in 0..2 {
            podbox_netns::delete_port("pods0", &orphan.id, Some(&orphan.attachment.addresses)).await.unwrap();
            assert!(!has(orphan).await);
        }
    });
}

#[test]
fn removal_waits_for_the_last_pod_and_leaves_nothing() {
    on_node(async |node: Node| {
        let config = config("pods0", &DUAL);
        let bridge = Bridge::open(&config, &HostPorts::default()).await.unwrap();
        let mut pool = AddressPool::new(&config.subnets).unwrap();
        let pod = Pod::attach(&bridge, &mut pool, 1).await;
        let error = bridge.clone().remove().await.unwrap_err();
        assert!(matches!(&error, BridgeError::PortsRemain { link, .. } if *link == pod.attachment.host_ifname), "{error}");
        assert_eq!(nft_tables().len(), 2);
        pod.detach(&bridge).await;
        bridge.clone().remove().await.unwrap();
        assert_eq!(node.link_names().await, ["lo"]);
        assert!(nft_tables().is_empty());
        let routes = fs::read_to_string("/proc/thread-self/net/route").unwrap();
        assert_eq!(routes.lines().count(), 1, "{routes}");
        bridge.remove().await.unwrap();
    });
}

#[test]
fn a_bridge_that_cannot_work_is_refused_before_anything_is_made() {
    on_node(async |node: Node| {
        let error = Bridge::open(&config("pods0", &["10.88.0.5/16"]), &HostPorts::default()).await.unwrap_err();
        assert!(matches!(error, BridgeError::Config { .. }), "{error}");
        assert_eq!(node.link_names().await, ["lo"]);
    });
}
