//! Trees deeper than any path or stack are measured and removed, and nothing they link to is touched.
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Fixture, Image, Layer};
use podbox_image::tree;
use rustix::fs::{IFlags, Mode, OFlags, mkdirat, openat};

const DEPTH: u64 = 100_000;

/// Descriptors are the process's: one test at a time has any.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nest(parent: &Path, depth: u64) {
    let mut directory: OwnedFd = tree::open_directory(parent).unwrap();
    for _ in 0..depth {
        mkdirat(&directory, "d", Mode::RWXU).unwrap();
        directory = openat(&directory, "d", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    rustix::fs::symlinkat("/etc", &directory, "link").unwrap();
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Seen to fail: with `std::fs::remove_dir_all()`, which calls itself for each level, the stack overflowed.
#[test]
fn a_container_that_nests_a_hundred_thousand_directories_is_measured_and_removed() {
    let _alone = alone();
    // In memory where possible: a journal makes this many directories take minutes on a busy disk.
    let memory = Path::new("/dev/shm").is_dir();
    let fixture = Fixture::new_in(if memory { "/dev/shm" } else { "/tmp" });
    let record = fixture.import(&Image::new(vec![Layer::new().file("a", "").finish()]), "app");
    let snapshot = fixture.store.create_snapshot("c", &record).unwrap();
    nest(&snapshot.upper, DEPTH);
    assert_eq!(fixture.store.snapshot_usage("c").unwrap().unwrap().inodes, DEPTH + 2);
    fixture.store.remove_snapshot("c").unwrap();
    assert_eq!(fixture.names("containers"), Vec::<String>::new());
    assert_eq!(fixture.names("tmp"), Vec::<String>::new());
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn an_interrupted_removal_is_finished_on_opening() {
    let _alone = alone();
    let fixture = Fixture::new();
    let left = fixture.root().join("tmp/remove-1-0/0");
    fs::create_dir_all(&left).unwrap();
    nest(&left, 5_000);
    podbox_image::ImageStore::open(&fixture.root()).unwrap();
    assert_eq!(fixture.names("tmp"), Vec::<String>::new());
}

#[test]
fn removal_copes_with_every_kind_of_object() {
    let _alone = alone();
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let kept = directory.path().join("kept");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("file"), "").unwrap();
    let scratch = directory.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let victim = directory.path().join("victim");
    fs::create_dir_all(victim.join("a/b")).unwrap();
    for number in 0..3_000 {
        fs::write(victim.join(format!("a/{number}")), "").unwrap();
        fs::create_dir(victim.join(format!("a/b/{number}"))).unwrap();
    }
    std::os::unix::fs::symlink(&kept, victim.join("link")).unwrap();
    std::os::unix::fs::symlink(&kept, victim.join("a/b/link")).unwrap();
    fs::hard_link(kept.join("file"), victim.join("hard")).unwrap();
    fs::write(victim.join(OsStr::from_bytes(b"\xff\n")), "").unwrap();
    let whiteout = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, victim.join("whiteout"), whiteout, Mode::empty(), 0).unwrap();
    fs::set_permissions(victim.join("a"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    for name in ["immutable", "a/immutable-directory"] {
        let path = victim.join(name);
        if name.ends_with("directory") {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("inside"), "").unwrap();
        } else {
            fs::write(&path, "").unwrap();
        }
        // Not every file system has the flag; where it has, it must not stop the removal.
        let _ = rustix::fs::ioctl_setflags(fs::File::open(&path).unwrap(), IFlags::IMMUTABLE | IFlags::APPEND);
    }

    let parent = tree::open_directory(directory.path()).unwrap();
    let scratch_fd = tree::open_directory(&scratch).unwrap();
    let before = descriptors();
    tree::remove(scratch_fd.as_fd(), parent.as_fd(), OsStr::new("victim")).unwrap();
    tree::remove(scratch_fd.as_fd(), parent.as_fd(), OsStr::new("victim")).unwrap();
    assert!(descriptors() <= before + 2);
    assert!(!victim.exists());
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    assert!(kept.join("file").exists());
    // A single file, and a link to a directory, are removed as themselves.
    std::os::unix::fs::symlink("kept", directory.path().join("link")).unwrap();
    tree::remove(scratch_fd.as_fd(), parent.as_fd(), OsStr::new("link")).unwrap();
    assert!(kept.join("file").exists());
}
