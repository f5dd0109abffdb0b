//! What others do to nftables: rules of the bridge's that they delete, and what is forwarded that they drop.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use podbox_netns::{AddressPool, Bridge, HostPort, HostPorts, Owner, PortProtocol, RulesLost};

use crate::node::{Node, Pod, config, nft_rules, on_node};

/// For what is to come; what is not to come is waited for a moment.
const DEADLINE: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(300);
const TABLES: [&str; 2] = ["ip podbox-pods0", "ip6 podbox-pods0"];

/// As others' address translation does, without which nothing is remembered of a flow while the bridge has no rules: what they leave as it is
/// stays as it is.
pub fn settle_flows(family: &str, hook: &str) {
    nft(&format!("add table {family} foreign; add chain {family} foreign {hook} {{ type nat hook {hook} priority 0; }}"));
    nft(&format!("add rule {family} foreign {hook} ct state new accept"));
}

fn nft(commands: &str) {
    let output = Command::new("nft").arg(commands).output().unwrap();
    assert!(output.status.success(), "nft {commands}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn lost(bridge: &Bridge) -> RulesLost {
    tokio::time::timeout(DEADLINE, bridge.rules_lost()).await.expect("it is told").unwrap()
}

async fn is_told_nothing(bridge: &Bridge) -> bool {
    tokio::time::timeout(MOMENT, bridge.rules_lost()).await.is_err()
}

/// A bridge with a pod that has a host port.
async fn stage() -> (Bridge, HostPorts, Pod) {
    let (config, ports) = (config("pods0", &["10.88.0.0/16", "fd00:88::/64"]), HostPorts::default());
    let bridge = Bridge::open(&config, &ports).await.unwrap();
    let mut pool = AddressPool::new(&config.subnets).unwrap();
    let pod = Pod::attach(&bridge, &mut pool, 1).await;
    let port = HostPort { protocol: PortProtocol::Tcp, address: None, port: 80, pod_port: 8000 };
    ports.reserve(&Owner::new(&pod.id), &pod.attachment.addresses, &[port]).unwrap();
    bridge.publish(&pod.id).await.unwrap();
    (bridge, ports, pod)
}

#[test]
fn what_others_delete_of_a_bridges_rules_is_told_and_nothing_else() {
    on_node(async |_node: Node| {
        let (bridge, _ports, pod) = stage().await;
        let rules = nft_rules();
        bridge.restore_rules().await.unwrap();
        bridge.withdraw(&pod.id).await.unwrap();
        assert!(is_told_nothing(&bridge).await, "what the bridge does itself");
        nft("add table ip foreign; add set ip foreign pods { type ipv4_addr; elements = { 192.0.2.1 }; }");
        nft("delete element ip foreign pods { 192.0.2.1 }; delete table ip foreign");
        nft("add table inet podbox-pods0; delete table inet podbox-pods0");
        nft("add set ip podbox-pods0 another { type ipv4_addr; }");
        assert!(is_told_nothing(&bridge).await, "other tables, and what is added to ours");
        for (commands, tables) in [
            ("delete set ip podbox-pods0 another", &TABLES[..1]),
            ("flush chain ip6 podbox-pods0 postrouting", &TABLES[1..]),
            ("delete element ip podbox-pods0 pods { 10.88.0.0/16 }", &TABLES[..1]),
            ("flush set ip6 podbox-pods0 pods", &TABLES[1..]),
            ("delete table ip podbox-pods0; delete table ip6 podbox-pods0", &TABLES[..]),
            ("flush ruleset", &TABLES[..]),
        ] {
            nft(commands);
            let lost = lost(&bridge).await;
            assert_eq!(lost.tables.iter().collect::<Vec<_>>(), tables, "{commands}");
            assert_eq!(lost.programs.iter().collect::<Vec<_>>(), ["nft"], "{commands}");
            assert!(!lost.is_unknown, "{commands}");
            bridge.restore_rules().await.unwrap();
            assert!(nft_rules() > 0 && nft_rules() < rules, "{commands}: all but those for host ports");
        }
    });
}

#[test]
fn rules_that_are_lost_come_back_with_the_host_ports_of_the_pods_that_have_some() {
    on_node(async |_node: Node| {
        let (bridge, _ports, pod) = stage().await;
        let rules = nft_rules();
        nft("flush ruleset");
        assert_eq!(nft_rules(), 0);
        lost(&bridge).await;
        bridge.restore_rules().await.unwrap();
        assert_eq!(nft_rules(), rules);
        nft("delete element ip podbox-pods0 ports { tcp . 80 }");
        lost(&bridge).await;
        bridge.restore_rules().await.unwrap();
        nft("get element ip podbox-pods0 ports { tcp . 80 }");
        bridge.withdraw(&pod.id).await.unwrap();
        let without = nft_rules();
        nft("flush ruleset");
        lost(&bridge).await;
        bridge.restore_rules().await.unwrap();
        assert_eq!(nft_rules(), without);
    });
}

/// The kernel keeps only so many messages for who does not read them. What was among the rest nobody can tell.
#[test]
fn more_than_can_be_heard_is_told_as_such() {
    const ELEMENTS: u32 = 200_000;
    on_node(async |_node: Node| {
        let (bridge, ..) = stage().await;
        let elements: Vec<String> = (0..ELEMENTS).map(|number| std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string()).collect();
        let commands = format!(
            "add table ip foreign\nadd set ip foreign many {{ type ipv4_addr; }}\nadd element ip foreign many {{ {} }}\n",
            elements.join(",")
        );
        let mut nft_reads = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft_reads.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        assert!(nft_reads.wait().unwrap().success());
        nft("flush ruleset");
        assert!(lost(&bridge).await.is_unknown);
        bridge.restore_rules().await.unwrap();
        assert!(nft_rules() > 0);
        nft("flush ruleset");
        assert!(!lost(&bridge).await.is_unknown, "it hears again");
    });
}

#[test]
fn a_chain_that_drops_what_pods_send_is_told_of_as_long_as_it_does() {
    const FORWARD: &str = "type filter hook forward priority 0; policy";
    on_node(async |_node: Node| {
        let bridge = Bridge::open(&config("pods0", &["10.88.0.0/16"]), &HostPorts::default()).await.unwrap();
        let told = async || bridge.forward_drops().await.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(told().await, Vec::<String>::new());
        nft(
            "add table ip filter; add table ip6 filter; add table inet foreign; add table bridge foreign; add table ip asleep { flags dormant; }",
        );
        nft(&format!("add chain inet foreign lets {{ {FORWARD} accept; }}"));
        nft("add chain inet foreign input { type filter hook input priority 0; policy drop; }");
        nft("add chain inet foreign plain");
        nft(&format!("add chain bridge foreign forward {{ {FORWARD} drop; }}"));
        nft(&format!("add chain ip6 filter FORWARD {{ {FORWARD} drop; }}"));
        nft(&format!("add chain ip asleep forward {{ {FORWARD} drop; }}"));
        assert_eq!(told().await, Vec::<String>::new(), "none of these concerns what IPv4 pods send");
        nft(&format!("add chain ip filter FORWARD {{ {FORWARD} drop; }}"));
        nft(&format!("add chain inet foreign forward {{ {FORWARD} drop; }}"));
        let mut both = told().await;
        both.sort();
        assert_eq!(both, ["chain FORWARD of table ip filter", "chain forward of table inet foreign"]);
        nft(&format!("chain ip filter FORWARD {{ {FORWARD} accept; }}"));
        assert_eq!(told().await, ["chain forward of table inet foreign"]);
        bridge.set_subnets(&["fd00:88::/64".parse().unwrap()]).await.unwrap();
        nft("delete table inet foreign");
        assert_eq!(told().await, ["chain FORWARD of table ip6 filter"], "it has IPv6 pods now");
    });
}
