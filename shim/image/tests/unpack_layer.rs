//! A layer becomes exactly what its archive says, as overlayfs understands it.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use common::{Fixture, Layer, Meta};
use rustix::fs::lgetxattr;
use tar::EntryType;

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = lgetxattr(path, name, &mut value).ok()?;
    value.truncate(len);
    Some(value)
}

fn is_opaque(path: &Path) -> bool {
    xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

#[test]
fn ownership_modes_and_times_are_kept() {
    let fixture = Fixture::new();
    let meta = |mode, uid, gid, mtime| Meta { mode, uid, gid, mtime };
    let layer = Layer::new()
        .entry(EntryType::Directory, "./", "", &meta(0o751, 7, 8, 77), b"")
        .entry(EntryType::Directory, "d/", "", &meta(0o1777, 1, 2, 5), b"")
        .entry(EntryType::Regular, "d/setuid", "", &meta(0o6755, 1000, 1001, 12345), b"x")
        .entry(EntryType::Regular, "d/readonly", "", &meta(0o000, 3, 4, 6), b"y")
        .entry(EntryType::Symlink, "d/link", "/etc/passwd", &meta(0o777, 10, 11, 99), b"")
        .entry(EntryType::Fifo, "d/pipe", "", &meta(0o622, 12, 13, 98), b"")
        .device("d/tty", 5, 0);
    let fs = fixture.unpack(layer).unwrap();
    let check = |name: &str, mode, uid, gid, mtime| {
        let found = fs::symlink_metadata(fs.join(name)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid(), found.mtime()), (mode, uid, gid, mtime), "{name}");
        found
    };
    check("", 0o751, 7, 8, 77);
    check("d", 0o1777, 1, 2, 5);
    check("d/setuid", 0o6755, 1000, 1001, 12345);
    check("d/readonly", 0, 3, 4, 6);
    check("d/link", 0o777, 10, 11, 99);
    assert_eq!(fs::read_link(fs.join("d/link")).unwrap(), Path::new("/etc/passwd"));
    assert!(check("d/pipe", 0o622, 12, 13, 98).file_type().is_fifo());
    let device = check("d/tty", 0o620, 0, 5, 1);
    assert_eq!((device.file_type().is_char_device(), device.rdev()), (true, rustix::fs::makedev(5, 0)));
}

#[test]
fn times_before_1970_are_kept_in_every_form() {
    let fixture = Fixture::new();
    let seconds = -86_400i64;
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..4].copy_from_slice(b"gnu\0");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    // GNU's form of numbers that octal digits cannot hold: two's complement, all bits of the field.
    let field = &mut header.as_old_mut().mtime;
    field.fill(0xff);
    field[4..].copy_from_slice(&seconds.to_be_bytes());
    header.set_cksum();
    let layer = Layer::new().raw(header.as_bytes()).pax(&[("mtime", b"-86400")]).file("pax", "");
    let fs = fixture.unpack(layer).unwrap();
    for name in ["gnu", "pax"] {
        assert_eq!(fs::metadata(fs.join(name)).unwrap().mtime(), seconds, "{name}");
    }
}

#[test]
fn extended_headers_are_kept_and_overlay_attributes_are_not() {
    let fixture = Fixture::new();
    // CAP_DAC_OVERRIDE and CAP_FOWNER: the value holds a newline, which is also what ends a record.
    let capability = [1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "a".repeat(200), "b".repeat(250));
    let layer = Layer::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"one\ntwo"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("path", long.as_bytes()),
            ("mtime", b"1234.5"),
            ("uid", b"3000000"),
            ("size", b"4"),
        ])
        .file("short", "data")
        .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
        .dir("d/")
        .pax(&[("path", b"link"), ("linkpath", "t".repeat(300).as_bytes())])
        .symlink("x", "y");
    let fs = fixture.unpack(layer).unwrap();
    let file = fs.join(&long);
    assert_eq!(fs::read(&file).unwrap(), b"data");
    assert_eq!(xattr(&file, "security.capability").unwrap(), capability);
    assert_eq!(xattr(&file, "user.note").unwrap(), b"one\ntwo");
    for name in ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque"] {
        assert_eq!(xattr(&file, name), None, "{name}");
        assert_eq!(xattr(&fs.join("d"), name), None, "{name}");
    }
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.uid(), metadata.mtime(), metadata.mtime_nsec()), (3_000_000, 1234, 500_000_000));
    assert_eq!(fs::read_link(fs.join("link")).unwrap().as_os_str().len(), 300);
}

