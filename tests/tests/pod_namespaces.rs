//! Which namespaces a pod's processes are in, measured by their inodes under `/proc`.

use anyhow::Result;
use podbox_proto::v1::NamespaceMode;
use podbox_tests::host::{namespace, status_field};
use podbox_tests::{Container, ContainerSpec, Daemon, PodSpec, assert_refused, wait};
use tonic::Code;

/// The number a process has in its innermost PID namespace.
fn innermost_pid(pid: i32) -> Result<String> {
    Ok(status_field(pid, "NSpid")?.split_whitespace().last().unwrap_or_default().to_owned())
}

fn own() -> i32 {
    i32::try_from(std::process::id()).expect("a process id")
}

#[tokio::test]
async fn containers_share_network_ipc_and_uts_with_pause_and_have_mounts_and_pids_of_their_own() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("shared")).await?;
    let a = pod.run(&ContainerSpec::sleeper("a")).await?.pid().await?;
    let b = pod.run(&ContainerSpec::sleeper("b")).await?.pid().await?;
    let pause = pod.pause_pid().await?;
    for kind in ["net", "ipc", "uts"] {
        let of_pause = namespace(pause, kind)?;
        assert_eq!((namespace(a, kind)?, namespace(b, kind)?), (of_pause, of_pause), "{kind} is shared");
        assert_ne!(of_pause, namespace(daemon.pid()?, kind)?, "{kind} is not the daemon's");
    }
    for kind in ["mnt", "pid", "cgroup"] {
        let (of_a, of_b, of_host) = (namespace(a, kind)?, namespace(b, kind)?, namespace(own(), kind)?);
        assert!(of_a != of_b && of_a != of_host && of_b != of_host, "{kind} is each one's own");
    }
    assert_ne!(namespace(a, "mnt")?, namespace(pause, "mnt")?);
    assert_eq!((&*innermost_pid(a)?, &*innermost_pid(b)?), ("1", "1"), "each is PID 1");
    Ok(())
}

async fn loopback_answers(client: &Container) -> Result<()> {
    let fetch = ["/bin/wget", "-qO-", "http://127.0.0.1:8080/greeting"];
    let fetched = wait::until("the other container answers on 127.0.0.1", || async {
        client.exec(&fetch).await.ok().filter(|output| output.code == 0)
    });
    assert_eq!(fetched.await?.stdout, "hello\n");
    Ok(())
}

#[tokio::test]
async fn containers_reach_each_other_on_loopback_and_share_memory_and_hostname() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("together")).await?;
    let server = "mkdir /www && echo hello > /www/greeting && exec httpd -f -p 127.0.0.1:8080 -h /www";
    let server = pod.run(&ContainerSpec::shell("server", server)).await?;
    let client = pod.run(&ContainerSpec::sleeper("client")).await?;
    loopback_answers(&client).await?;

    server.sh("echo segment > /dev/shm/segment").await?;
    assert_eq!(client.sh("cat /dev/shm/segment").await?, "segment");
    assert_eq!(client.sh("stat -f -c %T /dev/shm").await?, "tmpfs");
    assert_eq!(client.sh("stat -c %a /dev/shm").await?, "1777");
    for container in [&server, &client] {
        assert_eq!(container.sh("hostname; cat /etc/hostname; cat /proc/sys/kernel/hostname").await?, "together\ntogether\ntogether");
    }
    Ok(())
}

#[tokio::test]
async fn pid_pod_puts_all_containers_into_one_pid_namespace_where_pause_reaps() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("one-pid").pid(NamespaceMode::Pod)).await?;
    let a = pod.run(&ContainerSpec::sleeper("a").pid(NamespaceMode::Pod)).await?;
    let b = pod.run(&ContainerSpec::sleeper("b").pid(NamespaceMode::Pod)).await?;
    let pause = pod.pause_pid().await?;
    let shared = namespace(pause, "pid")?;
    assert_ne!(shared, namespace(own(), "pid")?);
    for container in [&a, &b] {
        let pid = container.pid().await?;
        assert_eq!(namespace(pid, "pid")?, shared);
        assert_ne!(innermost_pid(pid)?, "1");
    }
    assert_eq!(innermost_pid(pause)?, "1");
    let other = innermost_pid(b.pid().await?)?;
    assert_eq!(a.sh(&format!("tr '\\0' ' ' < /proc/{other}/cmdline")).await?, "/bin/sleep 1000000 ", "one sees the other");
    // The parent ends first, so the child becomes pause's.
    a.sh("(sleep 0.2 &) ; true").await?;
    let zombies = "for stat in /proc/[0-9]*/stat; do cut -d' ' -f2,3 $stat; done 2>/dev/null | grep -c 'Z$' || true";
    wait::until("pause reaps the orphan", || async {
        let sleeps = a.sh("pgrep -f 'sleep 0.2' || true").await.ok()?;
        (sleeps.is_empty() && a.sh(zombies).await.ok()? == "0").then_some(())
    })
    .await
}

#[tokio::test]
async fn pid_node_is_the_nodes_pid_namespace() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("node-pid").pid(NamespaceMode::Node)).await?;
    let container = pod.run(&ContainerSpec::sleeper("a").pid(NamespaceMode::Node)).await?;
    let pid = container.pid().await?;
    assert_eq!(namespace(pid, "pid")?, namespace(own(), "pid")?);
    assert_eq!(container.sh(&format!("cat /proc/{pid}/comm")).await?, "sleep");
    container.stop(0).await?;
    assert_eq!(container.exit_code().await?, 137);
    Ok(())
}

