//! Images: imported in three forms, listed, looked up by name and id, removed.

use anyhow::Result;
use podbox_proto::v1;
use podbox_tests::{Client, ContainerSpec, Daemon, DaemonOptions, PodSpec, TestImage, assert_refused};
use tonic::{Code, Status};

async fn status_of(client: &Client, image: &str) -> Result<v1::ImageStatusResponse, Status> {
    let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    Ok(client.images().image_status(v1::ImageStatusRequest { image: Some(spec), verbose: true }).await?.into_inner())
}

async fn remove(client: &Client, image: &str) -> Result<(), Status> {
    let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    client.images().remove_image(v1::RemoveImageRequest { image: Some(spec) }).await.map(drop)
}

async fn list(client: &Client) -> Result<Vec<v1::Image>, Status> {
    Ok(client.images().list_images(v1::ListImagesRequest { filter: None }).await?.into_inner().images)
}

#[tokio::test]
async fn each_form_can_be_imported_while_the_daemon_runs_and_runs_at_once() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let client = daemon.client();
    let directory = daemon.directory();
    let (archive, layout, docker) = (TestImage::named("archive"), TestImage::named("layout"), TestImage::named("docker"));
    archive.write_oci_archive(&directory.join("archive.tar"))?;
    layout.write_oci_layout(&directory.join("layout"))?;
    docker.write_docker_archive(&directory.join("docker.tar"))?;
    let pod = daemon.run_pod(&PodSpec::new("forms")).await?;
    for (file, image) in [("archive.tar", &archive), ("layout", &layout), ("docker.tar", &docker)] {
        assert!(status_of(&client, &image.name).await?.image.is_none());
        daemon.import_file(&directory.join(file), None)?;
        let found = status_of(&client, &image.name).await?.image.unwrap_or_default();
        assert_eq!((&*found.id, &*found.repo_tags), (&*image.id()?, std::slice::from_ref(&image.name)), "{file}: named by the file itself");
        assert!(found.size > 0, "{found:?}");
        let spec = ContainerSpec::command(&file.replace('.', "-"), &["/bin/echo", "runs"]).image(&image.name);
        assert_eq!(pod.output_of(&spec).await?, "runs");
    }
    daemon.import_file(&directory.join("docker.tar"), Some("localhost/podbox-test/another:v1"))?;
    let mut tags = status_of(&client, &docker.id()?).await?.image.unwrap_or_default().repo_tags;
    tags.sort();
    assert_eq!(tags, ["localhost/podbox-test/another:v1", &docker.name], "one image, two names");
    let unpacked = std::fs::read_dir(daemon.root_dir().join("layers")).map(Iterator::count).unwrap_or_default();
    assert_eq!(unpacked, 1, "the layer that all of them share was unpacked once");
    Ok(())
}

#[tokio::test]
async fn an_image_can_be_imported_before_the_daemon_ever_ran() -> Result<()> {
    let mut daemon = Daemon::prepare(&DaemonOptions { show_log: true, ..DaemonOptions::default() })?;
    let image = TestImage::named("early");
    daemon.import(&image)?;
    daemon.start_again().await?;
    let pod = daemon.run_pod(&PodSpec::new("early")).await?;
    assert_eq!(pod.output_of(&ContainerSpec::command("a", &["/bin/echo", "runs"]).image(&image.name)).await?, "runs");
    Ok(())
}

#[tokio::test]
async fn images_are_found_by_name_id_and_digest_and_absent_ones_are_no_error() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let client = daemon.client();
    let image = TestImage::named("found");
    daemon.import(&image)?;
    let id = image.id()?;
    let by_name = status_of(&client, &image.name).await?.image.unwrap_or_default();
    for name in ["localhost/podbox-test/found", &id, id.trim_start_matches("sha256:")] {
        assert_eq!(status_of(&client, name).await?.image.unwrap_or_default(), by_name, "{name}");
    }
    for digest in &by_name.repo_digests {
        assert_eq!(status_of(&client, digest).await?.image.unwrap_or_default(), by_name, "{digest}");
    }
    let verbose = status_of(&client, &image.name).await?;
    let info: serde_json::Value = serde_json::from_str(verbose.info.get("info").map_or("null", |info| info))?;
    assert!(info.is_object(), "verbose tells more: {info}");
    for absent in ["localhost/podbox-test/absent", "UPPER/case", "sha256:0000000000000000000000000000000000000000000000000000000000000000"]
    {
        assert!(status_of(&client, absent).await?.image.is_none(), "{absent}");
    }
    assert_refused(status_of(&client, "").await, Code::InvalidArgument, &["image"]);
    // An answer that repeated it would not reach clients whose headers are bounded.
    for endless in ["\n", "a", "a/", "@"].map(|part| part.repeat(100_000)) {
        let told = status_of(&client, &endless).await.map_or_else(|refused| refused.message().to_owned(), |found| format!("{found:?}"));
        assert!(told.len() < 4096, "{} bytes", told.len());
    }
    let all = list(&client).await?;
    assert_eq!(all.len(), 2);
    let filter = v1::ImageFilter { image: Some(v1::ImageSpec { image: image.name.clone(), ..Default::default() }) };
    let filtered = client.images().list_images(v1::ListImagesRequest { filter: Some(filter) }).await?.into_inner().images;
    assert_eq!(filtered, [by_name]);
    Ok(())
}

