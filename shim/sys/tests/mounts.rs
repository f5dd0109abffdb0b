//! `mount_setattr` and `close_range`.

use podbox_sys::{MountChange, Propagation, close_on_exec_from, mount_setattr};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags, mount, mount_change};
use std::path::Path;

/// A mount namespace for this test's thread alone, and in it a tmpfs with another below.
fn two_mounts() -> tempfile::TempDir {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("unshare");
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).expect("private");
    let directory = tempfile::tempdir().expect("temporary directory");
    for path in [directory.path().to_owned(), directory.path().join("below")] {
        std::fs::create_dir_all(&path).expect("mkdir");
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), c"size=64k").expect("mount");
    }
    directory
}

fn change(path: &Path, change: &MountChange) {
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("open");
    mount_setattr(&place, change).expect("mount_setattr");
}

fn can_write(directory: &Path) -> bool {
    std::fs::write(directory.join("file"), "").is_ok()
}

#[test]
fn read_only_holds_for_one_mount_or_for_all_below() {
    let directory = two_mounts();
    let below = directory.path().join("below");
    let mut read_only = MountChange { set: MountAttrFlags::MOUNT_ATTR_RDONLY, ..MountChange::default() };
    change(directory.path(), &read_only);
    assert!(!can_write(directory.path()) && can_write(&below));
    read_only.recursive = true;
    change(directory.path(), &read_only);
    assert!(!can_write(&below));
    change(directory.path(), &MountChange { clear: MountAttrFlags::MOUNT_ATTR_RDONLY, recursive: true, ..MountChange::default() });
    assert!(can_write(directory.path()) && can_write(&below));
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).expect("unmount");
}

#[test]
fn propagation_shows_in_the_mount_table() {
    let directory = two_mounts();
    let marks = || {
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == directory.path().to_str()).expect("the mount").to_owned();
        line.split(' ').skip(6).take_while(|field| *field != "-").map(|field| field.split(':').next().expect("a mark").to_owned()).collect()
    };
    for (propagation, expected) in
        [(Propagation::Shared, vec!["shared"]), (Propagation::Private, vec![]), (Propagation::Shared, vec!["shared"])]
    {
        change(directory.path(), &MountChange { propagation: Some(propagation), ..MountChange::default() });
        let marks: Vec<String> = marks();
        assert_eq!(marks, expected);
    }
    rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).expect("unmount");
}

#[test]
fn what_is_no_mount_root_is_an_error() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = rustix::fs::open(directory.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("open");
    let error = mount_setattr(&place, &MountChange { set: MountAttrFlags::MOUNT_ATTR_RDONLY, ..MountChange::default() });
    assert_eq!(error.expect_err("no mount").errno(), Errno::INVAL);
}

#[test]
fn descriptors_are_marked_and_stay_open() {
    let file = std::fs::File::open("/").expect("open");
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("fcntl");
    close_on_exec_from(3).expect("close_range");
    assert!(rustix::io::fcntl_getfd(&file).expect("fcntl").contains(rustix::io::FdFlags::CLOEXEC));
    file.metadata().expect("it is still open");
}
