//! What is not exactly what it claims is refused with the object's name, and leaves nothing behind.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Compression, Files, Fixture, Image, Layer, chain};
use podbox_image::{Digest, Error, ImageStore, Limits, StoreOptions};
use serde_json::json;

fn image() -> Image {
    Image::new(vec![Layer::new().file("a", "first").finish(), Layer::new().file("b", "second").finish()])
}

/// Imports, expects an error, and expects the store to be as new.
fn refused(files: &Files) -> Error {
    let fixture = Fixture::new();
    let error = fixture.store.import(&fixture.archive(files), None).unwrap_err();
    fixture.assert_empty();
    error
}

fn replace_blob(files: &mut Files, old: &Digest, bytes: Vec<u8>) {
    assert!(files.0.insert(format!("blobs/sha256/{}", old.hex()), bytes).is_some());
}

#[test]
fn a_layer_blob_that_is_not_its_digest() {
    let image = image();
    let mut files = image.oci("app");
    let honest = common::compress(&image.layers[1], Compression::Gzip);
    let mut other = common::compress(&Layer::new().file("b", "SECOND").finish(), Compression::Gzip);
    other.resize(honest.len(), 0);
    let digest = Digest::of(&honest);
    replace_blob(&mut files, &digest, other);
    let text = chain(&refused(&files));
    assert!(text.contains(digest.hex()), "{text}");
}

#[test]
fn a_layer_of_another_size() {
    let image = image();
    let mut files = image.oci("app");
    let honest = common::compress(&image.layers[0], Compression::Gzip);
    replace_blob(&mut files, &Digest::of(&honest), [honest, vec![0]].concat());
    assert!(matches!(refused(&files), Error::SizeMismatch { .. }));
}

#[test]
fn a_layer_with_an_honest_blob_digest_and_a_false_diff_id() {
    let mut image = image();
    image.config["rootfs"]["diff_ids"][1] = json!(Digest::of(b"something else").to_string());
    for files in [image.oci("app"), image.docker(&["app"])] {
        match refused(&files) {
            Error::DiffIdMismatch { expected, actual, .. } => {
                assert_eq!(expected, Digest::of(b"something else"));
                assert_eq!(actual, Digest::of(&image.layers[1]));
            }
            error => panic!("{error:?}"),
        }
    }
}

#[test]
fn documents_that_are_not_their_digests() {
    let image = image();
    for digest in [image.id(), image.manifest_digest()] {
        let mut files = image.oci("app");
        let name = format!("blobs/sha256/{}", digest.hex());
        let byte = files.0.get_mut(&name).unwrap().iter_mut().find(|byte| **byte == b'2' || **byte == b'h').unwrap();
        *byte ^= 1;
        match refused(&files) {
            Error::DigestMismatch { object, expected, .. } => assert_eq!((object, expected), (name, digest)),
            error => panic!("{error:?}"),
        }
    }
    let mut files = image.docker(&["app"]);
    files.0.get_mut(&format!("{}.json", image.id().hex())).unwrap().push(b' ');
    assert!(matches!(refused(&files), Error::DigestMismatch { .. }));
}

#[test]
fn truncated_at_any_point() {
    let bytes = image().oci("app").tar_bytes();
    // The last 1024 bytes are the end mark, without which an archive is still whole.
    for keep in (1..bytes.len() - 1024).step_by(293).chain([0, 511, 512, 513]) {
        let fixture = Fixture::new();
        let path = fixture.directory.path().join("cut.tar");
        std::fs::write(&path, &bytes[..keep]).unwrap();
        let error = fixture.store.import(&path, None).expect_err("a part of an archive");
        assert!(!chain(&error).is_empty());
        fixture.assert_empty();
    }
}

#[test]
fn damaged_bytes_never_panic_and_never_leave_anything() {
    let bytes = image().compressed(Compression::Plain).docker(&["app"]).tar_bytes();
    let fixture = Fixture::new();
    let path = fixture.directory.path().join("damaged.tar");
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..300 {
        let mut damaged = bytes.clone();
        for _ in 0..4 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (state >> 33) as usize % damaged.len();
            damaged[at] = (state >> 8) as u8;
        }
        std::fs::write(&path, damaged).unwrap();
        if let Ok(images) = fixture.store.import(&path, None) {
            for image in images {
                fixture.store.remove(image.id.as_str()).unwrap();
            }
        }
        fixture.assert_empty();
    }
}

