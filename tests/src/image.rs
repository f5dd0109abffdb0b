//! Test images: busybox with a few accounts, made by hand in each of the forms that can be imported.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use tar::{EntryType, Header};

#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &str = "arm64";
#[cfg(not(target_arch = "aarch64"))]
const ARCHITECTURE: &str = "amd64";

/// The name that most tests use.
pub const DEFAULT_NAME: &str = "localhost/podbox-test/busybox:latest";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    alice:x:1000:1000:Alice:/home/alice:/bin/sh\n\
    bob:x:1001:1001:Bob:/home/bob:/bin/sh\n";
const GROUP: &str = "root:x:0:\n\
    daemon:x:1:\n\
    staff:x:50:alice\n\
    alice:x:1000:\n\
    bob:x:1001:\n\
    crew:x:2000:alice,bob\n";

/// An image to be. All images share one layer, busybox with every applet in `/bin`, `/etc/passwd` (root, daemon, alice 1000 and bob
/// 1001), `/etc/group` (alice is in staff 50 and crew 2000 as well, bob in crew) and `/tmp`, and have a second one if there are more files.
#[derive(Debug, Clone)]
pub struct TestImage {
    /// Its name.
    pub name: String,
    /// `Entrypoint`
    pub entrypoint: Vec<String>,
    /// `Cmd`
    pub cmd: Vec<String>,
    /// `Env`
    pub env: Vec<String>,
    /// `User`
    pub user: String,
    /// `WorkingDir`
    pub working_dir: String,
    /// `StopSignal`
    pub stop_signal: String,
    /// `Volumes`
    pub volumes: Vec<String>,
    /// More files: path, mode, content.
    pub files: Vec<(String, u32, Vec<u8>)>,
    /// Symbolic links: path, target.
    pub links: Vec<(String, String)>,
    /// Device files that everybody may use: path, `b` or `c`, major and minor number.
    pub devices: Vec<(String, char, u32, u32)>,
}

impl Default for TestImage {
    fn default() -> Self {
        Self {
            name: DEFAULT_NAME.to_owned(),
            entrypoint: Vec::new(),
            cmd: vec!["/bin/sh".to_owned()],
            env: vec!["PATH=/bin".to_owned()],
            user: String::new(),
            working_dir: String::new(),
            stop_signal: String::new(),
            volumes: Vec::new(),
            files: Vec::new(),
            links: Vec::new(),
            devices: Vec::new(),
        }
    }
}

