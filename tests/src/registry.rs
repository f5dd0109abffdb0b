//! Registries on loopback, in a daemon's network namespace: Debian's `docker-registry`, and one of ours that misbehaves.

mod content;
mod hostile;

pub use content::{Compression, Content, Format, Pushed, digest_of};
pub use hostile::{Answer, Asked, HostileRegistry};

use crate::host;
use crate::network::NetworkNamespace;
use crate::wait;
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
    /// It wants [`USER`] and [`PASSWORD`].
    pub basic_auth: bool,
}

/// A running `docker-registry`, which ends with its value.
#[derive(Debug)]
pub struct Registry {
    directory: TempDir,
    address: SocketAddr,
    child: Child,
}

impl Registry {
    /// Starts one on a port of loopback in a network namespace, with images.
    ///
    /// # Errors
    /// It cannot be installed or started.
    pub async fn start(network: &NetworkNamespace, port: u16, options: RegistryOptions, content: &Content) -> Result<Self> {
        let program = host::docker_registry()?;
        let directory = tempfile::Builder::new().prefix("podbox-registry-").tempdir().context("make a directory")?;
        content.store(&directory.path().join("store"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let config = config(directory.path(), address, options)?;
        let log = File::create(directory.path().join("log")).context("make the registry's log")?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(log.try_clone().context("share the log")?).stderr(log);
        let child = network.run(|| command.spawn().context("execute docker-registry"))?;
        let mut registry = Self { directory, address, child };
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

    /// The authority of its certificate, a PEM file.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
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
        host::show(&format!("the registry's log ends with:\n{}", tail(&self.log())));
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("level=debug")).collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn config(directory: &Path, address: SocketAddr, options: RegistryOptions) -> Result<PathBuf> {
    let at = |name: &str| directory.join(name).display().to_string();
    let mut text = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: {address}\n  secret: test\n",
        at("store")
    );
    if options.tls {
        make_certificates(directory)?;
        text += &format!("  tls: {{certificate: {}, key: {}}}\n", at("server.pem"), at("server.key"));
    }
    if options.basic_auth {
        std::fs::write(directory.join("htpasswd"), HTPASSWD).context("write the password file")?;
        text += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", at("htpasswd"));
    }
    let path = directory.join("config.yml");
    std::fs::write(&path, text).context("write the registry's configuration")?;
    Ok(path)
}

/// An authority, and a certificate of its for 127.0.0.1.
fn make_certificates(directory: &Path) -> Result<()> {
    let openssl = |line: &str| -> Result<()> {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(directory).stdin(Stdio::null()).output();
        let output = output.context("execute openssl")?;
        ensure!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 30 -subj /CN=podbox-test"))?;
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=registry"))?;
    std::fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1\n").context("write the certificate's names")?;
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out server.pem")
}
