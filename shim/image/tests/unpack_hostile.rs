//! Whatever a layer contains, nothing outside its directory is created, changed, linked to or removed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::{Fixture, Layer, Meta, chain};
use tar::EntryType;

/// A directory next to the store that an escape would change, and everything about it.
struct Canary {
    directory: PathBuf,
    before: Vec<String>,
}

impl Canary {
    fn new(fixture: &Fixture) -> Self {
        let directory = fixture.directory.path().join("canary");
        fs::create_dir_all(directory.join("sub")).unwrap();
        fs::write(directory.join("secret"), "untouched").unwrap();
        std::os::unix::fs::symlink("secret", directory.join("link")).unwrap();
        let before = describe(&directory);
        Self { directory, before }
    }

    fn assert_unchanged(&self, what: &str) {
        assert_eq!(describe(&self.directory), self.before, "{what} reached the canary");
    }
}

fn describe(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        lines.push(format!(
            "{path:?} {} {:o} {}:{} {} {:?} {content:?}",
            metadata.ino(),
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.nlink(),
            (metadata.ctime(), metadata.ctime_nsec(), metadata.mtime(), metadata.mtime_nsec()),
        ));
        if metadata.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    lines.sort();
    lines
}

/// Seen to fail: with links followed as the kernel does by itself (no `RESOLVE_IN_ROOT`), a file below a link was written outside.
#[test]
fn nothing_leaves_the_layer() {
    let fixture = Fixture::new();
    let canary = Canary::new(&fixture);
    let outside = canary.directory.to_str().unwrap().to_owned();
    let up = format!("{}{}", "../".repeat(12), outside.trim_start_matches('/'));
    // Why each is refused; empty where it stays inside and is kept.
    let corpus: Vec<(&str, &str, Layer)> = vec![
        ("a .. name", ".. component", Layer::new().file(&format!("{up}/new"), "evil")),
        ("a .. inside a name", ".. component", Layer::new().dir("a/").file("a/../../x", "evil")),
        ("a .. as a name", ".. component", Layer::new().dir("..")),
        ("an absolute name", "", Layer::new().file(&format!("{outside}/secret"), "evil")),
        ("a link, then a file below", "among its parents: No such file", Layer::new().symlink("l", &outside).file("l/secret", "evil")),
        ("a relative link, then a file below", "among its parents: No such file", Layer::new().symlink("l", &up).file("l/secret", "evil")),
        (
            "a link to a link",
            "among its parents: No such file",
            Layer::new().symlink("a", "b").symlink("b", &outside).file("a/new", "evil"),
        ),
        ("a link as a file", "", Layer::new().symlink("l", &format!("{outside}/secret")).file("l", "evil")),
        ("a link as a directory", "", Layer::new().symlink("l", &outside).dir("l/").file("l/new", "evil")),
        (
            "a mode through a link",
            "",
            Layer::new().symlink("l", &outside).entry(EntryType::Directory, "l", "", &Meta { mode: 0o777, uid: 1, gid: 1, mtime: 1 }, b""),
        ),
        ("a hard link out", "open what it links to: No such file", Layer::new().hard_link("h", &format!("{outside}/secret"))),
        ("a hard link up", ".. component", Layer::new().hard_link("h", &format!("{up}/secret"))),
        (
            "a hard link through a link",
            "open what it links to: No such file",
            Layer::new().symlink("l", &outside).hard_link("h", "l/secret"),
        ),
        (
            "a hard link to a link, then a write",
            "",
            Layer::new().symlink("l", &format!("{outside}/secret")).hard_link("h", "l").file("h", "evil"),
        ),
        ("a hard link to a directory", "something that is not a file", Layer::new().dir("d/").hard_link("h", "d")),
        ("a whiteout through a link", "among its parents: No such file", Layer::new().symlink("l", &outside).file("l/.wh.secret", "")),
        (
            "an opaque mark through a link",
            "among its parents: No such file",
            Layer::new().symlink("l", &outside).file("l/.wh..wh..opq", ""),
        ),
        ("a whiteout of ..", "a whiteout of nothing", Layer::new().dir("d/").file("d/.wh...", "")),
        ("a whiteout of .", "a whiteout of nothing", Layer::new().dir("d/").file("d/.wh..", "")),
        ("a whiteout of nothing", "a whiteout of nothing", Layer::new().file(".wh.", "")),
        ("a device through a link", "among its parents: No such file", Layer::new().symlink("l", &outside).device("l/null", 1, 3)),
        ("a pipe through a link", "among its parents: No such file", Layer::new().symlink("l", &outside).fifo("l/pipe")),
        ("a magic link", "among its parents: No such file", Layer::new().symlink("l", "/proc/self/root").file("l/x", "evil")),
        ("replacing a link to a directory", "", Layer::new().symlink("l", &outside).file("l", "").dir("l/")),
        ("a PAX path", ".. component", Layer::new().pax(&[("path", format!("{up}/new").as_bytes())]).file("x", "evil")),
        ("a PAX link path", ".. component", Layer::new().pax(&[("linkpath", format!("{up}/secret").as_bytes())]).hard_link("x", "y")),
        (
            "a sparse file's name",
            ".. component",
            Layer::new().pax(&[("GNU.sparse.name", format!("{up}/new").as_bytes()), ("GNU.sparse.size", b"0")]).file("x", ""),
        ),
        ("a NUL in a name", "contains a NUL byte", Layer::new().pax(&[("path", b"a\0b")]).file("x", "")),
    ];
    for (what, reason, layer) in corpus {
        let result = fixture.unpack(layer);
        canary.assert_unchanged(what);
        match &result {
            Err(error) => assert!(!reason.is_empty() && chain(error).contains(reason), "{what}: {}", chain(error)),
            Ok(_) => assert!(reason.is_empty(), "{what} is kept, and should be refused: {reason}"),
        }
        fixture.store.remove("test").unwrap();
        canary.assert_unchanged(what);
        fixture.assert_empty();
    }
}

