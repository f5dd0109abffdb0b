//! The daemon dies and comes back: pods live on, and nothing that happened meanwhile is lost.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, socket};
use podbox_proto::v1::{ContainerState, ListImagesRequest, NamespaceMode, PodSandboxState};
use podbox_tests::host::runs;
use podbox_tests::network::NetworkNamespace;
use podbox_tests::{Census, Container, ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, TestImage, wait};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use tonic::Code;

/// A file in the pod's shared memory, by which a test speaks to scripts while there is no daemon.
struct Flag(String);

impl Flag {
    async fn of(pod: &Pod) -> Result<Self> {
        Ok(Self(format!("/proc/{}/root/dev/shm/go", pod.pause_pid().await?)))
    }

    fn raise(&self) -> Result<()> {
        std::fs::write(&self.0, "").context("raise the flag")
    }
}

const AWAIT_FLAG: &str = "while ! test -e /dev/shm/go; do sleep 0.02; done";

/// Waits, without a daemon, until processes have ended.
async fn ended(pids: &[i32]) -> Result<()> {
    wait::until_true("the processes end", || !pids.iter().any(|pid| runs(*pid))).await
}

#[tokio::test]
async fn after_a_kill_of_the_daemon_lists_addresses_and_states_are_the_same() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("lives").label("k", "v")).await?;
    let running = pod.run(&ContainerSpec::sleeper("running")).await?;
    pod.create(&ContainerSpec::sleeper("created")).await?;
    pod.run(&ContainerSpec::shell("exited", "exit 3")).await?.exited().await?;
    let node = daemon.run_pod(&PodSpec::new("node").network(NamespaceMode::Node)).await?;
    let stopped = daemon.run_pod(&PodSpec::new("stopped")).await?;
    stopped.stop().await?;
    let client = daemon.client();
    let mut before = Vec::new();
    for pod in [&pod, &node, &stopped] {
        before.push((pod.status().await?.status, pod.info().await?));
    }
    let (pods, containers, status) = (client.pods().await?, client.containers().await?, running.status().await?);
    let images = client.images().list_images(ListImagesRequest::default()).await?.into_inner();
    let pid = running.pid().await?;
    for _ in 0..2 {
        daemon.restart().await?;
        assert_eq!(client.pods().await?, pods);
        assert_eq!(client.containers().await?, containers);
        assert_eq!((running.status().await?, running.pid().await?), (status.clone(), pid));
        for (pod, before) in [&pod, &node, &stopped].into_iter().zip(&before) {
            assert_eq!((&pod.status().await?.status, &pod.info().await?), (&before.0, &before.1));
        }
        assert_eq!(client.images().list_images(ListImagesRequest::default()).await?.into_inner(), images);
    }
    Ok(())
}

#[tokio::test]
async fn logs_go_on_while_there_is_no_daemon() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("logs")).await?;
    let script = "i=0; while ! test -e /dev/shm/go; do echo $i; i=$((i+1)); sleep 0.005; done; echo $i last";
    let container = pod.run(&ContainerSpec::shell("a", script)).await?;
    let flag = Flag::of(&pod).await?;
    let lines = || container.log_lines().map_or(0, |lines| lines.len());
    wait::until_true("it writes", || lines() > 10).await?;
    daemon.kill_9()?;
    let then = lines();
    wait::until_true("it writes on without a daemon", || lines() > then + 20).await?;
    daemon.start_again().await?;
    let then = lines();
    wait::until_true("and with the next one", || lines() > then + 20).await?;
    let rotated = container.log.with_extension("0");
    std::fs::rename(&container.log, &rotated)?;
    container.reopen_log().await?;
    flag.raise()?;
    assert_eq!(container.exit_code().await?, 0);
    let mut all = Container::adopt(&daemon.client(), &container.id, &rotated).log_lines()?;
    all.extend(container.log_lines()?);
    let last = all.pop().context("a last line")?;
    for (number, line) in all.iter().enumerate() {
        assert_eq!(String::from_utf8_lossy(&line.text), number.to_string(), "no line is lost");
    }
    assert_eq!(String::from_utf8_lossy(&last.text), format!("{} last", all.len()));
    Ok(())
}

