//! Builds layers and image archives by hand, hostile ones included.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use podbox_image::{Digest, ImageStore};
use serde_json::{Value, json};
use tar::{EntryType, Header};

#[cfg(target_arch = "x86_64")]
pub const ARCHITECTURE: &str = "amd64";
#[cfg(target_arch = "aarch64")]
pub const ARCHITECTURE: &str = "arm64";

/// A layer's tar, written header by header so that names can be anything.
#[derive(Default, Clone)]
pub struct Layer {
    bytes: Vec<u8>,
}

pub struct Meta {
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
}

impl Default for Meta {
    fn default() -> Self {
        Self { mode: 0o644, uid: 0, gid: 0, mtime: 1_000_000_000 }
    }
}

impl Layer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn entry(mut self, kind: EntryType, name: &str, link: &str, meta: &Meta, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        header.set_uid(meta.uid);
        header.set_gid(meta.gid);
        header.set_mtime(meta.mtime);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.push(header.as_bytes(), data);
        self
    }

    pub fn push(&mut self, header: &[u8], data: &[u8]) {
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    pub fn file(self, name: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, name, "", &Meta::default(), data.as_bytes())
    }

    pub fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", &Meta { mode: 0o755, ..Meta::default() }, b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, &Meta { mode: 0o777, ..Meta::default() }, b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, &Meta::default(), b"")
    }

    pub fn fifo(self, name: &str) -> Self {
        self.entry(EntryType::Fifo, name, "", &Meta::default(), b"")
    }

    pub fn device(mut self, name: &str, major: u32, minor: u32) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(EntryType::Char);
        header.set_mode(0o620);
        header.set_uid(0);
        header.set_gid(5);
        header.set_mtime(1);
        header.set_size(0);
        header.set_device_major(major).expect("GNU headers have device numbers");
        header.set_device_minor(minor).expect("GNU headers have device numbers");
        header.set_cksum();
        self.push(header.as_bytes(), b"");
        self
    }

    /// A PAX header for the entry that follows.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions(records.iter().copied()).expect("writing to a Vec");
        let mut bytes = builder.into_inner().expect("writing to a Vec");
        bytes.truncate(bytes.len() - 1024);
        self.bytes.extend_from_slice(&bytes);
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
}

pub fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::Plain => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).expect("writing to a Vec");
            encoder.finish().expect("writing to a Vec")
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).expect("compressing memory"),
    }
}

/// An image to be, and the files of its archive.
pub struct Image {
    pub layers: Vec<Vec<u8>>,
    pub compression: Compression,
    pub config: Value,
}

impl Image {
    pub fn new(layers: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let config = json!({
            "os": "linux", "architecture": ARCHITECTURE,
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "User": "", "Labels": null},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self { layers, compression: Compression::Gzip, config }
    }

    pub fn compressed(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.config["config"][key] = value;
        self
    }

    pub fn config_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.config).expect("a JSON value")
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.config_bytes())
    }

    /// Adds the image's blobs and returns the descriptor of its manifest.
    pub fn add_blobs(&self, files: &mut Files) -> Value {
        let (config, config_len) = files.blob(self.config_bytes());
        let media_type = match self.compression {
            Compression::Plain => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                let (digest, size) = files.blob(compress(layer, self.compression));
                json!({"mediaType": media_type, "digest": digest, "size": size})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_len},
            "layers": layers,
        });
        let (digest, size) = files.blob(serde_json::to_vec(&manifest).expect("a JSON value"));
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size})
    }

    pub fn manifest_digest(&self) -> Digest {
        let descriptor = self.add_blobs(&mut Files::default());
        descriptor["digest"].as_str().and_then(|text| text.parse().ok()).expect("made just above")
    }

    /// The files of an OCI layout with this image under `name`.
    pub fn oci(&self, name: &str) -> Files {
        let mut files = Files::default();
        let mut descriptor = self.add_blobs(&mut files);
        if !name.is_empty() {
            descriptor["annotations"] = json!({"io.containerd.image.name": name});
        }
        files.index(vec![descriptor]);
        files
    }

    /// The files of a docker archive with this image under `repo_tags`.
    pub fn docker(&self, repo_tags: &[&str]) -> Files {
        let mut files = Files::default();
        let config = format!("{}.json", self.id().hex());
        files.add(&config, self.config_bytes());
        let layers: Vec<String> = self
            .layers
            .iter()
            .enumerate()
            .map(|(number, layer)| {
                let name = format!("layer{number}/layer.tar");
                files.add(&name, compress(layer, self.compression));
                name
            })
            .collect();
        let manifest = json!([{"Config": config, "RepoTags": repo_tags, "Layers": layers}]);
        files.add("manifest.json", serde_json::to_vec(&manifest).expect("a JSON value"));
        files
    }
}