impl TestImage {
    /// A plain one of another name: `localhost/podbox-test/NAME:latest`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: format!("localhost/podbox-test/{name}:latest"), ..Self::default() }
    }

    /// With a further file.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.files.push((path.to_owned(), mode, content.to_owned()));
        self
    }

    /// With a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.links.push((path.to_owned(), target.to_owned()));
        self
    }

    /// Adds a device file that everybody may use; `kind` is `b` or `c`.
    #[must_use]
    pub fn device(mut self, path: &str, kind: char, major: u32, minor: u32) -> Self {
        self.devices.push((path.to_owned(), kind, major, minor));
        self
    }

    /// The id that a runtime gives it: the digest of its config.
    ///
    /// # Errors
    /// Busybox is not there.
    pub fn id(&self) -> Result<String> {
        Ok(digest(&self.config(&self.layers()?)))
    }

    /// Its configuration, and its layers as tar archives, lowest first.
    ///
    /// # Errors
    /// Busybox is not there.
    pub fn config_and_layers(&self) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
        let layers = self.layers()?;
        Ok((self.config(&layers), layers))
    }

    fn layers(&self) -> Result<Vec<Vec<u8>>> {
        let mut layers = vec![base_layer()?.to_owned()];
        if !self.files.is_empty() || !self.links.is_empty() || !self.devices.is_empty() {
            let mut layer = Layer::new();
            for (path, mode, content) in &self.files {
                layer.file(path, *mode, content)?;
            }
            for (path, target) in &self.links {
                layer.entry(EntryType::Symlink, path, 0o777, Some(target), &[])?;
            }
            for (path, kind, major, minor) in &self.devices {
                layer.device(path, *kind, *major, *minor)?;
            }
            layers.push(layer.finish()?);
        }
        Ok(layers)
    }

    fn config(&self, layers: &[Vec<u8>]) -> Vec<u8> {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let mut process =
            json!({"Env": self.env, "User": self.user, "WorkingDir": self.working_dir, "Entrypoint": self.entrypoint, "Cmd": self.cmd});
        if !self.stop_signal.is_empty() {
            process["StopSignal"] = json!(self.stop_signal);
        }
        if !self.volumes.is_empty() {
            process["Volumes"] = self.volumes.iter().map(|path| (path.clone(), json!({}))).collect();
        }
        // The name tells images apart that are the same in everything else.
        process["Labels"] = json!({"name": self.name});
        let config = json!({
            "os": "linux", "architecture": ARCHITECTURE, "config": process,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        config.to_string().into_bytes()
    }

    /// The files of an OCI layout, by path. The name stands in the annotation that containerd reads.
    fn oci(&self) -> Result<Files> {
        let layers = self.layers()?;
        let mut files = Files::new();
        let mut blob = |bytes: Vec<u8>, media_type: &str| {
            let (digest, size) = (digest(&bytes), bytes.len());
            files.insert(format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")), bytes);
            json!({"mediaType": media_type, "digest": digest, "size": size})
        };
        let config = blob(self.config(&layers), "application/vnd.oci.image.config.v1+json");
        let layers: Vec<Value> = layers.into_iter().map(|layer| blob(layer, "application/vnd.oci.image.layer.v1.tar")).collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
        let mut manifest = blob(manifest.to_string().into_bytes(), media_type);
        manifest["annotations"] = json!({"io.containerd.image.name": self.name});
        files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        files.insert("index.json".to_owned(), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string().into_bytes());
        Ok(files)
    }

    /// Writes an OCI archive: a layout in a tar.
    ///
    /// # Errors
    /// Busybox is not there, or the file cannot be written.
    pub fn write_oci_archive(&self, path: &Path) -> Result<()> {
        write_tar(&self.oci()?, path)
    }

    /// Writes an OCI layout into a directory, which is made.
    ///
    /// # Errors
    /// Busybox is not there, or the files cannot be written.
    pub fn write_oci_layout(&self, directory: &Path) -> Result<()> {
        for (name, bytes) in self.oci()? {
            let path = directory.join(name);
            std::fs::create_dir_all(path.parent().context("a path below the directory")?).context("make the layout")?;
            std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Writes an archive as `docker save` does.
    ///
    /// # Errors
    /// Busybox is not there, or the file cannot be written.
    pub fn write_docker_archive(&self, path: &Path) -> Result<()> {
        let layers = self.layers()?;
        let config = self.config(&layers);
        let config_name = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
        let layer_names: Vec<String> = (0..layers.len()).map(|number| format!("layer{number}/layer.tar")).collect();
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": layer_names}]);
        let mut files: Files = layer_names.into_iter().zip(layers).collect();
        files.insert(config_name, config);
        files.insert("manifest.json".to_owned(), manifest.to_string().into_bytes());
        write_tar(&files, path)
    }
}

type Files = BTreeMap<String, Vec<u8>>;

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn write_tar(files: &Files, path: &Path) -> Result<()> {
    let mut layer = Layer::new();
    for (name, bytes) in files {
        layer.file(name, 0o644, bytes)?;
    }
    std::fs::write(path, layer.finish()?).with_context(|| path.display().to_string())
}

fn base_layer() -> Result<&'static [u8]> {
    static LAYER: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();
    let layer = LAYER.get_or_init(|| make_base_layer().map_err(|error| format!("{error:#}")));
    layer.as_deref().map_err(|error| anyhow::Error::msg(error.clone()))
}

fn make_base_layer() -> Result<Vec<u8>> {
    crate::programs::install_packages()?;
    let busybox = std::fs::read("/bin/busybox").context("read /bin/busybox")?;
    let applets = Command::new("/bin/busybox").arg("--list").output().context("list busybox's applets")?;
    let mut layer = Layer::new();
    for (directory, mode) in [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("home", 0o755), ("tmp", 0o1777), ("var", 0o755)] {
        layer.entry(EntryType::Directory, directory, mode, None, &[])?;
    }
    layer.file("bin/busybox", 0o755, &busybox)?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| !applet.is_empty() && *applet != "busybox") {
        layer.entry(EntryType::Symlink, &format!("bin/{applet}"), 0o777, Some("busybox"), &[])?;
    }
    layer.file("etc/passwd", 0o644, PASSWD.as_bytes())?;
    layer.file("etc/group", 0o644, GROUP.as_bytes())?;
    layer.finish()
}

/// A tar in memory, the same bytes for the same files.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(EntryType::Regular, path, mode, None, content)
    }

    fn entry(&mut self, kind: EntryType, path: &str, mode: u32, target: Option<&str>, content: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        match target {
            Some(target) => self.0.append_link(&mut header, path, target),
            None => self.0.append_data(&mut header, path, content),
        }
        .with_context(|| format!("put {path} into a tar"))
    }

    fn device(&mut self, path: &str, kind: char, major: u32, minor: u32) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(if kind == 'b' { EntryType::Block } else { EntryType::Char });
        header.set_mode(0o666);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        header.set_device_major(major).context("a major number")?;
        header.set_device_minor(minor).context("a minor number")?;
        self.0.append_data(&mut header, path, std::io::empty()).with_context(|| format!("put {path} into a tar"))
    }

    fn finish(self) -> Result<Vec<u8>> {
        self.0.into_inner().context("finish a tar")
    }
}
