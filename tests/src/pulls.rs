//! What tests of PullImage ask of a daemon, and the scene of most: a daemon, a registry of ours, an image.

use crate::registry::{Answer, Asked, Content, HostileRegistry, Pushed, digest_of};
use crate::{Client, Daemon, DaemonOptions, TestImage, wait};
use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podbox_proto::v1;
use std::path::{Path, PathBuf};
use tonic::Status;

/// The port of loopback that the registry is on.
pub const PORT: u16 = 5000;
/// And one for somebody else.
pub const OTHER_PORT: u16 = 5001;

fn spec(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() })
}

/// PullImage; gives the image's id.
///
/// # Errors
/// As the daemon says.
pub async fn pull(client: &Client, image: &str) -> Result<String, Status> {
    pull_as(client, image, None).await
}

/// PullImage with credentials.
///
/// # Errors
/// As the daemon says.
pub async fn pull_as(client: &Client, image: &str, auth: Option<v1::AuthConfig>) -> Result<String, Status> {
    let request = v1::PullImageRequest { image: spec(image), auth, sandbox_config: None };
    Ok(client.images().pull_image(request).await?.into_inner().image_ref)
}

/// ImageStatus.
///
/// # Errors
/// As the daemon says.
pub async fn status_of(client: &Client, image: &str) -> Result<Option<v1::Image>, Status> {
    let request = v1::ImageStatusRequest { image: spec(image), verbose: false };
    Ok(client.images().image_status(request).await?.into_inner().image)
}

/// RemoveImage.
///
/// # Errors
/// As the daemon says.
pub async fn remove(client: &Client, image: &str) -> Result<(), Status> {
    client.images().remove_image(v1::RemoveImageRequest { image: spec(image) }).await.map(drop)
}

/// Credentials as the kubelet sends most of them.
#[must_use]
pub fn password(username: &str, password: &str) -> Option<v1::AuthConfig> {
    Some(v1::AuthConfig { username: username.to_owned(), password: password.to_owned(), ..Default::default() })
}

/// A daemon without images, with lines for its `[image]` table.
///
/// # Errors
/// It does not start.
pub async fn daemon_with(image_config: &str) -> Result<Daemon> {
    let more_config = format!("[image]\n{image_config}\n");
    Daemon::start(DaemonOptions { show_log: true, more_config, ..DaemonOptions::default() }).await
}

/// As [`daemon_with`], and unless the lines say otherwise a registry has to send something every second.
///
/// # Errors
/// It does not start.
pub async fn impatient_daemon_with(image_config: &str) -> Result<Daemon> {
    if image_config.contains("progress_timeout_seconds") {
        return daemon_with(image_config).await;
    }
    daemon_with(&format!("progress_timeout_seconds = {}\n{image_config}", wait::slowness())).await
}

/// Writes the `hosts.toml` of a registry `ADDRESS:PORT` below the daemon's `image.hosts_dir`.
///
/// # Errors
/// It cannot be written.
pub fn write_hosts(hosts_dir: &Path, host: &str, text: &str) -> Result<()> {
    let folder = hosts_dir.join(format!("{}_", host.replace(':', "_")));
    std::fs::create_dir_all(&folder).context("make a registry's folder")?;
    std::fs::write(folder.join("hosts.toml"), text).context("write hosts.toml")
}

/// What is in the store, but for locks.
#[must_use]
pub fn left(daemon: &Daemon) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["images", "layers", "tmp"] {
        let entries = std::fs::read_dir(daemon.root_dir().join(folder)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy())));
    }
    found
}

/// An image of two layers, of which the second is incompressible, and so is large on the wire.
#[must_use]
pub fn noisy_image() -> TestImage {
    let noise: Vec<u8> = (0..40_000_u32).flat_map(|number| digest_of(&number.to_le_bytes()).into_bytes()).collect();
    TestImage::named("hostile").file("noise", 0o644, &noise)
}

/// A daemon, a registry with [`noisy_image`] as `a:latest`, and what it is called.
pub struct Scene {
    /// The daemon.
    pub daemon: Daemon,
    /// The registry.
    pub registry: HostileRegistry,
    /// The image.
    pub pushed: Pushed,
}

impl Scene {
    /// A daemon as [`impatient_daemon_with`] has it, and a registry that behaves like this.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn new(
        image_config: &str,
        behaviour: impl Fn(&Asked, &Content, &Pushed) -> Option<Answer> + Send + Sync + 'static,
    ) -> Result<Self> {
        let daemon = impatient_daemon_with(image_config).await?;
        let mut content = Content::default();
        let pushed = content.push("a", "latest", &noisy_image())?;
        let expected = pushed.clone();
        let registry =
            HostileRegistry::start(daemon.shared_network(), PORT, content, move |asked, content| behaviour(asked, content, &expected))?;
        Ok(Self { daemon, registry, pushed })
    }

    /// The image's name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/a", self.registry.host())
    }

    /// Pulls it.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn pull(&self) -> Result<String, Status> {
        pull(&self.daemon.client(), &self.name()).await
    }

    /// The pull fails with a message that begins and goes on like this, and leaves nothing.
    ///
    /// # Errors
    /// Something is left.
    ///
    /// # Panics
    /// It succeeds, or the message is another one.
    pub async fn refused(&self, beginning: &str, words: &[&str]) -> Result<()> {
        let error = self.pull().await.expect_err("the registry is not to be trusted");
        assert!(error.message().starts_with(beginning), "{error:?}");
        for word in words {
            assert!(error.message().contains(word), "{word}: {error:?}");
        }
        self.left_nothing().await
    }

    /// Waits until nothing is in the store.
    ///
    /// # Errors
    /// Something stays.
    pub async fn left_nothing(&self) -> Result<()> {
        // A thread that was unpacking notices a little later that nobody waits.
        wait::until_true("nothing is left", || left(&self.daemon).is_empty()).await.with_context(|| format!("{:?}", left(&self.daemon)))
    }
}

/// Whether this is asked for the content of a layer of an image.
#[must_use]
pub fn is_layer(asked: &Asked, pushed: &Pushed, number: usize) -> bool {
    asked.method == "GET" && asked.path.contains(&pushed.layers[number])
}

/// A layer of an image, as it is packed.
#[must_use]
pub fn blob<'a>(content: &'a Content, pushed: &Pushed, number: usize) -> &'a [u8] {
    &content.blobs[&pushed.layers[number]]
}

/// A tmpfs of a bounded size over a daemon's store, until the value goes. The daemon must not run when it is made.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `bound` is an option of `tmpfs(5)`: `size=64m`, `nr_inodes=4000`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn over(daemon: &Daemon, bound: &str) -> Result<Self> {
        let root = daemon.root_dir();
        std::fs::create_dir_all(&root).context("make the store's folder")?;
        mount(Some("podbox-test"), &root, Some("tmpfs"), MsFlags::empty(), Some(&*format!("{bound},mode=700"))).context("mount a tmpfs")?;
        Ok(Self(root))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
