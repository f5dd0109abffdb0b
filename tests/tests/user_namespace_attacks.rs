//! A pod with users of its own means ill, or is killed at the worst moment: the node notices nothing.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use podbox_proto::v1;
use podbox_proto::v1::PodSandboxState;
use podbox_proto::v1::security_profile::ProfileType;
use podbox_tests::spec::{own_users, words};
use podbox_tests::{Census, Container, ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, TestImage, host, wait};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn sleeper(name: &str) -> ContainerSpec {
    ContainerSpec::sleeper(name).users(Some(own_users()))
}

/// A daemon and a pod whose containers may be privileged, where there can be one.
async fn prepared() -> Result<Option<(Daemon, Pod)>> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().on_disk()).await?;
    match daemon.run_pod(&PodSpec::new("pod").users(Some(own_users())).privileged()).await {
        Ok(pod) => Ok(Some((daemon, pod))),
        Err(_) => {
            host::lacks("mounts with mapped ids");
            Ok(None)
        }
    }
}

async fn fails(container: &Container, script: &str) -> Result<()> {
    let output = container.exec(&["/bin/sh", "-c", script]).await?;
    ensure!(output.code != 0, "{script}: {output:?}");
    Ok(())
}

/// Devices of the node: the first disk, and what a disk can be reached by as well.
fn disks() -> Vec<(char, u64, u64)> {
    let table = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
    let numbers = table.lines().skip(2).filter_map(|line| {
        let mut words = line.split_whitespace().map(str::parse);
        Some(('b', words.next()?.ok()?, words.next()?.ok()?))
    });
    numbers.take(3).chain([('b', 8, 0), ('b', 7, 0), ('c', 1, 1), ('c', 21, 0), ('c', 10, 237)]).collect()
}

/// Puts device files where an image's or a container's layer has them, as such a layer would be unpacked, for all to use.
fn plant(upper: &std::path::Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (kind, major, minor) in disks() {
        let name = format!("planted-{kind}-{major}-{minor}");
        let flag = if kind == 'b' { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
        mknod(&upper.join(&name), flag, Mode::empty(), makedev(major, minor)).context("plant a device")?;
        nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            &upper.join(&name),
            Mode::from_bits_truncate(0o666),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )?;
        names.push(format!("/{name}"));
    }
    Ok(names)
}

/// Seen to open the node's first loop device with all devices allowed to privileged containers of such pods, as to others: the layer's files
/// are their root's, who may undo that a mount has no devices.
#[tokio::test]
async fn a_privileged_container_with_a_layer_of_devices_reaches_none_of_the_nodes() -> Result<()> {
    let Some((_daemon, pod)) = prepared().await? else { return Ok(()) };
    for privileged in [false, true] {
        let spec = sleeper(if privileged { "privileged" } else { "plain" });
        let container = pod.create(&if privileged { spec.privileged() } else { spec }).await?;
        let upper = PathBuf::from(container.info().await?["image"]["upper_dir"].as_str().context("no layer")?);
        let planted = plant(&upper)?;
        container.start().await?;
        if privileged {
            container.sh("mount -o remount,bind,dev / && ! grep -q ' / .*nodev' /proc/mounts").await?;
        }
        for path in planted {
            assert_eq!(container.sh(&format!("stat -c %u {path}")).await?, "0", "it is its root's");
            for redirection in ["<", ">>"] {
                fails(&container, &format!("exec 3{redirection}{path}")).await?;
            }
        }
        // It makes none either, and has none of the node's that not everybody may use.
        fails(&container, "mknod /dev/disk b 8 0").await?;
        let found = container.sh("find /dev -type b; find /dev -type c ! -perm -006 ! -path '/dev/pts/*' ! -path /dev/console").await?;
        assert_eq!(found, "");
    }
    Ok(pod.end().await?)
}

