//! podbox's own metrics: a page for Prometheus, on loopback, where the configuration wants it.

use anyhow::{Context, Result};
use podbox_tests::{ContainerSpec, Daemon, DaemonOptions, PodSpec, wait};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

async fn with_metrics() -> Result<(Daemon, SocketAddr)> {
    let more_config = "[metrics]\naddress = \"127.0.0.1:0\"\n".to_owned();
    let daemon = Daemon::for_test_with(DaemonOptions { more_config, ..DaemonOptions::default() }).await?;
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("serving metrics")).context("the line that tells where")?;
    let address = line.split_once("address=").context("an address")?.1.trim().parse()?;
    Ok((daemon, address))
}

/// A connection from within the daemon's network namespace.
fn connect(daemon: &Daemon, address: SocketAddr) -> Result<TcpStream> {
    let stream = daemon.network().run(|| TcpStream::connect(address).context("connect"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(daemon: &Daemon, address: SocketAddr, request: &str) -> Result<String> {
    let mut stream = connect(daemon, address)?;
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test]
async fn the_page_counts_calls_pods_containers_and_the_daemon_itself() -> Result<()> {
    let (daemon, address) = with_metrics().await?;
    let pod = daemon.run_pod(&PodSpec::new("counted")).await?;
    pod.run(&ContainerSpec::sleeper("runs")).await?;
    pod.run(&ContainerSpec::shell("ends", "true")).await?.exited().await?;
    let oom = "x=x; while :; do x=$x$x; done";
    let killed = pod.run(&ContainerSpec::shell("oom", oom).memory_limit(16 << 20)).await?.exited().await?;
    assert_eq!(killed.reason, "OOMKilled");
    let lost = daemon.run_pod(&PodSpec::new("lost")).await?;
    let monitor = daemon.monitor_of(&lost.id).context("its monitor")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL)?;
    let lines = [
        "podbox_calls_total{call=\"RunPodSandbox\",code=\"OK\"} 2",
        "podbox_call_duration_seconds_count{call=\"StartContainer\"} 3",
        "podbox_pods{state=\"ready\"} 1",
        "podbox_pods{state=\"not_ready\"} 1",
        "podbox_containers{state=\"running\"} 1",
        "podbox_containers{state=\"exited\"} 2",
        "podbox_monitors_started_total 2",
        "podbox_monitors_lost_total 1",
        "podbox_containers_ended_total 2",
        "podbox_containers_oom_killed_total 1",
        "podbox_event_subscribers 0",
    ];
    // An end is counted a moment after it can be seen.
    let mut page = String::new();
    let counted = wait::until_true("all of it is counted", || {
        page = ask(&daemon, address, "GET /metrics").unwrap_or_default();
        lines.iter().all(|line| page.lines().any(|found| found == *line))
    })
    .await;
    counted.with_context(|| format!("of {lines:#?} not all are in\n{page}"))?;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{page}");
    let value = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()?))?.count() as f64;
    let said = value("process_open_fds").context("descriptors")?;
    assert!((said - open).abs() <= 10.0, "{said} and {open}");
    assert!(value("process_resident_memory_bytes").is_some_and(|bytes| bytes > 1e6));
    assert!(value("process_cpu_seconds_total").is_some());
    Ok(())
}

#[tokio::test]
async fn there_is_one_page_and_it_can_only_be_read() -> Result<()> {
    let (daemon, address) = with_metrics().await?;
    for (request, status) in [("GET /", "404"), ("GET /metrics/x", "404"), ("POST /metrics", "405"), ("DELETE /metrics", "405")] {
        let answer = ask(&daemon, address, request)?;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    let mut stream = connect(&daemon, address)?;
    // What is cut off while it still sends may see that as an error of its own.
    let _ = stream.write_all(format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)).as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "headers without end are not read");
    assert!(ask(&daemon, address, "GET /metrics")?.starts_with("HTTP/1.1 200 "));
    Ok(())
}

#[tokio::test]
async fn slow_readers_are_dropped_and_keep_nobody_else_out_for_long() -> Result<()> {
    let (daemon, address) = with_metrics().await?;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(&daemon, address)?;
        // The one that finds no room may be gone already.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:");
        slow.push(stream);
    }
    wait::until_true("there is room again", || {
        ask(&daemon, address, "GET /metrics").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    })
    .await?;
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let timed_out = ended.is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        assert!(!timed_out && !rest.starts_with(b"HTTP/1.1 200"));
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_served_unless_the_configuration_says_so() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    assert!(!daemon.log().contains("serving metrics"));
    // Whatever listens is something else.
    let sockets = std::fs::read_to_string(format!("/proc/{}/net/tcp", daemon.pid()?))?;
    let listening = sockets.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>()).filter(|line| line.get(3) == Some(&"0A"));
    for line in listening {
        let port = u16::from_str_radix(line[1].rsplit(':').next().context("a port")?, 16)?;
        let answer = ask(&daemon, SocketAddr::from(([127, 0, 0, 1], port)), "GET /metrics").unwrap_or_default();
        assert!(!answer.contains("podbox_"), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn metrics_are_for_the_node_alone() -> Result<()> {
    let more_config = "[metrics]\naddress = \"0.0.0.0:0\"\n".to_owned();
    let started = Daemon::start(DaemonOptions { more_config, ..DaemonOptions::default() }).await;
    let error = format!("{:#}", started.err().context("it must not start")?);
    assert!(error.contains("metrics.address") && error.contains("loopback"), "{error}");
    Ok(())
}
