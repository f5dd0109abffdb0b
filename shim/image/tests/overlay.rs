//! The kernel's overlayfs, given a snapshot, shows what the layers mean and what `RootFs` reads.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{Fixture, Image, Layer, Meta};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use podbox_image::{Error, ImageRecord, ImageStore, RootFs, Snapshot};
use tar::EntryType;

/// Runs `check` in a thread that has a mount namespace of its own, with the snapshot mounted at a directory that it gets.
/// The mount ends with the thread.
fn with_mounted(snapshot: &Snapshot, at: &Path, check: impl FnOnce(&Path) + Send) {
    fs::create_dir_all(at).unwrap();
    let lower: Vec<_> = snapshot.lower_dirs.iter().map(|path| path.to_str().unwrap()).collect();
    let upper = format!("upperdir={},workdir={}", snapshot.upper.display(), snapshot.work.display());
    let options = format!("lowerdir={},{upper}", lower.join(":"));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
            check(at);
        });
    });
}

#[test]
fn overlayfs_and_rootfs_see_the_same_image() {
    let fixture = Fixture::new();
    let layers = vec![
        Layer::new()
            .file("a", "low")
            .file("gone", "low")
            .file("d/low", "low")
            .file("opaque/low", "low")
            .file("removed/x", "low")
            .file("implied/x", "low")
            .file("dir-then-file/x", "low"),
        Layer::new()
            .file("a", "mid")
            .file(".wh.gone", "")
            .file("d/mid", "mid")
            .file("opaque/.wh..wh..opq", "")
            .file("opaque/mid", "mid")
            .file(".wh.removed", "")
            .file(".wh.implied", "")
            .file("implied/y", "mid")
            .file("dir-then-file", "mid"),
        Layer::new().file("d/top", "top").file("removed/new", "top").symlink("link", "d/low"),
    ];
    let record = fixture.import(&Image::new(layers.into_iter().map(Layer::finish).collect()), "app");
    let snapshot = fixture.store.create_snapshot("c", &record).unwrap();
    let rootfs = RootFs::new(snapshot.lower_dirs.clone());
    with_mounted(&snapshot, &fixture.directory.path().join("mnt"), |mounted| {
        let mut there = 0;
        for path in [
            "a",
            "gone",
            "d/low",
            "d/mid",
            "d/top",
            "opaque/low",
            "opaque/mid",
            "removed/x",
            "removed/new",
            "implied/x",
            "implied/y",
            "dir-then-file",
            "dir-then-file/x",
            "link",
            "none",
        ] {
            let seen = fs::read(mounted.join(path)).ok();
            there += usize::from(seen.is_some());
            assert_eq!(rootfs.read_regular(path.as_ref(), 100).unwrap(), seen, "{path}");
        }
        assert_eq!(there, 9);
        fs::write(mounted.join("a"), "changed").unwrap();
        fs::remove_file(mounted.join("d/low")).unwrap();
    });
    // The container's changes are its own, and its work directory, which the kernel closed to all, is removed too.
    assert_eq!(fs::read(snapshot.upper.join("a")).unwrap(), b"changed");
    assert_eq!(rootfs.read_regular("/a".as_ref(), 100).unwrap().unwrap(), b"mid");
    fixture.store.remove_snapshot("c").unwrap();
    assert_eq!(fixture.names("tmp"), Vec::<String>::new());
}

/// A folder's mode, owner and modification time.
type Seen = (u32, u32, u32, i64);

