//! The pod network: addresses, reachability, and what is left of it afterwards.

use anyhow::{Context, Result, ensure};
use podbox_proto::v1;
use podbox_tests::network::NetworkNamespace;
use podbox_tests::{Census, ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, assert_refused, wait};
use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use tonic::Code;

async fn addresses(pod: &Pod) -> Result<Vec<IpAddr>> {
    pod.ips().await?.iter().map(|ip| ip.parse().with_context(|| ip.clone())).collect()
}

#[tokio::test]
async fn pods_reach_each_other_and_the_node_over_ipv4_and_ipv6() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let a = daemon.run_pod(&PodSpec::new("a")).await?;
    let b = daemon.run_pod(&PodSpec::new("b")).await?;
    let server = "mkdir /www && echo hello > /www/greeting && exec httpd -f -p 8080 -h /www";
    b.run(&ContainerSpec::shell("server", server)).await?;
    let client = a.run(&ContainerSpec::sleeper("client")).await?;
    let ips = addresses(&b).await?;
    assert!(ips.len() == 2 && ips[0].is_ipv4() && ips[1].is_ipv6(), "{ips:?}");
    assert_ne!(addresses(&a).await?, ips);
    for ip in ips {
        let fetch = format!("printf 'GET /greeting HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {ip} 8080 | tail -1");
        let fetched = || async { client.sh(&fetch).await.ok().filter(|answer| !answer.is_empty()) };
        assert_eq!(wait::until("the other pod answers", fetched).await?, "hello", "{ip}");
        daemon.network().run(|| Ok(TcpStream::connect((ip, 8080))?)).with_context(|| format!("from the node to {ip}"))?;
    }
    // Outward: the node's own address on the bridge is the gateway.
    let gateway = client.sh("ip route | grep ^default | cut -d' ' -f3").await?;
    assert_eq!(client.exec(&["/bin/ping", "-c1", "-W5", &gateway]).await?.code, 0, "{gateway}");
    assert!(client.sh("ip -6 route | grep ^default").await?.contains("via"));
    assert!(client.sh("ip link show lo").await?.contains("UP"));
    assert!(!client.sh("ip -6 addr").await?.contains("tentative"), "no waiting for duplicate address detection");
    Ok(())
}

#[tokio::test]
async fn no_address_is_given_twice_and_freed_ones_come_again_last() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().subnets(&["10.201.0.0/27"])).await?;
    let mut held = BTreeSet::new();
    let mut order = Vec::new();
    let mut pods = Vec::new();
    for number in 0..10 {
        let pod = daemon.run_pod(&PodSpec::new(&format!("p{number}"))).await?;
        let ip = addresses(&pod).await?[0];
        assert!(held.insert(ip), "{ip} was given twice");
        order.push(ip);
        pods.push(pod);
    }
    let freed = order[3];
    pods.remove(3).end().await?;
    for number in 10..15 {
        let pod = daemon.run_pod(&PodSpec::new(&format!("p{number}"))).await?;
        let ip = addresses(&pod).await?[0];
        assert_ne!(ip, freed, "there are others that were never used");
        assert!(held.insert(ip), "{ip} was given twice");
    }
    Ok(())
}