#[tokio::test]
async fn exits_of_meanwhile_are_told_with_their_true_codes_and_reasons() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("exits")).await?;
    let mut containers = Vec::new();
    for code in 10..22 {
        let spec = ContainerSpec::shell(&format!("c{code}"), &format!("{AWAIT_FLAG}; echo bye; exit {code}"));
        containers.push((pod.run(&spec).await?, code, "Error"));
    }
    containers.push((pod.run(&ContainerSpec::shell("well", &format!("{AWAIT_FLAG}; exit 0"))).await?, 0, "Completed"));
    let greedy = format!("{AWAIT_FLAG}; exec dd if=/dev/zero of=/dev/null bs=200M");
    containers.push((pod.run(&ContainerSpec::shell("greedy", &greedy).memory_limit(32 << 20)).await?, 137, "OOMKilled"));
    let flag = Flag::of(&pod).await?;
    let mut pids = Vec::new();
    for (container, _, _) in &containers {
        pids.push(container.pid().await?);
    }
    daemon.kill_9()?;
    let killed_at = now_ns()?;
    flag.raise()?;
    ended(&pids).await?;
    let ended_at = now_ns()?;
    daemon.start_again().await?;
    for (container, code, reason) in &containers {
        let status = container.status().await?;
        let name = status.metadata.clone().unwrap_or_default().name;
        assert_eq!((status.state(), status.exit_code, &*status.reason), (ContainerState::ContainerExited, *code, *reason), "{name}");
        assert!((killed_at..=ended_at).contains(&status.finished_at), "{name} ended when it did");
    }
    assert_eq!(containers[0].0.output()?, "bye");
    assert_eq!(pod.state().await?, PodSandboxState::SandboxReady);
    Ok(())
}

fn now_ns() -> Result<i64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos().try_into()?)
}

#[tokio::test]
async fn everything_works_on_what_the_last_daemon_left() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let running = pod.run(&ContainerSpec::sleeper("running")).await?;
    let created = pod.create(&ContainerSpec::shell("created", "exit 4")).await?;
    let exited = pod.run(&ContainerSpec::shell("exited", "exit 5")).await?;
    exited.exited().await?;
    daemon.restart().await?;
    assert_eq!(running.sh("echo exec").await?, "exec");
    created.start().await?;
    assert_eq!(created.exit_code().await?, 4);
    let fresh = pod.run(&ContainerSpec::sleeper("fresh")).await?;
    assert_eq!(fresh.sh("hostname").await?, "pod");
    let other = daemon.run_pod(&PodSpec::new("other")).await?;
    let (a, b): (BTreeSet<_>, BTreeSet<_>) = (pod.ips().await?.into_iter().collect(), other.ips().await?.into_iter().collect());
    assert!(a.is_disjoint(&b), "{a:?} {b:?}");
    assert!(daemon.run_pod(&PodSpec { config: pod.config.clone() }).await.is_err(), "its name is still taken");
    running.stop(0).await?;
    assert_eq!(running.exit_code().await?, 137);
    for container in [&running, &created, &exited] {
        container.remove().await?;
    }
    daemon.restart().await?;
    pod.end().await?;
    other.end().await?;
    Census::settle(&daemon, &before.without("descriptor"), wait::DEADLINE).await
}

#[tokio::test]
async fn sigterm_stops_the_daemon_and_leaves_pods_running() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let pids = [container.pid().await?, pod.pause_pid().await?];
    assert!(daemon.terminate().await?.success());
    assert!(pids.iter().all(|pid| runs(*pid)));
    daemon.start_again().await?;
    assert_eq!([container.pid().await?, pod.pause_pid().await?], pids);
    Ok(pod.end().await?)
}

/// Everything of a pod but a monitor's death says so: the pod and only it is lost.
async fn is_lost(pod: &Pod, containers: &[&Container], pids: &[i32]) -> Result<()> {
    wait::until("the pod is not ready", || async { pod.state().await.ok().filter(|state| *state == PodSandboxState::SandboxNotready) })
        .await?;
    for container in containers {
        assert_eq!(container.exited().await?.exit_code, 137);
    }
    ended(pids).await
}

