//! The kernel's overlayfs, given a snapshot, shows what the layers mean and what `RootFs` reads.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Fixture, Image, Layer};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use podbox_image::{RootFs, Snapshot};

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