#[tokio::test]
async fn a_full_subnet_is_a_clear_error_that_leaves_nothing_and_ends_when_a_pod_stops() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().subnets(&["10.202.0.0/29"])).await?;
    daemon.warm_up().await?;
    let mut pods = Vec::new();
    let refused = loop {
        match daemon.run_pod(&PodSpec::new(&format!("p{}", pods.len()))).await {
            Ok(pod) => pods.push(pod),
            Err(status) => break status,
        }
        assert!(pods.len() < 8);
    };
    assert_eq!(pods.len(), 5, "eight less network, broadcast and gateway");
    let before = Census::at_rest(&daemon).await?;
    assert_refused::<()>(Err(refused), Code::ResourceExhausted, &["10.202.0.0/29"]);
    assert_refused(daemon.run_pod(&PodSpec::new("one-more")).await, Code::ResourceExhausted, &["address"]);
    Census::settle(&daemon, &before, wait::DEADLINE).await?;
    assert_eq!(daemon.client().pods().await?.len(), 5);
    // Stopped, not removed: its address is free.
    pods[2].stop().await?;
    let spec = PodSpec::new("one-more");
    let again = wait::until("the address is free again", || async { daemon.run_pod(&spec).await.ok() }).await?;
    assert_eq!(addresses(&again).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn ip_netns_sees_the_pods_network_and_no_more_once_it_is_stopped() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("named")).await?;
    let link = format!("/run/netns/podbox-{}", &pod.id[..16]);
    assert!(std::fs::symlink_metadata(&link)?.is_symlink());
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(&link)?.ino(), podbox_tests::host::namespace(pod.pause_pid().await?, "net")?);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    assert!(!mounts.contains(&link), "it costs no mount");
    pod.stop().await?;
    wait::until_true("the name goes with the network", || std::fs::symlink_metadata(&link).is_err()).await
}

#[tokio::test]
async fn each_pod_hangs_on_the_bridge_by_one_link_and_masquerade_is_in_a_table_of_our_own() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let without = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("link")).await?;
    let with = Census::at_rest(&daemon).await?;
    assert_eq!(with.count("link"), without.count("link") + 1, "one end here, the other in the pod: {:?}", with.diff(&without));
    assert!(daemon.network().links()?.contains(&daemon.bridge().to_owned()));
    let rules = daemon.network().run(|| Ok(Command::new("nft").args(["list", "ruleset"]).output()?))?;
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    assert!(rules.contains("masquerade") && rules.contains("podbox"), "{rules}");
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let mac = container.sh("cat /sys/class/net/eth0/address").await?;
    let IpAddr::V4(ip) = addresses(&pod).await?[0] else { anyhow::bail!("IPv4 comes first") };
    let tail: String = ip.octets().iter().map(|byte| format!(":{byte:02x}")).collect();
    assert!(mac.ends_with(&tail), "the MAC is made of the address: {mac} and {ip}");
    pod.end().await?;
    Census::settle(&daemon, &without, wait::DEADLINE).await
}

/// Runs `ip` in the daemon's network namespace.
fn ip(network: &NetworkNamespace, arguments: &str) -> Result<()> {
    let words: Vec<&str> = arguments.split(' ').collect();
    let output = network.run(|| Ok(Command::new("ip").args(&words).output()?))?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The peer has no route to pods: an answer reaches them only if the node put its own address in the place of theirs.
#[tokio::test]
async fn what_leaves_the_node_carries_the_nodes_address() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("inside")).await?;
    let client = pod.run(&ContainerSpec::sleeper("client")).await?;
    let far = NetworkNamespace::outside(daemon.network())?;
    for (address, node) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
        let listener = far.run(|| Ok(TcpListener::bind((address.parse::<IpAddr>()?, 8080))?))?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let connect = format!("echo | nc -w 5 {address} 8080");
        let connect = ["/bin/sh", "-c", &connect];
        // The connection is closed at once: that is what ends the client.
        let peer = async { listener.accept().await.map(|(_, from)| from) };
        let (connected, peer) = tokio::join!(client.exec(&connect), tokio::time::timeout(wait::scaled(wait::DEADLINE), peer));
        let from = peer.with_context(|| format!("{address}: {connected:?}"))??;
        assert_eq!(from.ip(), node.parse::<IpAddr>()?, "{address}");
    }
    Ok(())
}

