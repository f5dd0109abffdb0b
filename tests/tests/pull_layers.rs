//! Pulled layers that reach for the host: whatever they try, nothing outside their own folder changes, and the next pull works.

use anyhow::{Context, Result};
use podbox_tests::pulls::{PORT, daemon_with, left, pull, remove};
use podbox_tests::registry::{Compression, Format, digest_of};
use podbox_tests::{ContainerSpec, Content, HostileRegistry, PodSpec, TestImage, wait};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tar::{EntryType, Header};

/// One entry: kind, name, where it leads, content. Names are written as they are, which no builder of archives would do.
type Entry<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, target, content) in entries {
        let mut header = Header::new_ustar();
        let raw = header.as_mut_bytes();
        raw[..name.len()].copy_from_slice(name.as_bytes());
        raw[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o4777);
        header.set_size(content.len() as u64);
        header.set_mtime(1);
        header.set_uid(0);
        header.set_gid(0);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            // 1:1 is memory, 0:0 what overlayfs takes for a whiteout.
            let number = u32::from(*name != "whiteout");
            header.set_device_major(number).expect("a ustar header");
            header.set_device_minor(number).expect("a ustar header");
        }
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// What a file is and holds.
fn picture(path: &Path) -> Result<(String, u32, u64, u64)> {
    let (bytes, metadata) = (std::fs::read(path)?, path.symlink_metadata()?);
    Ok((digest_of(&bytes), metadata.mode(), metadata.nlink(), metadata.ino()))
}

/// Layers that try to write to the file at `canary`, and whether they are images all the same: their names mean what they mean within
/// the layer, where a link to the host leads nowhere.
fn layers(canary: &str) -> Vec<(&'static str, Vec<Vec<u8>>, bool)> {
    use EntryType as T;
    let up = format!("../../../../../../../../../../..{canary}");
    let parent = canary.rsplit_once('/').map_or("/", |(parent, _)| parent);
    let file = canary.rsplit('/').next().unwrap_or_default();
    let through = |link: &str| format!("{link}/{file}");
    let x: &[u8] = b"overwritten";
    let one = |entries: &[Entry<'_>]| vec![archive(entries)];
    vec![
        ("dots", one(&[(T::Regular, &up, "", x)]), false),
        ("dots in the middle", one(&[(T::Regular, &format!("a/../../..{canary}"), "", x)]), false),
        ("absolute", one(&[(T::Regular, canary, "", x)]), true),
        ("a link and through it", one(&[(T::Symlink, "out", parent, b""), (T::Regular, &through("out"), "", x)]), false),
        (
            "a link with dots",
            one(&[(T::Symlink, "out", &format!("../../../../../../..{parent}"), b""), (T::Regular, &through("out"), "", x)]),
            false,
        ),
        ("a link at the name itself", one(&[(T::Symlink, "it", canary, b""), (T::Regular, "it", "", x)]), true),
        ("a link at etc", one(&[(T::Symlink, "etc", parent, b""), (T::Regular, &through("etc"), "", x)]), false),
        ("a hard link to the host", one(&[(T::Link, "it", canary, b""), (T::Regular, "it", "", x)]), false),
        ("a hard link with dots", one(&[(T::Link, "it", &up, b"")]), false),
        ("a hard link through a link", one(&[(T::Symlink, "out", parent, b""), (T::Link, "it", &through("out"), b"")]), false),
        ("a whiteout through a link", one(&[(T::Symlink, "out", parent, b""), (T::Regular, &format!("out/.wh.{file}"), "", b"")]), false),
        ("a whiteout of dots", one(&[(T::Regular, "a/.wh...", "", b"")]), false),
        ("an opaque mark through a link", one(&[(T::Symlink, "out", parent, b""), (T::Regular, "out/.wh..wh..opq", "", b"")]), false),
        (
            "a link in the layer below",
            vec![archive(&[(T::Symlink, "out", parent, b"")]), archive(&[(T::Regular, &through("out"), "", x)])],
            true,
        ),
        ("twice the same", one(&[(T::Regular, "it", "", b"first"), (T::Directory, "it", "", b""), (T::Regular, "it", "", x)]), true),
        ("devices", one(&[(T::Char, "mem", "", b""), (T::Block, "disk", "", b""), (T::Fifo, "fifo", "", b"")]), true),
        ("a whiteout by hand", one(&[(T::Char, "whiteout", "", b"")]), false),
    ]
}

#[tokio::test]
async fn no_layer_reaches_a_file_of_the_host() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let outside = tempfile::tempdir()?;
    let canary = outside.path().join("canary");
    std::fs::write(&canary, "sings")?;
    let before = picture(&canary)?;
    let cases = layers(&canary.to_string_lossy());
    let mut content = Content::default();
    for (number, (_, layers, _)) in cases.iter().enumerate() {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest_of(layer)).collect();
        let config = json!({"os": "linux", "config": {"Labels": {"n": number.to_string()}}, "rootfs": {"diff_ids": diff_ids}});
        let tag = format!("v{number}");
        content.push_parts("hostile", &tag, config.to_string().into_bytes(), layers.clone(), Compression::Gzip, Format::Oci)?;
    }
    let good = content.push("good", "latest", &TestImage::named("good"))?;
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
    for (number, (what, _, is_image)) in cases.iter().enumerate() {
        let name = format!("{}/hostile:v{number}", registry.host());
        let outcome = pull(&client, &name).await;
        assert_eq!(picture(&canary)?, before, "{what}");
        assert_eq!(std::fs::read_dir(outside.path())?.count(), 1, "{what}: something else is beside the canary");
        assert_eq!(outcome.is_ok(), *is_image, "{what}: {outcome:?}");
        if let Ok(id) = outcome {
            remove(&client, &id).await?;
        }
        let count = |folder: &str| std::fs::read_dir(daemon.root_dir().join(folder)).map_or(0, Iterator::count);
        wait::until_true("nothing is left", || count("layers") + count("tmp") + count("images") == 0).await.context(*what)?;
        assert_eq!(picture(&canary)?, before, "{what}, after its removal");
    }
    assert_eq!(pull(&client, &format!("{}/good", registry.host())).await?, good.id);
    let pod = daemon.run_pod(&PodSpec::new("good")).await?;
    let spec = ContainerSpec::command("a", &["/bin/echo", "runs"]).image(&format!("{}/good", registry.host()));
    assert_eq!(pod.output_of(&spec).await?, "runs");
    Ok(())
}

