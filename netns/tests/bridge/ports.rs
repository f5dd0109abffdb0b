//! What attach and detach make and leave.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use podbox_netns::{AddressPool, Attachment, Bridge, BridgeError, HostPorts, Owner, PodAddresses, PodNetnsError, loopback_up};

use crate::node::{Netns, Node, Pod, alias, config, id, mac, mtu, name, on_node};

const V4: [&str; 1] = ["10.88.0.0/16"];

async fn open(subnets: &[&str]) -> (Bridge, AddressPool) {
    let config = config("pods0", subnets);
    (Bridge::open(&config, &HostPorts::default()).await.unwrap(), AddressPool::new(&config.subnets).unwrap())
}

/// The bridge has no port and the node no link that a test did not make.
async fn assert_no_port(node: &Node, others: &[&str]) {
    let mut expected: Vec<_> = ["lo", "pods0"].iter().chain(others).map(ToString::to_string).collect();
    let mut found = node.link_names().await;
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn the_mac_comes_from_the_address_and_the_mtu_from_the_uplink() {
    on_node(async |node: Node| {
        let _outside = node.add_uplink(1400).await;
        let (bridge, mut pool) = open(&V4).await;
        let pod = Pod::attach(&bridge, &mut pool, 1).await;
        assert_eq!(pod.attachment.mac.to_string(), "0a:58:0a:58:00:02");
        let inside = pod.netns.ask(async |pod: Node| pod.link("eth0").await.unwrap());
        assert_eq!(mac(&inside), pod.attachment.mac.octets());
        let host = node.link(&pod.attachment.host_ifname).await.unwrap();
        for link in [&inside, &host, &node.link("pods0").await.unwrap()] {
            assert_eq!(mtu(link), 1400, "{}", name(link));
        }
        assert_eq!(alias(&host), Some(pod.id.clone()));
        assert_eq!((bridge.mtu_bytes(), pod.attachment.mtu_bytes), (1400, 1400));
        let ipv6 = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        assert!(!ipv6.contains(&pod.attachment.host_ifname), "the host end needs no address: {ipv6}");
    });
}

#[test]
fn the_attachment_survives_being_recorded() {
    on_node(async |_| {
        let (bridge, mut pool) = open(&["10.88.0.0/16", "fd00:88::/64"]).await;
        let pod = Pod::attach(&bridge, &mut pool, 1).await;
        let text = serde_json::to_string(&pod.attachment).unwrap();
        assert_eq!(serde_json::from_str::<Attachment>(&text).unwrap(), pod.attachment);
        assert!(text.contains("\"10.88.0.2/16\",\"fd00:88::2/64\""), "{text}");
    });
}

#[test]
fn pods_heed_no_router_advertisement_and_have_a_loopback() {
    on_node(async |_| {
        let (bridge, mut pool) = open(&["10.88.0.0/16", "fd00:88::/64"]).await;
        let pod = Pod::attach(&bridge, &mut pool, 1).await;
        assert_eq!(pod.netns.sysctl("/proc/sys/net/ipv6/conf/eth0/accept_ra"), "0");
        let loopback = pod.netns.ask(async |pod: Node| pod.addresses("lo").await);
        assert_eq!(loopback, ["127.0.0.1/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    });
}

#[test]
fn loopback_comes_up_without_a_bridge() {
    on_node(async |_| {
        let netns = Netns::new();
        loopback_up(netns.fd()).await.unwrap();
        loopback_up(netns.fd()).await.unwrap();
        for address in ["127.0.0.1", "::1"] {
            let (target, accepted) = netns.listen(address.parse().unwrap());
            netns.call(target).unwrap();
            assert_eq!(accepted.join().unwrap().to_string(), address);
        }
        let not_a_netns = OwnedFd::from(File::open("/dev/null").unwrap());
        let error = loopback_up(not_a_netns).await.unwrap_err();
        assert!(matches!(error, PodNetnsError::Enter { .. }), "{error}");
    });
}

#[test]
fn an_attach_replaces_what_an_earlier_one_for_the_same_pod_left() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&V4).await;
        let first = Pod::attach(&bridge, &mut pool, 1).await;
        let again = Netns::new();
        let second = bridge.attach(&first.id, again.fd(), &first.attachment.addresses).await.unwrap();
        assert_eq!(second, first.attachment);
        assert_no_port(&node, &[&second.host_ifname]).await;
        assert!(first.netns.ask(async |pod: Node| pod.link("eth0").await).is_none());
        let other = Pod::attach(&bridge, &mut pool, 2).await;
        let (target, accepted) = again.listen(second.addresses.primary());
        other.netns.call(target).unwrap();
        accepted.join().unwrap();
    });
}

#[test]
fn detach_can_be_repeated_and_leaves_nothing() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&V4).await;
        let pod = Pod::attach(&bridge, &mut pool, 1).await;
        assert_eq!(node.neighbours("pods0").await, pod.ips());
        pod.detach(&bridge).await;
        pod.detach(&bridge).await;
        assert_no_port(&node, &[]).await;
        assert!(node.neighbours("pods0").await.is_empty());
        assert!(pod.netns.ask(async |pod: Node| pod.link("eth0").await).is_none());
    });
}

