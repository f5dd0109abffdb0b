//! Every form of archive that people have is imported to the same images, under the names it gives.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Compression, Files, Fixture, Image, Layer};
use podbox_image::{ImageStore, Progress, Reference};
use serde_json::json;

fn image() -> Image {
    Image::new(vec![Layer::new().dir("bin/").file("bin/sh", "#!").finish(), Layer::new().file("etc-release", "two").finish()])
}

fn content(fixture: &Fixture, image: &podbox_image::ImageRecord, path: &str) -> String {
    let snapshot = fixture.store.create_snapshot("probe", image).unwrap();
    fixture.store.remove_snapshot("probe").unwrap();
    let rootfs = podbox_image::RootFs::new(snapshot.lower_dirs);
    String::from_utf8(rootfs.read_regular(path.as_ref(), 1000).unwrap().unwrap()).unwrap()
}

#[test]
fn all_forms_and_compressions_give_the_same_image() {
    for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
        let image = image().compressed(compression);
        for form in ["oci archive", "oci directory", "docker archive", "both", "compressed archive"] {
            let fixture = Fixture::new();
            let path = fixture.directory.path().join("source");
            let oci = image.oci("example.com/team/app:1");
            let docker = image.docker(&["example.com/team/app:1"]);
            match form {
                "oci archive" => oci.write_tar(&path),
                "oci directory" => oci.write_directory(&path),
                "docker archive" => docker.write_tar(&path),
                "both" => {
                    let mut both = docker;
                    both.0.extend(oci.0);
                    both.write_tar(&path);
                }
                _ => std::fs::write(&path, common::compress(&docker.tar_bytes(), Compression::Gzip)).unwrap(),
            }
            let images = fixture.store.import(&path, None).unwrap_or_else(|error| panic!("{form}: {}", common::chain(&error)));
            assert_eq!(images.len(), 1, "{form}");
            assert_eq!(images[0].id, image.id(), "{form}");
            assert_eq!(images[0].repo_tags, ["example.com/team/app:1"], "{form}");
            assert_eq!(images[0].config.cmd, ["sh"]);
            assert_eq!(images[0].config.env, ["PATH=/bin"]);
            assert!(images[0].size_bytes > 0);
            assert_eq!(content(&fixture, &images[0], "/bin/sh"), "#!");
            assert_eq!(content(&fixture, &images[0], "/etc-release"), "two");
            assert_eq!(fixture.names("tmp"), Vec::<String>::new(), "{form}");
        }
    }
}

#[test]
fn an_archive_may_come_through_a_pipe() {
    let fixture = Fixture::new();
    let pipe = fixture.directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let bytes = common::compress(&image().docker(&["app"]).tar_bytes(), Compression::Zstd);
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, bytes).unwrap()
    });
    let images = fixture.store.import(&pipe, None).unwrap();
    writer.join().unwrap();
    assert_eq!(images[0].repo_tags, ["docker.io/library/app:latest"]);
}

#[test]
fn old_docker_archives_may_link_layers_to_each_other() {
    let fixture = Fixture::new();
    let layer = Layer::new().file("a", "a").finish();
    let image = Image::new(vec![layer.clone(), layer]).compressed(Compression::Plain);
    let mut files = image.docker(&["app:1"]);
    files.0.remove("layer1/layer.tar").unwrap();
    let mut bytes = files.tar_bytes();
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(Layer::new().symlink("layer1/layer.tar", "../layer0/layer.tar").finish());
    let path = fixture.directory.path().join("archive.tar");
    std::fs::write(&path, bytes).unwrap();
    let images = fixture.store.import(&path, None).unwrap();
    // Twice the same layer is one lower directory: overlayfs takes no directory twice.
    assert_eq!(fixture.store.create_snapshot("c", &images[0]).unwrap().lower_dirs.len(), 1);
}

#[test]
fn a_name_given_replaces_those_of_the_archive() {
    let fixture = Fixture::new();
    let name = Reference::parse("localhost:5000/mine", "docker.io").unwrap();
    let image = image();
    let archive = fixture.archive(&image.oci("theirs"));
    let images = fixture.store.import(&archive, Some(&name)).unwrap();
    assert_eq!(images[0].repo_tags, ["localhost:5000/mine:latest"]);
    assert_eq!(images[0].repo_digests, [format!("localhost:5000/mine@{}", image.manifest_digest())]);
    assert!(fixture.store.find("theirs").unwrap().is_none());

    let pinned = Reference::parse(&format!("pinned@{}", image.manifest_digest()), "docker.io").unwrap();
    let images = fixture.store.import(&archive, Some(&pinned)).unwrap();
    assert_eq!(images[0].repo_digests.len(), 2);
    let wrong = Reference::parse(&format!("pinned@{}", image.id()), "docker.io").unwrap();
    assert!(matches!(fixture.store.import(&archive, Some(&wrong)), Err(podbox_image::Error::NameDigest { .. })));
}

