//! What can go wrong with a registry.

use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;

use super::{AuthFileError, HostsError};
use crate::digest::Digest;

/// A request to a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The settings for its host cannot be used.
    #[error("the settings for registry {host}")]
    Hosts {
        /// The registry as images name it.
        host: String,
        /// Why.
        source: HostsError,
    },
    /// The file of credentials cannot be used.
    #[error("the credentials for registry {host}")]
    AuthFile {
        /// The registry as images name it.
        host: String,
        /// Why.
        source: AuthFileError,
    },
    /// The settings let no endpoint be asked for this.
    #[error("no endpoint of registry {host} may be asked to {capability}")]
    NoEndpoint {
        /// The registry as images name it.
        host: String,
        /// `pull` or `resolve`.
        capability: &'static str,
    },
    /// TLS cannot be set up as the settings say.
    #[error("set up the connection to {host}")]
    Setup {
        /// The endpoint.
        host: String,
        /// Why.
        source: TransferError,
    },
    /// It could not be reached, or the connection broke, as often as it was tried.
    #[error("{host} cannot be reached")]
    Unreachable {
        /// The endpoint.
        host: String,
        /// Why.
        source: TransferError,
    },
    /// It sent too little for too long.
    #[error("{host} sent less than {bytes_per_second} bytes a second for {} s", patience.as_secs())]
    Slow {
        /// The endpoint.
        host: String,
        /// Less than this.
        bytes_per_second: u64,
        /// For so long.
        patience: Duration,
    },
    /// It was silent for too long.
    #[error("{host} sent nothing for {} s", patience.as_secs())]
    Stalled {
        /// The endpoint.
        host: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// It is overloaded or broken, and was each time it was asked.
    #[error("{host} answers {status}{message}")]
    Busy {
        /// The endpoint.
        host: String,
        /// What it answers.
        status: StatusCode,
        /// What it says, if anything.
        message: Message,
    },
    /// What it sent was shorter than it promised, each time.
    #[error("{host} sent {got_bytes} of {expected_bytes} bytes of {digest}")]
    Truncated {
        /// The endpoint.
        host: String,
        /// The blob.
        digest: Digest,
        /// Bytes that came, in all attempts together.
        got_bytes: u64,
        /// Bytes that were due.
        expected_bytes: u64,
    },
    /// It wants credentials, or others.
    #[error("{host} refuses access to {repository}: {status}{message}")]
    Denied {
        /// The endpoint.
        host: String,
        /// The repository.
        repository: String,
        /// What it answers.
        status: StatusCode,
        /// What it says, if anything.
        message: Message,
    },
    /// It does not have that.
    #[error("{host} has no {repository} {what}")]
    NotFound {
        /// The endpoint.
        host: String,
        /// The repository.
        repository: String,
        /// Tag or digest.
        what: String,
    },
    /// It answers what the protocol does not provide for.
    #[error("{host} answers {status}{message}")]
    Status {
        /// The endpoint.
        host: String,
        /// What it answers.
        status: StatusCode,
        /// What it says, if anything.
        message: Message,
    },
    /// What it sends is not what the protocol demands.
    #[error("{host}: {reason}")]
    Protocol {
        /// The endpoint.
        host: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// An answer is larger than anything of its kind has reason to be.
    #[error("{host}: {what} of more than {limit_bytes} bytes")]
    TooLarge {
        /// The endpoint.
        host: String,
        /// What was asked for.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// A document or blob is not as long as its descriptor says.
    #[error("{host}: {digest} has another size than the {expected_bytes} bytes that are due")]
    Size {
        /// The endpoint.
        host: String,
        /// The blob.
        digest: Digest,
        /// What the descriptor says.
        expected_bytes: u64,
    },
    /// A document is not what its digest promises.
    #[error("{host}: what was sent as {expected} has digest {actual}")]
    Digest {
        /// The endpoint.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
}

impl RegistryError {
    /// The registry cannot be used now, and may be later: what the kubelet calls `RegistryUnavailable`.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stalled { .. } | Self::Slow { .. } | Self::Busy { .. } | Self::Truncated { .. })
    }

    /// What came is not what was vouched for.
    #[must_use]
    pub fn is_forged(&self) -> bool {
        matches!(self, Self::Size { .. } | Self::Digest { .. })
    }
}

/// An error of the HTTP library, without the URL: it may hold secrets.
#[derive(Debug)]
pub struct TransferError(reqwest::Error);

impl From<reqwest::Error> for TransferError {
    fn from(error: reqwest::Error) -> Self {
        Self(error.without_url())
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for TransferError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// What a server says of an error, short and printable; shown as `: …`, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message(String);

const MESSAGE_CHARS_MAX: usize = 200;

impl Message {
    /// Takes the message out of an answer's body (distribution specification, "Error Codes").
    pub(super) fn of_body(body: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Body {
            errors: Vec<Entry>,
        }
        #[derive(serde::Deserialize)]
        struct Entry {
            #[serde(default)]
            message: Option<String>,
            #[serde(default)]
            code: Option<String>,
        }
        let entry = serde_json::from_slice::<Body>(body).ok().and_then(|body| body.errors.into_iter().next());
        let text = entry.and_then(|entry| entry.message.filter(|text| !text.is_empty()).or(entry.code)).unwrap_or_default();
        Self(text.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect())
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}
