//! Credentials: what a caller brings, or a docker `config.json` has for a host, itself or with a program that it names.

mod helper;

pub use helper::HelperError;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{DOCKER_HUB, DOCKER_HUB_HOST};

const FILE_LEN_MAX: u64 = 4 << 20;
/// What docker calls its own registry where it stores credentials.
const DOCKER_HUB_ADDRESS: &str = "https://index.docker.io/v1/";

/// What proves to a registry who asks.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub enum Credentials {
    /// Nothing.
    #[default]
    Anonymous,
    /// A name and a password, sent to the registry or exchanged for a token.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token that the registry's token server exchanges for one that the registry takes (an OAuth2 refresh token).
    IdentityToken(String),
    /// A token that the registry takes as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    /// Tells the kind and no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password { .. } => "Password",
            Self::IdentityToken(_) => "IdentityToken",
            Self::RegistryToken(_) => "RegistryToken",
        })
    }
}

/// Text that is not the base64 of `username:password`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not `username:password` in base64")]
pub struct InvalidCredentials;

impl Credentials {
    /// Reads the `auth` of docker's configuration and the CRI: base64 of `username:password`. Docker may end the password with NULs.
    ///
    /// # Errors
    /// It is something else; the error does not repeat it.
    pub fn from_basic(auth: &str) -> Result<Self, InvalidCredentials> {
        let bytes = STANDARD.decode(auth.trim()).map_err(|_| InvalidCredentials)?;
        let text = String::from_utf8(bytes).map_err(|_| InvalidCredentials)?;
        let (username, password) = text.split_once(':').ok_or(InvalidCredentials)?;
        Ok(Self::Password { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
    }
}

/// Whether `server`, as docker and the CRI write the address of a registry, is `host`: it may have a scheme and a path, and Docker's own
/// registry has several names.
#[must_use]
pub fn is_address_of(server: &str, host: &str) -> bool {
    let server = server.split_once("://").map_or(server, |(_, rest)| rest);
    let server = server.split('/').next().unwrap_or_default();
    let canonical = |host: &str| match host {
        "index.docker.io" | DOCKER_HUB_HOST | "registry.hub.docker.com" => DOCKER_HUB.to_owned(),
        host => host.to_ascii_lowercase(),
    };
    canonical(server) == canonical(host)
}

/// A file of credentials: docker's `config.json`. As with docker, the first of these that there is for a registry counts, and what it has
/// not, the others are not asked for:
///
/// - `credHelpers`, by registry: the name of a program, `docker-credential-NAME` on the path. An empty one stands for `auths`.
/// - `credsStore`: the same, for all other registries.
/// - `auths`, by registry: the credentials themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthFile {
    path: PathBuf,
}

/// The file of credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthFileError {
    /// It cannot be read.
    #[error("read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not docker's `config.json`. The error does not repeat what stands in it.
    #[error("{path}: line {line} is not as docker writes its config.json", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
    },
    /// An entry's `auth` is malformed.
    #[error("{path}: the entry of {server:?} is {source}", path = path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        server: String,
        /// Why.
        source: InvalidCredentials,
    },
    /// A program has a name that none can have.
    #[error("{path}: {name:?} is no name of a program that keeps credentials", path = path.display())]
    HelperName {
        /// The file.
        path: PathBuf,
        /// What it names.
        name: String,
    },
    /// A program gave no credentials. The error does not repeat what it answered.
    #[error("{path}: docker-credential-{name}", path = path.display())]
    Helper {
        /// The file.
        path: PathBuf,
        /// What it names.
        name: String,
        /// Why.
        source: HelperError,
    },
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: String,
}

impl Document {
    /// The program that has the credentials for a host.
    fn helper_of(&self, host: &str) -> Option<&str> {
        let own = self.helpers.iter().find(|(server, _)| is_address_of(server, host)).map(|(_, name)| name);
        Some(own.unwrap_or(&self.store).as_str()).filter(|name| !name.is_empty())
    }
}