/// What a container of the image sees of folders, and their `user.note`.
fn seen_by_a_container(fixture: &Fixture, image: &ImageRecord, paths: &[&str]) -> Vec<(Seen, Option<Vec<u8>>)> {
    let snapshot = fixture.store.create_snapshot("probe", image).unwrap();
    let mut seen = Vec::new();
    with_mounted(&snapshot, &fixture.directory.path().join("mnt"), |mounted| {
        for path in paths {
            let found = fs::metadata(mounted.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            let mut note = vec![0; 100];
            let len = rustix::fs::getxattr(mounted.join(path), "user.note", &mut note[..]).ok();
            note.truncate(len.unwrap_or_default());
            seen.push(((found.mode() & 0o7777, found.uid(), found.gid(), found.mtime()), len.map(|_| note)));
        }
        assert_eq!(fs::read(mounted.join("home/alice/x")).unwrap(), b"alice");
        assert_eq!(fs::read_dir(mounted.join("tmp")).unwrap().count(), 2);
    });
    fixture.store.remove_snapshot("probe").unwrap();
    seen
}

fn folder(layer: Layer, name: &str, (mode, uid, gid, mtime): Seen) -> Layer {
    let mtime = u64::try_from(mtime).unwrap();
    layer.entry(EntryType::Directory, name, "", &Meta { mode, uid: uid.into(), gid: gid.into(), mtime }, b"")
}

#[test]
fn folders_that_a_layer_has_no_entry_for_are_as_the_layers_below_have_them() {
    let fixture = Fixture::new();
    let base = |tmp: Seen, alice: Seen| {
        let layer = folder(Layer::new(), "tmp/", tmp).file("tmp/base", "");
        let layer = folder(layer, "home/", (0o711, 0, 0, 11)).pax(&[("SCHILY.xattr.user.note", b"hers")]);
        folder(folder(layer, "home/alice/", alice), "home/alice/private/", (0o700, alice.1, alice.2, 12)).finish()
    };
    // Shared by both images. Its own folders are its own, whenever it says so, and those that nobody describes stay.
    let top = folder(
        folder(Layer::new(), "own/", (0o750, 3, 3, 13)).file("tmp/x", "tmp").file("home/alice/x", "alice").file("late/x", ""),
        "late/",
        (0o701, 4, 4, 14),
    );
    let top = top.file("home/alice/private/deep/x", "").finish();
    let (tmp, alice) = ((0o1777, 0, 0, 21), (0o700, 1000, 1000, 22));
    let (other_tmp, other_alice) = ((0o1770, 5, 6, 31), (0o750, 2000, 2001, 32));
    let one = fixture.import(&Image::new(vec![base(tmp, alice), top.clone()]), "one");
    // A layer between that says as little as the top one.
    let between = Layer::new().file("home/alice/y", "").finish();
    let lower = folder(folder(Layer::new(), "own/", (0o777, 9, 9, 9)), "late/", (0o777, 9, 9, 9)).finish();
    let two = fixture.import(&Image::new(vec![lower, base(other_tmp, other_alice), between, top]), "two");
    assert_eq!(fixture.names("layers").len(), 2 + 3 + 2, "the top layer is there once, and folders for each");
    let paths = ["tmp", "home", "home/alice", "home/alice/private", "own", "late"];
    for (image, tmp, alice) in [(&one, tmp, alice), (&two, other_tmp, other_alice)] {
        let seen = seen_by_a_container(&fixture, image, &paths);
        let expected = [tmp, (0o711, 0, 0, 11), alice, (0o700, alice.1, alice.2, 12), (0o750, 3, 3, 13), (0o701, 4, 4, 14)];
        for ((path, (seen, note)), expected) in paths.iter().zip(seen).zip(expected) {
            assert_eq!(seen, expected, "{path} of {:?}", image.repo_tags);
            assert_eq!(note.as_deref(), (*path == "home/alice").then_some(b"hers".as_slice()), "{path}");
        }
    }

    // They live as layers do: made once, kept for a container whose image is gone, and then no longer.
    let layers = fixture.names("layers");
    fixture.store.create_snapshot("c", &two).unwrap();
    fixture.store.remove("two").unwrap();
    let reopened = ImageStore::open(&fixture.root()).unwrap();
    assert_eq!(fixture.names("layers").len(), layers.len());
    assert!(reopened.snapshot("c").unwrap().unwrap().lower_dirs.iter().all(|directory| directory.is_dir()));
    reopened.remove_snapshot("c").unwrap();
    assert_eq!(fixture.names("layers").len(), 3);
    assert!(matches!(reopened.create_snapshot("c", &two), Err(Error::MissingLayer { .. })));
    reopened.remove("one").unwrap();
    fixture.assert_empty();
}

#[test]
fn folders_that_the_layers_below_hide_or_never_had_stay_as_they_were_made() {
    let fixture = Fixture::new();
    let old = (0o777, 9, 9, 9);
    let base = ["removed/", "opaque/", "replaced/"].into_iter().fold(Layer::new(), |layer, name| folder(layer, name, old)).finish();
    let middle = Layer::new().file(".wh.removed", "").file("opaque/.wh..wh..opq", "").file("replaced", "").file("l/x", "").finish();
    let layers = ["removed/x", "opaque/x", "replaced/x", "new/x", "tmp/x", "tmp/y", "home/alice/x"];
    let top = layers.into_iter().fold(Layer::new(), |layer, name| layer.file(name, if name.starts_with("home") { "alice" } else { "" }));
    // What was made for a file and then became a link, and what was made again with an entry of its own, are not listed.
    let top = folder(top.file("l/x", "").file("again/x", "").file("again", "").file("l", ""), "again/", (0o700, 7, 7, 7));
    let image = fixture.import(&Image::new(vec![base, middle, top.finish()]), "app");
    let paths = ["removed", "replaced", "new", "again"];
    let seen = seen_by_a_container(&fixture, &image, &paths);
    for (path, ((mode, uid, gid, _), _)) in paths.iter().zip(&seen) {
        let expected = if *path == "again" { (0o700, 7, 7) } else { (0o755, 0, 0) };
        assert_eq!((*mode, *uid, *gid), expected, "{path}");
    }
    // The middle layer says of this folder that nothing of it is left from below; not even what it was like.
    let ((mode, uid, _, _), _) = seen_by_a_container(&fixture, &image, &["opaque"])[0];
    assert_eq!((mode, uid), (0o755, 0));
    assert_eq!(fixture.names("layers").len(), 3, "nothing to be made");
    fixture.store.remove("app").unwrap();
    fixture.assert_empty();
}