/// Packed in two pieces, one after the other.
fn in_two_pieces(bytes: &[u8], pack: impl Fn(&[u8]) -> std::io::Result<Vec<u8>>) -> Result<Vec<u8>> {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    Ok([pack(first)?, pack(second)?].concat())
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn zstd_frame(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    zstd::encode_all(bytes, 1)
}

#[tokio::test]
async fn layers_packed_in_pieces_are_whole_and_garbage_after_them_is_refused() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let (config, layers) = TestImage::named("pieces").file("form", 0o644, &[b'x'; 10_000]).config_and_layers()?;
    // What a decoder passes over: magic number, length, content (RFC 8878, section 3.1.2).
    let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"skip"].concat();
    type Pack<'a> = &'a dyn Fn(&[u8]) -> Result<Vec<u8>>;
    let cases: [(&str, Pack<'_>, bool); 8] = [
        ("gzip-members", &|bytes| in_two_pieces(bytes, gzip), true),
        ("zstd-frames", &|bytes| in_two_pieces(bytes, zstd_frame), true),
        ("zstd-skippable", &|bytes| Ok([zstd_frame(bytes)?, skippable.clone()].concat()), true),
        ("gzip-empty-member", &|bytes| Ok([gzip(bytes)?, gzip(&[])?].concat()), true),
        ("gzip-garbage", &|bytes| Ok([gzip(bytes)?, b"garbage and more of it".to_vec()].concat()), false),
        ("zstd-garbage", &|bytes| Ok([zstd_frame(bytes)?, b"garbage and more of it".to_vec()].concat()), false),
        ("gzip-half-member", &|bytes| Ok([gzip(bytes)?, gzip(bytes)?[..30].to_vec()].concat()), false),
        ("zstd-half-frame", &|bytes| Ok([zstd_frame(bytes)?, zstd_frame(bytes)?[..30].to_vec()].concat()), false),
    ];
    let mut content = Content::default();
    let mut ids = Vec::new();
    for (tag, pack, _) in &cases {
        let packed: Vec<Vec<u8>> = layers.iter().map(|layer| pack(layer)).collect::<Result<_>>()?;
        // They are packed already.
        ids.push(content.push_parts("pieces", tag, config.clone(), packed, Compression::None, Format::Oci)?.id);
    }
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
    for ((tag, _, is_image), id) in cases.iter().zip(ids) {
        let outcome = pull(&client, &format!("{}/pieces:{tag}", registry.host())).await;
        match outcome {
            Ok(pulled) => {
                assert!(*is_image && pulled == id, "{tag}");
                remove(&client, &pulled).await?;
            }
            Err(error) => assert!(!is_image && error.message().contains("read blobs/sha256/"), "{tag}: {error:?}"),
        }
        wait::until_true("nothing is left", || left(&daemon).is_empty()).await.context(*tag)?;
    }
    Ok(())
}
