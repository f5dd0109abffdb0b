//! Who gets which address, and which configurations are refused. Nothing here touches the kernel.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashSet;
use std::net::IpAddr;

use podbox_netns::{AddressPool, BridgeConfig, ConfigError, IpNetwork, Owner, PODS_MAX, PodAddresses, PoolError};

fn networks(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn pool(subnets: &[&str]) -> AddressPool {
    AddressPool::new(&networks(subnets)).unwrap()
}

fn addresses(texts: &[&str]) -> PodAddresses {
    PodAddresses::new(networks(texts)).unwrap()
}

fn owner(number: usize) -> Owner {
    Owner::new(&format!("pod-{number}"))
}

#[test]
fn network_gateway_and_broadcast_are_nobodys() {
    let mut pool = pool(&["10.0.0.0/29"]);
    let given: Vec<IpAddr> = (0..5).map(|pod| pool.reserve(&owner(pod)).unwrap().primary()).collect();
    let expected = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
    assert_eq!(given, expected.map(|text| text.parse::<IpAddr>().unwrap()));
    let subnet = networks(&["10.0.0.0/29"])[0];
    assert_eq!(pool.reserve(&owner(5)), Err(PoolError::SubnetFull { subnet }));
}

#[test]
fn one_address_of_each_subnet_ipv4_first_or_none_at_all() {
    let mut pool = pool(&["fd00::/64", "10.0.0.0/30"]);
    assert_eq!(pool.reserve(&owner(0)).unwrap(), addresses(&["10.0.0.2/30", "fd00::2/64"]));
    let subnet = networks(&["10.0.0.0/30"])[0];
    assert_eq!(pool.reserve(&owner(1)), Err(PoolError::SubnetFull { subnet }));
    pool.release(&owner(0));
    // The failure took no IPv6 address.
    assert_eq!(pool.reserve(&owner(1)).unwrap(), addresses(&["10.0.0.2/30", "fd00::3/64"]));
}

#[test]
fn a_freed_address_is_given_again_last() {
    let mut pool = pool(&["10.0.0.0/29"]);
    let first = pool.reserve(&owner(0)).unwrap();
    pool.release(&owner(0));
    let later: Vec<_> = (1..5).map(|pod| pool.reserve(&owner(pod)).unwrap()).collect();
    assert!(!later.contains(&first));
    assert_eq!(pool.reserve(&owner(5)).unwrap(), first);
}

#[test]
fn restored_addresses_are_taken_and_those_before_them_come_last() {
    let mut pool = pool(&["10.0.0.0/28"]);
    let restored = addresses(&["10.0.0.9/28"]);
    pool.restore(&owner(0), &restored).unwrap();
    pool.restore(&owner(0), &restored).unwrap();
    let address = restored.primary();
    assert_eq!(pool.restore(&owner(1), &restored), Err(PoolError::Taken { address, owner: owner(0) }));
    let given: HashSet<_> = (1..13).map(|pod| pool.reserve(&owner(pod)).unwrap().primary()).collect();
    assert_eq!((given.len(), given.contains(&address)), (12, false));
    assert!(pool.reserve(&owner(13)).is_err());
}

#[test]
fn a_refused_restore_changes_nothing() {
    let mut pool = pool(&["10.0.0.0/24"]);
    pool.restore(&owner(0), &addresses(&["10.0.0.9/24"])).unwrap();
    pool.restore(&owner(1), &addresses(&["10.0.0.8/24", "10.0.0.9/24"])).unwrap_err();
    pool.restore(&owner(2), &addresses(&["10.0.0.8/24"])).unwrap();
    assert_eq!(pool.pods(), 2);
}

/// Two records claim one address: the first has it, and the other cannot give it away.
#[test]
fn a_pod_frees_its_own_addresses_and_nobody_elses() {
    let mut pool = pool(&["10.0.0.0/30"]);
    let only = addresses(&["10.0.0.2/30"]);
    pool.restore(&owner(0), &only).unwrap();
    pool.restore(&owner(1), &only).unwrap_err();
    pool.release(&owner(1));
    assert!(pool.is_taken(only.primary()) && pool.reserve(&owner(2)).is_err());
    assert_eq!((pool.addresses(&owner(0)), pool.addresses(&owner(1))), (Some(&only), None));
    pool.release(&owner(0));
    assert_eq!(pool.reserve(&owner(2)).unwrap(), only);
    pool.release(&owner(0));
    assert!(pool.is_taken(only.primary()), "released once, by who had it then");
}

#[test]
fn who_has_addresses_is_given_the_same_again() {
    let mut pool = pool(&["10.0.0.0/24"]);
    let first = pool.reserve(&owner(0)).unwrap();
    assert_eq!(pool.reserve(&owner(0)).unwrap(), first);
    assert_eq!(pool.pods(), 1);
}

#[test]
fn changed_subnets_are_for_new_pods_and_old_addresses_are_still_tracked() {
    let mut pool = pool(&["10.0.0.0/24"]);
    let old = pool.reserve(&owner(0)).unwrap();
    pool.set_subnets(&networks(&["10.1.0.0/24", "fd00::/64"])).unwrap();
    let new = pool.reserve(&owner(1)).unwrap();
    assert_eq!(new, addresses(&["10.1.0.2/24", "fd00::2/64"]));
    assert_eq!(pool.restore(&owner(2), &old), Err(PoolError::Taken { address: old.primary(), owner: owner(0) }));
    pool.release(&owner(0));
    pool.set_subnets(&networks(&["10.0.0.0/24"])).unwrap();
    assert_eq!(pool.reserve(&owner(2)).unwrap(), old);
    pool.set_subnets(&[]).unwrap_err();
    assert_eq!(pool.subnets().collect::<Vec<_>>(), networks(&["10.0.0.0/24"]));
}

#[test]
fn a_bridge_has_ports_for_so_many_pods_and_no_more() {
    let mut pool = pool(&["10.0.0.0/16", "fd00::/64"]);
    for pod in 0..PODS_MAX {
        pool.reserve(&owner(pod)).unwrap();
    }
    assert_eq!(pool.reserve(&owner(PODS_MAX)), Err(PoolError::TooManyPods { pods_max: PODS_MAX }));
    pool.release(&owner(7));
    pool.release(&owner(7));
    assert_eq!(pool.pods(), PODS_MAX - 1);
    pool.reserve(&owner(PODS_MAX)).unwrap();
    pool.reserve(&owner(7)).unwrap_err();
}

/// No address is ever given to two pods, whatever the order of coming and going.
#[test]
fn no_address_is_given_twice() {
    let mut pool = pool(&["10.0.0.0/27", "fd00::/124"]);
    let mut held: Vec<(Owner, PodAddresses)> = Vec::new();
    let mut random = 1_u64;
    for round in 0..10_000 {
        // Numerical Recipes' generator: the order must be odd, not secret.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let choice = usize::try_from(random >> 33).unwrap();
        if choice % 5 < 3 {
            held.extend(pool.reserve(&owner(round)).map(|addresses| (owner(round), addresses)));
        } else if !held.is_empty() {
            pool.release(&held.swap_remove(choice % held.len()).0);
        }
        let all: Vec<IpAddr> = held.iter().flat_map(|(_, addresses)| addresses.as_slice().iter().map(IpNetwork::ip)).collect();
        let different: HashSet<_> = all.iter().collect();
        assert_eq!((different.len(), pool.pods()), (all.len(), held.len()));
    }
}

#[test]
fn addresses_survive_being_recorded_and_an_empty_record_does_not() {
    let recorded = addresses(&["fd00::2/64", "10.0.0.2/24"]);
    let text = serde_json::to_string(&recorded).unwrap();
    assert_eq!(text, r#"["10.0.0.2/24","fd00::2/64"]"#);
    assert_eq!(serde_json::from_str::<PodAddresses>(&text).unwrap(), recorded);
    serde_json::from_str::<PodAddresses>("[]").unwrap_err();
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let validate = |name: &str, subnets: &[&str]| BridgeConfig { name: name.to_owned(), subnets: networks(subnets) }.validate();
    for name in ["podbox0", "a", "abcdefghijklmno", "br-1_2.3"] {
        validate(name, &["10.0.0.0/30", "10.0.1.0/24", "fd00::/126"]).unwrap();
    }
    for name in ["", ".", "..", "all", "default", "lo", "abcdefghijklmnop", "a b", "a/b", "a:b", "ä", "a\0"] {
        let error = validate(name, &["10.0.0.0/24"]).unwrap_err();
        assert!(matches!(error, ConfigError::BridgeName { .. }), "{name:?}");
    }
    assert_eq!(validate("a", &[]), Err(ConfigError::NoSubnet));
    let error = validate("a", &["10.0.0.1/24"]).unwrap_err();
    assert_eq!(error.to_string(), "pod subnet 10.0.0.1/24 has host bits set: write 10.0.0.0/24");
    for small in ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"] {
        assert!(matches!(validate("a", &[small]), Err(ConfigError::SubnetTooSmall { .. })), "{small}");
    }
    let overlapping = [["10.0.0.0/16", "10.0.1.0/24"], ["10.0.1.0/24", "10.0.0.0/16"], ["fd00::/64", "fd00::/64"]];
    for subnets in overlapping {
        assert!(matches!(validate("a", &subnets), Err(ConfigError::SubnetsOverlap { .. })), "{subnets:?}");
    }
    validate("a", &["0.0.0.0/0", "::/0"]).unwrap();
}
