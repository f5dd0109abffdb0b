//! Which devices a container finds, and which it may use. The same on either kernel interface.

use anyhow::Result;
use podbox_proto::v1;
use podbox_tests::{Container, ContainerSpec, Daemon, PodSpec, assert_refused};
use std::path::{Path, PathBuf};
use tonic::Code;

fn device(host: &Path, container: &str, permissions: &str) -> v1::Device {
    let host_path = host.to_string_lossy().into_owned();
    v1::Device { container_path: container.to_owned(), host_path, permissions: permissions.to_owned() }
}

fn with_devices(name: &str, devices: Vec<v1::Device>) -> ContainerSpec {
    ContainerSpec::sleeper(name).with(|config| config.devices = devices)
}

/// Device files that a test makes on the host: of a major number that is kept for experiments, so there is nothing behind them. An open that
/// is allowed finds just that.
struct HostDevices(PathBuf);

impl HostDevices {
    fn make(daemon: &Daemon) -> Result<Self> {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let folder = daemon.directory().join("devices");
        std::fs::create_dir_all(folder.join("more"))?;
        let node = |name: &str, minor: u64| mknod(&folder.join(name), SFlag::S_IFCHR, Mode::from_bits_truncate(0o640), makedev(60, minor));
        node("one", 1)?;
        node("more/two", 2)?;
        std::fs::write(folder.join("file"), "")?;
        std::os::unix::fs::symlink("one", folder.join("link"))?;
        std::fs::create_dir(folder.join("empty"))?;
        Ok(Self(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Whether a redirection of the shell's is allowed; that it is not has to be for want of permission.
async fn opens(container: &Container, redirection: &str) -> Result<bool> {
    let outcome = container.exec(&["/bin/sh", "-c", &format!("exec 3{redirection}")]).await?;
    let allowed = outcome.code == 0 || outcome.stderr.contains("No such device");
    assert!(allowed || outcome.stderr.contains("Operation not permitted"), "{redirection}: {outcome:?}");
    Ok(allowed)
}

#[tokio::test]
async fn the_standard_devices_and_terminals_can_be_used_and_no_other() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("standard")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    for name in ["null", "zero", "full", "random", "urandom", "ptmx", "pts/ptmx"] {
        assert!(opens(&container, &format!("<>/dev/{name}")).await?, "{name}");
    }
    // Memory, the node's console, tunnels, a FUSE connection, a disk: all are made and none can be opened.
    for (name, numbers) in
        [("mem", "c 1 1"), ("console", "c 5 1"), ("tun", "c 10 200"), ("fuse", "c 10 229"), ("none", "c 60 1"), ("disk", "b 8 0")]
    {
        container.sh(&format!("mknod /dev/{name} {numbers} && chmod 666 /dev/{name}")).await?;
        for redirection in ["<", ">>"] {
            assert!(!opens(&container, &format!("{redirection}/dev/{name}")).await?, "{name}");
        }
    }
    let terminal =
        pod.run(&ContainerSpec::shell("tty", "tty; echo there >/dev/console; sleep 1000000").with(|config| config.tty = true)).await?;
    podbox_tests::wait::until_true("it writes to its console", || terminal.output().is_ok_and(|output| output.contains("there"))).await?;
    Ok(())
}

#[tokio::test]
async fn a_container_can_make_device_files_but_not_open_a_disk_of_the_host() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("mknod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let disks = std::fs::read_to_string("/proc/partitions")?;
    let numbers = disks.lines().skip(2).filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    // Where there is no disk, a number that would be one has to do.
    for (major, minor) in numbers.take(4).chain([("8".to_owned(), "0".to_owned())]) {
        let node = format!("/dev/disk-{major}-{minor}");
        container.sh(&format!("mknod {node} b {major} {minor}")).await?;
        assert!(!opens(&container, &format!("<{node}")).await?, "{node}");
    }
    // The command's cgroup is the container's, so this is no less true of its init.
    let init = ContainerSpec::shell("init", "mknod /dev/disk b 8 0 && exec 3</dev/disk");
    let init = pod.run(&init).await?;
    assert_ne!(init.exit_code().await?, 0);
    assert!(init.output()?.contains("Operation not permitted"), "{}", init.output()?);
    Ok(())
}

#[tokio::test]
async fn a_device_that_is_asked_for_is_there_with_exactly_its_permissions() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let host = HostDevices::make(&daemon)?;
    let pod = daemon.run_pod(&PodSpec::new("asked")).await?;
    let devices = vec![
        device(&host.path("one"), "/dev/some/one", "r"),
        device(&host.path("more/two"), "/dev/two", "w"),
        // Followed to what it names, and in an image's root, where devices are dead.
        device(&host.path("link"), "/opt/one", "r"),
    ];
    let container = pod.run(&with_devices("a", devices)).await?;
    assert_eq!(container.sh("stat -c '%t:%T %a %u' /dev/some/one /dev/two /opt/one").await?, "3c:1 640 0\n3c:2 640 0\n3c:1 640 0");
    for (redirection, allowed) in [
        ("</dev/some/one", true),
        (">/dev/some/one", false),
        ("<>/dev/some/one", false),
        (">/dev/two", true),
        ("</dev/two", false),
        ("</opt/one", true),
        (">/opt/one", false),
    ] {
        assert_eq!(opens(&container, redirection).await?, allowed, "{redirection}");
    }
    assert_eq!(container.sh("ls -A /dev | grep podbox | wc -l").await?, "0");
    let neighbour = pod.run(&ContainerSpec::sleeper("b")).await?;
    neighbour.sh("mknod /dev/one c 60 1").await?;
    assert!(!opens(&neighbour, "</dev/one").await?, "it is the one container's alone");
    Ok(())
}

#[tokio::test]
async fn a_folder_stands_for_all_devices_below_it() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let host = HostDevices::make(&daemon)?;
    let pod = daemon.run_pod(&PodSpec::new("folder")).await?;
    let container = pod.run(&with_devices("a", vec![device(&host.path(""), "/dev/all", "rw")])).await?;
    assert_eq!(container.sh("cd /dev/all && find . -type c -o -type f -o -type l | sort").await?, "./more/two\n./one");
    assert!(opens(&container, "</dev/all/one").await? && opens(&container, "<>/dev/all/more/two").await?);
    Ok(())
}

#[tokio::test]
async fn what_is_asked_for_at_the_place_of_a_standard_device_takes_it() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("replaced")).await?;
    let devices = vec![device(Path::new("/dev/zero"), "/dev/random", "r"), device(Path::new("/dev/null"), "/dev/null", "rwm")];
    let container = pod.run(&with_devices("a", devices)).await?;
    assert_eq!(container.sh("stat -c '%t:%T' /dev/random /dev/null").await?, "1:5\n1:3");
    Ok(())
}