#[test]
fn gnu_long_names_work() {
    let fixture = Fixture::new();
    let mut builder = tar::Builder::new(Vec::new());
    let name = format!("{}/{}/file", "n".repeat(120), "m".repeat(120));
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o600);
    builder.append_data(&mut header, &name, &b"abc"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "link", &name).unwrap();
    let fs = fixture.unpack(Layer::new().raw(&builder.into_inner().unwrap())).unwrap();
    assert_eq!(fs::read(fs.join(&name)).unwrap(), b"abc");
    assert_eq!(fs::read_link(fs.join("link")).unwrap(), Path::new(&name));
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let fixture = Fixture::new();
    let layer = Layer::new()
        .file("a", "old")
        .file("a", "new")
        .dir("d/")
        .file("d/inside", "kept")
        .entry(EntryType::Directory, "d/", "", &Meta { mode: 0o700, ..Meta::default() }, b"")
        .dir("e/")
        .file("e/inside", "gone")
        .file("e", "a file now")
        .symlink("f", "d")
        .dir("f/")
        .file("g", "one")
        .hard_link("h", "g")
        .file("g", "two")
        .hard_link("g", "./g");
    let fs = fixture.unpack(layer).unwrap();
    assert_eq!(fs::read(fs.join("a")).unwrap(), b"new");
    assert_eq!(fs::read(fs.join("d/inside")).unwrap(), b"kept");
    assert_eq!(fs::metadata(fs.join("d")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read(fs.join("e")).unwrap(), b"a file now");
    assert!(fs::symlink_metadata(fs.join("f")).unwrap().is_dir());
    // Replaced, not written through: the other name keeps the old content.
    assert_eq!((fs::read(fs.join("g")).unwrap(), fs::read(fs.join("h")).unwrap()), (b"two".to_vec(), b"one".to_vec()));
}

#[test]
fn implied_parents_and_times_of_directories() {
    let fixture = Fixture::new();
    let meta = |mtime| Meta { mode: 0o755, mtime, ..Meta::default() };
    let layer = Layer::new()
        .entry(EntryType::Directory, "p", "", &meta(42), b"")
        .file("implied/deep/er/file", "")
        .file("p/one", "")
        .file("other", "")
        .file("p/sub/two", "")
        .file("p/one", "again");
    let fs = fixture.unpack(layer).unwrap();
    for name in ["implied", "implied/deep", "p/sub"] {
        let metadata = fs::metadata(fs.join(name)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o755, 0), "{name}");
    }
    assert_eq!(fs::metadata(fs.join("p")).unwrap().mtime(), 42);
}

#[test]
fn whiteouts_and_opaque_directories() {
    let fixture = Fixture::new();
    let layer = Layer::new()
        .file(".wh.gone", "")
        .dir("d/")
        .file("d/.wh..wh..opq", "")
        .file("d/new", "")
        .file("d/sub/.wh.x", "")
        // A whiteout concerns lower layers, wherever it stands.
        .file("kept", "kept")
        .file(".wh.kept", "")
        .dir("both/")
        .file("both/new", "new")
        .file(".wh.both", "")
        .file(".wh.first", "")
        .file("first", "after")
        .file(".wh.firstdir", "")
        .dir("firstdir/")
        .file(".wh.implied", "")
        .file("implied/file", "")
        // What AUFS once left in layers.
        .dir(".wh..wh.plnk/")
        .file(".wh..wh.aufs", "");
    let fs = fixture.unpack(layer).unwrap();
    assert!(is_whiteout(&fs.join("gone")));
    assert!(is_whiteout(&fs.join("d/sub/x")));
    assert!(is_opaque(&fs.join("d")));
    assert_eq!(fs::read(fs.join("kept")).unwrap(), b"kept");
    assert_eq!(fs::read(fs.join("both/new")).unwrap(), b"new");
    assert_eq!(fs::read(fs.join("first")).unwrap(), b"after");
    for name in ["both", "firstdir", "implied"] {
        assert!(is_opaque(&fs.join(name)), "{name} must go on hiding what it replaced");
    }
    let mut names: Vec<_> = fs::read_dir(&fs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["both", "d", "first", "firstdir", "gone", "implied", "kept"]);
}