/// Somebody deletes the bridge: the next pod gets a network, and those that run have theirs again.
#[tokio::test]
async fn a_deleted_bridge_is_made_again_and_the_pods_that_run_hang_on_it() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let before = daemon.run_pod(&PodSpec::new("before")).await?;
    let client = before.run(&ContainerSpec::sleeper("client")).await?;
    let delete = format!("link delete {}", daemon.bridge());
    ip(daemon.network(), &delete)?;
    let after = daemon.run_pod(&PodSpec::new("after")).await?;
    let target = after.ips().await?.remove(0);
    let ping = async |client: &podbox_tests::Container, why: &str| -> Result<()> {
        ensure!(client.exec(&["/bin/ping", "-c1", "-W5", &target]).await?.code == 0, "{why}");
        Ok(())
    };
    ping(&client, "the pod of before reaches the new one").await?;
    // Nobody wants a pod, but somebody asks how it is.
    ip(daemon.network(), &delete)?;
    let status = daemon.runtime().status(v1::StatusRequest { verbose: false }).await?.into_inner();
    let conditions = status.status.context("a status")?.conditions;
    assert!(conditions.iter().all(|condition| condition.status), "{conditions:?}");
    ping(&client, "Status has mended it").await?;
    // And one that was deleted while there was no daemon.
    daemon.kill_9()?;
    ip(daemon.network(), &delete)?;
    daemon.start_again().await?;
    ping(&client, "the next daemon has mended it").await?;
    // What cannot be mended is said.
    ip(daemon.network(), &delete)?;
    ip(daemon.network(), &format!("link add {} type bridge", daemon.bridge()))?;
    let status = daemon.runtime().status(v1::StatusRequest { verbose: false }).await?.into_inner();
    let conditions = status.status.context("a status")?.conditions;
    let network = conditions.iter().find(|condition| condition.r#type == "NetworkReady").context("a condition of the network")?;
    assert!(!network.status && network.message.contains(daemon.bridge()), "{network:?}");
    after.end().await?;
    Ok(before.end().await?)
}

/// Its link, its rules and its host ports would stay with the old one.
#[tokio::test]
async fn a_pod_is_not_left_on_a_bridge_that_is_configured_no_more() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    daemon.terminate().await?;
    let config = std::fs::read_to_string(daemon.config_file())?;
    let other = config.replace(daemon.bridge(), &format!("{}x", daemon.bridge()));
    std::fs::write(daemon.config_file(), other)?;
    let refused = daemon.network().run(|| daemon.command(&["serve"]).output().context("execute podbox"))?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let names = ["network.bridge", &pod.id, &format!("bridge {}", daemon.bridge())];
    assert!(!refused.status.success() && names.iter().all(|name| said.contains(*name)), "{said}");
    assert!(ip(daemon.network(), &format!("link show {}x", daemon.bridge())).is_err(), "nothing was done for the other bridge");
    std::fs::write(daemon.config_file(), config)?;
    daemon.start_again().await?;
    assert_eq!(pod.state().await?, v1::PodSandboxState::SandboxReady);
    Ok(pod.end().await?)
}

/// As Docker, ufw and firewalld do. Nobody but the one who did it can let the packets through.
#[tokio::test]
async fn a_firewall_that_drops_what_is_forwarded_is_named_in_status() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let nft = |words: &[&str]| -> Result<()> {
        let output = daemon.network().run(|| Ok(Command::new("nft").args(words).output()?))?;
        ensure!(output.status.success(), "nft {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    // The condition's message, and all of the node's limits.
    let told = async || -> Result<(String, String)> {
        let answer = daemon.runtime().status(v1::StatusRequest { verbose: true }).await?.into_inner();
        let conditions = answer.status.context("a status")?.conditions;
        let network = conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").context("a condition of the network")?;
        assert!(network.status && network.reason.is_empty(), "the pods are fine: {network:?}");
        let info: serde_json::Value = serde_json::from_str(answer.info.get("info").context("no info")?)?;
        Ok((network.message, info["limits"].to_string()))
    };
    let (message, limits) = told().await?;
    assert!(message.is_empty() && !limits.contains("forward"), "{message} {limits}");
    nft(&["add table inet foreign"])?;
    nft(&["add chain inet foreign keeps { type filter hook forward priority 0; policy drop; }"])?;
    let (message, limits) = told().await?;
    for said in [&message, &limits] {
        for word in ["chain keeps of table inet foreign", "policy drop", &format!("accept what comes from and goes to {}", daemon.bridge())]
        {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
    }
    nft(&["delete table inet foreign"])?;
    let (message, limits) = told().await?;
    assert!(message.is_empty() && !limits.contains("forward"), "{message} {limits}");
    Ok(())
}