/// The files of an archive or layout directory.
#[derive(Default, Clone)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.insert(name.to_owned(), bytes);
    }

    pub fn blob(&mut self, bytes: Vec<u8>) -> (String, usize) {
        let (digest, len) = (Digest::of(&bytes), bytes.len());
        self.add(&format!("blobs/sha256/{}", digest.hex()), bytes);
        (digest.to_string(), len)
    }

    pub fn index(&mut self, descriptors: Vec<Value>) {
        self.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        let index = json!({"schemaVersion": 2, "manifests": descriptors});
        self.add("index.json", serde_json::to_vec(&index).expect("a JSON value"));
    }

    pub fn tar_bytes(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes.as_slice()).expect("writing to a Vec");
        }
        builder.into_inner().expect("writing to a Vec")
    }

    pub fn write_tar(&self, path: &Path) {
        std::fs::write(path, self.tar_bytes()).expect("writing a test archive");
    }

    pub fn write_directory(&self, path: &Path) {
        for (name, bytes) in &self.0 {
            let file = path.join(name);
            std::fs::create_dir_all(file.parent().expect("inside the directory")).expect("making a test layout");
            std::fs::write(file, bytes).expect("writing a test layout");
        }
    }
}

/// A store in a temporary directory, with room for archives beside it.
pub struct Fixture {
    pub directory: tempfile::TempDir,
    pub store: ImageStore,
}

impl Fixture {
    pub fn new() -> Self {
        Self::new_in("/tmp")
    }

    pub fn new_in(parent: &str) -> Self {
        let directory = tempfile::tempdir_in(parent).expect("a temporary directory");
        let store = ImageStore::open(&directory.path().join("store")).expect("a new store");
        Self { directory, store }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    pub fn archive(&self, files: &Files) -> PathBuf {
        let path = self.directory.path().join("archive.tar");
        files.write_tar(&path);
        path
    }

    pub fn import(&self, image: &Image, name: &str) -> std::sync::Arc<podbox_image::ImageRecord> {
        let archive = self.archive(&image.oci(name));
        let mut images = self.store.import(&archive, None).expect("a good archive");
        assert_eq!(images.len(), 1);
        images.remove(0)
    }

    /// Names in a directory of the store, sorted.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root().join(directory)).expect("a directory of the store");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("a directory of the store").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    pub fn assert_empty(&self) {
        for directory in ["images", "layers", "tmp", "containers"] {
            assert_eq!(self.names(directory), Vec::<String>::new(), "{directory} is not empty");
        }
    }

    /// Imports an image of one layer and returns the directory the layer was unpacked into.
    pub fn unpack(&self, layer: Layer) -> Result<PathBuf, podbox_image::Error> {
        let bytes = layer.finish();
        let diff_id = Digest::of(&bytes);
        let archive = self.archive(&Image::new(vec![bytes]).compressed(Compression::Plain).oci("test"));
        self.store.import(&archive, None)?;
        Ok(self.root().join("layers").join(diff_id.hex()).join("fs"))
    }
}

/// The whole chain of an error, as an operator would see it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