/// The same from a layer as it is unpacked: the files are there, and opening them is refused, in a pod with users of its own (where even a
/// privileged container can open none) and in one without, where a privileged container may. Whoever may not mount is kept out by the root's
/// `nodev` (`EACCES`, which the kernel looks at first), whoever may undo that by the cgroup (`EPERM`).
///
/// Seen to fail: with all devices allowed to every cgroup, who might mount got as far as a driver (`ENXIO`); with a root that has devices, who
/// might not was refused by the cgroup.
#[tokio::test]
async fn devices_in_an_images_layer_are_listed_and_cannot_be_opened() -> Result<()> {
    let Some((daemon, mapped)) = prepared().await? else { return Ok(()) };
    let image = disks().into_iter().enumerate().fold(TestImage::named("devices"), |image, (number, (kind, major, minor))| {
        image.device(&format!("planted/{number}"), kind, major as u32, minor as u32)
    });
    daemon.import(&image)?;
    let plain = daemon.run_pod(&PodSpec::new("plain")).await?;
    let cases = [
        (&mapped, sleeper("mapped"), false),
        (&mapped, sleeper("privileged").privileged(), true),
        (&plain, ContainerSpec::sleeper("plain"), false),
        (
            &plain,
            ContainerSpec::sleeper("admin").security(|security| {
                security.capabilities.get_or_insert_default().add_capabilities = words(&["SYS_ADMIN"]);
                // AppArmor's profile lets nobody mount.
                security.apparmor = Some(v1::SecurityProfile { profile_type: ProfileType::Unconfined.into(), ..Default::default() });
            }),
            true,
        ),
    ];
    for (pod, spec, may_mount) in cases {
        let container = pod.run(&spec.image(&image.name)).await?;
        let count = disks().len();
        assert_eq!(container.sh("find /planted -type b -o -type c | wc -l").await?, count.to_string());
        // Root of a pod may undo that a mount has no devices.
        let mounted = container.exec(&["/bin/mount", "-o", "remount,bind,dev", "/"]).await?;
        assert_eq!(mounted.code == 0, may_mount, "{mounted:?}");
        let reason = if may_mount { "Operation not permitted" } else { "Permission denied" };
        for number in 0..count {
            for redirection in ["<", ">>"] {
                let opened = container.exec(&["/bin/sh", "-c", &format!("exec 3{redirection}/planted/{number}")]).await?;
                ensure!(opened.code != 0 && opened.stderr.contains(reason), "{redirection}/planted/{number}: {opened:?}");
            }
        }
    }
    plain.end().await?;
    Ok(mapped.end().await?)
}

#[tokio::test]
async fn a_privileged_container_rules_its_pod_and_not_the_node() -> Result<()> {
    let Some((daemon, pod)) = prepared().await? else { return Ok(()) };
    let secret = daemon.directory().join("secret");
    std::fs::write(&secret, "of the node's root")?;
    let spec = sleeper("a").privileged().mount(daemon.directory(), "/host");
    let container = pod.run(&spec).await?;
    // Its own is its to change.
    container
        .sh("mount -t tmpfs tmpfs /mnt 2>/dev/null || (mkdir /mnt && mount -t tmpfs tmpfs /mnt); ip addr add 10.9.9.9/32 dev lo")
        .await?;
    container.sh("hostname mine && echo 1 > /proc/sys/net/ipv4/ip_forward").await?;
    let node = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    assert_ne!(node.trim(), "mine");
    for script in [
        "echo x > /host/secret",
        "echo x > /host/run/new",
        "ls /host/run/pods",
        "mount -t ext4 /dev/vda /mnt",
        "echo 0 > /proc/sys/kernel/panic",
        "echo x > /proc/sysrq-trigger",
        "dmesg -c",
        "swapoff -a && false",
        "chroot /host/run/pods true",
        "nsenter -t 1 -m -S 100000 true",
    ] {
        fails(&container, script).await?;
    }
    assert_eq!(std::fs::read_to_string(&secret)?, "of the node's root");
    Ok(pod.end().await?)
}

