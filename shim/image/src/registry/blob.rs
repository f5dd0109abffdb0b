//! A blob as a stream of bytes, in order, each once: a connection that breaks is made again, and the blob goes on where it was.
//!
//! What has the right digest is the same wherever it comes from, so a blob may begin at a mirror and end at the registry. Its
//! length is held against its descriptor here; its digest is for whoever takes the bytes.

use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::RegistryError;
use super::session::{Place, Session, Wanted};
use super::transport::{Attempts, Pace, pause};
use crate::document::Blob;

/// What came since the last failure makes good for it, if it is so much.
const PROGRESS_BYTES: u64 = 256 << 10;

/// Whoever takes the bytes.
pub(crate) trait BlobSink: Send {
    /// Takes the next bytes; `false` if no more are wanted.
    fn take(&mut self, bytes: bytes::Bytes) -> impl Future<Output = bool> + Send;
}

/// Why a stretch of a blob ended.
enum End {
    Whole,
    Unwanted,
    /// No answer that begins it; asking was repeated already.
    Refused(RegistryError),
    /// The answer broke off.
    Broken(RegistryError),
}

impl Session {
    /// How many places can be asked for a blob.
    pub(crate) fn blob_places(&self) -> usize {
        self.places.iter().filter(|place| place.endpoint.can_pull).count()
    }

    /// Streams a blob, from the place of number `first` on: those before it are not asked. Ends early if the sink wants no more.
    pub(crate) async fn blob(&self, blob: &Blob, first: usize, sink: &mut impl BlobSink) -> Result<(), RegistryError> {
        let mut offset = 0;
        let mut failure = self.no_endpoint("pull");
        for (place, is_last) in self.places_that(|endpoint| endpoint.can_pull).into_iter().skip(first) {
            let mut attempts = Attempts::new(is_last);
            loop {
                let before = offset;
                let end = self.stretch(place, is_last, blob, &mut offset, sink).await;
                failure = match end {
                    End::Whole | End::Unwanted => return Ok(()),
                    End::Refused(error) => {
                        failure = error;
                        break;
                    }
                    End::Broken(error) => error,
                };
                if offset - before >= PROGRESS_BYTES {
                    attempts.progressed();
                }
                match if is_worth_another(&failure) { attempts.failed(None) } else { None } {
                    Some(time) => pause(time).await,
                    None => break,
                }
            }
        }
        Err(failure)
    }

    /// Streams from `offset` on, as far as one answer goes.
    async fn stretch(&self, place: &Place, is_last: bool, blob: &Blob, offset: &mut u64, sink: &mut impl BlobSink) -> End {
        let host = &place.endpoint.host;
        let wrong_size = || RegistryError::Size { host: host.clone(), digest: blob.digest.clone(), expected_bytes: blob.size_bytes };
        let mut headers = HeaderMap::new();
        if *offset > 0 {
            headers.extend(HeaderValue::from_str(&format!("bytes={offset}-")).ok().map(|value| (RANGE, value)));
        }
        let path = format!("blobs/{}", blob.digest);
        let wanted = Wanted { method: Method::GET, path: &path, headers, what: blob.digest.as_str() };
        let mut response = match self.ask(place, is_last, wanted).await {
            Ok(response) => response,
            Err(error) => return End::Refused(error),
        };
        let Some(mut at) = start_of(&response, *offset) else {
            return End::Broken(RegistryError::Protocol { host: host.clone(), reason: "it answers with another range than was asked for" });
        };
        if response.content_length().is_some_and(|len| at.checked_add(len) != Some(blob.size_bytes)) {
            return End::Broken(wrong_size());
        }
        let mut pace = Pace::default();
        loop {
            let mut bytes = match self.transport.chunk(host, &mut response, &mut pace).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(error) => return End::Broken(error),
            };
            let end = at + bytes.len() as u64;
            if end > blob.size_bytes {
                return End::Broken(wrong_size());
            }
            if end > *offset {
                // What came before is passed over: a server without ranges begins anew.
                let known = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX);
                let _ = bytes.split_to(known.min(bytes.len()));
                *offset = end;
                if !sink.take(bytes).await {
                    return End::Unwanted;
                }
            }
            at = end;
        }
        if at == blob.size_bytes {
            return End::Whole;
        }
        let (digest, expected_bytes) = (blob.digest.clone(), blob.size_bytes);
        End::Broken(RegistryError::Truncated { host: host.clone(), digest, got_bytes: at, expected_bytes })
    }
}

/// At which byte of the blob an answer begins; `None` if it is beyond what was asked for.
fn start_of(response: &Response, offset: u64) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (start, _) = range.trim().strip_prefix("bytes ")?.split_once('-')?;
    start.trim().parse().ok().filter(|start| *start <= offset)
}

/// What breaks off may hold the next time; what is false is false again.
fn is_worth_another(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Truncated { .. } | RegistryError::Stalled { .. } | RegistryError::Slow { .. } | RegistryError::Unreachable { .. }
    )
}
