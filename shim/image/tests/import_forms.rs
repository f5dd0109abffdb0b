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
