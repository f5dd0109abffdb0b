//! Names, removal, shared layers, snapshots: what is used stays, what is not used goes, whatever happens in between.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use common::{Fixture, Image, Layer, Meta};
use podbox_image::{Digest, Error, ImageStore, Usage};
use tar::EntryType;

fn base() -> Vec<u8> {
    Layer::new().dir("etc/").file("etc/base", "base").finish()
}

fn on_base(content: &str) -> Image {
    Image::new(vec![base(), Layer::new().file("app", content).finish()])
}

#[test]
fn images_are_found_by_every_name_they_have() {
    let fixture = Fixture::new();
    let image = on_base("one");
    let id = fixture.import(&image, "team/app:v1").id.clone();
    let manifest = image.manifest_digest();
    for reference in [
        "team/app:v1".to_owned(),
        "docker.io/team/app:v1".to_owned(),
        "index.docker.io/team/app:v1".to_owned(),
        format!("team/app@{manifest}"),
        format!("team/app:whatever@{manifest}"),
        id.to_string(),
        id.hex().to_owned(),
        id.hex()[..12].to_owned(),
        format!("sha256:{}", &id.hex()[..4]),
    ] {
        assert_eq!(fixture.store.find(&reference).unwrap().map(|image| image.id.clone()), Some(id.clone()), "{reference}");
    }
    for reference in ["team/app", "app:v1", &id.hex()[..3], &format!("other@{manifest}"), "abcdef"] {
        assert!(fixture.store.find(reference).unwrap().is_none(), "{reference}");
    }
    assert!(matches!(fixture.store.find("Not A Name"), Err(Error::Reference(_))));
    assert_eq!(fixture.store.config_json(&id).unwrap().unwrap().as_bytes(), image.config_bytes());
}

#[test]
fn an_ambiguous_prefix_is_an_error() {
    let fixture = Fixture::new();
    // Two images whose IDs start alike, found by trying.
    let mut seen = std::collections::HashMap::new();
    let (first, second) = (0..)
        .find_map(|number: u32| {
            let image = || Image::new(Vec::new()).with("User", number.to_string().into());
            let known = seen.insert(image().id().hex()[..4].to_owned(), number)?;
            Some((Image::new(Vec::new()).with("User", known.to_string().into()), image()))
        })
        .unwrap();
    fixture.import(&first, "a");
    fixture.import(&second, "b");
    let prefix = &first.id().hex()[..4].to_owned();
    // Only hexadecimal digits make a prefix, and a name that looks like one goes first.
    assert!(matches!(fixture.store.find(prefix), Err(Error::AmbiguousId { matches: 2, .. })));
    assert!(fixture.store.remove(prefix).is_err());
    fixture.import(&first, prefix);
    assert_eq!(fixture.store.find(prefix).unwrap().unwrap().id, first.id());
}

#[test]
fn a_tag_moves_to_the_image_imported_last() {
    let fixture = Fixture::new();
    let old = fixture.import(&on_base("old"), "app:1");
    let new = fixture.import(&on_base("new"), "app:1");
    assert_eq!(fixture.store.find("app:1").unwrap().unwrap().id, new.id);
    let old = fixture.store.find(old.id.as_str()).unwrap().unwrap();
    assert_eq!(old.repo_tags, Vec::<String>::new());
    assert_eq!(old.repo_digests.len(), 1, "a name with a digest stays true");
    // And after reading everything anew.
    let again = ImageStore::open(&fixture.root()).unwrap();
    assert_eq!(again.find("app:1").unwrap().unwrap().id, new.id);
}

#[test]
fn any_name_removes_the_image_with_all_its_names_and_layers() {
    let fixture = Fixture::new();
    let image = on_base("one");
    let references: [&dyn Fn() -> String; 3] = [&|| "a:1".to_owned(), &|| "registry.test/b:2".to_owned(), &|| image.id().to_string()];
    for reference in references {
        fixture.import(&image, "a:1");
        fixture.import(&image, "registry.test/b:2");
        assert_eq!(fixture.store.list().unwrap()[0].repo_tags.len(), 2);
        assert!(fixture.store.remove(&reference()).unwrap().is_some());
        fixture.assert_empty();
        assert!(fixture.store.remove(&reference()).unwrap().is_none(), "absence is success");
    }
}

#[test]
fn five_removals_at_once_all_succeed() {
    let fixture = Fixture::new();
    fixture.import(&on_base("one"), "a:1");
    let removed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..5).map(|_| scope.spawn(|| fixture.store.remove("a:1").unwrap().is_some())).collect();
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
    });
    assert_eq!(removed, 1);
    fixture.assert_empty();
}

