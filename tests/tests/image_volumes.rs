//! Images that a container sees as volumes, and volumes that its own image declares.

use anyhow::{Context, Result, ensure};
use podbox_proto::v1;
use podbox_tests::pulls::{PORT, pull};
use podbox_tests::registry::{Compression, Content, Format, HostileRegistry};
use podbox_tests::{Census, Container, ContainerSpec, Daemon, PodSpec, TestImage, assert_refused, wait};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tonic::Code;

/// Two layers: the second hides a file of the first, and has a link that leads up and out, were it followed outside the image.
fn model() -> TestImage {
    TestImage::named("model")
        .file("weights/v1/data", 0o644, b"one")
        .file("weights/v2/data", 0o600, b"two")
        .file("weights/run", 0o755, b"#!/bin/sh\necho ran\n")
        .file("etc/.wh.group", 0o644, b"")
        .link("latest", "/weights/v2")
        .link("out", "../../../../../../../../etc")
        .link("gone", "/not/there")
}

fn image_spec(name: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec {
        image: name.to_owned(),
        user_specified_image: format!("{name} as written"),
        image_ref: "sha256:found".to_owned(),
        ..Default::default()
    })
}

/// A mount of an image, or of a part of it.
fn volume(spec: ContainerSpec, image: &str, container_path: &str, sub_path: &str) -> ContainerSpec {
    spec.mount_with(Path::new(""), container_path, |mount| {
        mount.readonly = true;
        mount.image = image_spec(image);
        sub_path.clone_into(&mut mount.image_sub_path);
    })
}

async fn fails(container: &Container, script: &str, word: &str) -> Result<()> {
    let output = container.exec(&["/bin/sh", "-c", script]).await?;
    ensure!(output.code != 0 && output.stderr.contains(word), "{script}: {output:?}");
    Ok(())
}

fn device_of(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| path.display().to_string())?.dev())
}

#[tokio::test]
async fn an_image_is_mounted_whole_or_in_part_and_never_written() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let model = model();
    daemon.import(&model)?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("volume")).await?;
    let plain = TestImage::default().name;
    let spec = ContainerSpec::sleeper("a");
    let spec = volume(spec, &model.name, "/model", "");
    let spec = volume(spec, &model.id()?, "/deep/er/v1", "weights/v1");
    let spec = volume(spec, &model.name, "/latest", "latest");
    let spec = volume(spec, &model.name, "/out", "out");
    // An image of one layer is not an overlay of its own.
    let spec = volume(spec, &plain, "/plain", "");
    let container = pod.run(&spec).await?;
    assert_eq!(container.sh("cat /model/weights/v1/data /deep/er/v1/data /latest/data").await?, "oneonetwo");
    assert_eq!(
        container.sh("/model/weights/run && stat -c %a /latest/data && ls /plain/bin/busybox").await?,
        "ran\n600\n/plain/bin/busybox"
    );
    // A link leads nowhere but into the image, whose second layer hides a file of the first.
    assert_eq!(container.sh("cat /out/passwd | head -1 && ls /out").await?, "root:x:0:0:root:/root:/bin/sh\npasswd");
    for path in ["/model/new", "/deep/er/v1/data", "/plain/new"] {
        fails(&container, &format!("echo x > {path}"), "Read-only file system").await?;
    }
    fails(&container, "mount -o remount,rw /model", "mount").await?;
    let options = container.sh("grep -E ' /(model|latest|plain) ' /proc/mounts | cut -d' ' -f3,4").await?;
    assert_eq!(options.lines().filter(|line| line.starts_with("overlay ro,nodev,")).count(), 3, "{options}");

    let told = container.status().await?.mounts;
    let part = told.iter().find(|mount| mount.container_path == "/latest").context("no such mount")?;
    assert_eq!((part.image.clone(), part.image_sub_path.as_str()), (image_spec(&model.name), "latest"));
    assert!(part.readonly && part.host_path.is_empty(), "{part:?}");
    // The host sees none of it, and nothing was mounted in its namespace on the way.
    let pods = daemon.state_dir();
    ensure!(device_of(&pods)? == device_of(daemon.directory())?, "something is mounted over {}", pods.display());
    pod.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn the_layers_of_a_volume_outlive_the_image_and_a_restart_and_go_with_the_container() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let model = model();
    daemon.import(&model)?;
    let layers = daemon.root_dir().join("layers");
    let count = || -> Result<usize> { Ok(std::fs::read_dir(&layers).with_context(|| layers.display().to_string())?.count()) };
    // The base that both images have, its own, and one of folders alone.
    assert_eq!(count()?, 3, "layers");
    let pod = daemon.run_pod(&PodSpec::new("kept")).await?;
    let container = pod.create(&volume(ContainerSpec::sleeper("a"), &model.name, "/model", "weights")).await?;
    let remove = v1::RemoveImageRequest { image: image_spec(&model.name) };
    daemon.images().remove_image(remove).await?;
    daemon.kill_9()?;
    daemon.start_again().await?;
    assert_eq!(count()?, 3, "a container that was made keeps its layers");
    container.start().await?;
    assert_eq!(container.sh("cat /model/v1/data").await?, "one");
    let again = pod.create(&volume(ContainerSpec::sleeper("b"), &model.name, "/model", "")).await;
    let refused = again.map(|container| container.id).expect_err("its image is not there");
    assert!(refused.message().starts_with("ImageVolumeMountFailed: ") && refused.message().contains("/model"), "{refused:?}");
    assert_eq!(refused.code(), Code::NotFound);
    pod.end().await?;
    wait::until_true("the volume's layer is gone", || count().is_ok_and(|layers| layers == 1)).await
}

