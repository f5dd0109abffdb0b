//! Layers of images: whatever stands in one, nothing beside the store is made, changed or removed, and nothing half-made stays.

use crate::cursor::Cursor;
use podbox_image::{Digest, ImageStore};
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tar::{EntryType, Header};

const ENTRIES_MAX: usize = 32;
const LAYERS_MAX: usize = 3;

/// Unpacks layers that the bytes describe, or bytes that are nearly a layer.
///
/// # Panics
/// Something beside the store changed, or a failed import left something in it.
pub fn layer(bytes: &[u8]) {
    let folder = Folder::new();
    let canary = folder.path().join("canary");
    std::fs::create_dir_all(canary.join("sub")).expect("make the canary");
    std::fs::write(canary.join("file"), "untouched").expect("make the canary");
    std::os::unix::fs::symlink("file", canary.join("link")).expect("make the canary");
    let before = describe(&canary);

    let mut cursor = Cursor::new(bytes);
    let mut layers = Vec::new();
    while layers.len() < LAYERS_MAX && (layers.is_empty() || !cursor.is_empty()) {
        layers.push(match cursor.byte() % 16 {
            0 => {
                let seed = described(&mut Cursor::new(&SEED), &canary);
                cursor.mutated(&seed)
            }
            _ => described(&mut cursor, &canary),
        });
    }
    let archive = folder.path().join("image.tar");
    std::fs::write(&archive, archive_of(&layers)).expect("write the archive");
    let store = ImageStore::open(&folder.path().join("store")).expect("open the store");
    match store.import(&archive, None) {
        Ok(images) => {
            for image in images {
                store.remove(&image.id.to_string()).expect("what was imported can be removed");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    for left in ["tmp", "layers"] {
        let left = folder.path().join("store").join(left);
        let names: Vec<_> = std::fs::read_dir(&left).expect("list").flatten().map(|entry| entry.file_name()).collect();
        assert!(names.is_empty(), "{}: {names:?} is left", left.display());
    }
    assert_eq!(describe(&canary), before);
    let mut beside: Vec<_> = std::fs::read_dir(folder.path()).expect("list").flatten().map(|entry| entry.file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["canary", "image.tar", "store"]);
}

/// What layers are made of; what ends most of them comes seldom, for else nothing gets deep.
const KINDS: [EntryType; 8] = [
    EntryType::Regular,
    EntryType::Regular,
    EntryType::Directory,
    EntryType::Directory,
    EntryType::Symlink,
    EntryType::Symlink,
    EntryType::Link,
    EntryType::Fifo,
];
const ODD_KINDS: [EntryType; 4] = [EntryType::GNUSparse, EntryType::Continuous, EntryType::Char, EntryType::Block];
/// Of headers that say more of the entry behind them.
const EXTENSIONS: [EntryType; 4] = [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongName, EntryType::GNULongLink];
const NAMES: [&str; 8] = ["a", "b", "c", "d", "file", ".wh.a", ".wh.b", ".wh..wh..opq"];
const ODD_NAMES: [&str; 7] = ["..", ".", "", "../..", ".wh.", ".wh...", "\u{1}"];

/// Decisions for a layer with an entry of most kinds.
const SEED: [u8; 96] = {
    let mut seed = [0; 96];
    let mut at = 0;
    while at < seed.len() {
        // Any spread will do.
        seed[at] = (at * 37 % 251) as u8;
        at += 1;
    }
    seed
};

/// In memory, where there is such a place: unpacking waits for no disk.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self(made.expect("make a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn describe(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut unvisited = vec![folder.to_owned()];
    while let Some(path) = unvisited.pop() {
        let metadata = std::fs::symlink_metadata(&path).expect("look");
        let content = if metadata.is_file() { std::fs::read(&path).expect("read") } else { Vec::new() };
        let (owner, changed) = ((metadata.uid(), metadata.gid()), (metadata.ctime(), metadata.ctime_nsec()));
        lines.push(format!("{path:?} {} {:o} {owner:?} {} {changed:?} {content:?}", metadata.ino(), metadata.mode(), metadata.nlink()));
        if metadata.is_dir() {
            unvisited.extend(std::fs::read_dir(&path).expect("list").flatten().map(|entry| entry.path()));
        }
    }
    lines.sort();
    lines
}

/// What `docker save` writes, of these layers.
fn archive_of(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({"os": "linux", "architecture": architecture, "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": ["localhost/fuzz:latest"], "Layers": names}]);
    let mut tar = Tar(Vec::new());
    for (name, layer) in names.iter().zip(layers) {
        tar.entry(EntryType::Regular, name.as_bytes(), b"", layer, |_| ());
    }
    tar.entry(EntryType::Regular, b"config.json", b"", config.to_string().as_bytes(), |_| ());
    tar.entry(EntryType::Regular, b"manifest.json", b"", manifest.to_string().as_bytes(), |_| ());
    tar.finish()
}

/// A layer of entries that mean ill, as the bytes choose them.
fn described(cursor: &mut Cursor<'_>, canary: &Path) -> Vec<u8> {
    let mut tar = Tar(Vec::new());
    let mut there = There::default();
    for _ in 0..=usize::from(cursor.byte()) % ENTRIES_MAX {
        let kind = if is_rare(cursor) { cursor.one_of(&ODD_KINDS) } else { cursor.one_of(&KINDS) };
        let name = there.new_name(cursor);
        let link = match kind {
            EntryType::Symlink => there.target(cursor, canary),
            EntryType::Link => there.file(cursor),
            _ => String::new(),
        };
        if is_rare(cursor) {
            let extension = cursor.one_of(&EXTENSIONS);
            let said = match extension {
                EntryType::GNULongName => format!("{name}\0").into_bytes(),
                EntryType::GNULongLink => format!("{link}\0").into_bytes(),
                _ => records(cursor, name.as_bytes()),
            };
            tar.entry(extension, b"extension", b"", &said, |_| ());
        }
        let has_data = matches!(kind, EntryType::Regular | EntryType::GNUSparse | EntryType::Continuous);
        let data = cursor.take(if has_data { 16 } else { 0 });
        let (mode, owner, numbers) = (cursor.number(), cursor.number(), cursor.number());
        tar.entry(kind, name.as_bytes(), link.as_bytes(), data, |header| {
            header.set_mode(mode & 0o7777);
            header.set_uid(owner.into());
            // A header of another format has no such fields.
            let _ = header.set_device_major(numbers >> 16).and_then(|()| header.set_device_minor(numbers & 0xffff));
        });
        there.add(kind, name);
    }
    tar.finish()
}

fn is_rare(cursor: &mut Cursor<'_>) -> bool {
    cursor.byte().is_multiple_of(32)
}

/// What earlier entries of a layer have made, by name: a symbolic link is as good as a folder to who means ill.
#[derive(Default)]
struct There {
    folders: Vec<String>,
    files: Vec<String>,
}

impl There {
    fn new_name(&self, cursor: &mut Cursor<'_>) -> String {
        let name = if is_rare(cursor) { cursor.one_of(&ODD_NAMES) } else { cursor.one_of(&NAMES) };
        match one_of(&self.folders, cursor) {
            Some(folder) if !cursor.byte().is_multiple_of(4) => format!("{folder}/{name}"),
            _ if is_rare(cursor) => format!("/{name}"),
            _ => name.to_owned(),
        }
    }

    fn target(&self, cursor: &mut Cursor<'_>, canary: &Path) -> String {
        let canary = canary.display();
        match cursor.byte() % 8 {
            0 => "/".to_owned(),
            1 => "..".to_owned(),
            2 => "../../..".to_owned(),
            3 => format!("../../../../../../../..{canary}"),
            4 | 5 => canary.to_string(),
            _ => one_of(&self.folders, cursor).unwrap_or("a").to_owned(),
        }
    }

    /// One that is there, or would be if a link led where it says.
    fn file(&self, cursor: &mut Cursor<'_>) -> String {
        match (one_of(&self.folders, cursor), one_of(&self.files, cursor)) {
            (Some(folder), _) if cursor.byte().is_multiple_of(4) => format!("{folder}/file"),
            (_, Some(file)) => file.to_owned(),
            (_, None) => "file".to_owned(),
        }
    }

    fn add(&mut self, kind: EntryType, name: String) {
        match kind {
            EntryType::Directory | EntryType::Symlink => self.folders.push(name),
            EntryType::Regular => self.files.push(name),
            _ => {}
        }
    }
}

fn one_of<'a>(all: &'a [String], cursor: &mut Cursor<'_>) -> Option<&'a str> {
    all.get(usize::from(cursor.byte()) % all.len().max(1)).map(String::as_str)
}

/// Records of a PAX header; their lengths are right, what they say need not be.
fn records(cursor: &mut Cursor<'_>, name: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..=cursor.byte() % 4 {
        let key = cursor.one_of(&[
            "path",
            "linkpath",
            "size",
            "uid",
            "mtime",
            "GNU.sparse.map",
            "GNU.sparse.name",
            "GNU.sparse.realsize",
            "SCHILY.xattr.user.a",
            "SCHILY.xattr.trusted.overlay.redirect",
            "SCHILY.xattr.trusted.overlay.opaque",
            "SCHILY.xattr.security.capability",
        ]);
        let value = cursor.one_of(&[name, b"", b"0", b"-1", b"18446744073709551616", b"1,2,3", b"y", b"/canary", b"\xff\0\n"]);
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|length| length - rest == length.to_string().len()).unwrap_or(rest);
        all.extend_from_slice(format!("{length} {key}=").as_bytes());
        all.extend_from_slice(value);
        all.push(b'\n');
    }
    all
}

struct Tar(Vec<u8>);

impl Tar {
    fn entry(&mut self, kind: EntryType, name: &[u8], link: &[u8], data: &[u8], change: impl FnOnce(&mut Header)) {
        let mut header = Header::new_gnu();
        let fields = header.as_old_mut();
        let fit = |field: &mut [u8; 100], text: &[u8]| {
            let count = text.len().min(field.len());
            field[..count].copy_from_slice(&text[..count]);
        };
        fit(&mut fields.name, name);
        fit(&mut fields.linkname, link);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(data.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