#[test]
fn a_restarted_daemon_detaches_what_is_left_of_a_pod() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&V4).await;
        let pod = Pod::attach(&bridge, &mut pool, 1).await;
        drop(bridge);
        let (bridge, _) = open(&V4).await;
        // With the pod's namespace, before anybody asked for it.
        node.delete(&pod.attachment.host_ifname).await;
        assert_eq!(node.neighbours("pods0").await, pod.ips());
        pod.detach(&bridge).await;
        assert_no_port(&node, &[]).await;
        assert!(node.neighbours("pods0").await.is_empty());
    });
}

#[test]
fn a_pod_whose_namespace_died_is_detached_like_any_other() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&V4).await;
        let pod = Pod::attach(&bridge, &mut pool, 1).await;
        // What the death of the namespace does to the pair, at once.
        node.delete(&pod.attachment.host_ifname).await;
        pod.detach(&bridge).await;
        assert_no_port(&node, &[]).await;
        assert!(node.neighbours("pods0").await.is_empty());
    });
}

#[test]
fn a_link_of_that_name_that_is_not_the_pods_is_left_alone() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&V4).await;
        let id = id(1);
        let foreign = format!("pb{}", &id[..13]);
        node.add_foreign_link(&foreign).await;
        bridge.detach(&id, None).await.unwrap();
        let netns = Netns::new();
        let error = bridge.attach(&id, netns.fd(), &pool.reserve(&Owner::new("one-more")).unwrap()).await.unwrap_err();
        assert!(matches!(&error, BridgeError::ForeignPort { link, .. } if *link == foreign), "{error}");
        assert_no_port(&node, &[&foreign]).await;
    });
}

#[test]
fn a_failed_attach_leaves_no_link() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&V4).await;
        let addresses = pool.reserve(&Owner::new("one-more")).unwrap();
        let not_a_netns = OwnedFd::from(File::open("/dev/null").unwrap());
        let error = bridge.attach(&id(1), not_a_netns, &addresses).await.unwrap_err();
        assert!(matches!(error, BridgeError::CreatePort { .. }), "{error}");
        assert_no_port(&node, &[]).await;

        // A second pod in the same namespace: there is an eth0 already.
        let pod = Pod::attach(&bridge, &mut pool, 2).await;
        let error = bridge.attach(&id(3), pod.netns.fd(), &addresses).await.unwrap_err();
        assert!(matches!(error, BridgeError::CreatePort { .. }), "{error}");
        assert_no_port(&node, &[&pod.attachment.host_ifname]).await;
        pod.detach(&bridge).await;

        // Fails inside the pod, late: one address cannot be given twice.
        let twice = PodAddresses::new(vec!["10.88.0.9/16".parse().unwrap(); 2]).unwrap();
        let error = bridge.attach(&id(4), Netns::new().fd(), &twice).await.unwrap_err();
        assert!(matches!(error, BridgeError::Pod { .. }), "{error}");
        assert_no_port(&node, &[]).await;
        assert!(node.neighbours("pods0").await.is_empty());
    });
}

#[test]
fn an_id_that_cannot_name_a_link_is_refused() {
    on_node(async |_| {
        let (bridge, mut pool) = open(&V4).await;
        let addresses = pool.reserve(&Owner::new("one-more")).unwrap();
        for bad in ["", "short", "0123456789ab/cdef", &"0".repeat(256)] {
            let error = bridge.attach(bad, Netns::new().fd(), &addresses).await.unwrap_err();
            assert!(matches!(error, BridgeError::SandboxId { .. }), "{error}");
        }
    });
}