#[tokio::test]
async fn what_is_no_device_is_refused_and_named() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let host = HostDevices::make(&daemon)?;
    let pod = daemon.run_pod(&PodSpec::new("refused")).await?;
    let null = Path::new("/dev/null");
    let (file, empty, absent) = (host.path("file"), host.path("empty"), host.path("absent"));
    for (device, code, word) in [
        (device(null, "/dev/x", ""), Code::InvalidArgument, "config.devices.permissions"),
        (device(null, "/dev/x", "rwx"), Code::InvalidArgument, "config.devices.permissions"),
        (device(null, "dev/x", "r"), Code::InvalidArgument, "config.devices.container_path"),
        (device(null, "/dev/../x", "r"), Code::InvalidArgument, "config.devices.container_path"),
        (device(Path::new("null"), "/dev/x", "r"), Code::InvalidArgument, "config.devices.host_path"),
        (device(&file, "/dev/x", "r"), Code::InvalidArgument, "devices/file"),
        (device(&empty, "/dev/x", "r"), Code::InvalidArgument, "devices/empty"),
        (device(&absent, "/dev/x", "r"), Code::FailedPrecondition, "devices/absent"),
    ] {
        assert_refused(pod.create(&with_devices("a", vec![device])).await, code, &[word]);
    }
    Ok(())
}

#[tokio::test]
async fn a_privileged_container_uses_every_device() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("privileged").privileged()).await?;
    let container = pod.run(&ContainerSpec::sleeper("a").privileged()).await?;
    container.sh("mknod /dev/none c 60 1").await?;
    assert!(opens(&container, "<>/dev/none").await?);
    Ok(())
}

#[tokio::test]
async fn the_devices_of_a_container_survive_the_daemon() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let host = HostDevices::make(&daemon)?;
    let pod = daemon.run_pod(&PodSpec::new("restart")).await?;
    let container = pod.run(&with_devices("a", vec![device(&host.path("one"), "/dev/one", "r")])).await?;
    daemon.restart().await?;
    let container = Container::adopt(&daemon.client(), &container.id, &container.log);
    assert!(opens(&container, "</dev/one").await? && !opens(&container, ">/dev/one").await?);
    container.sh("mknod /dev/disk b 8 0").await?;
    assert!(!opens(&container, "</dev/disk").await?);
    Ok(())
}