#[test]
fn names_come_from_annotations_or_repo_tags() {
    let fixture = Fixture::new();
    let image = image();
    let import = |annotations: serde_json::Value, more: Option<Files>| {
        let mut files = Files::default();
        let mut descriptor = image.add_blobs(&mut files);
        descriptor["annotations"] = annotations;
        files.index(vec![descriptor]);
        files.0.extend(more.into_iter().flat_map(|more| more.0));
        fixture.store.remove(image.id().as_str()).unwrap();
        fixture.store.import(&fixture.archive(&files), None).unwrap().remove(0).repo_tags.clone()
    };
    assert_eq!(
        import(json!({"io.containerd.image.name": "a:1", "org.opencontainers.image.ref.name": "b:2"}), None),
        ["docker.io/library/a:1"]
    );
    assert_eq!(import(json!({"org.opencontainers.image.ref.name": "b:2"}), None), ["docker.io/library/b:2"]);
    assert_eq!(import(json!({"org.opencontainers.image.ref.name": "latest"}), None), Vec::<String>::new());
    assert_eq!(import(json!({}), Some(image.docker(&["c:3"]))), ["docker.io/library/c:3"]);
}

#[test]
fn an_index_stands_for_the_image_of_this_machine() {
    let fixture = Fixture::new();
    let ours = image();
    let theirs = Image::new(vec![Layer::new().file("other", "").finish()]);
    let mut files = Files::default();
    let mut descriptors = vec![theirs.add_blobs(&mut files), ours.add_blobs(&mut files)];
    descriptors[0]["platform"] = json!({"os": "linux", "architecture": "riscv64"});
    descriptors[1]["platform"] = json!({"os": "linux", "architecture": common::ARCHITECTURE});
    let nested = json!({"schemaVersion": 2, "manifests": descriptors});
    let (digest, size) = files.blob(serde_json::to_vec(&nested).unwrap());
    files.index(vec![json!({
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": size,
        "annotations": {"io.containerd.image.name": "app:1"},
    })]);
    let images = fixture.store.import(&fixture.archive(&files), None).unwrap();
    assert_eq!(images.iter().map(|image| image.id.clone()).collect::<Vec<_>>(), [ours.id()]);
    // Both the index's digest and the manifest's find it.
    assert_eq!(images[0].repo_digests, [format!("docker.io/library/app@{digest}")]);
    for digest in [digest, ours.manifest_digest().to_string()] {
        assert_eq!(fixture.store.find(&format!("app@{digest}")).unwrap().unwrap().id, ours.id());
        assert_eq!(fixture.store.find(&format!("app:other@{digest}")).unwrap().unwrap().id, ours.id());
    }

    files.index(vec![descriptors[0].clone()]);
    assert!(matches!(
        fixture.store.import(&fixture.archive(&files), None),
        Err(podbox_image::Error::NoPlatform { architecture: common::ARCHITECTURE, .. })
    ));
}

/// An image that is told from others by its user.
fn of(user: &str) -> Image {
    Image::new(Vec::new()).with("User", user.into())
}

/// Which of the images of an index is taken, each with its platform.
fn chosen(fixture: &Fixture, images: &[(&str, Option<serde_json::Value>)]) -> Result<String, podbox_image::Error> {
    let mut files = Files::default();
    let mut manifests = Vec::new();
    for (user, platform) in images {
        let mut descriptor = of(user).add_blobs(&mut files);
        if let Some(platform) = platform {
            descriptor["platform"] = platform.clone();
        }
        manifests.push(descriptor);
    }
    let (digest, size) = files.blob(serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": manifests})).unwrap());
    files.index(vec![json!({"digest": digest, "size": size})]);
    let images = fixture.store.import(&fixture.archive(&files), None)?;
    assert_eq!(images.len(), 1);
    Ok(images[0].config.user.clone())
}

#[test]
fn of_several_manifests_the_one_that_fits_best_is_taken() {
    let fixture = Fixture::new();
    let ours = |variant: &str| Some(json!({"os": "linux", "architecture": common::ARCHITECTURE, "variant": variant}));
    let plain = || Some(json!({"os": "linux", "architecture": common::ARCHITECTURE}));
    let base = if common::ARCHITECTURE == "arm64" { "v8" } else { "v1" };
    let attestation = || Some(json!({"os": "unknown", "architecture": "unknown"}));
    let long_name = if common::ARCHITECTURE == "arm64" { "aarch64" } else { "x86_64" };
    let alias = || Some(json!({"os": "linux", "architecture": long_name}));
    type Listed<'a> = (&'a str, Option<serde_json::Value>);
    let cases: Vec<(&str, Vec<Listed<'_>>)> = vec![
        ("plain", vec![("later", ours("v4")), ("two", ours("v2")), ("plain", plain()), ("base", ours(base))]),
        ("base", vec![("impossible", ours("v99")), ("base", ours(base)), ("plain", plain())]),
        (
            "ours",
            vec![
                ("unsaid", None),
                ("empty", Some(json!({}))),
                ("other", Some(json!({"os": "linux", "architecture": "s390x"}))),
                ("ours", plain()),
            ],
        ),
        (
            "unsaid",
            vec![("attestation", attestation()), ("unsaid", None), ("other", Some(json!({"os": "windows", "architecture": "amd64"})))],
        ),
        ("alias", vec![("attestation", attestation()), ("alias", alias())]),
    ];
    for (expected, images) in cases {
        assert_eq!(chosen(&fixture, &images).unwrap_or_else(|error| panic!("{expected}: {}", common::chain(&error))), expected);
    }
    for images in [vec![("attestation", attestation())], vec![("impossible", ours("v99"))]] {
        assert!(matches!(chosen(&fixture, &images), Err(podbox_image::Error::NoPlatform { .. })));
    }
}