/// Read-only for a pod's root is what the node's root has made so, also for one who may mount: of a volume that shows the node's ids,
/// and of an image, whose layers others have as well.
///
/// Seen to write to the volume, as the node's root, where mounts were attached in the pod's mount namespace as they were opened.
#[tokio::test]
async fn a_privileged_container_cannot_write_to_what_is_mounted_read_only() -> Result<()> {
    let Some((daemon, pod)) = prepared().await? else { return Ok(()) };
    let image = TestImage::named("model").file("weights", 0o666, b"of the image");
    daemon.import(&image)?;
    let (folder, file) = (daemon.directory().join("volume"), daemon.directory().join("volume/file"));
    std::fs::create_dir(&folder)?;
    std::fs::write(&file, "of the node's root")?;
    let mapped = |mount: &mut v1::Mount| {
        let users = own_users();
        (mount.uid_mappings, mount.gid_mappings) = (users.uids, users.gids);
        mount.readonly = true;
    };
    let of_image = |mount: &mut v1::Mount, path: &str| {
        mapped(mount);
        path.clone_into(&mut mount.image_sub_path);
        mount.image = Some(v1::ImageSpec { image: image.name.clone(), ..Default::default() });
    };
    let nowhere = std::path::Path::new("");
    let spec = sleeper("a")
        .privileged()
        .mount_with(&folder, "/volume", mapped)
        .mount_with(&folder, "/whole", |mount| {
            mapped(mount);
            mount.recursive_read_only = true;
            mount.propagation = v1::MountPropagation::PropagationPrivate.into();
        })
        .mount_with(&file, "/file", mapped)
        .mount_with(nowhere, "/image", |mount| of_image(mount, ""))
        .mount_with(nowhere, "/part", |mount| of_image(mount, "etc"))
        .mount_with(&folder, "/writable", |mount| {
            mapped(mount);
            mount.readonly = false;
        });
    let container = pod.run(&spec).await?;
    for path in ["/volume", "/whole", "/file", "/image", "/part"] {
        let new = if path == "/file" { path.to_owned() } else { format!("{path}/new") };
        let remount = |at: &str| format!("mount -o remount,bind,rw {at}");
        for script in [
            format!("echo x >>{new}"),
            format!("{}; echo x >>{new}", remount(path)),
            format!("mount -o remount,rw {path}; {}; echo x >>{new}", remount(path)),
            format!("unshare -m sh -c '{}; echo x >>{new}'", remount(path)),
            format!(
                "mkdir -p /copy; touch /copy-of-file; at=/copy; test -d {path} || at=/copy-of-file; mount --bind {path} $at; \
                     mount -o remount,bind,rw $at; if test -d $at; then echo x >>$at/new; else echo x >>$at; fi"
            ),
        ] {
            fails(&container, &script).await?;
        }
        // It is the container's to do without.
        container.sh(&format!("umount {path}")).await?;
    }
    container
        .sh("echo x >/writable/new && mount -o remount,bind,ro /writable && mount -o remount,bind,rw /writable && rm /writable/new")
        .await?;
    assert_eq!(std::fs::read_to_string(&file)?, "of the node's root");
    assert_eq!(std::fs::read_dir(&folder)?.count(), 1);
    Ok(pod.end().await?)
}

/// Whoever is root in the pod may look into what runs as the pod's root, and signal it; not into a newborn, which still has the node's
/// files open. Here all are in one PID namespace. Seen to list the monitor's descriptors with `PR_SET_DUMPABLE` set to 1 instead of 0.
#[tokio::test]
async fn a_newborn_lets_nobody_in_the_pod_look_into_it() -> Result<()> {
    let Some((_daemon, pod)) = prepared().await? else { return Ok(()) };
    let shared = |spec: ContainerSpec| spec.pid(v1::NamespaceMode::Pod);
    let spy = "while :; do for p in /proc/[0-9]*; do if grep -q podbox-monitor $p/comm 2>/dev/null; then \
               echo met; ls -l $p/fd 2>/dev/null; readlink $p/exe 2>/dev/null; fi; done; done";
    let spec = shared(ContainerSpec::shell("spy", spy).users(Some(own_users()))).security(|security| {
        security.capabilities.get_or_insert_default().add_capabilities = words(&["SYS_PTRACE"]);
    });
    let spy = pod.run(&spec).await?;
    // One that meets none has tried nothing: a newborn is there for a moment only.
    let (began, patience) = (Instant::now(), wait::scaled(wait::DEADLINE));
    let mut round = 0;
    while round < 15 || (!spy.output()?.contains("met") && began.elapsed() < patience) {
        round += 1;
        let container = pod.run(&shared(sleeper(&format!("c{round}")))).await?;
        for _ in 0..10 {
            container.sh("true").await?;
        }
        container.stop(0).await?;
        container.remove().await?;
    }
    let seen = spy.output()?;
    ensure!(seen.contains("met"), "no newborn was ever met");
    // One that has become its program meanwhile has neither the monitor's file nor its descriptors.
    let looked_into: Vec<&str> = seen.lines().filter(|line| line.contains("memfd") || line.contains("anon_inode")).collect();
    ensure!(looked_into.is_empty(), "{}", looked_into[..looked_into.len().min(10)].join("\n"));
    Ok(pod.end().await?)
}

