//! Mounts of a container: what the host's files look like within it, and what passes between the two.

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use podbox_proto::v1::{self, MountPropagation};
use podbox_tests::{Census, ContainerSpec, Daemon, PodSpec, TestImage, assert_refused, wait};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tonic::Code;

fn directory(daemon: &Daemon, name: &str) -> Result<PathBuf> {
    let path = daemon.directory().join(name);
    std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// A tmpfs on the host, below the daemon's directory, that goes with this value.
struct HostMount(PathBuf);

impl HostMount {
    fn tmpfs(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("size=8m")).context("mount a tmpfs")?;
        Ok(Self(path.to_owned()))
    }

    /// A directory whose mounts are passed on.
    fn shared(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("bind")?;
        let own = Self(path.to_owned());
        mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).context("share")?;
        Ok(own)
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_bind_mount_is_the_hosts_directory_and_read_only_if_asked() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("bind")).await?;
    let host = directory(&daemon, "volume")?;
    std::fs::write(host.join("from-host"), "host")?;
    std::os::unix::fs::symlink(&host, daemon.directory().join("link"))?;
    let spec = ContainerSpec::sleeper("a")
        .mount(&host, "/rw")
        .mount_with(&host, "/ro", |mount| mount.readonly = true)
        .mount(&daemon.directory().join("link"), "/through-a-link");
    let container = pod.run(&spec).await?;
    assert_eq!(container.sh("cat /rw/from-host /ro/from-host /through-a-link/from-host").await?, "hosthosthost");
    container.sh("echo container > /rw/from-container").await?;
    assert_eq!(std::fs::read_to_string(host.join("from-container"))?, "container\n");
    let write = container.exec(&["/bin/touch", "/ro/file"]).await?;
    assert!(write.code != 0 && write.stderr.contains("Read-only"), "{write:?}");
    let told = container.status().await?.mounts;
    let mut told: Vec<(&str, bool)> = told.iter().map(|mount| (&*mount.container_path, mount.readonly)).collect();
    told.sort_unstable();
    assert_eq!(told, [("/ro", true), ("/rw", false), ("/through-a-link", false)]);
    Ok(())
}

#[tokio::test]
async fn only_recursive_read_only_reaches_the_mounts_below() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("rro")).await?;
    let host = directory(&daemon, "volume")?;
    let _below = HostMount::tmpfs(&host.join("below"))?;
    let spec = ContainerSpec::sleeper("a").mount_with(&host, "/ro", |mount| mount.readonly = true).mount_with(&host, "/rro", |mount| {
        mount.readonly = true;
        mount.recursive_read_only = true;
    });
    let container = pod.run(&spec).await?;
    assert_eq!(container.exec(&["/bin/touch", "/ro/below/file"]).await?.code, 0, "the mount below is as it was");
    for path in ["/ro/file", "/rro/file", "/rro/below/file"] {
        let write = container.exec(&["/bin/touch", path]).await?;
        assert!(write.code != 0 && write.stderr.contains("Read-only"), "{path}: {write:?}");
    }
    std::fs::write(host.join("below/from-host"), "")?;
    let refused = ContainerSpec::sleeper("b").mount_with(&host, "/x", |mount| mount.recursive_read_only = true);
    assert_refused(pod.create(&refused).await, Code::InvalidArgument, &["recursive_read_only"]);
    Ok(())
}

/// Of a mount and of what is mounted below it.
#[tokio::test]
async fn mount_options_keep_programs_devices_and_owners_rights_out() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("options").privileged()).await?;
    let host = directory(&daemon, "volume")?;
    let _below = HostMount::tmpfs(&host.join("below"))?;
    for folder in [&host, &host.join("below")] {
        std::fs::write(folder.join("program"), "#!/bin/sh\nid -u\n")?;
        std::fs::copy("/bin/busybox", folder.join("su"))?;
        std::fs::set_permissions(folder.join("program"), Permissions::from_mode(0o755))?;
        std::fs::set_permissions(folder.join("su"), Permissions::from_mode(0o4755))?;
        mknod(&folder.join("zero"), SFlag::S_IFCHR, Mode::from_bits_retain(0o666), makedev(1, 5))?;
    }
    let with =
        |path: &'static str, option: &'static str| (path, move |mount: &mut v1::Mount| mount.mount_options = vec![option.to_owned()]);
    let [noexec, nodev, nosuid] = [with("/noexec", "noexec"), with("/nodev", "nodev"), with("/nosuid", "nosuid")];
    let spec = ContainerSpec::sleeper("a")
        .privileged()
        .mount(&host, "/plain")
        .mount_with(&host, noexec.0, noexec.1)
        .mount_with(&host, nodev.0, nodev.1)
        .mount_with(&host, nosuid.0, nosuid.1);
    let container = pod.run(&spec).await?;
    for below in ["", "/below"] {
        for (path, runs, opens, raises) in
            [("/plain", true, true, true), ("/noexec", false, true, false), ("/nodev", true, false, true), ("/nosuid", true, true, false)]
        {
            let at = format!("{path}{below}");
            assert_eq!(container.exec(&[&format!("{at}/program")]).await.is_ok_and(|output| output.code == 0), runs, "{at}/program");
            let opened = container.exec(&["/bin/head", "-c1", &format!("{at}/zero")]).await?;
            assert_eq!(opened.code == 0, opens, "{at}/zero: {opened:?}");
            // Busybox's own su says so where it has none of its owner's rights.
            let su = container.exec(&["/bin/su", "alice", "-c", &format!("{at}/su </dev/null 2>&1; true")]).await?;
            let has_none = ["must be suid", "ermission denied"].iter().any(|said| su.stdout.contains(said));
            assert_eq!(!has_none, raises, "{at}/su: {su:?}");
        }
    }
    let told = container.status().await?.mounts;
    let told: Vec<_> = told.iter().filter(|mount| mount.container_path == "/noexec").map(|mount| mount.mount_options.clone()).collect();
    assert_eq!(told, [["noexec"]]);
    for option in ["ro", "exec", "uid=0", "", "noexec,nodev"] {
        let refused = ContainerSpec::sleeper("b").mount_with(&host, "/x", |mount| mount.mount_options = vec![option.to_owned()]);
        assert_refused(pod.create(&refused).await, Code::InvalidArgument, &["mount_options", option]);
    }
    Ok(())
}