#[tokio::test]
async fn a_killed_monitor_costs_its_pod_and_no_other() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?.without("descriptor");
    let control = daemon.run_pod(&PodSpec::new("control")).await?;
    let unharmed = control.run(&ContainerSpec::sleeper("a")).await?;
    for (name, daemon_is_down) in [("daemon-up", false), ("daemon-down", true)] {
        let pod = daemon.run_pod(&PodSpec::new(name)).await?;
        let (a, b) = (pod.run(&ContainerSpec::sleeper("a")).await?, pod.run(&ContainerSpec::sleeper("b")).await?);
        let exited = pod.run(&ContainerSpec::shell("c", "exit 6")).await?;
        exited.exited().await?;
        let pids = [a.pid().await?, b.pid().await?, pod.pause_pid().await?];
        let monitor = daemon.monitor_of(&pod.id).context("the pod has a monitor")?;
        if daemon_is_down {
            daemon.kill_9()?;
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), Signal::SIGKILL)?;
        if daemon_is_down {
            daemon.start_again().await?;
        }
        is_lost(&pod, &[&a, &b], &pids).await?;
        assert_eq!(exited.status().await?.exit_code, 6, "what ended before ended as it did");
        assert!(a.exec(&["/bin/true"]).await.is_err() && pod.create(&ContainerSpec::sleeper("d")).await.is_err());
        assert_eq!(unharmed.sh("echo unharmed").await?, "unharmed");
        assert_eq!(control.state().await?, PodSandboxState::SandboxReady);
        a.stop(1).await?;
        a.remove().await?;
        pod.end().await?;
        daemon.run_pod(&PodSpec { config: pod.config.clone() }).await?.end().await?;
    }
    control.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn a_killed_pause_makes_the_pod_not_ready_and_its_containers_run_on_until_stopped() -> Result<()> {
    // Room for one pod: its address is free again only once the network was given back.
    let mut daemon = Daemon::for_test_with(DaemonOptions::default().subnets(&["10.203.0.0/30"])).await?;
    let before = daemon.warm_up().await?.without("descriptor");
    for (name, daemon_is_down) in [("daemon-up", false), ("daemon-down", true)] {
        let spec = PodSpec::new(name);
        let started = || async { daemon.run_pod(&spec).await.ok() };
        let pod = wait::until("there is an address", started).await?;
        let container = pod.run(&ContainerSpec::sleeper("a")).await?;
        let (pid, pause) = (container.pid().await?, pod.pause_pid().await?);
        if daemon_is_down {
            daemon.kill_9()?;
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pause), Signal::SIGKILL)?;
        if daemon_is_down {
            daemon.start_again().await?;
        }
        let not_ready = || async { pod.state().await.ok().filter(|state| *state == PodSandboxState::SandboxNotready) };
        wait::until("the pod is not ready", not_ready).await?;
        assert_eq!(container.state().await?, ContainerState::ContainerRunning);
        assert!(runs(pid));
        assert_eq!(container.sh("echo runs").await?, "runs");
        assert!(daemon.run_pod(&PodSpec::new("too-many")).await.is_err(), "its address is still its own");
        container.stop(0).await?;
        assert_eq!(container.exit_code().await?, 137);
        pod.stop().await?;
        let other = PodSpec::new("next");
        let next = wait::until("its address is free", || async { daemon.run_pod(&other).await.ok() }).await?;
        next.end().await?;
        pod.remove().await?;
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// Pause is PID 1 of a PID namespace that all share: the kernel ends them with it.
#[tokio::test]
async fn a_killed_pause_ends_the_containers_in_its_pid_namespace() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("shared").pid(NamespaceMode::Pod)).await?;
    let container = pod.run(&ContainerSpec::sleeper("a").pid(NamespaceMode::Pod)).await?;
    let pids = [container.pid().await?];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.pause_pid().await?), Signal::SIGKILL)?;
    is_lost(&pod, &[&container], &pids).await?;
    Ok(pod.end().await?)
}