#[test]
fn a_full_subnet_is_told_and_nothing_stays() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&["10.88.0.0/29"]).await;
        let mut pods = Vec::new();
        for number in 0..5 {
            pods.push(Pod::attach(&bridge, &mut pool, number).await);
        }
        let error = pool.reserve(&Owner::new("one-more")).unwrap_err();
        assert_eq!(error.to_string(), "no free address in pod subnet 10.88.0.0/29");
        for pod in &pods {
            pod.detach(&bridge).await;
            pool.release(&Owner::new(&pod.id));
        }
        assert_no_port(&node, &[]).await;
        assert_eq!(pool.pods(), 0);
    });
}

#[test]
fn the_pod_that_finds_no_port_is_refused_and_leaves_nothing() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&V4).await;
        let index = node.index("pods0").await;
        for port in 0..podbox_netns::PODS_MAX {
            node.add_foreign_port(&format!("port{port}"), index).await;
        }
        let links = node.link_names().await.len();
        let error = bridge.attach(&id(1), Netns::new().fd(), &pool.reserve(&Owner::new("one-more")).unwrap()).await.unwrap_err();
        assert!(matches!(&error, BridgeError::BridgeFull { bridge, .. } if bridge == "pods0"), "{error}");
        assert_eq!(node.link_names().await.len(), links);
        node.delete("port7").await;
        Pod::attach(&bridge, &mut pool, 2).await;
    });
}

#[test]
fn only_what_is_ours_and_dead_is_stale() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&V4).await;
        let other = Bridge::open(&config("other0", &["10.99.0.0/24"]), &HostPorts::default()).await.unwrap();
        let live = Pod::attach(&bridge, &mut pool, 1).await;
        let dead = Pod::attach(&bridge, &mut pool, 2).await;
        let elsewhere = Pod::attach(&other, &mut AddressPool::new(&config("other0", &["10.99.0.0/24"]).subnets).unwrap(), 3).await;
        node.add_foreign_port("foreign0", node.index("pods0").await).await;
        assert_eq!(bridge.stale(|id| id == live.id).await.unwrap(), [dead.id.as_str()]);
        assert_eq!(other.stale(|_| false).await.unwrap(), [elsewhere.id.as_str()]);
        dead.detach(&bridge).await;
        assert!(bridge.stale(|id| id == live.id).await.unwrap().is_empty());
    });
}

#[test]
fn entries_of_addresses_that_nobody_has_are_deleted_and_only_ours() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&V4).await;
        let live = Pod::attach(&bridge, &mut pool, 1).await;
        let dead = Pod::attach(&bridge, &mut pool, 2).await;
        node.delete(&dead.attachment.host_ifname).await;
        pool.release(&Owner::new(&dead.id));
        let foreign: IpAddr = "10.88.7.7".parse().unwrap();
        let index = node.index("pods0").await;
        node.rtnl.neighbours().add(index, foreign).link_layer_address(&[2, 0, 0, 0, 0, 1]).execute().await.unwrap();
        bridge.delete_stale_neighbours(|address| pool.is_taken(address)).await.unwrap();
        let mut left = node.neighbours("pods0").await;
        left.sort();
        assert_eq!(left, [live.ips()[0], foreign]);
    });
}

#[test]
fn many_pods_at_once() {
    on_node(async |node: Node| {
        let (bridge, mut pool) = open(&["10.88.0.0/16", "fd00:88::/64"]).await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..40 {
            let (bridge, addresses) = (bridge.clone(), pool.reserve(&Owner::new(&id(number))).unwrap());
            tasks.spawn(async move {
                let (id, netns) = (id(number), Netns::new());
                let attachment = bridge.attach(&id, netns.fd(), &addresses).await.unwrap();
                Pod { id, netns, attachment }
            });
        }
        let pods = tasks.join_all().await;
        let (target, accepted) = pods[0].netns.listen(pods[0].ips()[0]);
        pods[39].netns.call(target).unwrap();
        assert_eq!(accepted.join().unwrap(), pods[39].ips()[0]);
        let detached = pods.iter().map(|pod| pod.detach(&bridge));
        futures_util::future::join_all(detached).await;
        assert_no_port(&node, &[]).await;
    });
}
