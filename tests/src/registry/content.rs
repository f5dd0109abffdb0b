//! Images as registries hold them, and the folders in which `docker-registry` keeps them.

use crate::TestImage;
use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// How layers are packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// As most are.
    #[default]
    Gzip,
    /// As newer ones are.
    Zstd,
}

/// Whose documents describe an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// OCI image specification 1.
    #[default]
    Oci,
    /// Docker image manifest, schema 2.
    Docker,
}

/// What a registry holds.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Configurations and layers, by digest.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Manifests and indexes, by digest, with their media types.
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
    /// What tags point to, by repository and tag.
    pub tags: BTreeMap<(String, String), String>,
    /// Who has which manifests.
    repositories: BTreeMap<String, Vec<String>>,
}

/// An image that was put into a registry.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Its id: the digest of its configuration.
    pub id: String,
    /// The digest of its manifest.
    pub manifest: String,
    /// The digests of its layers, as they are packed.
    pub layers: Vec<String>,
}

/// `sha256:…`
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Content {
    /// Puts an image under a tag.
    ///
    /// # Errors
    /// Busybox is not there.
    pub fn push(&mut self, repository: &str, tag: &str, image: &TestImage) -> Result<Pushed> {
        self.push_as(repository, tag, image, Compression::default(), Format::default())
    }

    /// As [`Content::push`], in a form of choice.
    ///
    /// # Errors
    /// Busybox is not there.
    pub fn push_as(&mut self, repository: &str, tag: &str, image: &TestImage, compression: Compression, format: Format) -> Result<Pushed> {
        let (config, layers) = image.config_and_layers()?;
        self.push_parts(repository, tag, config, layers, compression, format)
    }

    /// As [`Content::push_as`], of a configuration and layers that need not be an image.
    ///
    /// # Errors
    /// A layer cannot be packed.
    pub fn push_parts(
        &mut self,
        repository: &str,
        tag: &str,
        config: Vec<u8>,
        layers: Vec<Vec<u8>>,
        compression: Compression,
        format: Format,
    ) -> Result<Pushed> {
        let (manifest_type, config_type, layer_type) = match format {
            Format::Oci => (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                match compression {
                    Compression::None => "application/vnd.oci.image.layer.v1.tar",
                    Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
                    Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
                },
            ),
            Format::Docker => (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
        };
        let id = digest_of(&config);
        let config = self.blob(config, config_type);
        let layers: Vec<Value> =
            layers.into_iter().map(|layer| Ok(self.blob(pack(&layer, compression)?, layer_type))).collect::<Result<_>>()?;
        let digests = layers.iter().filter_map(|layer| layer["digest"].as_str().map(str::to_owned)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
        let manifest = self.manifest(repository, manifest_type, manifest.to_string().into_bytes());
        self.tag(repository, tag, &manifest);
        Ok(Pushed { id, manifest, layers: digests })
    }

    /// Puts an image under a tag that is there to be large: so many layers of so many bytes, which pack to half of that.
    ///
    /// # Errors
    /// A layer cannot be packed.
    pub fn push_large(&mut self, repository: &str, tag: &str, layers: u64, layer_bytes: usize) -> Result<Pushed> {
        const FILES: u64 = 8;
        let file_bytes = layer_bytes / FILES as usize;
        let layer = |number: u64| {
            let mut archive = tar::Builder::new(Vec::with_capacity(layer_bytes + 16 * 1024));
            for file in 0..FILES {
                let mut header = tar::Header::new_gnu();
                header.set_size(file_bytes as u64);
                header.set_mode(0o644);
                let bytes = half_noise(number * FILES + file, file_bytes);
                archive.append_data(&mut header, format!("layer-{number}/file-{file}"), &*bytes).context("fill a layer")?;
            }
            archive.into_inner().context("fill a layer")
        };
        let layers: Vec<Vec<u8>> = (0..layers).map(layer).collect::<Result<_>>()?;
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest_of(layer)).collect();
        let config = json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string().into_bytes();
        self.push_parts(repository, tag, config, layers, Compression::Gzip, Format::Oci)
    }

    /// Puts an index under a tag: images by platform, `os/architecture`. Returns its digest.
    pub fn push_index(&mut self, repository: &str, tag: &str, images: &[(&str, &Pushed)]) -> String {
        let entry = |(platform, image): &(&str, &Pushed)| {
            let (os, architecture) = platform.split_once('/').unwrap_or((platform, ""));
            let (media_type, bytes) = &self.manifests[&image.manifest];
            json!({"mediaType": media_type, "digest": image.manifest, "size": bytes.len(),
                   "platform": {"os": os, "architecture": architecture}})
        };
        let media_type = "application/vnd.oci.image.index.v1+json";
        let manifests: Vec<Value> = images.iter().map(entry).collect();
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        let digest = self.manifest(repository, media_type, index.to_string().into_bytes());
        self.tag(repository, tag, &digest);
        digest
    }

    /// Puts a document into a repository and returns its digest.
    pub fn manifest(&mut self, repository: &str, media_type: &str, bytes: Vec<u8>) -> String {
        let digest = digest_of(&bytes);
        self.manifests.insert(digest.clone(), (media_type.to_owned(), bytes));
        self.repositories.entry(repository.to_owned()).or_default().push(digest.clone());
        digest
    }

    /// Lets a tag point to a document.
    pub fn tag(&mut self, repository: &str, tag: &str, digest: &str) {
        self.tags.insert((repository.to_owned(), tag.to_owned()), digest.to_owned());
    }

    fn blob(&mut self, bytes: Vec<u8>, media_type: &str) -> Value {
        let (digest, size) = (digest_of(&bytes), bytes.len());
        self.blobs.insert(digest.clone(), bytes);
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// Writes all of it where `docker-registry` looks for it.
    pub fn store(&self, directory: &Path) -> Result<()> {
        let top = directory.join("docker/registry/v2");
        let write = |path: &str, bytes: &[u8]| {
            let path = top.join(path);
            std::fs::create_dir_all(path.parent().context("a path below the directory")?).context("make the registry's folders")?;
            std::fs::write(&path, bytes).with_context(|| path.display().to_string())
        };
        let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
        let documents = self.manifests.iter().map(|(digest, (_, bytes))| (digest, bytes));
        for (digest, bytes) in self.blobs.iter().chain(documents) {
            let hex = hex(digest);
            write(&format!("blobs/sha256/{}/{hex}/data", &hex[..2]), bytes)?;
        }
        for (repository, manifests) in &self.repositories {
            for digest in self.blobs.keys() {
                write(&format!("repositories/{repository}/_layers/sha256/{}/link", hex(digest)), digest.as_bytes())?;
            }
            for digest in manifests {
                write(&format!("repositories/{repository}/_manifests/revisions/sha256/{}/link", hex(digest)), digest.as_bytes())?;
            }
        }
        for ((repository, tag), digest) in &self.tags {
            let tag = format!("repositories/{repository}/_manifests/tags/{tag}");
            write(&format!("{tag}/current/link"), digest.as_bytes())?;
            write(&format!("{tag}/index/sha256/{}/link", hex(digest)), digest.as_bytes())?;
        }
        Ok(())
    }
}

/// Bytes that pack to half their size.
fn half_noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // Knuth's MMIX generator: noise as far as a packer is concerned.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 32).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn pack(bytes: &[u8], compression: Compression) -> Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(bytes.to_owned()),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).context("pack a layer")?;
            encoder.finish().context("pack a layer")
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).context("pack a layer"),
    }
}