#[tokio::test]
async fn damaged_records_are_set_aside_and_the_daemon_serves() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let good = daemon.run_pod(&PodSpec::new("good")).await?;
    let container = good.run(&ContainerSpec::sleeper("a")).await?;
    let spoilt = good.run(&ContainerSpec::sleeper("spoilt")).await?;
    let spoilt_pid = spoilt.pid().await?;
    let (truncated, garbage, empty) = (
        daemon.run_pod(&PodSpec::new("truncated")).await?,
        daemon.run_pod(&PodSpec::new("garbage")).await?,
        daemon.run_pod(&PodSpec::new("empty")).await?,
    );
    daemon.kill_9()?;
    let pods = daemon.state_dir().join("pods");
    let record = |pod: &Pod| pods.join(&pod.id).join("sandbox.json");
    let bytes = std::fs::read(record(&truncated))?;
    std::fs::write(record(&truncated), &bytes[..bytes.len() / 2])?;
    std::fs::write(record(&garbage), [0xff; 300])?;
    std::fs::write(record(&empty), "")?;
    std::fs::write(pods.join(&good.id).join("containers").join(&spoilt.id).join("container.json"), "{\"version\":")?;
    std::fs::create_dir(pods.join("not-an-id"))?;
    std::fs::write(pods.join("a-file"), "")?;
    daemon.start_again().await?;
    assert_eq!(good.state().await?, PodSandboxState::SandboxReady);
    assert_eq!(container.sh("echo runs").await?, "runs");
    let set_aside = std::fs::read_dir(daemon.state_dir().join("quarantine"))?.count();
    assert!(set_aside >= 4, "{set_aside}");
    for pod in [&truncated, &garbage, &empty] {
        // Nobody can stop what nobody can name any more.
        wait::until_true("what ran of it is ended", || daemon.monitor_of(&pod.id).is_none()).await?;
        pod.end().await?;
        let again = daemon.run_pod(&PodSpec { config: pod.config.clone() }).await?;
        assert_ne!(again.ips().await?, good.ips().await?);
        again.end().await?;
    }
    ended(&[spoilt_pid]).await?;
    spoilt.remove().await?;
    good.run(&ContainerSpec::sleeper("spoilt")).await?;
    daemon.restart().await?;
    assert_eq!(good.state().await?, PodSandboxState::SandboxReady);
    Ok(good.end().await?)
}

#[tokio::test]
async fn daemons_with_different_files_live_side_by_side_in_one_network_namespace() -> Result<()> {
    let network = Arc::new(NetworkNamespace::new()?);
    let options = |subnet: &str| DaemonOptions { show_log: true, ..DaemonOptions::default() }.subnets(&[subnet]);
    let mut a = Daemon::prepare_in(&options("10.204.0.0/24"), network.clone())?;
    let mut b = Daemon::prepare_in(&options("10.205.0.0/24"), network)?;
    for daemon in [&mut a, &mut b] {
        daemon.start_again().await?;
        daemon.import(&TestImage::default())?;
    }
    let (of_a, of_b) = (a.run_pod(&PodSpec::new("same")).await?, b.run_pod(&PodSpec::new("same")).await?);
    let (in_a, in_b) = (of_a.run(&ContainerSpec::sleeper("c")).await?, of_b.run(&ContainerSpec::sleeper("c")).await?);
    assert_eq!((a.client().pods().await?.len(), b.client().pods().await?.len()), (1, 1));
    assert!(in_a.status().await?.id != in_b.id && of_b.through(&a.client()).status().await.is_err());
    let ip = of_b.ips().await?.remove(0);
    assert!(ip.starts_with("10.205."));
    a.restart().await?;
    assert_eq!(in_b.sh("echo untouched").await?, "untouched");
    of_a.end().await?;
    a.terminate().await?;
    assert_eq!(of_b.state().await?, PodSandboxState::SandboxReady);
    let again = b.run_pod(&PodSpec::new("another")).await?;
    let pinger = again.run(&ContainerSpec::sleeper("c")).await?;
    assert_eq!(pinger.exec(&["/bin/ping", "-c1", "-W5", &ip]).await?.code, 0, "its bridge is as it was");
    of_b.end().await?;
    Ok(again.end().await?)
}

