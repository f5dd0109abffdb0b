//! The file itself: its keys and their forms.

use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::HostsError;

const FILE_LEN_MAX: u64 = 1 << 20;

/// What stands in `hosts.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HostsFile {
    pub(super) server: Option<String>,
    pub(super) host: Ordered<HostSettings>,
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    client: Option<Clients>,
    skip_verify: bool,
    override_path: bool,
    dial_timeout: Option<String>,
    header: Ordered<OneOrMore>,
}

/// The settings of one endpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HostSettings {
    pub(super) capabilities: Option<Vec<String>>,
    pub(super) ca: Option<OneOrMore>,
    pub(super) client: Option<Clients>,
    pub(super) skip_verify: bool,
    pub(super) override_path: bool,
    pub(super) dial_timeout: Option<String>,
    pub(super) header: Ordered<OneOrMore>,
}

impl HostsFile {
    /// The settings at the top, which are the registry's own.
    pub(super) fn take_own(&mut self) -> HostSettings {
        let own = std::mem::take(self);
        (self.server, self.host) = (own.server, own.host);
        HostSettings {
            capabilities: own.capabilities,
            ca: own.ca,
            client: own.client,
            skip_verify: own.skip_verify,
            override_path: own.override_path,
            dial_timeout: own.dial_timeout,
            header: own.header,
        }
    }

    /// Reads a file; `None` if it is not there.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, HostsError> {
        let Some(bytes) = read_bounded(path)? else { return Ok(None) };
        let malformed = |reason: String| HostsError::Parse { path: path.to_owned(), reason };
        let text = String::from_utf8(bytes).map_err(|_| malformed("not UTF-8".to_owned()))?;
        toml::from_str(&text).map(Some).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            malformed(format!("line {line}: {}", error.message()))
        })
    }
}

/// A file's content; `None` if it is not there.
pub(super) fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, HostsError> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_LEN_MAX { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HostsError::Read { path: path.to_owned(), source }),
    }
}

/// A text or a list of texts.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::More(texts) => texts,
        }
    }
}

/// Client certificates: one file with certificate and key, several such, or pairs.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Clients {
    One(String),
    More(Vec<OneOrMore>),
}

impl Clients {
    /// Lists of files, each to be read as one: certificate and key.
    pub(super) fn into_files(self) -> Vec<Vec<String>> {
        match self {
            Self::One(file) => vec![vec![file]],
            Self::More(entries) => entries.into_iter().map(OneOrMore::into_vec).collect(),
        }
    }
}

/// A table in the order of the file.
#[derive(Debug)]
pub(super) struct Ordered<T>(pub(super) Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}