#[tokio::test]
async fn removing_an_image_can_be_done_by_five_at_once_and_again() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let client = daemon.client();
    let image = TestImage::named("removed").file("only/here", 0o644, b"more than the shared layer");
    daemon.import(&image)?;
    let layers = || std::fs::read_dir(daemon.root_dir().join("layers")).map(Iterator::count).unwrap_or_default();
    let before = layers();
    let outcomes = tokio::join!(
        remove(&client, &image.name),
        remove(&client, &image.name),
        remove(&client, &image.name),
        remove(&client, &image.name),
        remove(&client, &image.name)
    );
    for outcome in [outcomes.0, outcomes.1, outcomes.2, outcomes.3, outcomes.4] {
        outcome?;
    }
    remove(&client, &image.name).await?;
    assert!(status_of(&client, &image.name).await?.image.is_none());
    assert_eq!(layers(), before - 1, "its own layer is gone, the shared one is not");
    assert_eq!(list(&client).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn removing_any_name_or_the_id_removes_the_image_with_all_its_names() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let client = daemon.client();
    let image = TestImage::named("many");
    for by_id in [false, true] {
        daemon.import(&image)?;
        let archive = daemon.directory().join("many.tar");
        image.write_oci_archive(&archive)?;
        daemon.import_file(&archive, Some("localhost/podbox-test/second:v2"))?;
        let name = if by_id { image.id()? } else { "localhost/podbox-test/second:v2".to_owned() };
        remove(&client, &name).await?;
        assert!(status_of(&client, &image.name).await?.image.is_none());
    }
    Ok(())
}

/// The kubelet removes images that containers of theirs still run from only by mistake; those must not notice.
#[tokio::test]
async fn a_container_outlives_its_image() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let client = daemon.client();
    let image = TestImage::named("short-lived");
    daemon.import(&image)?;
    let pod = daemon.run_pod(&PodSpec::new("outlives")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a").image(&image.name)).await?;
    remove(&client, &image.name).await?;
    assert!(!list(&client).await?.iter().any(|known| known.repo_tags.contains(&image.name)), "the image is gone, its layers are not");
    assert_eq!(container.sh("cat /etc/passwd | head -1 | cut -d: -f1; ls /bin | wc -l | grep -c .").await?, "root\n1");
    let status = container.status().await?;
    assert_eq!(status.image_id, image.id()?);
    pod.end().await?;
    Ok(())
}

#[tokio::test]
async fn image_fs_info_tells_of_a_file_system_in_use() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("writes")).await?;
    let writer = pod.run(&ContainerSpec::sleeper("a")).await?;
    writer.sh("dd if=/dev/urandom of=/written bs=1M count=3 2>&1 && sync").await?;
    let info = daemon.images().image_fs_info(v1::ImageFsInfoRequest {}).await?.into_inner();
    assert_eq!((info.image_filesystems.len(), info.container_filesystems.len()), (1, 1));
    let written = info.container_filesystems[0].used_bytes.unwrap_or_default().value;
    assert!((3 << 20..16 << 20).contains(&written), "{written}");
    for usage in info.image_filesystems.iter().chain(&info.container_filesystems) {
        assert!(usage.timestamp > 0, "{usage:?}");
        let mountpoint = usage.fs_id.clone().unwrap_or_default().mountpoint;
        assert!(
            daemon.root_dir().starts_with(&mountpoint) || std::path::Path::new(&mountpoint).starts_with(daemon.root_dir()),
            "{mountpoint}"
        );
    }
    let used = info.image_filesystems[0].used_bytes.unwrap_or_default().value;
    assert!(used > 1 << 20, "busybox alone is more: {used}");
    Ok(())
}

#[tokio::test]
async fn archives_that_are_none_or_lie_are_refused_and_leave_nothing() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let files = || -> Vec<String> {
        let mut found = Vec::new();
        for name in ["images", "layers", "tmp"] {
            let entries = std::fs::read_dir(daemon.root_dir().join(name)).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| format!("{name}/{}", entry.file_name().to_string_lossy())));
        }
        found.sort();
        found
    };
    let before = files();
    let (path, _file) = daemon.scratch("empty.tar")?;
    assert!(daemon.import_file(&path, None).is_err());
    std::fs::write(&path, vec![0x5a; 4096])?;
    assert!(daemon.import_file(&path, None).is_err());
    assert!(daemon.import_file(&daemon.directory().join("absent.tar"), None).is_err());
    let layout = daemon.directory().join("layout");
    TestImage::named("liar").file("marker", 0o644, b"the layer says this").write_oci_layout(&layout)?;
    for blob in std::fs::read_dir(layout.join("blobs/sha256"))? {
        let path = blob?.path();
        let bytes = std::fs::read(&path)?;
        let forged = String::from_utf8_lossy(&bytes).contains("the layer says this");
        if forged {
            let text = bytes.windows(4).position(|window| window == b"this").unwrap_or_default();
            let mut bytes = bytes;
            bytes[text..text + 4].copy_from_slice(b"that");
            std::fs::write(&path, bytes)?;
        }
    }
    let error = daemon.import_file(&layout, None).expect_err("a layer does not have the digest it is named by");
    assert!(format!("{error:#}").contains("digest"), "{error:#}");
    assert_eq!(files(), before);
    Ok(())
}