#[tokio::test]
async fn a_second_daemon_on_the_same_bridge_is_refused_and_a_killed_one_does_not_block_it() -> Result<()> {
    let network = Arc::new(NetworkNamespace::new()?);
    let options = |subnet: &str| DaemonOptions { show_log: true, ..DaemonOptions::default() }.subnets(&[subnet]);
    let mut first = Daemon::prepare_in(&options("10.206.0.0/24"), network.clone())?;
    let second = Daemon::prepare_in(&options("10.207.0.0/24"), network)?;
    let config = std::fs::read_to_string(second.config_file())?.replace(second.bridge(), first.bridge());
    std::fs::write(second.config_file(), config)?;
    first.start_again().await?;
    first.import(&TestImage::default())?;
    let pod = first.run_pod(&PodSpec::new("pod")).await?;
    let output = second.network().run(|| second.command(&["serve"]).output().context("execute podbox"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(&format!("bridge {}", first.bridge())), "{said}");
    first.restart().await?;
    assert_eq!(pod.state().await?, PodSandboxState::SandboxReady);
    // The same name in another network namespace is another bridge.
    let elsewhere = NetworkNamespace::new()?;
    let mut child = elsewhere.run(|| second.command(&["serve"]).spawn().context("execute podbox"))?;
    let client = second.client();
    let answered = wait::until("the other daemon answers", || async { client.version().await.ok() }).await;
    child.kill()?;
    child.wait()?;
    answered?;
    Ok(pod.end().await?)
}

/// A pod that was stopped, and whose record does not say so, must not give away what another was given meanwhile.
#[tokio::test]
async fn of_two_pods_on_record_with_one_address_the_living_keeps_it() -> Result<()> {
    let mut daemon = Daemon::for_test_with(DaemonOptions::default().subnets(&["10.208.0.0/30"])).await?;
    let ended = daemon.run_pod(&PodSpec::new("ended")).await?;
    let record = daemon.state_dir().join("pods").join(&ended.id).join("sandbox.json");
    let stale = std::fs::read(&record)?;
    ended.stop().await?;
    let spec = PodSpec::new("living");
    let living = wait::until("the address is free", || async { daemon.run_pod(&spec).await.ok() }).await?;
    daemon.kill_9()?;
    std::fs::write(&record, stale)?;
    daemon.start_again().await?;
    ended.end().await?;
    assert_eq!(living.state().await?, PodSandboxState::SandboxReady);
    // Time for a release that comes after the answer: none may come.
    for _ in 0..5 {
        assert!(daemon.run_pod(&PodSpec::new("third")).await.is_err(), "the only address is taken");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let container = living.run(&ContainerSpec::sleeper("a")).await?;
    assert_eq!(container.exec(&["/bin/ping", "-c1", "-W5", "10.208.0.1"]).await?.code, 0);
    living.end().await?;
    let third = PodSpec::new("third");
    wait::until("the address is free", || async { daemon.run_pod(&third).await.ok() }).await?.end().await?;
    Ok(())
}

#[tokio::test]
async fn subnets_of_the_kubelet_that_hide_those_of_the_file_are_told_at_the_start() -> Result<()> {
    let mut daemon = Daemon::for_test_with(DaemonOptions::default().subnets(&["10.209.0.0/24"])).await?;
    let network_config = podbox_proto::v1::NetworkConfig { pod_cidr: "10.210.0.0/24".to_owned() };
    let runtime_config = podbox_proto::v1::RuntimeConfig { network_config: Some(network_config) };
    let request = podbox_proto::v1::UpdateRuntimeConfigRequest { runtime_config: Some(runtime_config) };
    daemon.runtime().update_runtime_config(request).await?;
    let file = daemon.state_dir().join("network.json");
    daemon.restart().await?;
    for words in ["10.209.0.0", "10.210.0.0", &*file.to_string_lossy()] {
        assert!(daemon.log().lines().any(|line| line.contains("network.subnets") && line.contains(words)), "{words}");
    }
    daemon.kill_9()?;
    std::fs::remove_file(file)?;
    daemon.start_again().await?;
    assert!(daemon.run_pod(&PodSpec::new("pod")).await?.ips().await?[0].starts_with("10.209."));
    Ok(())
}

/// The monitor's end of the connection goes to whoever connects next: the daemon's is cut, and the monitor is well.
struct Intruder(OwnedFd);

impl Intruder {
    fn connect(daemon: &Daemon, pod: &Pod) -> Result<Self> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).context("make a socket")?;
        let folder = File::open(daemon.state_dir().join("pods").join(&pod.id)).context("open the pod's folder")?;
        // Socket addresses are short.
        let address = UnixAddr::new(&*format!("/proc/self/fd/{}/monitor.sock", folder.as_raw_fd())).context("name the socket")?;
        connect(socket.as_raw_fd(), &address).context("connect to the monitor")?;
        Ok(Self(socket))
    }

    /// Waits until the daemon has taken its place again.
    async fn is_replaced(&self) -> Result<()> {
        let closed = || {
            let mut byte = [0];
            matches!(recv(self.0.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT), Ok(0) | Err(Errno::ECONNRESET))
        };
        wait::until_true("the daemon connects again", closed).await
    }
}