#[test]
fn names_that_lead_up_are_refused() {
    let fixture = Fixture::new();
    for layer in [
        Layer::new().file("../x", ""),
        Layer::new().file("a/../x", ""),
        Layer::new().file("x", "").hard_link("h", "a/../x"),
        Layer::new().file("d/.wh...", ""),
        Layer::new().symlink("/", "a link as the root"),
    ] {
        let text = chain(&fixture.unpack(layer).unwrap_err());
        assert!(text.contains("its name is refused"), "{text}");
        fixture.assert_empty();
    }
}

#[test]
fn an_image_cannot_make_whiteouts_of_its_own() {
    let fixture = Fixture::new();
    let text = chain(&fixture.unpack(Layer::new().device("w", 0, 0)).unwrap_err());
    assert!(text.contains("0:0"), "{text}");
    let text = chain(&fixture.unpack(Layer::new().file(".wh.w", "").hard_link("copy", "w")).unwrap_err());
    assert!(text.contains("hard link to something that is not a file"), "{text}");
    fixture.assert_empty();
}

#[test]
fn owners_that_mean_unchanged_are_refused() {
    let fixture = Fixture::new();
    for (uid, gid) in [(u64::from(u32::MAX), 0), (0, u64::from(u32::MAX)), (1 << 32, 0), (0, 1 << 40)] {
        let layer = Layer::new().entry(EntryType::Regular, "f", "", &Meta { uid, gid, ..Meta::default() }, b"");
        assert!(fixture.unpack(layer).is_err(), "{uid}:{gid}");
    }
    fixture.assert_empty();
}

#[test]
fn malformed_streams_are_refused() {
    let sparse = |map: &'static [u8]| Layer::new().pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", b"1024")]).file("s", "data");
    let fixture = Fixture::new();
    for (what, reason, layer) in [
        ("a map beyond the file", "malformed sparse file map at byte 1024", sparse(b"2000,4")),
        ("an overlapping map", "malformed sparse file map at byte 1024", sparse(b"0,2,1,2")),
        ("a map of more than the data", "malformed sparse file map at byte 1024", sparse(b"0,5")),
        ("half a pair", "malformed sparse file map at byte 1024", sparse(b"0,4,9")),
        ("a PAX header for nothing", "stray tar extension header at byte 1024", Layer::new().pax(&[("path", b"x")])),
        (
            "two PAX headers",
            "stray tar extension header at byte 1024",
            Layer::new().pax(&[("path", b"x")]).pax(&[("path", b"y")]).file("z", ""),
        ),
        ("a size that is no number", "malformed PAX header before byte 0", Layer::new().pax(&[("size", b"12x")]).file("z", "")),
        ("a size beyond the stream", "ends in the middle of an entry", Layer::new().pax(&[("size", b"99999999")]).file("z", "")),
        (
            "a size near overflow",
            "field size at byte 1024 is not a valid number",
            Layer::new().pax(&[("size", b"18446744073709551615")]).file("z", ""),
        ),
        (
            "an unknown type",
            "type 'V' at byte 0 is not supported",
            Layer::new().entry(EntryType::new(b'V'), "v", "", &Meta::default(), b""),
        ),
        ("garbage", "checksum mismatch at byte 0", Layer::new().raw(&[0xff; 1024])),
        ("a name too long", "a component exceeds 255 bytes", Layer::new().pax(&[("path", "n".repeat(256).as_bytes())]).file("z", "")),
        ("a path too long", "longer than 4095 bytes", Layer::new().pax(&[("path", "n/".repeat(2049).as_bytes())]).file("z", "")),
        ("a file as a parent", "among its parents: Not a directory", Layer::new().file("f", "").file("f/x", "")),
        ("a dangling parent", "among its parents: No such file", Layer::new().symlink("l", "nowhere").file("l/x", "")),
        ("a loop of links", "open its parent directory: Too many levels", Layer::new().symlink("a", "b").symlink("b", "a").file("a/x", "")),
        ("a link to nothing", "its symbolic link target is empty", Layer::new().symlink("l", "")),
        ("a hard link to what is not there", "link to another file of the layer: No such file", Layer::new().hard_link("h", "nowhere")),
    ] {
        let text = chain(&fixture.unpack(layer).expect_err(what));
        assert!(text.contains(reason), "{what}: {text}");
        fixture.assert_empty();
    }
}

#[test]
fn attributes_without_number_are_refused() {
    let fixture = Fixture::new();
    let attributes = |count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("SCHILY.xattr.trusted.a{number}")).collect();
        let records: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
        Layer::new().pax(&records).file("f", "")
    };
    let text = chain(&fixture.unpack(attributes(20_000)).unwrap_err());
    assert!(text.contains("has 20000 extended attributes, more than 512"), "{text}");
    fixture.assert_empty();
    fixture.unpack(attributes(512)).unwrap();
}

#[test]
fn a_path_of_two_thousand_components_is_made_and_removed() {
    let fixture = Fixture::new();
    let deep = "d/".repeat(2000);
    fixture.unpack(Layer::new().pax(&[("path", format!("{deep}f").as_bytes())]).file("z", "").file("d", "instead")).unwrap();
    fixture.store.remove("test").unwrap();
    fixture.assert_empty();
}