#[tokio::test]
async fn an_image_without_layers_is_an_empty_volume() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let mut content = Content::default();
    let config = br#"{"os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}"#;
    content.push_parts("empty", "latest", config.to_vec(), Vec::new(), Compression::None, Format::Oci)?;
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
    let name = format!("{}/empty", registry.host());
    pull(&daemon.client(), &name).await?;
    let pod = daemon.run_pod(&PodSpec::new("empty")).await?;
    let container = pod.run(&volume(ContainerSpec::sleeper("a"), &name, "/empty", "")).await?;
    assert_eq!(container.sh("ls -A /empty && echo seen").await?, "seen");
    fails(&container, "echo x > /empty/new", "Read-only file system").await?;
    pod.end().await?;
    Ok(())
}

#[tokio::test]
async fn a_volume_that_cannot_be_is_refused_before_anything_is_made() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let model = model();
    daemon.import(&model)?;
    let before = daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("refused")).await?;
    let with = |change: &dyn Fn(&mut v1::Mount)| {
        ContainerSpec::sleeper("a").mount_with(Path::new(""), "/volume", |mount| {
            mount.readonly = true;
            mount.image = image_spec(&model.name);
            change(mount);
        })
    };
    let sub_path = |path: &'static str| with(&|mount| path.clone_into(&mut mount.image_sub_path));
    let failed = "ImageVolumeMountFailed: ";
    let no_image = with(&|mount| mount.image = image_spec("localhost/podbox-test/absent:latest"));
    for (spec, code, words) in [
        (no_image, Code::NotFound, vec![failed, "absent", "/volume", "is not there"]),
        (with(&|mount| mount.image = image_spec("Not A Name")), Code::InvalidArgument, vec![failed, "Not A Name"]),
        (with(&|mount| mount.image = image_spec("")), Code::InvalidArgument, vec!["config.mounts.image.image", "is required"]),
        (sub_path("weights/v3"), Code::InvalidArgument, vec![failed, "no directory weights/v3"]),
        (sub_path("weights/v1/data"), Code::InvalidArgument, vec![failed, "no directory weights/v1/data"]),
        (sub_path("gone"), Code::InvalidArgument, vec![failed, "no directory gone"]),
        (sub_path("../etc"), Code::InvalidArgument, vec!["config.mounts.image_sub_path", ".."]),
        (sub_path("/weights"), Code::InvalidArgument, vec!["config.mounts.image_sub_path"]),
        (with(&|mount| mount.readonly = false), Code::InvalidArgument, vec!["config.mounts.readonly"]),
        (with(&|mount| "/tmp".clone_into(&mut mount.host_path)), Code::InvalidArgument, vec!["config.mounts.host_path"]),
        (
            with(&|mount| mount.propagation = v1::MountPropagation::PropagationBidirectional.into()),
            Code::InvalidArgument,
            vec!["config.mounts.propagation"],
        ),
        (volume(sub_path(""), &model.name, "/volume", ""), Code::InvalidArgument, vec!["config.mounts.container_path", "two images"]),
        (
            ContainerSpec::sleeper("a").mount_with(Path::new("/tmp"), "/volume", |mount| "x".clone_into(&mut mount.image_sub_path)),
            Code::InvalidArgument,
            vec!["config.mounts.image_sub_path", "it needs an image"],
        ),
    ] {
        assert_refused(pod.create(&spec).await.map(|container| container.id), code, &words);
    }
    pod.end().await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn a_volume_that_the_image_declares_can_be_written_to_in_a_read_only_root() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let mut image = TestImage::named("declares").file("data/there", 0o644, b"there").link("link", "/data");
    image.volumes = ["/data", "/absent/deep", "/mounted", "/link", "/", "relative", "/a/../b"].map(str::to_owned).into();
    daemon.import(&image)?;
    let pod = daemon.run_pod(&PodSpec::new("declared")).await?;
    let host = daemon.directory().join("volume");
    std::fs::create_dir(&host)?;
    std::fs::write(host.join("of-the-host"), "")?;
    let spec = |name: &str| ContainerSpec::sleeper(name).image(&image.name).mount(&host, "/mounted");
    let container = pod.run(&spec("read-only").security(|security| security.readonly_rootfs = true)).await?;
    assert_eq!(container.sh("cat /data/there; touch /data/new /absent/deep/new; ls /data /absent/deep /mounted").await?, {
        "there/absent/deep:\nnew\n\n/data:\nnew\nthere\n\n/mounted:\nof-the-host"
    });
    for path in ["/new", "/absent/new", "/b/new", "/relative/new"] {
        fails(&container, &format!("echo x > {path}"), if path == "/b/new" || path == "/relative/new" { "" } else { "Read-only" }).await?;
    }
    // Another container of the image has its own.
    let other = pod.run(&spec("plain")).await?;
    assert_eq!(other.sh("ls /data /absent/deep && touch /data/new /new && echo written").await?, "/absent/deep:\n\n/data:\nthere\nwritten");
    pod.end().await?;
    Ok(())
}
