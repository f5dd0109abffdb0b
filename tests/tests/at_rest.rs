//! What podbox does not do: execute programs, and anything at all while nothing is asked of it.

use anyhow::{Context, Result, bail};
use podbox_proto::v1;
use podbox_tests::executions::Executions;
use podbox_tests::{ContainerSpec, Daemon, Pod, PodSpec};
use std::collections::BTreeMap;
use std::time::Duration;

async fn monitor_of(pod: &Pod) -> Result<i32> {
    let info = pod.info().await?;
    let pid = info["monitorPid"].as_i64().with_context(|| format!("no monitorPid in {info}"))?;
    Ok(i32::try_from(pid)?)
}

#[tokio::test]
async fn nothing_is_executed_but_the_monitor_pause_and_what_was_asked_for() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.warm_up().await?;
    let watch = Executions::watch()?;
    let ports = [v1::Protocol::Tcp, v1::Protocol::Udp, v1::Protocol::Sctp].map(|protocol| v1::PortMapping {
        protocol: protocol.into(),
        container_port: 80,
        host_port: 12_000,
        ..Default::default()
    });
    let pod = daemon.run_pod(&PodSpec::new("watched").with(|config| config.port_mappings = ports.to_vec())).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    let mut expected = vec![monitor_of(&pod).await?, pod.pause_pid().await?, container.pid().await?];
    container.stop(0).await?;
    pod.stop().await?;
    pod.remove().await?;
    let mut executed = watch.of_descendants(daemon.pid()?)?;
    expected.sort_unstable();
    executed.sort_unstable();
    assert_eq!(executed, expected, "each of the three executes its program, once, and nobody else any");
    Ok(())
}

/// How often each thread of a process ran, and for how many ticks of the clock the process did.
fn activity(pid: i32) -> Result<BTreeMap<String, String>> {
    let mut activity = BTreeMap::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        // One that ends meanwhile is none, as the next look shows.
        let Ok(status) = std::fs::read_to_string(thread.path().join("status")) else { continue };
        let switches: Vec<&str> = status.lines().filter(|line| line.contains("ctxt_switches")).collect();
        activity.insert(format!("{pid}/{}", thread.file_name().display()), switches.join(" "));
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, behind_name) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks: Vec<&str> = behind_name.split_whitespace().skip(11).take(2).collect();
    activity.insert(format!("{pid} utime and stime"), ticks.join(" "));
    Ok(activity)
}

/// A ticker, however slow up to the pause, would never let two looks be the same; what an earlier call leaves (a thread of the
/// runtime's that ends after some seconds without work) does, in the end.
#[tokio::test]
async fn an_idle_daemon_with_pods_does_nothing_at_all() -> Result<()> {
    const PAUSE: Duration = Duration::from_secs(6);
    const LOOKS: u32 = 10;
    let daemon = Daemon::for_test().await?;
    let mut processes = vec![daemon.pid()?];
    for name in ["a", "b"] {
        let pod = daemon.run_pod(&PodSpec::new(name)).await?;
        pod.run(&ContainerSpec::sleeper("c")).await?;
        processes.push(monitor_of(&pod).await?);
    }
    let look = || processes.iter().map(|pid| activity(*pid)).collect::<Result<Vec<_>>>();
    let mut before = look()?;
    for _ in 0..LOOKS {
        tokio::time::sleep(PAUSE).await;
        let after = look()?;
        if after == before {
            return Ok(());
        }
        before = after;
    }
    bail!("daemon and monitors ran in each of {LOOKS} pauses of {} s: {before:?}", PAUSE.as_secs())
}
