//! One image's requests to its registry: the endpoints in their order, and what each wants to know who asks.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};

use super::challenge::Challenge;
use super::credentials::{AuthFile, Credentials};
use super::error::Message;
use super::hosts::{Endpoint, endpoints_of};
use super::transport::{Ask, Attempts, Transport, is_passing, pause, read_body, retry_after};
use super::{RegistryError, is_loopback, split_port};
use crate::digest::Digest;
use crate::document::Blob;
use crate::reference::Reference;

mod token;

const ERROR_BODY_LEN_MAX: u64 = 64 * 1024;
/// What the digest of a manifest is in (distribution specification, "Pulling manifests").
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Where a session begins: what does not change from image to image.
pub(crate) struct Origin<'a> {
    pub(crate) transport: Arc<Transport>,
    pub(crate) hosts_dir: Option<&'a Path>,
    pub(crate) auth_file: Option<&'a AuthFile>,
}

/// A conversation about one repository.
pub(crate) struct Session {
    pub(super) transport: Arc<Transport>,
    registry: String,
    pub(super) repository: String,
    pub(super) places: Vec<Place>,
}

/// An endpoint, and what was agreed with it.
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    credentials: Credentials,
    authorization: Mutex<Option<HeaderValue>>,
}

/// What an endpoint is asked for.
pub(super) struct Wanted<'a> {
    pub(super) method: Method,
    /// Below the repository: `manifests/latest`.
    pub(super) path: &'a str,
    pub(super) headers: HeaderMap,
    /// For messages: a tag or a digest.
    pub(super) what: &'a str,
}

/// A manifest or index, verified.
pub(crate) struct Document {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
}

impl Session {
    /// Looks up the endpoints. Reads files: this blocks.
    pub(crate) fn open(origin: &Origin<'_>, reference: &Reference, credentials: &Credentials) -> Result<Self, RegistryError> {
        let registry = reference.registry().to_owned();
        let endpoints =
            endpoints_of(origin.hosts_dir, &registry).map_err(|source| RegistryError::Hosts { host: registry.clone(), source })?;
        let mut places = Vec::new();
        for endpoint in endpoints {
            let known = |host: &str| match origin.auth_file {
                None => Ok(Credentials::Anonymous),
                Some(file) => file
                    .credentials_for(host, reference.repository())
                    .map_err(|source| RegistryError::AuthFile { host: host.to_owned(), source }),
            };
            let credentials = match (endpoint.is_mirror, credentials) {
                (true, _) => known(&endpoint.host)?,
                (false, Credentials::Anonymous) => known(&registry)?,
                (false, credentials) => credentials.clone(),
            };
            places.push(Place::new(endpoint, credentials));
        }
        Ok(Self { transport: origin.transport.clone(), registry, repository: reference.repository().to_owned(), places })
    }

