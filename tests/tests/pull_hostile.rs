//! PullImage from a registry that lies or attacks: each pull ends with an error that says so, nothing of it is left, and the next one works.

use anyhow::{Context, Result};
use podbox_tests::pulls::{PORT, Scene, SmallDisk, blob, impatient_daemon_with, is_layer, left, pull};
use podbox_tests::registry::{Answer, Compression, Format, digest_of};
use podbox_tests::{Content, Daemon, DaemonOptions, HostileRegistry, TestImage, assert_refused, wait};
use serde_json::json;
use tonic::Code;

#[tokio::test]
async fn lies_about_digests_are_found_out() -> Result<()> {
    for part in ["manifest", "config", "layer"] {
        let scene = Scene::new("", move |asked, content, pushed| {
            let mut answer = match part {
                "manifest" if asked.method == "GET" && asked.path.contains(&pushed.manifest) => {
                    Answer::ok(content.manifests[&pushed.manifest].1.clone())
                }
                "config" if asked.path.contains(&pushed.id) => Answer::ok(content.blobs[&pushed.id].clone()),
                "layer" if is_layer(asked, pushed, 1) => Answer::ok(blob(content, pushed, 1)),
                _ => return None,
            };
            let middle = answer.body.len() / 2;
            answer.body[middle] ^= 1;
            Some(answer)
        })
        .await?;
        let error = scene.pull().await.expect_err(part);
        // A layer may be found out by its checksum before its digest is due.
        assert!(error.message().starts_with("SignatureValidationFailed: ") || part == "layer", "{part}: {error:?}");
        scene.left_nothing().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_layer_that_is_another_one_is_refused() -> Result<()> {
    let scene = Scene::new("", |asked, content, pushed| {
        // As long as it should be: the other layer, filled up.
        let due = blob(content, pushed, 1).len();
        let mut bytes = blob(content, pushed, 0).to_vec();
        bytes.resize(due, 0);
        is_layer(asked, pushed, 1).then(|| Answer::ok(bytes))
    })
    .await?;
    scene.pull().await.expect_err("it is another layer");
    scene.left_nothing().await
}

#[tokio::test]
async fn lies_about_sizes_are_found_out() -> Result<()> {
    let longer = Scene::new("", |asked, content, pushed| {
        is_layer(asked, pushed, 1).then(|| Answer::ok([blob(content, pushed, 1), b"more"].concat()))
    })
    .await?;
    longer.refused("SignatureValidationFailed: ", &["size"]).await?;
    let shorter = Scene::new("", |asked, content, pushed| {
        let bytes = blob(content, pushed, 1);
        is_layer(asked, pushed, 1).then(|| Answer::ok(&bytes[..bytes.len() - 1]))
    })
    .await?;
    shorter.refused("SignatureValidationFailed: ", &["size"]).await
}

#[tokio::test]
async fn a_manifest_of_a_hundred_megabytes_is_not_read() -> Result<()> {
    let scene = Scene::new("", |asked, _, _| {
        let is_manifest = asked.path.contains("/manifests/");
        is_manifest.then(|| Answer { times: 100, ..Answer::ok(vec![b' '; 1_000_000]) })
    })
    .await?;
    scene.refused("pull ", &["more than"]).await
}

/// A registry's documents that no image is made of, each with a word of its error.
fn nonsense() -> Vec<(&'static str, Content, &'static str)> {
    let oci = |content: &mut Content, config: Vec<u8>, layers: Vec<Vec<u8>>| {
        content.push_parts("a", "latest", config, layers, Compression::Gzip, Format::Oci).expect("in memory");
    };
    let mut cases = Vec::new();
    let mut content = Content::default();
    oci(&mut content, b"no JSON at all".to_vec(), vec![]);
    cases.push(("a config that is no JSON", content, "parse"));
    let mut content = Content::default();
    let layers: Vec<Vec<u8>> = (0..1000_u32).map(|number| number.to_le_bytes().to_vec()).collect();
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest_of(layer)).collect();
    oci(&mut content, json!({"os": "linux", "rootfs": {"diff_ids": diff_ids}}).to_string().into_bytes(), layers);
    cases.push(("a thousand layers", content, "1000 layers"));
    let mut content = Content::default();
    oci(&mut content, json!({"os": "linux", "rootfs": {"diff_ids": []}}).to_string().into_bytes(), vec![vec![0; 1024]]);
    cases.push(("a layer that the config does not know", content, "layers in its manifest"));
    let mut content = Content::default();
    oci(&mut content, json!({"os": "linux", "rootfs": {"diff_ids": [digest_of(b"other")]}}).to_string().into_bytes(), vec![vec![0; 1024]]);
    cases.push(("a false diff ID", content, "diff ID"));
    let mut content = Content::default();
    let digest = content.manifest("a", "application/vnd.oci.image.manifest.v1+json", b"{\"schemaVersion\": 1, \"fsLayers\": []}".to_vec());
    content.tag("a", "latest", &digest);
    cases.push(("schema 1", content, "media type"));
    let mut content = Content::default();
    let digest = content.manifest("a", "application/vnd.oci.image.manifest.v1+json", b"[".to_vec());
    content.tag("a", "latest", &digest);
    cases.push(("half a manifest", content, "parse"));
    cases
}

#[tokio::test]
async fn documents_that_are_no_image_are_refused_and_the_next_pull_works() -> Result<()> {
    let daemon = impatient_daemon_with("").await?;
    let client = daemon.client();
    for (what, content, word) in nonsense() {
        let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
        let error = pull(&client, &format!("{}/a", registry.host())).await.expect_err(what);
        assert!(error.message().contains(word), "{what}: {error:?}");
        wait::until_true("nothing is left", || left(&daemon).is_empty()).await.with_context(|| what)?;
    }
    let mut content = Content::default();
    let pushed = content.push("a", "latest", &TestImage::default())?;
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
    assert_eq!(pull(&client, &format!("{}/a", registry.host())).await?, pushed.id);
    Ok(())
}

/// A layer with one file of ten gigabytes of zeros, ten megabytes on the wire.
fn bomb() -> Result<Vec<u8>> {
    use std::io::Write;
    const MEMBERS: u64 = 100;
    const MEMBER_BYTES: u64 = 100_000_000;
    let pack = |head: &[u8]| -> Result<Vec<u8>> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(head)?;
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), MEMBER_BYTES), &mut encoder)?;
        Ok(encoder.finish()?)
    };
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros")?;
    header.set_size(MEMBERS * MEMBER_BYTES);
    header.set_mode(0o644);
    header.set_cksum();
    let mut packed = pack(header.as_bytes())?;
    let member = pack(&[])?;
    for _ in 1..MEMBERS {
        packed.extend_from_slice(&member);
    }
    Ok(packed)
}

