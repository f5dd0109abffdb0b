//! Ports of the node that lead into pods, over the CRI.

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podbox_proto::v1;
use podbox_proto::v1::NamespaceMode;
use podbox_tests::network::NetworkNamespace;
use podbox_tests::streams::{OUTPUTS, exec_url};
use podbox_tests::{Census, Container, ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, assert_refused, wait};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tonic::Code;

const POD_PORT: i32 = 8080;

fn mapping(protocol: v1::Protocol, host_ip: &str, host_port: i32) -> v1::PortMapping {
    v1::PortMapping { protocol: protocol.into(), container_port: POD_PORT, host_port, host_ip: host_ip.to_owned() }
}

fn with_ports(name: &str, ports: &[v1::PortMapping]) -> PodSpec {
    let ports = ports.to_vec();
    PodSpec::new(name).with(|config| config.port_mappings = ports)
}

/// A pod that tells by HTTP which one it is.
async fn serving(daemon: &Daemon, name: &str, ports: &[v1::PortMapping]) -> Result<Pod> {
    let pod = daemon.run_pod(&with_ports(name, ports)).await?;
    let server = format!("mkdir /www && echo {name} > /www/name && exec httpd -f -p {POD_PORT} -h /www");
    pod.run(&ContainerSpec::shell("server", &server)).await?;
    let ip = pod.ips().await?.first().context("an address")?.clone();
    let answers = || ask(daemon, &ip, u16::try_from(POD_PORT).unwrap_or_default()).is_ok();
    wait::until_true("the server listens", answers).await?;
    Ok(pod)
}

