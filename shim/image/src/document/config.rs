//! Image configurations, as far as a runtime acts on them.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::bounded::{Entries, List};
use crate::digest::Digest;

/// A path is at most so long, and a user's name shorter.
const TEXT_LEN_MAX: usize = 4096;

/// The part of an image configuration that a runtime acts on (OCI image specification, "Image Configuration").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Operating system, in Go's terms.
    pub os: String,
    /// Architecture, in Go's terms.
    pub architecture: String,
    /// Creation time, RFC 3339, as the builder wrote it.
    pub created: Option<String>,
    /// User and group, in any of the forms [`crate::user`] knows.
    pub user: String,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// First part of the command line.
    pub entrypoint: Vec<String>,
    /// Rest of the command line, or all of it.
    pub cmd: Vec<String>,
    /// Working directory; empty means `/`.
    pub working_dir: String,
    /// Labels, for reporting only.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the container to stop; empty means the default.
    pub stop_signal: String,
    /// Directories the image declares as volumes.
    pub volumes: Vec<String>,
}

#[derive(Deserialize)]
struct ConfigDocument {
    #[serde(default, deserialize_with = "short")]
    os: String,
    #[serde(default, deserialize_with = "short")]
    architecture: String,
    #[serde(default)]
    created: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    config: ProcessDocument,
    rootfs: RootFsDocument,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ProcessDocument {
    #[serde(deserialize_with = "short")]
    user: String,
    #[serde(deserialize_with = "null_as_default")]
    env: List<String>,
    #[serde(deserialize_with = "null_as_default")]
    entrypoint: List<String>,
    #[serde(deserialize_with = "null_as_default")]
    cmd: List<String>,
    #[serde(deserialize_with = "short")]
    working_dir: String,
    #[serde(deserialize_with = "null_as_default")]
    labels: Entries<String>,
    #[serde(deserialize_with = "short")]
    stop_signal: String,
    #[serde(deserialize_with = "null_as_default")]
    volumes: Entries<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RootFsDocument {
    #[serde(default, deserialize_with = "null_as_default")]
    diff_ids: List<Digest>,
}

/// A text that answers of the CRI repeat, for each image in each list.
fn short<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text: String = null_as_default(deserializer)?;
    if text.len() > TEXT_LEN_MAX {
        return Err(D::Error::custom(format_args!("a text of {} bytes is over the limit of {TEXT_LEN_MAX}", text.len())));
    }
    Ok(text)
}

fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// Parses an image configuration into what a runtime needs and the layers' diff IDs, lowest first.
    pub(crate) fn parse(json: &[u8]) -> Result<(Self, Vec<Digest>), serde_json::Error> {
        let document: ConfigDocument = serde_json::from_slice(json)?;
        let process = document.config;
        let config = Self {
            os: document.os,
            architecture: document.architecture,
            created: document.created,
            user: process.user,
            env: process.env.0,
            entrypoint: process.entrypoint.0,
            cmd: process.cmd.0,
            working_dir: process.working_dir,
            labels: process.labels.0,
            stop_signal: process.stop_signal,
            volumes: process.volumes.0.into_keys().collect(),
        };
        Ok((config, document.rootfs.diff_ids.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lists_repeat_is_short() {
        let with = |user: &str| {
            let json = serde_json::json!({"config": {"User": user}, "rootfs": {"diff_ids": []}});
            ImageConfig::parse(json.to_string().as_bytes())
        };
        assert_eq!(with(&"u".repeat(TEXT_LEN_MAX)).unwrap().0.user.len(), TEXT_LEN_MAX);
        assert!(with(&"u".repeat(TEXT_LEN_MAX + 1)).unwrap_err().to_string().contains("over the limit"));
    }
}