#[tokio::test]
async fn pid_target_is_the_pid_namespace_of_the_target() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("target")).await?;
    let target = pod.run(&ContainerSpec::sleeper("target")).await?;
    let aiming = |name: &str, id: &str| {
        ContainerSpec::sleeper(name).pid(NamespaceMode::Target).security(|security| {
            id.clone_into(&mut security.namespace_options.get_or_insert_default().target_id);
        })
    };
    let debugger = pod.run(&aiming("debugger", &target.id)).await?;
    assert_eq!(namespace(debugger.pid().await?, "pid")?, namespace(target.pid().await?, "pid")?);
    assert_ne!(namespace(debugger.pid().await?, "mnt")?, namespace(target.pid().await?, "mnt")?);
    assert_eq!(debugger.sh("tr '\\0' ' ' < /proc/1/cmdline").await?, "/bin/sleep 1000000 ");
    assert_refused(pod.create(&aiming("astray", "0123456789abcdef")).await, Code::FailedPrecondition, &["target", "0123456789abcdef"]);
    assert_refused(pod.create(&aiming("aimless", "")).await, Code::InvalidArgument, &["target_id"]);
    // The target's PID 1 goes, and with it everything in its namespace.
    target.stop(0).await?;
    assert_eq!(debugger.exit_code().await?, 137);
    Ok(())
}

#[tokio::test]
async fn network_and_ipc_node_are_the_nodes_namespaces() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let spec = PodSpec::new("node").network(NamespaceMode::Node).ipc(NamespaceMode::Node);
    let pod = daemon.run_pod(&spec).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let pid = container.pid().await?;
    assert_eq!(namespace(pid, "net")?, daemon.network().inode(), "the node is where the daemon was started");
    assert_eq!(namespace(pid, "ipc")?, namespace(own(), "ipc")?);
    assert_eq!(container.sh("hostname").await?, std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim());
    assert!(container.sh("cat /proc/net/dev").await?.contains("lo:"));
    let status = pod.status().await?.status.unwrap_or_default();
    let options = status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options).unwrap_or_default();
    assert_eq!((options.network(), options.ipc()), (NamespaceMode::Node, NamespaceMode::Node));
    Ok(())
}

#[tokio::test]
async fn pause_is_nobody_without_a_capability_in_an_empty_read_only_root() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pause = daemon.run_pod(&PodSpec::new("pause")).await?.pause_pid().await?;
    for field in ["Uid", "Gid"] {
        let ids = status_field(pause, field)?;
        assert!(ids.split_whitespace().all(|id| id != "0"), "{field}: {ids}");
    }
    for field in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status_field(pause, field)?, "0000000000000000", "{field}");
    }
    assert_eq!(status_field(pause, "NoNewPrivs")?, "1");
    assert_eq!(status_field(pause, "Groups")?, "");
    let root = format!("/proc/{pause}/root");
    let entries: Vec<String> =
        std::fs::read_dir(&root)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    assert!(entries.iter().all(|name| name == "dev"), "{entries:?}");
    let written = std::fs::write(format!("{root}/file"), "").expect_err("the root is read-only");
    assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let links: Vec<String> = std::fs::read_dir(format!("/proc/{pause}/fd"))?
        .map(|entry| Ok(std::fs::read_link(entry?.path())?.display().to_string()))
        .collect::<Result<_>>()?;
    assert!(links.len() <= 3, "pause holds nothing but its standard streams: {links:?}");
    Ok(())
}

#[tokio::test]
async fn sysctls_of_the_pods_namespaces_are_set_and_others_are_refused() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let spec = PodSpec::new("sysctls")
        .sysctl("kernel.shm_rmid_forced", "1")
        .sysctl("fs.mqueue.msg_max", "77")
        .sysctl("net.ipv4.ip_unprivileged_port_start", "42");
    let pod = daemon.run_pod(&spec).await?;
    let read = "cd /proc/sys && cat kernel/shm_rmid_forced fs/mqueue/msg_max net/ipv4/ip_unprivileged_port_start";
    assert_eq!(pod.output_of(&ContainerSpec::shell("read", read)).await?, "1\n77\n42");

    for (key, spec) in [
        ("vm.swappiness", PodSpec::new("vm")),
        ("kernel.panic", PodSpec::new("kernel")),
        ("kernel.../../vm", PodSpec::new("dots")),
        ("kernel.shm_rmid_forced", PodSpec::new("ipc").ipc(NamespaceMode::Node)),
        ("net.ipv4.ip_forward", PodSpec::new("net").network(NamespaceMode::Node)),
    ] {
        assert_refused(daemon.run_pod(&spec.sysctl(key, "1")).await, Code::InvalidArgument, &["sysctls"]);
    }
    let unknown = daemon.run_pod(&PodSpec::new("unknown").sysctl("net.ipv4.no_such_thing", "1")).await;
    assert!(unknown.expect_err("there is no such sysctl").message().contains("no_such_thing"));
    assert_eq!(daemon.client().pods().await?.len(), 1, "nothing is left of what was refused");
    Ok(())
}
