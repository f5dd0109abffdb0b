//! Registries on loopback, in a daemon's network namespace: Debian's `docker-registry`, and one of ours that misbehaves.

mod certificates;
mod content;
mod hostile;
mod listener;
mod proxy;

pub use certificates::{Authority, Certificate};
pub use content::{Compression, Content, Format, Pushed, digest_of};
pub use hostile::{Answer, Asked, HostileRegistry};
pub use proxy::Proxy;

use crate::network::NetworkNamespace;
use crate::wait;
use crate::{host, programs};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Who may pull where that is asked.
pub const USER: &str = "alice";
/// Her password.
pub const PASSWORD: &str = "correct horse";
/// The line of htpasswd for her; the registry takes bcrypt alone.
const HTPASSWD: &str = "alice:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";

/// How a registry is set up.
#[derive(Debug, Clone, Copy, Default)]
pub struct RegistryOptions {
    /// It speaks TLS, with a certificate of the test's own authority.
    pub tls: bool,
    /// It wants a certificate of that authority, too.
    pub client_certificates: bool,
    /// It wants [`USER`] and [`PASSWORD`].
    pub basic_auth: bool,
}

/// A running `docker-registry`, which ends with its value.
#[derive(Debug)]
pub struct Registry {
    directory: TempDir,
    authority: Option<Authority>,
    address: SocketAddr,
    child: Child,
    show_log: bool,
}

impl Registry {
    /// Starts one on a port of loopback in a network namespace, with images.
    ///
    /// # Errors
    /// It cannot be installed or started.
    pub async fn start(network: &NetworkNamespace, port: u16, options: RegistryOptions, content: &Content) -> Result<Self> {
        let program = programs::docker_registry()?;
        let directory = directory()?;
        let store = directory.path().join("store");
        content.store(&store)?;
        Self::start_in(directory, &program, network, port, options, &store).await
    }

    /// Starts one, of a program that is there, on what [`Content::store`] has written before, which it only reads.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn serve(program: &Path, network: &NetworkNamespace, port: u16, store: &Path) -> Result<Self> {
        Self::start_in(directory()?, program, network, port, RegistryOptions::default(), store).await
    }

    async fn start_in(
        directory: TempDir,
        program: &Path,
        network: &NetworkNamespace,
        port: u16,
        options: RegistryOptions,
        store: &Path,
    ) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let authority = if options.tls { Some(Authority::new()?) } else { None };
        let config = config(directory.path(), store, address, options, authority.as_ref())?;
        let log = File::create(directory.path().join("log")).context("make the registry's log")?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(log.try_clone().context("share the log")?).stderr(log);
        let child = network.run(|| command.spawn().context("execute docker-registry"))?;
        let mut registry = Self { directory, authority, address, child, show_log: true };
        let end = Instant::now() + wait::scaled(wait::DEADLINE);
        loop {
            if network.run(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()))? {
                return Ok(registry);
            }
            let ended = registry.child.try_wait().context("look after the registry")?;
            ensure!(ended.is_none() && Instant::now() < end, "the registry does not come up:\n{}", registry.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `127.0.0.1:PORT`
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The authority of its certificate.
    ///
    /// # Errors
    /// It speaks no TLS.
    pub fn authority(&self) -> Result<&Authority> {
        self.authority.as_ref().context("the registry speaks no TLS")
    }

    /// Keeps the end of its log to itself, for who keeps the whole.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.show_log = false;
        self
    }

    /// What it wrote: a line for each request.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.show_log {
            host::show(&format!("the registry's log ends with:\n{}", tail(&self.log())));
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("level=debug")).collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn directory() -> Result<TempDir> {
    tempfile::Builder::new().prefix("podbox-registry-").tempdir().context("make a directory")
}

fn config(directory: &Path, store: &Path, address: SocketAddr, options: RegistryOptions, authority: Option<&Authority>) -> Result<PathBuf> {
    let at = |name: &str| directory.join(name).display().to_string();
    let mut text = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: {address}\n  secret: test\n",
        store.display()
    );
    if let Some(authority) = authority {
        let own = authority.issue("registry", "IP:127.0.0.1")?;
        text += &format!("  tls:\n    certificate: {}\n    key: {}\n", own.certificate.display(), own.key.display());
        if options.client_certificates {
            text += &format!("    clientcas: [{}]\n", authority.file().display());
        }
    }
    if options.basic_auth {
        std::fs::write(directory.join("htpasswd"), HTPASSWD).context("write the password file")?;
        text += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", at("htpasswd"));
    }
    let path = directory.join("config.yml");
    std::fs::write(&path, text).context("write the registry's configuration")?;
    Ok(path)
}