/// Between its two processes a newborn is nobody's for a moment: the second does not begin before the monitor can know of it, and whatever
/// there is stands in the pod's cgroup.
#[tokio::test]
async fn a_monitor_that_is_killed_during_a_birth_leaves_no_process() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().on_disk()).await?;
    let before = daemon.warm_up().await?.without("descriptor");
    let Some(birth) = duration_of_a_birth(&daemon).await? else { return Ok(()) };
    let rounds = (24 / wait::slowness()).max(4);
    for round in 0..rounds {
        let pod = daemon.run_pod(&PodSpec::new(&format!("pod{round}")).users(Some(own_users()))).await?;
        let container = pod.create(&sleeper("a")).await?;
        let monitor = daemon.monitor_of(&pod.id).context("the pod has a monitor")?;
        let starting = tokio::spawn(async move { container.start().await });
        tokio::time::sleep(birth * round / rounds).await;
        kill(Pid::from_raw(monitor), Signal::SIGKILL)?;
        let _ = starting.await?;
        wait::until("the pod is lost", || async { pod.state().await.ok().filter(|state| *state == PodSandboxState::SandboxNotready) })
            .await?;
        pod.end().await?;
        Census::settle(&daemon, &before, wait::DEADLINE)
            .await
            .with_context(|| format!("round {round} of {rounds}, a birth is {birth:?}"))?;
    }
    Ok(())
}

/// The same for a stop that overtakes the start, which the monitor carries out.
#[tokio::test]
async fn a_stop_during_a_birth_ends_whichever_process_there_is() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().on_disk()).await?;
    let before = daemon.warm_up().await?.without("descriptor");
    let Some(birth) = duration_of_a_birth(&daemon).await? else { return Ok(()) };
    let rounds = (24 / wait::slowness()).max(4);
    let pod = daemon.run_pod(&PodSpec::new("pod").users(Some(own_users()))).await?;
    for round in 0..rounds {
        let container = pod.create(&sleeper(&format!("c{round}"))).await?;
        let starting = container.clone();
        let starting = tokio::spawn(async move { starting.start().await });
        tokio::time::sleep(birth * round / rounds).await;
        container.stop(0).await?;
        let _ = starting.await?;
        container.remove().await?;
    }
    pod.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn a_daemon_that_is_killed_while_such_a_pod_is_made_leaves_nothing() -> Result<()> {
    let mut daemon = Daemon::for_test_with(DaemonOptions::default().on_disk()).await?;
    let before = daemon.warm_up().await?.without("descriptor");
    if duration_of_a_birth(&daemon).await?.is_none() {
        return Ok(());
    }
    let rounds = (16 / wait::slowness()).max(4);
    for round in 0..rounds {
        let (client, logs) = (daemon.client(), daemon.logs());
        let making = tokio::spawn(async move {
            let pod = Pod::run_new(&client, &logs, &PodSpec::new(&format!("pod{round}")).users(Some(own_users()))).await?;
            pod.run(&sleeper("a")).await
        });
        tokio::time::sleep(Duration::from_millis(u64::from(3 * round)) * wait::slowness()).await;
        daemon.kill_9()?;
        let _ = making.await?;
        daemon.start_again().await?;
        for pod in daemon.client().pods().await? {
            Pod::adopt(&daemon.client(), &pod.id, v1::PodSandboxConfig::default()).end().await?;
        }
        Census::settle(&daemon, &before, wait::DEADLINE).await.with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// How long a start takes; `None` where there can be no such pod.
async fn duration_of_a_birth(daemon: &Daemon) -> Result<Option<Duration>> {
    let Ok(pod) = daemon.run_pod(&PodSpec::new("measured").users(Some(own_users()))).await else {
        host::lacks("mounts with mapped ids");
        return Ok(None);
    };
    let container = pod.create(&sleeper("a")).await?;
    let begun = Instant::now();
    container.start().await?;
    let birth = begun.elapsed();
    ensure!(std::fs::metadata(format!("/proc/{}", container.pid().await?))?.uid() != 0, "it is nobody's on the node");
    pod.end().await?;
    Ok(Some(birth))
}