#[test]
fn sparse_files_in_both_encodings() {
    let fixture = Fixture::new();
    let block = [b'x'; 512];
    // GNU: one piece at 1 MiB of a 2 MiB file.
    let mut gnu = tar::Header::new_gnu();
    gnu.as_old_mut().name[..3].copy_from_slice(b"gnu");
    gnu.set_entry_type(EntryType::GNUSparse);
    gnu.set_mode(0o644);
    gnu.set_uid(0);
    gnu.set_gid(0);
    gnu.set_size(512);
    let fields = gnu.as_gnu_mut().unwrap();
    fields.sparse[0].offset.copy_from_slice(b"00004000000\0");
    fields.sparse[0].numbytes.copy_from_slice(b"00000001000\0");
    fields.realsize.copy_from_slice(b"00010000000\0");
    gnu.set_cksum();
    let mut layer = Layer::new();
    layer.push(gnu.as_bytes(), &block);
    // PAX 1.0: the map comes first in the data.
    let mut data = b"1\n1048576\n512\n".to_vec();
    data.resize(512, 0);
    data.extend(block);
    let layer = layer
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"pax"), ("GNU.sparse.realsize", b"2097152")])
        .entry(EntryType::Regular, "GNUSparseFile.0/pax", "", &Meta::default(), &data)
        .pax(&[("GNU.sparse.map", b"1048576,512"), ("GNU.sparse.name", b"old"), ("GNU.sparse.size", b"2097152")])
        .entry(EntryType::Regular, "GNUSparseFile.1/old", "", &Meta::default(), &block)
        .file("after", "the stream is still in step");
    let fs = fixture.unpack(layer).unwrap();
    for name in ["gnu", "pax", "old"] {
        let content = fs::read(fs.join(name)).unwrap();
        assert_eq!(content.len(), 2 << 20, "{name}");
        assert_eq!(&content[1 << 20..][..512], block, "{name}");
        assert_eq!(content.iter().filter(|byte| **byte != 0).count(), 512, "{name}");
        assert!(fs::metadata(fs.join(name)).unwrap().blocks() * 512 < 1 << 20, "{name} has lost its holes");
    }
    assert_eq!(fs::read(fs.join("after")).unwrap(), b"the stream is still in step");
}

#[test]
fn a_symbolic_link_among_the_parents_is_followed_inside_the_layer() {
    let fixture = Fixture::new();
    let layer = Layer::new()
        .dir("usr/")
        .dir("usr/lib/")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .symlink("up", "../../../usr/lib")
        .file("lib/one", "1")
        .file("abs/two", "2")
        .file("up/three", "3")
        .file("lib/new/four", "4")
        .hard_link("five", "lib/one");
    let fs = fixture.unpack(layer).unwrap();
    for (name, content) in [("one", "1"), ("two", "2"), ("three", "3"), ("new/four", "4")] {
        assert_eq!(fs::read_to_string(fs.join("usr/lib").join(name)).unwrap(), content);
    }
    assert_eq!(fs::metadata(fs.join("five")).unwrap().nlink(), 2);
    assert!(fs::symlink_metadata(fs.join("lib")).unwrap().is_symlink());
}