#[test]
fn missing_and_malformed_objects_are_named() {
    let image = image();
    for (name, _) in image.oci("app").0.iter().filter(|(name, _)| name.starts_with("blobs/")) {
        let mut files = image.oci("app");
        files.0.remove(name);
        match refused(&files) {
            Error::MissingObject { object } => assert_eq!(&object, name),
            error => panic!("{error:?}"),
        }
    }
    let mut files = image.oci("app");
    files.add("index.json", b"{\"manifests\": [".to_vec());
    assert!(matches!(refused(&files), Error::Json { object, .. } if object == "index.json"));
    let mut files = image.docker(&["app"]);
    files.add("manifest.json", b"nonsense".to_vec());
    assert!(matches!(refused(&files), Error::Json { object, .. } if object == "manifest.json"));
    let mut files = Files::default();
    files.add("readme", b"hello".to_vec());
    assert!(matches!(refused(&files), Error::UnknownFormat { .. }));
    assert!(matches!(refused(&image.docker(&["lower/UPPER"])), Error::Reference(_)));
}

#[test]
fn a_document_that_is_index_and_manifest_at_once() {
    let image = image();
    let mut files = Files::default();
    let descriptor = image.add_blobs(&mut files);
    let both = json!({"schemaVersion": 2, "manifests": [descriptor], "layers": [], "config": descriptor});
    let (digest, size) = files.blob(serde_json::to_vec(&both).unwrap());
    files.index(vec![json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": size})]);
    assert!(matches!(refused(&files), Error::AmbiguousDocument { .. }));
}

#[test]
fn artifacts_and_unknown_layers_are_not_images() {
    let image = image();
    for (part, media_type) in [("config", "application/vnd.oci.empty.v1+json"), ("layers", "application/x.tar+encrypted")] {
        let mut files = Files::default();
        let descriptor = image.add_blobs(&mut files);
        let name = descriptor["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
        let mut manifest: serde_json::Value = serde_json::from_slice(&files.0[&name]).unwrap();
        match part {
            "config" => manifest["config"]["mediaType"] = json!(media_type),
            _ => manifest["layers"][0]["mediaType"] = json!(media_type),
        }
        let (digest, size) = files.blob(serde_json::to_vec(&manifest).unwrap());
        files.index(vec![json!({"digest": digest, "size": size})]);
        assert!(matches!(refused(&files), Error::MediaType { media_type: refused, .. } if refused == media_type));
    }
}

#[test]
fn everything_is_bounded() {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let path = directory.path().join("archive.tar");
    let import = |image: &Image, limits: Limits| {
        let store = ImageStore::open_with(&directory.path().join("store"), StoreOptions { limits, ..StoreOptions::default() }).unwrap();
        image.oci("app").write_tar(&path);
        let error = store.import(&path, None).unwrap_err();
        assert!(store.list().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(directory.path().join("store/layers")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(directory.path().join("store/tmp")).unwrap().count(), 0);
        chain(&error)
    };
    let limits = Limits::default();
    let text = import(&image(), Limits { document_bytes: 100, ..limits });
    assert!(text.contains("exceeds the limit of 100"), "{text}");
    let text = import(&image(), Limits { layers: 1, ..limits });
    assert!(text.contains("has 2 layers, more than 1"), "{text}");
    let many = Image::new(vec![Layer::new().file("a", "").file("b", "").finish()]);
    let text = import(&many, Limits { layer_entries: 1, ..limits });
    assert!(text.contains("more than 1 entries"), "{text}");
    let bomb = Image::new(vec![Layer::new().file("zeros", &"\0".repeat(1 << 20)).finish()]);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let bomb = Image::new(bomb.layers.clone()).compressed(compression);
        let text = import(&bomb, Limits { layer_bytes: 1 << 19, ..limits });
        assert!(text.contains("larger than 524288") || text.contains("more than 524288"), "{text}");
    }
    // A gigabyte of nothing after the end of the archive is counted too.
    let tail = Image::new(vec![[Layer::new().file("a", "").finish(), vec![0; 1 << 20]].concat()]);
    let text = import(&tail, Limits { layer_bytes: 1 << 19, ..limits });
    assert!(text.contains("more than 524288 bytes"), "{text}");
    let text = import(&image(), Limits { archive_members: 3, ..limits });
    assert!(text.contains("more than 3 members"), "{text}");
}

/// An image whose configuration has `text` in the place of a list of environment variables.
fn with_env(text: &str) -> Files {
    let bytes = String::from_utf8(Image::new(Vec::new()).config_bytes()).unwrap().replace(r#"["PATH=/bin"]"#, text).into_bytes();
    let mut files = Files::default();
    let id = Digest::of(&bytes).hex().to_owned();
    files.add(&id, bytes);
    files.add("manifest.json", serde_json::to_vec(&json!([{"Config": id, "RepoTags": null, "Layers": null}])).unwrap());
    files
}

#[test]
fn lists_are_bounded_before_they_are_memory() {
    let million = |entry: &str| format!("[{}{entry}]", format!("{entry},").repeat(1_000_000));
    let text = chain(&refused(&with_env(&million("\"\""))));
    assert!(text.contains("more than 4096 entries"), "{text}");
    let text = chain(&refused(&with_env(&format!("[\"{}\"]", "x".repeat(3 << 20)))));
    assert!(text.contains("more than 2097152 bytes of text"), "{text}");
    for key in ["Entrypoint", "Cmd"] {
        let image = Image::new(Vec::new()).with(key, json!(vec![""; 5000]));
        let text = chain(&refused(&image.oci("app")));
        assert!(text.contains("more than 4096 entries"), "{key}: {text}");
    }
    for key in ["Labels", "Volumes"] {
        let map: serde_json::Map<_, _> =
            (0..5000).map(|number| (number.to_string(), if key == "Labels" { json!("") } else { json!({}) })).collect();
        let text = chain(&refused(&Image::new(Vec::new()).with(key, map.into()).oci("app")));
        assert!(text.contains("more than 4096 entries"), "{key}: {text}");
    }
    let mut image = Image::new(Vec::new());
    image.config["rootfs"]["diff_ids"] = json!(vec![image.id().to_string(); 5000]);
    let text = chain(&refused(&image.oci("app")));
    assert!(text.contains("more than 4096 entries"), "{text}");
    let mut files = image.oci("app");
    let descriptor = json!({"digest": image.id().to_string(), "size": 1});
    files.index(vec![descriptor; 5000]);
    let text = chain(&refused(&files));
    assert!(text.contains("more than 4096 entries"), "{text}");
    let mut files = image.docker(&[]);
    files.add("manifest.json", format!(r#"[{{"Config":"c","RepoTags":{}}}]"#, million("\"\"")).into_bytes());
    let text = chain(&refused(&files));
    assert!(text.contains("more than 4096 entries"), "{text}");
}

#[test]
fn errors_repeat_little_of_what_an_image_says_and_no_control_characters() {
    let long = format!("\u{1b}[2Jstart{}end", "x".repeat(1 << 20));
    let check = |what: &str, error: &Error| {
        let text = chain(error);
        assert!(text.len() < 1000, "{what}: {} bytes", text.len());
        assert!(!text.contains(char::is_control), "{what}: {text:?}");
        assert!(text.contains("start"), "{what}: {text}");
        text
    };
    let image = image();
    let mut files = Files::default();
    let mut descriptor = image.add_blobs(&mut files);
    let with_index = |descriptor: serde_json::Value| {
        let mut files = files.clone();
        files.index(vec![descriptor]);
        files
    };
    let honest = descriptor.clone();
    descriptor["mediaType"] = json!(long);
    check("a media type", &refused(&with_index(descriptor)));
    let mut descriptor = honest.clone();
    descriptor["digest"] = json!(long);
    let text = check("a digest", &refused(&with_index(descriptor)));
    assert!(text.contains("is not a sha256 digest at line 1 column"), "{text}");
    let mut descriptor = honest;
    descriptor["size"] = json!(long);
    let text = check("a size", &refused(&with_index(descriptor)));
    assert!(text.contains("at line 1 column"), "{text}");
    let mut files = image.oci("app");
    files.add("oci-layout", serde_json::to_vec(&json!({"imageLayoutVersion": long})).unwrap());
    check("a layout version", &refused(&files));
    let mut files = image.docker(&[]);
    for item in [json!({"Config": long}), json!({"Config": format!("{}.json", image.id().hex()), "Layers": [long]})] {
        files.add("manifest.json", serde_json::to_vec(&json!([item])).unwrap());
        check("an object's name", &refused(&files));
    }
    check("a configuration", &refused(&with_env(&serde_json::to_string(&long).unwrap())));
    let mut other = Image::new(Vec::new());
    other.config["architecture"] = json!(&long[..4000]);
    check("an architecture", &refused(&other.oci("app")));
    // Names in layers, which need not be UTF-8.
    let name = [b"start\n\xff".as_slice(), &[b'n'; 1 << 19]].concat();
    let layer = |records: &[(&str, &[u8])]| Image::new(vec![Layer::new().pax(records).hard_link("h", "t").finish()]).oci("app");
    for key in ["path", "linkpath"] {
        let text = check(key, &refused(&layer(&[(key, &name)])));
        assert!(text.contains(r"start\n\xffnnn"), "{text}");
    }
}

#[test]
fn a_header_that_claims_gigabytes_costs_no_memory() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(40 << 30);
    header.set_cksum();
    let image = Image::new(vec![Layer::new().raw(header.as_bytes()).finish()]);
    let text = chain(&refused(&image.oci("app")));
    assert!(text.contains("too long"), "{text}");
}