#[test]
fn imports_and_removals_at_once_leave_a_sound_store() {
    let fixture = Fixture::new();
    let path = |number: usize| fixture.directory.path().join(format!("{number}.tar"));
    for number in 0..4 {
        on_base(&number.to_string()).oci(&format!("app:{number}")).write_tar(&path(number));
    }
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (fixture, path) = (&fixture, path(number));
            scope.spawn(move || {
                let store = ImageStore::open(&fixture.root()).unwrap();
                for _ in 0..10 {
                    store.import(&path, None).unwrap();
                    fixture.store.remove(&format!("app:{number}")).unwrap();
                }
                store.import(&path, None).unwrap();
            });
        }
    });
    let images = fixture.store.list().unwrap();
    assert_eq!(images.len(), 4);
    for image in &images {
        fixture.store.create_snapshot("probe", image).unwrap();
        fixture.store.remove_snapshot("probe").unwrap();
        fixture.store.remove(image.id.as_str()).unwrap();
    }
    fixture.assert_empty();
}

#[test]
fn a_shared_layer_stays_while_an_image_or_a_container_uses_it() {
    let fixture = Fixture::new();
    let one = fixture.import(&on_base("one"), "one");
    let two = fixture.import(&on_base("two"), "two");
    assert_eq!(fixture.names("layers").len(), 3, "the base is unpacked once");
    let snapshot = fixture.store.create_snapshot("c1", &two).unwrap();
    fixture.store.remove("one").unwrap();
    assert_eq!(fixture.names("layers").len(), 2);
    fixture.store.remove("two").unwrap();
    assert_eq!(fixture.names("layers").len(), 2, "the container still stands on them");
    assert!(snapshot.lower_dirs.iter().all(|directory| directory.is_dir()));
    let reopened = ImageStore::open(&fixture.root()).unwrap();
    assert_eq!(reopened.snapshot("c1").unwrap(), Some(snapshot), "also for the next daemon");
    assert_eq!(reopened.snapshot("c2").unwrap(), None);
    assert!(matches!(fixture.store.create_snapshot("c2", &one), Err(Error::MissingLayer { .. })));
    fixture.store.remove_snapshot("c1").unwrap();
    fixture.store.remove_snapshot("c1").unwrap();
    fixture.assert_empty();
}

#[test]
fn a_snapshot_is_laid_out_for_overlayfs() {
    let fixture = Fixture::new();
    let root = Meta { mode: 0o1750, uid: 5, gid: 6, mtime: 1 };
    let image =
        Image::new(vec![Layer::new().entry(EntryType::Directory, "./", "", &root, b"").finish(), Layer::new().file("top", "").finish()]);
    let record = fixture.import(&image, "app");
    let snapshot = fixture.store.create_snapshot("c", &record).unwrap();
    let expected: Vec<_> =
        image.layers.iter().rev().map(|layer| fixture.root().join("layers").join(Digest::of(layer).hex()).join("fs")).collect();
    assert_eq!(snapshot.lower_dirs, expected, "top-most first");
    let upper = fs::metadata(&snapshot.upper).unwrap();
    assert_eq!((upper.mode() & 0o7777, upper.uid(), upper.gid()), (0o1750, 5, 6), "the container's / is the image's");
    assert!(snapshot.work.is_dir());
    assert_eq!(fixture.store.snapshots().unwrap(), ["c"]);
    // A retry gets the same one, with what was written.
    fs::write(snapshot.upper.join("written"), "kept").unwrap();
    assert_eq!(fixture.store.create_snapshot("c", &record).unwrap(), snapshot);
    assert!(snapshot.upper.join("written").exists());
    let other = fixture.import(&on_base("other"), "other");
    assert!(matches!(fixture.store.create_snapshot("c", &other), Err(Error::SnapshotExists { .. })));
    for bad in ["", ".", "..", "a/b", "../c", ".hidden", &"x".repeat(300)] {
        assert!(matches!(fixture.store.create_snapshot(bad, &record), Err(Error::ContainerId { .. })), "{bad}");
        assert!(matches!(fixture.store.remove_snapshot(bad), Err(Error::ContainerId { .. })), "{bad}");
    }
}

#[test]
fn an_opaque_root_hides_the_layers_below() {
    let fixture = Fixture::new();
    let image = Image::new(vec![base(), Layer::new().file(".wh..wh..opq", "").file("only", "").finish()]);
    let record = fixture.import(&image, "app");
    assert_eq!(fixture.store.create_snapshot("c", &record).unwrap().lower_dirs.len(), 1);
}