/// How much of a repository an entry of `auths` names; `None` if it is of another registry or repository.
fn path_len(server: &str, host: &str, repository: &str) -> Option<usize> {
    if !is_address_of(server, host) {
        return None;
    }
    let server = server.split_once("://").map_or(server, |(_, rest)| rest);
    let path = server.split_once('/').map_or("", |(_, path)| path).trim_matches('/');
    // The protocol's own paths say nothing of a repository.
    if matches!(path, "" | "v1" | "v2") {
        return Some(0);
    }
    let rest = repository.strip_prefix(path)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(path.len())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthFile {
    /// The file at `path`, which need not be there.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// What the file has for a host; of a file that is not there, nothing. This blocks, as long as a program takes that it names.
    ///
    /// Of several entries the one counts whose path leads furthest to the repository, as `registry.test/team` does for `team/app`.
    pub(crate) fn credentials_for(&self, host: &str, repository: &str) -> Result<Credentials, AuthFileError> {
        let read = || {
            let metadata = std::fs::metadata(&self.path)?;
            if metadata.len() > FILE_LEN_MAX || !metadata.is_file() {
                return Err(io::Error::other("not a file of credentials"));
            }
            std::fs::read(&self.path)
        };
        let bytes = match read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Credentials::Anonymous),
            Err(source) => return Err(AuthFileError::Read { path: self.path.clone(), source }),
        };
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| AuthFileError::Json { path: self.path.clone(), line: error.line() })?;
        if let Some(name) = document.helper_of(host) {
            return self.ask_helper(name, host);
        }
        let fits = |(server, entry): (String, Entry)| Some((path_len(&server, host, repository)?, server, entry));
        let found = document.auths.into_iter().filter_map(fits).max_by_key(|(path_len, ..)| *path_len);
        let found = found.map(|(_, server, entry)| (server, entry));
        let Some((server, entry)) = found else { return Ok(Credentials::Anonymous) };
        entry.credentials().map_err(|source| AuthFileError::Entry { path: self.path.clone(), server, source })
    }

    fn ask_helper(&self, name: &str, host: &str) -> Result<Credentials, AuthFileError> {
        let (path, name) = (self.path.clone(), name.to_owned());
        if !helper::is_name(&name) {
            return Err(AuthFileError::HelperName { path, name });
        }
        // Docker's own registry is stored by the address that it had first.
        let server = if is_address_of(host, DOCKER_HUB) { DOCKER_HUB_ADDRESS } else { host };
        helper::ask(&name, server).map_err(|source| AuthFileError::Helper { path, name, source })
    }
}

impl Entry {
    fn credentials(self) -> Result<Credentials, InvalidCredentials> {
        if !self.registrytoken.is_empty() {
            return Ok(Credentials::RegistryToken(self.registrytoken));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Credentials::IdentityToken(self.identitytoken));
        }
        if !self.username.is_empty() {
            return Ok(Credentials::Password { username: self.username, password: self.password });
        }
        if self.auth.is_empty() { Ok(Credentials::Anonymous) } else { Credentials::from_basic(&self.auth) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Credentials {
        Credentials::Password { username: username.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn a_docker_configuration_has_credentials_for_the_hosts_it_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.json");
        let file = AuthFile::new(&path);
        assert_eq!(file.credentials_for("reg.test", "app").expect("absent"), Credentials::Anonymous);
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3AAA="},
            "reg.test:5000": {"auth": "dTpwOnE="},
            "HTTPS://plain.test/v2": {"username": "u", "password": "p"},
            "id.test": {"auth": "", "identitytoken": "refresh"},
            "token.test": {"registrytoken": "bearer"},
            "many.test/team/app": {"username": "app", "password": "p"}, "many.test/team/": {"username": "team", "password": "p"},
            "many.test": {"username": "all", "password": "p"}, "other.test/team": {"username": "no", "password": "p"},
            "broken.test": {"auth": "%%%"}, "empty.test": {}
        }, "credsStore": "", "credHelpers": {"docker.io": "", "out.test": "../out"}, "HttpHeaders": {}}"#;
        std::fs::write(&path, text).expect("write");
        let of = |host: &str| file.credentials_for(host, "team/app").expect(host);
        assert_eq!(of("docker.io"), password("hub", "pw"));
        assert_eq!(of("registry-1.docker.io"), password("hub", "pw"));
        assert_eq!(of("reg.test:5000"), password("u", "p:q"));
        assert_eq!(of("plain.test"), password("u", "p"));
        assert_eq!(of("id.test"), Credentials::IdentityToken("refresh".to_owned()));
        assert_eq!(of("token.test"), Credentials::RegistryToken("bearer".to_owned()));
        let of_repository = |repository: &str| match file.credentials_for("many.test", repository).expect(repository) {
            Credentials::Password { username, .. } => username,
            other => format!("{other:?}"),
        };
        let users = ["team/app", "team/app/part", "team/apple", "team", "other"].map(of_repository);
        assert_eq!(users, ["app", "app", "team", "team", "all"], "the nearest entry counts");
        for host in ["reg.test", "reg.test:5001", "empty.test", "est"] {
            assert_eq!(of(host), Credentials::Anonymous, "{host}");
        }
        let error = file.credentials_for("broken.test", "app").expect_err("malformed").to_string();
        assert!(error.contains("broken.test") && !error.contains("%%%"), "{error}");
        let error = file.credentials_for("out.test", "app").expect_err("it is no name").to_string();
        assert!(error.contains("../out"), "{error}");
        std::fs::write(&path, "{\n\"auths\": \"secret\"}").expect("write");
        let error = file.credentials_for("reg.test", "app").expect_err("no object").to_string();
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn no_secret_is_shown() {
        let shown = format!("{:?} {:?}", password("u", "secret"), Credentials::IdentityToken("secret".to_owned()));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