/// Which pod answers there, as the node sees it.
fn ask(daemon: &Daemon, address: &str, port: u16) -> Result<String> {
    let target = std::net::SocketAddr::new(address.parse()?, port);
    daemon.network().run(|| {
        let mut stream = TcpStream::connect_timeout(&target, wait::scaled(wait::DEADLINE))?;
        stream.set_read_timeout(Some(wait::scaled(wait::DEADLINE)))?;
        stream.write_all(b"GET /name HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains(" 200 OK"), "{answer}");
        Ok(answer.lines().last().unwrap_or_default().to_owned())
    })
}

/// Runs `nft` on the daemon's rules.
fn nft(daemon: &Daemon, words: &str) -> Result<String> {
    let output = daemon.network().run(|| Ok(Command::new("nft").args(words.split(' ')).output()?))?;
    ensure!(output.status.success(), "nft {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// All rules, and the elements of each map and set in an order of their own, which they have not in the kernel.
fn ruleset(daemon: &Daemon) -> Result<Vec<String>> {
    let rules = nft(daemon, "-n list ruleset")?.replace(",\n", ", ");
    let lines = rules.lines().map(|line| {
        let Some(elements) = line.trim().strip_prefix("elements = { ").and_then(|list| list.strip_suffix(" }")) else {
            return line.to_owned();
        };
        let mut elements: Vec<&str> = elements.split(", ").map(str::trim).collect();
        elements.sort_unstable();
        elements.join(", ")
    });
    Ok(lines.collect())
}

/// The elements of all maps and sets that lead into pods, as `nft` lists them.
fn elements(daemon: &Daemon) -> Result<Vec<String>> {
    let rules = nft(daemon, "-n list ruleset")?.replace(",\n", ", ");
    let lists = rules.lines().filter_map(|line| line.trim().strip_prefix("elements = { ")?.strip_suffix(" }"));
    let mut found: Vec<String> =
        lists.flat_map(|list| list.split(", ")).map(|one| one.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    // The networks of pods are not meant.
    found.retain(|element| element.contains(" . "));
    found.sort();
    Ok(found)
}

#[tokio::test]
async fn a_pod_is_reached_by_its_host_ports_as_long_as_it_lives() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let ports = [
        mapping(v1::Protocol::Tcp, "", 12_000),
        mapping(v1::Protocol::Udp, "", 12_000),
        mapping(v1::Protocol::Sctp, "0.0.0.0", 12_001),
        mapping(v1::Protocol::Tcp, "127.0.0.1", 12_002),
        // The kubelet names every port of every container.
        mapping(v1::Protocol::Tcp, "", 0),
    ];
    let a = serving(&daemon, "a", &ports).await?;
    let b = serving(&daemon, "b", &[mapping(v1::Protocol::Tcp, "", 12_003)]).await?;
    let ips = a.ips().await?;
    let (v4, v6) = (ips.first().context("IPv4")?, ips.get(1).context("IPv6")?);
    let due: Vec<String> = [
        format!("tcp . 12000 : {v4} . 8080"),
        format!("udp . 12000 : {v4} . 8080"),
        format!("sctp . 12001 : {v4} . 8080"),
        format!("127.0.0.1 . tcp . 12002 : {v4} . 8080"),
        format!("tcp . 12000 : {v6} . 8080"),
        format!("udp . 12000 : {v6} . 8080"),
    ]
    .into();
    let there = elements(&daemon)?;
    let numbers = |text: &str| text.replace("tcp", "6").replace("udp", "17").replace("sctp", "132");
    for element in &due {
        // nft writes a protocol's number or its name, by its version.
        assert!(there.contains(element) || there.contains(&numbers(element)), "{element} is not among {there:?}");
    }
    for port in [12_000, 12_002] {
        assert_eq!(ask(&daemon, "127.0.0.1", port)?, "a");
    }
    assert_eq!(ask(&daemon, "127.0.0.1", 12_003)?, "b");
    a.stop().await?;
    assert!(ask(&daemon, "127.0.0.1", 12_000).is_err(), "a stopped pod's port leads nowhere");
    assert_eq!(ask(&daemon, "127.0.0.1", 12_003)?, "b");
    // What it had can be had again at once.
    let c = serving(&daemon, "c", &[mapping(v1::Protocol::Tcp, "", 12_000)]).await?;
    assert_eq!(ask(&daemon, "127.0.0.1", 12_000)?, "c");
    for pod in [a, b, c] {
        pod.end().await?;
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_both_pods_and_leaves_nothing() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.warm_up().await?;
    let holder = daemon.run_pod(&with_ports("holder", &[mapping(v1::Protocol::Tcp, "", 12_000)])).await?;
    let before = Census::at_rest(&daemon).await?;
    for host_ip in ["", "127.0.0.1", "::"] {
        let late = with_ports("late", &[mapping(v1::Protocol::Udp, "", 12_000), mapping(v1::Protocol::Tcp, host_ip, 12_000)]);
        let words = ["sandbox default/late", "TCP port 12000", "default/holder", &holder.id];
        assert_refused(daemon.run_pod(&late).await, Code::FailedPrecondition, &words);
    }
    let twice = with_ports("twice", &[mapping(v1::Protocol::Tcp, "", 12_001), mapping(v1::Protocol::Tcp, "127.0.0.1", 12_001)]);
    assert_refused(daemon.run_pod(&twice).await, Code::InvalidArgument, &["sandbox default/twice", "TCP port 12001 of 127.0.0.1"]);
    Census::settle(&daemon, &before, wait::DEADLINE).await?;
    holder.end().await?;
    daemon.run_pod(&with_ports("late", &[mapping(v1::Protocol::Tcp, "", 12_000)])).await?;
    Ok(())
}

#[tokio::test]
async fn a_port_of_a_family_that_the_pod_lacks_is_refused_and_one_of_the_nodes_network_asks_for_nothing() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().subnets(&["10.202.0.0/24"])).await?;
    let v6 = with_ports("v6", &[mapping(v1::Protocol::Tcp, "::", 12_000)]);
    assert_refused(daemon.run_pod(&v6).await, Code::FailedPrecondition, &["sandbox default/v6", "TCP port 12000 of ::", "IPv6"]);
    for name in ["one", "two"] {
        let spec = with_ports(name, &[mapping(v1::Protocol::Tcp, "", 12_000)]).network(NamespaceMode::Node);
        daemon.run_pod(&spec).await?;
    }
    assert_eq!(elements(&daemon)?, Vec::<String>::new());
    Ok(())
}

/// Else the pod would be sent what is meant for podbox, with the secrets that let somebody in.
#[tokio::test]
async fn no_pod_has_the_port_where_podbox_listens() -> Result<()> {
    const FEW: std::ops::RangeInclusive<i32> = 40_000..=40_003;
    const METRICS: i32 = 9100;
    let more_config = format!("[metrics]\naddress = \"127.0.0.1:{METRICS}\"\n");
    let mut daemon = Daemon::for_test_with(DaemonOptions { more_config, ..DaemonOptions::default() }).await?;
    // All that the kernel picks a listener's port of.
    let range = format!("{} {}", FEW.start(), FEW.end());
    daemon.network().run(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", &range).context("narrow the range of ports"))?;
    daemon.restart().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    let own = stream_port(&daemon, &container).await?;
    assert!(FEW.contains(&own), "{own}");
    for (host_ip, port) in [("", own), ("127.0.0.1", own), ("", METRICS)] {
        let greedy = with_ports("greedy", &[mapping(v1::Protocol::Tcp, host_ip, port)]);
        let words = ["sandbox default/greedy", &format!("TCP port {port}"), "podbox itself listens there"];
        assert_refused(daemon.run_pod(&greedy).await, Code::FailedPrecondition, &words);
    }
    // The next daemon would sooner or later be given one of these.
    let others: Vec<_> = FEW.filter(|port| *port != own).map(|port| mapping(v1::Protocol::Tcp, "", port)).collect();
    let other = daemon.run_pod(&with_ports("other", &others)).await?;
    for _ in 0..3 {
        daemon.restart().await?;
        assert_eq!(stream_port(&daemon, &container).await?, own);
    }
    // Nor does a daemon begin that is told to listen there.
    daemon.terminate().await?;
    let taken = others.first().context("a port")?.host_port;
    let config = std::fs::read_to_string(daemon.config_file())?;
    std::fs::write(daemon.config_file(), format!("{config}\n[stream]\naddress = \"127.0.0.1:{taken}\"\n"))?;
    let refused = daemon.network().run(|| daemon.command(&["serve"]).output().context("start podbox"))?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("stream.address") && said.contains(&other.id), "{said}");
    std::fs::write(daemon.config_file(), config)?;
    daemon.start_again().await
}

/// Where clients are sent to.
async fn stream_port(daemon: &Daemon, container: &Container) -> Result<i32> {
    let url = exec_url(daemon, container, &["true"], OUTPUTS).await?;
    let port = url.split('/').nth(2).and_then(|host| host.rsplit(':').next()).context("a port in the URL")?;
    Ok(port.parse()?)
}

/// Far more than one message to the kernel holds.
#[tokio::test]
async fn thousands_of_ports_outlive_the_daemon_and_harm_nobody() -> Result<()> {
    const COUNT: i32 = 16_384;
    let mut daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let other = serving(&daemon, "other", &[mapping(v1::Protocol::Tcp, "", 9_999)]).await?;
    let mut ports: Vec<_> = (0..COUNT).map(|number| mapping(v1::Protocol::Tcp, "", 10_000 + number)).collect();
    let many = serving(&daemon, "many", &ports).await?;
    ports.push(mapping(v1::Protocol::Tcp, "", 9_000));
    assert_refused(daemon.run_pod(&with_ports("over", &ports)).await, Code::InvalidArgument, &["config.port_mappings", "16385 mappings"]);
    let there = elements(&daemon)?;
    // Two families, beside what they lead to.
    assert!(there.len() > 2 * COUNT as usize, "{} elements", there.len());
    daemon.restart().await?;
    assert!(elements(&daemon)? == there, "other elements than before");
    assert_eq!(ask(&daemon, "127.0.0.1", 10_000 + COUNT as u16 - 1)?, "many");
    many.end().await?;
    assert_eq!(ask(&daemon, "127.0.0.1", 9_999)?, "other");
    let late = serving(&daemon, "late", &[mapping(v1::Protocol::Tcp, "", 10_000)]).await?;
    assert_eq!(ask(&daemon, "127.0.0.1", 10_000)?, "late");
    for pod in [other, late] {
        pod.end().await?;
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn after_a_kill_the_ports_are_exactly_those_of_the_pods_that_live() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let a = serving(&daemon, "a", &[mapping(v1::Protocol::Tcp, "", 12_000)]).await?;
    let b = daemon.run_pod(&with_ports("b", &[mapping(v1::Protocol::Tcp, "", 12_001)])).await?;
    let stopped = daemon.run_pod(&with_ports("stopped", &[mapping(v1::Protocol::Tcp, "", 12_002)])).await?;
    stopped.stop().await?;
    let before = elements(&daemon)?;
    for (port, is_there) in [(12_000, true), (12_001, true), (12_002, false)] {
        assert_eq!(before.iter().any(|element| element.contains(&format!(". {port} :"))), is_there, "{port}: {before:?}");
    }
    let dies = daemon.run_pod(&with_ports("dies", &[mapping(v1::Protocol::Tcp, "", 12_003)])).await?;
    let pause = dies.pause_pid().await?;
    daemon.kill_9()?;
    assert_eq!(ask(&daemon, "127.0.0.1", 12_000)?, "a", "pods are reached without the daemon");
    // The pod's end while nobody looks; its port stays its own until it is stopped.
    kill(Pid::from_raw(pause), Signal::SIGKILL)?;
    daemon.start_again().await?;
    dies.stop().await?;
    assert_eq!(elements(&daemon)?, before);
    assert_eq!(ask(&daemon, "127.0.0.1", 12_000)?, "a");
    let taken = with_ports("late", &[mapping(v1::Protocol::Tcp, "", 12_001)]);
    assert_refused(daemon.run_pod(&taken).await, Code::FailedPrecondition, &["default/b"]);
    // Somebody's `nft flush ruleset`, while nobody looks.
    daemon.kill_9()?;
    nft(&daemon, "flush ruleset")?;
    assert!(ask(&daemon, "127.0.0.1", 12_000).is_err());
    daemon.start_again().await?;
    assert_eq!(elements(&daemon)?, before);
    for pod in [a, b] {
        pod.end().await?;
    }
    assert_eq!(elements(&daemon)?, Vec::<String>::new());
    Ok(())
}

/// How often the daemon says that it made the rules anew.
fn restorations(daemon: &Daemon) -> usize {
    daemon.log().lines().filter(|line| line.contains(" WARN ") && line.contains("are made anew")).count()
}

#[tokio::test]
async fn rules_that_somebody_deletes_are_made_anew() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = serving(&daemon, "a", &[mapping(v1::Protocol::Tcp, "", 12_000), mapping(v1::Protocol::Udp, "127.0.0.1", 12_001)]).await?;
    let stopped = daemon.run_pod(&with_ports("stopped", &[mapping(v1::Protocol::Tcp, "", 12_002)])).await?;
    stopped.stop().await?;
    let client = pod.run(&ContainerSpec::sleeper("client")).await?;
    let outside = NetworkNamespace::outside(daemon.network())?;
    let listener = outside.run(|| Ok(std::net::TcpListener::bind("192.0.2.2:8080")?))?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let before = ruleset(&daemon)?;
    assert!(before.iter().any(|line| line.contains("12000")), "{before:?}");
    let table = format!("podbox-{}", daemon.bridge());
    let deletions = [
        ("flush ruleset".to_owned(), format!("ip {table} and ip6 {table}")),
        (format!("delete table ip6 {table}"), format!("ip6 {table}")),
        (format!("delete element ip {table} ports {{ tcp . 12000 }}"), format!("ip {table}")),
        (format!("flush chain ip {table} postrouting"), format!("ip {table}")),
    ];
    for (number, (deletion, tables)) in (1..).zip(deletions) {
        nft(&daemon, &deletion)?;
        wait::until_true(&format!("the rules come back: {deletion}"), || ruleset(&daemon).is_ok_and(|rules| rules == before)).await?;
        assert_eq!(ask(&daemon, "127.0.0.1", 12_000)?, "a", "{deletion}");
        let call = client.exec(&["/bin/sh", "-c", "echo | nc -w 5 192.0.2.2 8080"]);
        // The connection is closed at once: that is what ends the client.
        let accept = async { listener.accept().await.map(|(_, from)| from.ip()) };
        let (_, from) = tokio::join!(call, tokio::time::timeout(wait::scaled(wait::DEADLINE), accept));
        assert_eq!(from??.to_string(), "192.0.2.1", "the node's address, not the pod's: {deletion}");
        wait::until_true("it is said once", || restorations(&daemon) == number).await?;
        let log = daemon.log();
        let said = log.lines().rfind(|line| line.contains("are made anew")).context("a warning")?;
        assert!(said.contains(&format!("rules of table {tables} were deleted")) && said.contains("\"nft\""), "{deletion}: {said}");
    }
    pod.end().await?;
    assert_eq!(elements(&daemon)?, Vec::<String>::new());
    Ok(())
}

/// Somebody else is sure that there are to be no rules. Neither side's work is ever done, but podbox's is little.
#[tokio::test(flavor = "multi_thread")]
async fn who_deletes_rules_again_and_again_has_no_fight_with_the_daemon_and_no_port_is_lost_or_left() -> Result<()> {
    const ROUNDS: u16 = 30;
    let daemon = Daemon::for_test().await?;
    let stays = serving(&daemon, "stays", &[mapping(v1::Protocol::Tcp, "", 12_000)]).await?;
    let before = ruleset(&daemon)?;
    let begin = Instant::now();
    let is_over = AtomicBool::new(false);
    let (flushed, pods) = std::thread::scope(|scope| {
        let flushes = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                nft(&daemon, "flush ruleset")?;
                count += 1;
            }
            anyhow::Ok(count)
        });
        let pods = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for round in 1..=ROUNDS {
                    let port = i32::from(12_000 + round);
                    let pod = daemon.run_pod(&with_ports(&format!("p{round}"), &[mapping(v1::Protocol::Tcp, "", port)])).await?;
                    pod.end().await?;
                }
                anyhow::Ok(())
            })
        });
        is_over.store(true, Ordering::Relaxed);
        (flushes.join(), pods)
    });
    pods?;
    let flushed = flushed.map_err(|_| anyhow!("the thread panicked"))??;
    wait::until_true("the rules come back", || ruleset(&daemon).is_ok_and(|rules| rules == before)).await?;
    assert_eq!(ask(&daemon, "127.0.0.1", 12_000)?, "stays");
    let (made, seconds) = (restorations(&daemon), begin.elapsed().as_secs());
    assert!(made >= 1 && u64::try_from(made)? <= seconds + 2, "{flushed} flushes, {made} restorations in {seconds} s");
    Ok(stays.end().await?)
}
