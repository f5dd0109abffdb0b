//! Names of images: `registry/repository:tag@digest`, parsed and normalised the way Docker does it.
//!
//! A first component with a `.` or a `:`, or `localhost`, is a registry; otherwise the default registry is meant, and a
//! repository of one component on `docker.io` lives below `library/`. A name with neither tag nor digest means `latest`.
//! After parsing, only the normalised form exists: it is what [`Reference`]'s `Display` writes and what records hold.

use std::fmt;

use crate::digest::{Digest, is_hex};

const NAME_LEN_MAX: usize = 255;
/// Of a whole reference: a name, a tag and a digest.
const TEXT_LEN_MAX: usize = NAME_LEN_MAX + 1 + TAG_LEN_MAX + 1 + 160;
const TAG_LEN_MAX: usize = 128;
const DEFAULT_TAG: &str = "latest";
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_BEFORE: &str = "index.docker.io";

/// A normalised image name: registry, repository, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing to parse.
    #[error("an image name is empty")]
    Empty,
    /// The part before the first `/` is meant as a registry but is not `host` or `host:port`.
    #[error("image name {name:?}: {registry:?} is not a registry")]
    Registry {
        /// The name as given.
        name: String,
        /// The part at fault.
        registry: String,
    },
    /// A repository component is not lower-case letters and digits with single separators.
    #[error("image name {name:?}: {component:?} is not a valid repository component")]
    Component {
        /// The name as given.
        name: String,
        /// The part at fault.
        component: String,
    },
    /// The tag is not `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
    #[error("image name {name:?}: {tag:?} is not a valid tag")]
    Tag {
        /// The name as given.
        name: String,
        /// The part at fault.
        tag: String,
    },
    /// The digest is not a sha256 digest, the only kind this crate can verify.
    #[error("image name {name:?}: {digest:?} is not a sha256 digest")]
    Digest {
        /// The name as given.
        name: String,
        /// The part at fault.
        digest: String,
    },
    /// Registry and repository together exceed 255 bytes.
    #[error("an image name of {len} bytes is longer than {NAME_LEN_MAX}")]
    TooLong {
        /// Length of registry and repository.
        len: usize,
    },
    /// 64 hexadecimal digits are an image ID, never a repository.
    #[error("{name:?} is an image ID and cannot be a name")]
    LooksLikeId {
        /// The name as given.
        name: String,
    },
}

impl Reference {
    /// Parses and normalises `text`; a name without a registry is on `default_registry` (normally `docker.io`).
    ///
    /// # Errors
    /// Says which part of the name is malformed.
    pub fn parse(text: &str, default_registry: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        // Before anything is said of it: errors hold what they were given.
        if text.len() > TEXT_LEN_MAX {
            return Err(ReferenceError::TooLong { len: text.len() });
        }
        let (rest, digest) = split_digest(text)?;
        let (rest, tag) = split_tag(text, rest)?;
        let (registry, repository) = split_registry(text, rest, default_registry)?;
        if is_hex(rest) && rest.len() == 64 {
            return Err(ReferenceError::LooksLikeId { name: text.to_owned() });
        }
        for component in repository.split('/') {
            if !is_component(component) {
                return Err(ReferenceError::Component { name: text.to_owned(), component: component.to_owned() });
            }
        }
        let repository =
            if registry == DOCKER_HUB && !repository.contains('/') { format!("library/{repository}") } else { repository.to_owned() };
        let len = registry.len() + 1 + repository.len();
        if len > NAME_LEN_MAX {
            return Err(ReferenceError::TooLong { len });
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The same name, without the tag if it has a digest: what is asked for by both is what has the digest, and nobody says that the
    /// tag points to it.
    #[must_use]
    pub fn without_idle_tag(self) -> Self {
        let tag = self.tag.filter(|_| self.digest.is_none());
        Self { tag, ..self }
    }

    /// The registry, `host` or `host:port`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository below the registry, for instance `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only in a name that has a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the name has one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository` without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository:tag`, the form of CRI's `Image.repo_tags`; `None` in a name with only a digest.
    #[must_use]
    pub fn repo_tag(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `registry/repository@digest` for a given digest, the form of CRI's `Image.repo_digests`.
    #[must_use]
    pub fn repo_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceError> {
    let Some((rest, digest)) = text.split_once('@') else {
        return Ok((text, None));
    };
    let parsed = digest.parse().map_err(|_| ReferenceError::Digest { name: text.to_owned(), digest: digest.to_owned() })?;
    Ok((rest, Some(parsed)))
}

fn split_tag<'a>(text: &str, rest: &'a str) -> Result<(&'a str, Option<&'a str>), ReferenceError> {
    // A colon before the last slash separates a port, not a tag.
    let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let Some(colon) = rest[after_slash..].find(':') else {
        return Ok((rest, None));
    };
    let (name, tag) = (&rest[..after_slash + colon], &rest[after_slash + colon + 1..]);
    if !is_tag(tag) {
        return Err(ReferenceError::Tag { name: text.to_owned(), tag: tag.to_owned() });
    }
    Ok((name, Some(tag)))
}

fn split_registry<'a>(text: &str, rest: &'a str, default_registry: &'a str) -> Result<(&'a str, &'a str), ReferenceError> {
    let (registry, repository) = match rest.split_once('/') {
        Some((first, repository)) if is_meant_as_registry(first) => (first, repository),
        _ => (default_registry, rest),
    };
    if !is_host(registry) {
        return Err(ReferenceError::Registry { name: text.to_owned(), registry: registry.to_owned() });
    }
    // Docker Hub's former name still appears in old archives.
    Ok((if registry == DOCKER_HUB_BEFORE { DOCKER_HUB } else { registry }, repository))
}

/// Whether `text` can be the registry of names that have none: `host` or `host:port`, and such that a name on it is read as one
/// again, so with a `.`, a `:`, or `localhost`.
#[must_use]
pub fn is_registry(text: &str) -> bool {
    is_meant_as_registry(text) && is_host(text)
}

fn is_meant_as_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '[']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_valid = if text.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
    };
    host_valid && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let mut separator = String::new();
    let mut after_alphanumeric = false;
    for c in text.chars() {
        match c {
            'a'..='z' | '0'..='9' => {
                let allowed =
                    separator.is_empty() || matches!(separator.as_str(), "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
                if !allowed {
                    return false;
                }
                separator.clear();
                after_alphanumeric = true;
            }
            '.' | '_' | '-' if after_alphanumeric => separator.push(c),
            _ => return false,
        }
    }
    after_alphanumeric && separator.is_empty()
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_LEN_MAX && text.bytes().enumerate().all(|(at, b)| word(b) || (at > 0 && matches!(b, b'.' | b'-'))) && !text.is_empty()
}