#[test]
fn a_layout_that_lists_an_image_for_each_platform_itself_gives_the_best_its_name() {
    let fixture = Fixture::new();
    let mut files = Files::default();
    let platforms = ["v2", "", "v3"].map(|variant| json!({"os": "linux", "architecture": common::ARCHITECTURE, "variant": variant}));
    let mut descriptors = Vec::new();
    for (user, platform) in ["two", "plain", "three"].into_iter().zip(platforms) {
        let mut descriptor = of(user).add_blobs(&mut files);
        descriptor["platform"] = platform;
        descriptor["annotations"] = json!({"io.containerd.image.name": "app:1"});
        descriptors.push(descriptor);
    }
    let mut other = of("other").add_blobs(&mut files);
    other["annotations"] = json!({"io.containerd.image.name": "other:1"});
    descriptors.push(other);
    files.index(descriptors);
    let images = fixture.store.import(&fixture.archive(&files), None).unwrap();
    assert_eq!(images.iter().map(|image| image.config.user.as_str()).collect::<Vec<_>>(), ["plain", "other"]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_level_that_this_processor_lacks_is_never_taken() {
    let fixture = Fixture::new();
    let level = |variant: &str| Some(json!({"os": "linux", "architecture": "amd64", "variant": variant}));
    let has_v3 = ["avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"].iter().all(|flag| {
        std::fs::read_to_string("/proc/cpuinfo")
            .unwrap()
            .lines()
            .any(|line| line.starts_with("flags") && line.contains(&format!(" {flag}")))
    });
    let taken = chosen(&fixture, &[("v3", level("v3"))]);
    assert_eq!(taken.is_ok(), has_v3, "{taken:?}");
}

#[test]
fn an_image_for_another_machine_is_refused_and_one_that_does_not_say_is_taken() {
    let fixture = Fixture::new();
    for (os, architecture, is_taken) in [
        ("linux", common::ARCHITECTURE, true),
        ("", "", true),
        ("linux", "", true),
        ("linux", "s390x", false),
        ("windows", common::ARCHITECTURE, false),
    ] {
        let mut image = of("x");
        image.config["os"] = json!(os);
        image.config["architecture"] = json!(architecture);
        for files in [image.oci("app"), image.docker(&["app"])] {
            let result = fixture.store.import(&fixture.archive(&files), None);
            assert_eq!(result.is_ok(), is_taken, "{os}/{architecture}");
            if let Err(error) = result {
                let text = common::chain(&error);
                assert!(text.contains(&format!("is for {os}/{architecture}")), "{text}");
                assert!(text.contains(&format!("this machine is linux/{}", common::ARCHITECTURE)), "{text}");
            }
        }
    }
}

#[test]
fn importing_twice_changes_nothing_and_unpacks_nothing() {
    let fixture = Fixture::new();
    let first = fixture.import(&image(), "app:1");
    let layers = fixture.names("layers");
    let mut unpacked = 0;
    let again = fixture
        .store
        .import_observed(&fixture.archive(&image().oci("app:1")), None, &mut |progress| {
            unpacked += usize::from(matches!(progress, Progress::LayerUnpacked { .. }));
        })
        .unwrap();
    assert_eq!(unpacked, 0);
    assert_eq!((&again[0].repo_tags, &again[0].repo_digests), (&first.repo_tags, &first.repo_digests));
    assert_eq!(fixture.names("layers"), layers);
    assert_eq!(fixture.store.list().unwrap().len(), 1);
}

#[test]
fn an_image_without_layers_has_a_lower_directory() {
    let fixture = Fixture::new();
    let image = fixture.import(&Image::new(Vec::new()), "scratch-like");
    assert!(image.size_bytes > 0);
    let snapshot = fixture.store.create_snapshot("c", &image).unwrap();
    assert_eq!(snapshot.lower_dirs, [fixture.root().join("empty")]);
}

#[test]
fn the_default_registry_is_a_choice() {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let options = podbox_image::StoreOptions { default_registry: "registry.test".to_owned(), ..Default::default() };
    let store = ImageStore::open_with(&directory.path().join("store"), options).unwrap();
    let path = directory.path().join("archive.tar");
    image().docker(&["app"]).write_tar(&path);
    assert_eq!(store.import(&path, None).unwrap()[0].repo_tags, ["registry.test/app:latest"]);
    assert!(store.find("app").unwrap().is_some());
    assert!(store.find("docker.io/library/app").unwrap().is_none());
}