#[tokio::test]
async fn a_lost_connection_costs_nothing() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let ends = pod.run(&ContainerSpec::shell("b", &format!("{AWAIT_FLAG}; exit 7"))).await?;
    let (pid, status) = (container.pid().await?, container.status().await?);
    // More than once, and at once.
    for _ in 0..3 {
        Intruder::connect(&daemon, &pod)?.is_replaced().await?;
    }
    assert_eq!(container.sh("echo runs").await?, "runs");
    assert_eq!((container.pid().await?, container.status().await?), (pid, status));
    assert_eq!(pod.state().await?, PodSandboxState::SandboxReady);
    Flag::of(&pod).await?.raise()?;
    assert_eq!(ends.exit_code().await?, 7, "ends are heard of over the new connection");
    assert_eq!(pod.run(&ContainerSpec::shell("c", "exit 8")).await?.exit_code().await?, 8);
    container.stop(0).await?;
    assert_eq!(container.exit_code().await?, 137);
    pod.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))
}

/// All at once, while the monitor is held: the connection is cut, a container ends, another is started, a command runs.
#[tokio::test]
async fn what_happens_while_the_connection_is_lost_is_told_as_it_was() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let runs_on = pod.run(&ContainerSpec::sleeper("runs-on")).await?;
    let ends = pod.run(&ContainerSpec::sleeper("ends")).await?;
    let begins = pod.create(&ContainerSpec::shell("begins", "sleep 1234")).await?;
    let command = tokio::spawn({
        let runs_on = runs_on.clone();
        async move { runs_on.exec(&["/bin/sleep", "4321"]).await }
    });
    let ps = || async { runs_on.sh("ps").await.ok() };
    wait::until("the command runs", || async { ps().await.filter(|processes| processes.contains("4321")) }).await?;
    let (pid, monitor) = (ends.pid().await?, daemon.monitor_of(&pod.id).context("the pod's monitor")?);
    signal(monitor, Signal::SIGSTOP)?;
    let start = tokio::spawn({
        let begins = begins.clone();
        async move { begins.start().await }
    });
    let intruder = Intruder::connect(&daemon, &pod)?;
    signal(pid, Signal::SIGTERM).and(signal(pid, Signal::SIGKILL))?;
    signal(monitor, Signal::SIGCONT)?;
    intruder.is_replaced().await?;
    assert_eq!(ends.exit_code().await?, 137);
    let lost = command.await?.expect_err("its end is not told over the new connection");
    assert_eq!(lost.code(), Code::Unavailable);
    wait::until("nobody waits for the command: it is ended", || async { ps().await.filter(|processes| !processes.contains("4321")) })
        .await?;
    match start.await? {
        // It was born before the connection was cut, or asked for after it was restored.
        Ok(()) => assert_eq!(begins.state().await?, ContainerState::ContainerRunning),
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert_eq!(begins.state().await?, ContainerState::ContainerCreated, "the start can be tried again");
            begins.start().await?;
        }
    }
    assert_eq!(runs_on.state().await?, ContainerState::ContainerRunning);
    assert_eq!(pod.state().await?, PodSandboxState::SandboxReady);
    pod.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// The list is of what is left to be removed: without it there is nothing to remove.
#[tokio::test]
async fn a_pod_stops_whose_list_of_shared_cgroups_is_gone() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let parent = format!("{}/burst", daemon.cgroup_parent());
    let first = daemon.run_pod(&PodSpec::new("first").cgroup_parent(&format!("{parent}/one"))).await?;
    let second = daemon.run_pod(&PodSpec::new("second").cgroup_parent(&format!("{parent}/two"))).await?;
    first.end().await?;
    std::fs::remove_file(daemon.state_dir().join("shared-cgroups.json")).context("the list is there")?;
    Ok(second.end().await?)
}