    /// What a tag or digest points to, by a request that costs the registry little. `None`: it is there, and the registry does not say.
    pub(crate) async fn digest_of(&self, name: &str, is_digest: bool, accept: &str) -> Result<Option<Digest>, RegistryError> {
        let path = format!("manifests/{name}");
        let (capability, may) = capability(is_digest);
        let mut failure = self.no_endpoint(capability);
        for (place, is_last) in self.places_that(may) {
            let wanted = Wanted { method: Method::HEAD, path: &path, headers: accepting(accept), what: name };
            match self.ask(place, is_last, wanted).await {
                Ok(response) => {
                    let digest = response.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok());
                    return Ok(digest.and_then(|text| text.parse().ok()));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The manifest or index of a tag or a digest, verified where it is a digest.
    pub(crate) async fn manifest(&self, tag: &str, digest: Option<&Digest>, accept: &str, limit: u64) -> Result<Document, RegistryError> {
        let name = digest.map_or(tag, Digest::as_str);
        let path = format!("manifests/{name}");
        let (capability, may) = capability(digest.is_some());
        let mut failure = self.no_endpoint(capability);
        for (place, is_last) in self.places_that(may) {
            let wanted = Wanted { method: Method::GET, path: &path, headers: accepting(accept), what: name };
            let verified = self.body(place, is_last, wanted, limit).await.and_then(|bytes| verify(place, digest, bytes));
            match verified {
                Ok(document) => return Ok(document),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// A small blob, verified.
    pub(crate) async fn document(&self, blob: &Blob, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{}", blob.digest);
        let mut failure = self.no_endpoint("pull");
        for (place, is_last) in self.places_that(|endpoint| endpoint.can_pull) {
            let wanted = Wanted { method: Method::GET, path: &path, headers: HeaderMap::new(), what: blob.digest.as_str() };
            let verified = self.body(place, is_last, wanted, limit).await.and_then(|bytes| {
                if bytes.len() as u64 == blob.size_bytes {
                    return verify(place, Some(&blob.digest), bytes);
                }
                let (host, digest) = (place.endpoint.host.clone(), blob.digest.clone());
                Err(RegistryError::Size { host, digest, expected_bytes: blob.size_bytes })
            });
            match verified {
                Ok(document) => return Ok(document.bytes),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The places that may be asked for something, each with whether it is the last. What the last one says is what counts: it is the
    /// registry itself.
    pub(super) fn places_that(&self, may: impl Fn(&Endpoint) -> bool) -> Vec<(&Place, bool)> {
        let places: Vec<&Place> = self.places.iter().filter(|place| may(&place.endpoint)).collect();
        let count = places.len();
        places.into_iter().enumerate().map(|(at, place)| (place, at + 1 == count)).collect()
    }

    pub(super) fn no_endpoint(&self, capability: &'static str) -> RegistryError {
        RegistryError::NoEndpoint { host: self.registry.clone(), capability }
    }

    /// A whole small body, asked for again if it breaks off.
    async fn body(&self, place: &Place, is_last: bool, wanted: Wanted<'_>, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let mut attempts = Attempts::new(is_last);
        loop {
            let again = Wanted { method: wanted.method.clone(), headers: wanted.headers.clone(), ..wanted };
            let response = self.ask(place, is_last, again).await?;
            match read_body(&self.transport, &place.endpoint.host, wanted.what, response, limit).await {
                Err(error) if error.is_unavailable() => match attempts.failed(None) {
                    Some(time) => pause(time).await,
                    None => return Err(error),
                },
                outcome => return outcome,
            }
        }
    }

    /// Asks an endpoint, as often as is due, until it answers that it has what is wanted.
    pub(super) async fn ask(&self, place: &Place, is_last: bool, wanted: Wanted<'_>) -> Result<Response, RegistryError> {
        let mut attempts = Attempts::new(is_last);
        loop {
            let (error, wait) = match self.ask_once(place, &wanted).await {
                Ok(response) => match self.refusal(place, &wanted, response).await {
                    Ok(response) => return Ok(response),
                    Err(refused) => refused,
                },
                Err(error) => (error, None),
            };
            let time = if error.is_unavailable() { attempts.failed(wait) } else { None };
            match time {
                Some(time) => pause(time).await,
                None => return Err(error),
            }
        }
    }

    /// Asks once; a second time if the endpoint wants to know who asks.
    async fn ask_once(&self, place: &Place, wanted: &Wanted<'_>) -> Result<Response, RegistryError> {
        let endpoint = &place.endpoint;
        let url = place.url(&self.registry, &self.repository, wanted.path)?;
        let mut sent = place.authorization();
        let mut was_asked = false;
        loop {
            let mut secrets = endpoint.headers.clone();
            if let Some(authorization) = &sent {
                secrets.insert(AUTHORIZATION, authorization.clone());
            }
            let ask = Ask { method: wanted.method.clone(), headers: wanted.headers.clone(), secrets, form: None, host: &endpoint.host };
            let answer = self.transport.ask(&url, &endpoint.speaker, &ask).await?;
            let wants_to_know = answer.response.status() == StatusCode::UNAUTHORIZED && !answer.is_foreign && !was_asked;
            let challenge = if wants_to_know { Challenge::of(answer.response.headers()) } else { None };
            let Some(challenge) = challenge else { return Ok(answer.response) };
            was_asked = true;
            let Some(authorization) = token::authorization(&self.transport, place, &self.repository, &challenge).await? else {
                return Ok(answer.response);
            };
            place.agree(&authorization);
            sent = Some(authorization);
        }
    }

    /// What an answer means that is not what is wanted, and how long the endpoint wants to be left alone.
    async fn refusal(
        &self,
        place: &Place,
        wanted: &Wanted<'_>,
        response: Response,
    ) -> Result<Response, (RegistryError, Option<std::time::Duration>)> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = retry_after(response.headers());
        let host = place.endpoint.host.clone();
        let repository = self.repository.clone();
        let body = read_body(&self.transport, &host, "an error", response, ERROR_BODY_LEN_MAX).await.unwrap_or_default();
        let message = Message::of_body(&body);
        let error = match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, repository, what: wanted.what.to_owned() },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied { host, repository, status, message },
            status if is_passing(status) => RegistryError::Busy { host, status, message },
            status => RegistryError::Status { host, status, message },
        };
        Err((error, wait))
    }
}

impl Place {
    fn new(endpoint: Endpoint, credentials: Credentials) -> Self {
        let authorization = match &credentials {
            Credentials::RegistryToken(token) => token::bearer(token),
            _ => None,
        };
        Self { endpoint, credentials, authorization: Mutex::new(authorization) }
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn agree(&self, authorization: &HeaderValue) {
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization.clone());
    }

    /// A mirror that serves several registries is told which one is meant, as containerd does.
    fn url(&self, registry: &str, repository: &str, path: &str) -> Result<Url, RegistryError> {
        let refused = |_| RegistryError::Protocol { host: self.endpoint.host.clone(), reason: "its address cannot be extended" };
        let mut url = self.endpoint.base.join(&format!("{repository}/{path}")).map_err(refused)?;
        if self.endpoint.is_mirror {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }

    /// Whether a password may be sent to an address: encrypted, or as plainly as the registry itself is asked.
    fn may_know(&self, url: &Url) -> bool {
        url.scheme() == "https"
            || self.endpoint.base.scheme() == "http"
            || url.host_str().is_some_and(|host| is_loopback(split_port(host).0))
    }
}

/// Whoever may not say what a tag means may still have what a digest names.
fn capability(is_digest: bool) -> (&'static str, fn(&Endpoint) -> bool) {
    if is_digest { ("pull", |endpoint| endpoint.can_pull) } else { ("resolve", |endpoint| endpoint.can_resolve) }
}

fn verify(place: &Place, expected: Option<&Digest>, bytes: Vec<u8>) -> Result<Document, RegistryError> {
    let actual = Digest::of(&bytes);
    match expected {
        Some(expected) if actual != *expected => {
            Err(RegistryError::Digest { host: place.endpoint.host.clone(), expected: expected.clone(), actual })
        }
        _ => Ok(Document { digest: actual, bytes }),
    }
}

fn accepting(accept: &str) -> HeaderMap {
    let value = HeaderValue::from_str(accept).ok();
    value.map(|value| (ACCEPT, value)).into_iter().collect()
}