/// Seen to fail: with what was unpacked left where it is, the disk was full for the next image as well; with a gigabyte of a
/// file's content taken into memory before it is written, the daemon took as much.
#[tokio::test]
async fn a_bomb_of_ten_gigabytes_fills_a_small_disk_and_leaves_it_empty() -> Result<()> {
    let options = DaemonOptions { show_log: true, ..DaemonOptions::default() };
    let mut daemon = Daemon::prepare(&options)?;
    let _disk = SmallDisk::over(&daemon, "size=64m")?;
    daemon.start_again().await?;
    let client = daemon.client();
    let mut content = Content::default();
    let config = json!({"os": "linux", "rootfs": {"diff_ids": [digest_of(b"never reached")]}}).to_string().into_bytes();
    // It is packed already.
    content.push_parts("bomb", "latest", config, vec![bomb()?], Compression::None, Format::Oci)?;
    let pushed = content.push("a", "latest", &TestImage::default())?;
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
    assert_refused(pull(&client, &format!("{}/bomb", registry.host())).await, Code::ResourceExhausted, &["zeros", "No space left"]);
    wait::until_true("nothing is left", || left(&daemon).is_empty()).await?;
    let peak = podbox_tests::host::status_field(daemon.pid()?, "VmHWM")?;
    let kilobytes: u64 = peak.trim_end_matches("kB").trim().parse()?;
    assert!(kilobytes < 128 << 10, "the daemon took {peak} of memory");
    assert_eq!(pull(&client, &format!("{}/a", registry.host())).await?, pushed.id, "the disk has room again");
    Ok(())
}