#[test]
fn everything_is_private() {
    let fixture = Fixture::new();
    let record = fixture.import(&on_base("x"), "app");
    fixture.store.create_snapshot("c", &record).unwrap();
    for directory in ["", "images", "layers", "containers", "tmp"] {
        let mode = fs::metadata(fixture.root().join(directory)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{directory}");
    }
}

#[test]
fn what_a_crash_left_is_collected_on_opening() {
    let fixture = Fixture::new();
    let record = fixture.import(&on_base("x"), "app");
    fixture.store.create_snapshot("c", &record).unwrap();
    let root = fixture.root();
    // Work in progress, a removal in progress, and a layer put in place without the record that should follow.
    fs::create_dir_all(root.join("tmp/layer-1-2/fs/a/b")).unwrap();
    fs::write(root.join("tmp/record-1"), "half").unwrap();
    fs::create_dir_all(root.join("tmp/remove-1-0/17/x")).unwrap();
    std::os::unix::fs::symlink("/", root.join("tmp/link")).unwrap();
    fs::create_dir_all(root.join("layers").join("a".repeat(64)).join("fs/x")).unwrap();
    let reopened = ImageStore::open(&root).unwrap();
    assert_eq!(fixture.names("tmp"), Vec::<String>::new());
    assert_eq!(fixture.names("layers").len(), 2);
    assert_eq!(reopened.snapshots().unwrap(), ["c"]);
    assert_eq!(reopened.list().unwrap().len(), 1);
}

#[test]
fn what_is_nobodys_in_the_folder_of_containers_is_in_nobodys_way() {
    let fixture = Fixture::new();
    let record = fixture.import(&on_base("x"), "app");
    fixture.store.create_snapshot("c", &record).unwrap();
    let containers = fixture.root().join("containers");
    fs::create_dir_all(containers.join("lost+found/x")).unwrap();
    fs::create_dir(containers.join("notes")).unwrap();
    fs::write(containers.join("README"), "not a container").unwrap();
    let reopened = ImageStore::open(&fixture.root()).unwrap();
    let mut snapshots = reopened.snapshots().unwrap();
    snapshots.sort();
    assert_eq!(snapshots, ["c", "notes"]);
    reopened.images_usage().unwrap();
    // Layers are collected all the same.
    reopened.remove_snapshot("c").unwrap();
    reopened.remove("app").unwrap();
    assert_eq!(fixture.names("layers"), Vec::<String>::new());
    assert!(containers.join("lost+found/x").is_dir());
}

#[test]
fn damaged_records_cost_one_image_and_no_more() {
    let fixture = Fixture::new();
    let good = fixture.import(&on_base("good"), "good");
    let bad = fixture.import(&on_base("bad"), "bad");
    let path = fixture.root().join("images").join(format!("{}.json", bad.id.hex()));
    let whole = fs::read_to_string(&path).unwrap();
    let damages = [whole[..whole.len() / 2].to_owned(), String::new(), whole.replace("PATH=/bin", "PATH=/nib")];
    for damage in damages {
        // Both the store that is open and one that opens now.
        fs::write(path.with_extension("new"), damage).unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
        assert_eq!(fixture.store.list().unwrap().len(), 1);
        assert_eq!(ImageStore::open(&fixture.root()).unwrap().list().unwrap()[0].id, good.id);
        assert!(path.with_extension("json.damaged").exists());
        // Importing again heals it.
        fixture.import(&on_base("bad"), "bad");
        assert_eq!(fixture.store.list().unwrap().len(), 2);
    }
    // A record whose layer is gone is damaged too; so is a layer without its own record.
    fs::remove_file(fixture.root().join("layers").join(bad.layers[1].hex()).join("layer.json")).unwrap();
    assert_eq!(ImageStore::open(&fixture.root()).unwrap().list().unwrap().len(), 1);
    fixture.import(&on_base("bad"), "bad");
    assert_eq!(fixture.store.list().unwrap().len(), 2);
}

#[test]
fn a_record_of_another_version_or_that_cannot_be_read_is_left_alone_and_collects_nothing() {
    let fixture = Fixture::new();
    fixture.import(&on_base("good"), "good");
    let other = fixture.import(&on_base("other"), "other");
    let path = fixture.root().join("images").join(format!("{}.json", other.id.hex()));
    let whole = fs::read_to_string(&path).unwrap();
    let layers = fixture.names("layers");
    let newer = path.with_extension("new");
    let replace: [(&dyn Fn(), &str); 2] = [
        (&|| fs::write(&newer, r#"{"version":99,"made":"otherwise"}"#).unwrap(), "version is 99"),
        // What a failing disk would be: a file that cannot be read, whatever is in it.
        (&|| std::os::unix::fs::symlink(&path, &newer).unwrap(), "symbolic links"),
    ];
    for (make, reason) in replace {
        make();
        fs::rename(&newer, &path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        for error in [fixture.store.list().err(), ImageStore::open(&fixture.root()).err(), fixture.store.remove("good").err()] {
            let text = common::chain(&error.expect("an image that is only out of sight"));
            assert!(text.contains(file) && text.contains(reason), "{text}");
        }
        assert!(fs::symlink_metadata(&path).is_ok(), "where it was");
        assert_eq!(fixture.names("layers"), layers);
        fs::write(&newer, &whole).unwrap();
        fs::rename(&newer, &path).unwrap();
        assert_eq!(ImageStore::open(&fixture.root()).unwrap().list().unwrap().len(), 2);
    }
}

#[test]
fn a_layer_of_another_version_is_not_replaced_under_a_container() {
    let fixture = Fixture::new();
    let record = fixture.import(&on_base("x"), "app");
    let snapshot = fixture.store.create_snapshot("c", &record).unwrap();
    fixture.store.remove("app").unwrap();
    let file = snapshot.lower_dirs[0].with_file_name("layer.json");
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, whole.replace("\"version\":1", "\"version\":99")).unwrap();
    let inode = fs::metadata(&snapshot.lower_dirs[0]).unwrap().ino();
    let error = fixture.store.import(&fixture.archive(&on_base("x").oci("app")), None).unwrap_err();
    let text = common::chain(&error);
    assert!(text.contains("version is 99"), "{text}");
    assert_eq!(fs::metadata(&snapshot.lower_dirs[0]).unwrap().ino(), inode);
    // One that is damaged is replaced.
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    fixture.import(&on_base("x"), "app");
}

/// What a daemon leaves that was killed when a tag had its new image and had not been taken from the old one.
#[test]
fn a_tag_does_not_come_back_to_the_image_it_was_taken_from() {
    let fixture = Fixture::new();
    let old = fixture.import(&on_base("old"), "app");
    let record = fixture.root().join(format!("images/{}.json", old.id.hex()));
    let as_it_was = fs::read(&record).unwrap();
    let new = fixture.import(&on_base("new"), "app");
    fs::write(&record, as_it_was).unwrap();
    let store = ImageStore::open(&fixture.root()).unwrap();
    assert_eq!(store.find("app").unwrap().unwrap().id, new.id);
    store.remove(new.id.as_str()).unwrap();
    assert_eq!(store.find("app").unwrap(), None);
    assert_eq!(store.list().unwrap().len(), 1, "the old image stays, without a name");
}

#[test]
fn usage_is_what_is_on_disk() {
    let fixture = Fixture::new();
    assert_eq!(fixture.store.images_usage().unwrap(), Usage::default());
    let record = fixture.import(&on_base(&"x".repeat(100_000)), "app");
    let snapshot = fixture.store.create_snapshot("c", &record).unwrap();
    fs::write(snapshot.upper.join("written"), vec![1; 1 << 20]).unwrap();
    fs::hard_link(snapshot.upper.join("written"), snapshot.upper.join("again")).unwrap();
    let usage = fixture.store.images_usage().unwrap();
    assert_eq!(usage.inodes, 5, "two roots, etc, etc/base, app");
    assert!((100_000..200_000).contains(&usage.bytes), "{usage:?}");
    let usage = fixture.store.snapshot_usage("c").unwrap().unwrap();
    assert_eq!(usage.inodes, 2);
    assert!((1 << 20..2 << 20).contains(&usage.bytes), "{usage:?}");
    assert_eq!(fixture.store.snapshot_usage("absent").unwrap(), None);
}

const STORE: &str = "PODBOX_TEST_STORE";
const ARCHIVE: &str = "PODBOX_TEST_ARCHIVE";

/// The other process of the test below; does nothing when it is not asked to.
#[test]
fn other_process() {
    if let (Some(store), Some(archive)) = (std::env::var_os(STORE), std::env::var_os(ARCHIVE)) {
        ImageStore::open(store.as_ref()).unwrap().import(archive.as_ref(), None).unwrap();
    }
}

#[test]
fn what_another_process_imports_and_removes_is_seen_at_once() {
    let fixture = Fixture::new();
    assert!(fixture.store.find("app").unwrap().is_none());
    let archive = fixture.archive(&on_base("x").oci("app"));
    for _ in 0..3 {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "other_process"])
            .env(STORE, fixture.root())
            .env(ARCHIVE, &archive)
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
        let image = fixture.store.find("app").unwrap().expect("imported by the other process");
        fixture.store.create_snapshot("c", &image).unwrap();
        fixture.store.remove_snapshot("c").unwrap();
        ImageStore::open(&fixture.root()).unwrap().remove("app").unwrap();
        assert!(fixture.store.list().unwrap().is_empty());
    }
    fixture.assert_empty();
}
