//! The files that podbox writes for a pod.

use anyhow::Result;
use podbox_proto::v1::{self, NamespaceMode};
use podbox_tests::spec::words;
use podbox_tests::{ContainerSpec, Daemon, PodSpec};

#[tokio::test]
async fn resolv_conf_is_what_the_dns_config_says() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let dns = v1::DnsConfig {
        servers: words(&["10.0.0.10", "fd00::10"]),
        searches: words(&["default.svc.cluster.local", "cluster.local"]),
        options: words(&["ndots:5", "edns0"]),
    };
    let pod = daemon.run_pod(&PodSpec::new("dns").with(|config| config.dns_config = Some(dns))).await?;
    let text = pod.output_of(&ContainerSpec::command("read", &["/bin/cat", "/etc/resolv.conf"])).await?;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["nameserver 10.0.0.10", "nameserver fd00::10", "options ndots:5 edns0", "search default.svc.cluster.local cluster.local"]
    );
    Ok(())
}

#[tokio::test]
async fn without_a_dns_config_resolv_conf_is_the_nodes() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let node = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    for (name, dns) in [("none", None), ("empty", Some(v1::DnsConfig::default()))] {
        let pod = daemon.run_pod(&PodSpec::new(name).with(|config| config.dns_config = dns)).await?;
        let text = pod.output_of(&ContainerSpec::command("read", &["/bin/cat", "/etc/resolv.conf"])).await?;
        assert_eq!(text, node.trim_end_matches('\n'), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn hosts_and_hostname_name_the_pod() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("named").with(|config| "host-of-its-own".clone_into(&mut config.hostname))).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    assert_eq!(container.sh("cat /etc/hostname").await?, "host-of-its-own");
    let hosts = container.sh("cat /etc/hosts").await?;
    let names_of = |address: &str| {
        let mut lines = hosts.lines().map(str::split_whitespace);
        lines.find_map(|mut words| (words.next() == Some(address)).then(|| words.collect::<Vec<_>>())).unwrap_or_default()
    };
    assert!(names_of("127.0.0.1").contains(&"localhost"), "{hosts}");
    for ip in pod.ips().await? {
        assert!(names_of(&ip).contains(&"host-of-its-own"), "{ip}: {hosts}");
    }
    let mounted = daemon.directory().join("hosts");
    std::fs::write(&mounted, "10.1.1.1 mine\n")?;
    let own = ContainerSpec::command("own", &["/bin/cat", "/etc/hosts"]).mount(&mounted, "/etc/hosts");
    assert_eq!(pod.output_of(&own).await?, "10.1.1.1 mine", "a mount of the request stands for podbox's own");
    Ok(())
}

#[tokio::test]
async fn in_the_nodes_network_hosts_is_the_nodes() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("node").network(NamespaceMode::Node)).await?;
    let text = pod.output_of(&ContainerSpec::command("read", &["/bin/cat", "/etc/hosts"])).await?;
    assert_eq!(text, std::fs::read_to_string("/etc/hosts").unwrap_or_default().trim_end_matches('\n'));
    Ok(())
}

/// The kubelet sends no DNS and no hostname for some pods; then podbox chooses.
#[tokio::test]
async fn a_pod_without_a_hostname_is_called_by_its_name() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("nameless").with(|config| config.hostname.clear())).await?;
    assert_eq!(pod.output_of(&ContainerSpec::command("read", &["/bin/hostname"])).await?, "nameless");
    Ok(())
}
