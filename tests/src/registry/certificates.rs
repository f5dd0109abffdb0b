//! Certificates that `openssl` makes: an authority of a test's own, and what it vouches for.

use crate::programs;
use anyhow::{Context, Result, ensure};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// An authority that nobody knows.
#[derive(Debug)]
pub struct Authority {
    directory: TempDir,
}

/// A certificate and its key, PEM files that go with their authority.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// openssl failed.
    pub fn new() -> Result<Self> {
        programs::openssl()?;
        let directory = tempfile::Builder::new().prefix("podbox-authority-").tempdir().context("make a directory")?;
        openssl(directory.path(), &format!("req -x509 {KEY} -keyout ca.key -out ca.pem -days 30 -subj /CN=podbox-test"))?;
        Ok(Self { directory })
    }

    /// Its own certificate, a PEM file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Vouches for somebody, by a name without anything special in it, and the names in openssl's notation: `IP:127.0.0.1`.
    ///
    /// # Errors
    /// openssl failed.
    pub fn issue(&self, name: &str, names: &str) -> Result<Certificate> {
        let at = |kind: &str| self.directory.path().join(format!("{name}.{kind}"));
        std::fs::write(at("names"), format!("subjectAltName={names}\n")).context("write the certificate's names")?;
        openssl(self.directory.path(), &format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
        let sign =
            format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile {name}.names -out {name}.pem");
        openssl(self.directory.path(), &sign)?;
        Ok(Certificate { certificate: at("pem"), key: at("key") })
    }

    /// What a server on the addresses of a test needs. It asks for certificates of this authority's, and does not insist.
    pub(super) fn server(&self) -> Result<Arc<ServerConfig>> {
        let own = self.issue("server", "IP:127.0.0.1,IP:192.0.2.1")?;
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file()).context("read the authority")?).context("know the authority")?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build();
        let chain = vec![CertificateDer::from_pem_file(own.certificate).context("read a certificate")?];
        let key = PrivateKeyDer::from_pem_file(own.key).context("read a key")?;
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().context("set up TLS")?;
        let config = config.with_client_cert_verifier(verifier.context("set up TLS")?).with_single_cert(chain, key);
        Ok(Arc::new(config.context("set up TLS")?))
    }
}

fn openssl(directory: &Path, line: &str) -> Result<()> {
    let output = Command::new("openssl").args(line.split(' ')).current_dir(directory).stdin(Stdio::null()).output();
    let output = output.context("execute openssl")?;
    ensure!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