#[tokio::test]
async fn mounts_pass_from_host_to_container_and_back_only_as_propagation_says() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("propagation").privileged()).await?;
    let host = directory(&daemon, "volume")?;
    let _shared = HostMount::shared(&host)?;
    for name in ["late", "by-container"] {
        std::fs::create_dir(host.join(name))?;
    }
    let spec = ContainerSpec::sleeper("a")
        .privileged()
        .mount(&host, "/private")
        .mount_with(&host, "/slave", |mount| mount.set_propagation(MountPropagation::PropagationHostToContainer))
        .mount_with(&host, "/shared", |mount| mount.set_propagation(MountPropagation::PropagationBidirectional));
    let container = pod.run(&spec).await?;
    let late = HostMount::tmpfs(&host.join("late"))?;
    std::fs::write(host.join("late/file"), "late")?;
    assert_eq!(container.sh("cat /slave/late/file /shared/late/file; ls /private/late").await?, "latelate");
    container.sh("mount -t tmpfs tmpfs /shared/by-container && echo made > /shared/by-container/file").await?;
    assert_eq!(std::fs::read_to_string(host.join("by-container/file"))?, "made\n", "the host sees the container's mount");
    container.sh("mount -t tmpfs tmpfs /slave/by-container/ && umount /slave/by-container").await?;
    assert!(host.join("by-container/file").exists(), "a slave's mounts are its own");
    container.sh("umount /shared/by-container").await?;
    drop(late);
    ensure!(!host.join("late/file").exists());
    Ok(())
}

#[tokio::test]
async fn files_can_be_mounted_and_mounts_can_lie_below_each_other_in_any_order() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("nested")).await?;
    let (outer, inner) = (directory(&daemon, "outer")?, directory(&daemon, "inner")?);
    std::fs::create_dir(outer.join("inner"))?;
    std::fs::write(outer.join("file"), "outer")?;
    std::fs::write(inner.join("file"), "inner")?;
    let file = daemon.directory().join("single");
    std::fs::write(&file, "single")?;
    let spec = ContainerSpec::shell("a", "cat /outer/file /outer/inner/file /etc/passwd /made/up/path")
        .mount(&inner, "/outer/inner")
        .mount(&outer, "/outer")
        .mount(&file, "/etc/passwd")
        .mount(&file, "/made/up/path");
    assert_eq!(pod.output_of(&spec).await?, "outerinnersinglesingle");
    Ok(())
}

/// Each mount is held by a descriptor while the root is put together; the limit of open files is the program's.
#[tokio::test]
async fn more_mounts_than_a_program_may_open_files_are_no_problem() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("many")).await?;
    let host = directory(&daemon, "volume")?;
    let spec = (0..1100).fold(ContainerSpec::sleeper("many"), |spec, number| spec.mount(&host, &format!("/many/{number}")));
    let container = pod.run(&spec).await?;
    assert_eq!(container.sh("grep -c ' /many/' /proc/self/mountinfo; ulimit -n").await?, "1100\n1024");
    Ok(())
}

#[tokio::test]
async fn a_symbolic_link_in_the_image_leads_no_mount_out_of_the_container() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let away = directory(&daemon, "away")?;
    let image = TestImage::named("links")
        .link("relative", "../../../../../../../..")
        .link("absolute", "/")
        .link("etc/mtab", "/proc/self/mounts")
        .link("direct", &away.to_string_lossy());
    daemon.import(&image)?;
    let pod = daemon.run_pod(&PodSpec::new("links")).await?;
    let volume = directory(&daemon, "volume")?;
    std::fs::write(volume.join("file"), "volume")?;
    let below = daemon.directory().strip_prefix("/")?.join("canary");
    std::fs::create_dir(daemon.directory().join("canary"))?;
    for (name, link) in [("relative", "/relative"), ("absolute", "/absolute")] {
        let target = Path::new(link).join(&below);
        let spec = ContainerSpec::command(name, &["/bin/cat", &format!("{}/file", target.display())]).image(&image.name);
        assert_eq!(pod.output_of(&spec.mount(&volume, &target.to_string_lossy())).await?, "volume", "{name}");
    }
    let spec = ContainerSpec::command("direct", &["/bin/cat", "/direct/file"]).image(&image.name).mount(&volume, "/direct");
    assert_eq!(pod.output_of(&spec).await?, "volume");
    for directory in ["canary", "away"] {
        assert_eq!(std::fs::read_dir(daemon.directory().join(directory))?.count(), 0, "nothing was mounted or made on the host");
    }
    Ok(())
}

#[tokio::test]
async fn the_hosts_mount_table_does_not_grow_with_containers() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("table")).await?;
    let volume = directory(&daemon, "volume")?;
    let container = pod.run(&ContainerSpec::sleeper("a").mount(&volume, "/volume")).await?;
    assert_eq!(Census::take(&daemon)?.count("mount"), before.count("mount"));
    assert!(!container.sh("cat /proc/self/mountinfo").await?.contains("podbox.sock"));
    pod.end().await?;
    std::fs::remove_dir(&volume)?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}
