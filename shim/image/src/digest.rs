//! SHA-256 digests in the form images use, `sha256:` and 64 hexadecimal digits, and readers that compute them in passing.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::excerpt::excerpt;

const PREFIX: &str = "sha256:";
const HEX_LEN: usize = 64;

/// A SHA-256 digest written as `sha256:<64 lower-case hexadecimal digits>` (OCI image specification, "Digests").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// The text, of which it has an excerpt, is not `sha256:` followed by 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a sha256 digest")]
pub struct InvalidDigest(String);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hasher(Sha256::new_with_prefix(bytes))
    }

    /// The 64 hexadecimal digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// The whole digest, `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A digest from its 64 hexadecimal digits alone.
    ///
    /// # Errors
    /// If `hex` is not exactly 64 lower-case hexadecimal digits.
    pub fn from_hex(hex: &str) -> Result<Self, InvalidDigest> {
        if is_hex(hex) && hex.len() == HEX_LEN { Ok(Self(format!("{PREFIX}{hex}"))) } else { Err(InvalidDigest(excerpt(hex))) }
    }

    fn from_hasher(hasher: Sha256) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(PREFIX.len() + HEX_LEN);
        text.push_str(PREFIX);
        for byte in hasher.finalize() {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Self(text)
    }
}

/// Whether `text` consists of lower-case hexadecimal digits only (and of at least one).
pub(crate) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix(PREFIX).ok_or_else(|| InvalidDigest(excerpt(text)))?;
        Self::from_hex(hex).map_err(|_| InvalidDigest(excerpt(text)))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A reader that hashes every byte it hands out, and refuses to hand out more than a limit.
pub(crate) struct Hashing<R> {
    reader: R,
    hasher: Sha256,
    passed_bytes: u64,
    limit_bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(reader: R, limit_bytes: u64) -> Self {
        Self { reader, hasher: Sha256::new(), passed_bytes: 0, limit_bytes }
    }

    /// Reads what is left and returns the digest and length of the whole.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64, R)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((Digest::from_hasher(self.hasher), self.passed_bytes, self.reader))
    }
}

/// More bytes came than the limit of the stream allows.
#[derive(Debug, thiserror::Error)]
#[error("more than {limit_bytes} bytes")]
pub(crate) struct TooLong {
    pub(crate) limit_bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buf)?;
        self.hasher.update(&buf[..count]);
        self.passed_bytes += count as u64;
        if self.passed_bytes > self.limit_bytes {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, TooLong { limit_bytes: self.limit_bytes }));
        }
        Ok(count)
    }
}
