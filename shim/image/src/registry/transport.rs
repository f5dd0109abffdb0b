//! One request: over TLS or not, through a proxy or not, along redirects, again if need be.
//!
//! Clients of the HTTP library are kept for each way of speaking, with their connections: a second image from the same
//! registry pays for no handshake.

mod again;

pub(super) use again::{Attempts, is_passing, pause, retry_after};

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Certificate, Client, Identity, Method, Response, Url};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::hosts::speaker_of;
use super::{Patience, RegistryError, TransferError, host_of};

/// A redirect to a redirect to …: five lead somewhere, more lead nowhere.
const REDIRECTS_MAX: usize = 5;
/// A slower registry is as good as silent.
const BYTES_PER_SECOND_MIN: u64 = 1024;
const USER_AGENT: &str = concat!("podbox/", env!("CARGO_PKG_VERSION"));

/// How an endpoint is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Speaker {
    pub(crate) tls: TlsSettings,
    /// How long a connection may take to be made, where that is not the same for all.
    pub(crate) dial: Option<Duration>,
    /// It is this machine: no proxy stands in between.
    pub(crate) is_local: bool,
}

/// TLS beside the system's roots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct TlsSettings {
    /// PEM files.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// A PEM with certificate and key.
    pub(crate) identity: Option<Vec<u8>>,
    pub(crate) skip_verify: bool,
}

/// What is asked, without its address.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Sent wherever a redirect leads.
    pub(super) headers: HeaderMap,
    /// Sent to the first origin only.
    pub(super) secrets: HeaderMap,
    /// A form, for POST, which no redirect is followed with.
    pub(super) form: Option<String>,
    /// For messages.
    pub(super) host: &'a str,
}

/// An answer, and whether another origin than the one asked gave it.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) is_foreign: bool,
}

/// Speaks HTTP.
pub(crate) struct Transport {
    pub(super) patience: Patience,
    /// Where the settings of those are that a registry sends us to.
    hosts_dir: Option<PathBuf>,
    clients: Mutex<HashMap<(Speaker, bool), Client>>,
}

impl Transport {
    pub(crate) fn new(patience: Patience, hosts_dir: Option<PathBuf>) -> Arc<Self> {
        static PROVIDER: Once = Once::new();
        // Fails where somebody else chose a provider, which does as well.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        Arc::new(Self { patience, hosts_dir, clients: Mutex::default() })
    }

    /// Asks once, following redirects. Only GET and HEAD are redirected.
    pub(super) async fn ask(&self, url: &Url, speaker: &Speaker, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let protocol = |reason| RegistryError::Protocol { host: ask.host.to_owned(), reason };
        let (mut target, mut theirs) = (url.clone(), None);
        for _ in 0..=REDIRECTS_MAX {
            let is_foreign = target.origin() != url.origin();
            let response = self.send(&target, theirs.as_ref().unwrap_or(speaker), ask, is_foreign).await?;
            let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !is_redirect || ask.form.is_some() {
                return Ok(Answer { response, is_foreign });
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| target.join(location).ok()).ok_or_else(|| protocol("it redirects to no address"))?;
            match (target.scheme(), next.scheme()) {
                (_, "https") | ("http", "http") => {}
                ("https", "http") => return Err(protocol("it redirects from HTTPS to plain HTTP")),
                _ => return Err(protocol("it redirects to no http or https address")),
            }
            theirs = if next.origin() == url.origin() { None } else { Some(self.speaker_of(&next, speaker).await?) };
            target = next;
        }
        Err(protocol("it redirects without an end"))
    }

    /// How an origin is spoken to that a registry sends us to: as its own settings say. Of the registry's it has the authorities alone,
    /// since one private authority mostly vouches for all that belongs to a registry.
    pub(super) async fn speaker_of(&self, url: &Url, registry: &Speaker) -> Result<Speaker, RegistryError> {
        let (hosts_dir, address) = (self.hosts_dir.clone(), url.clone());
        let read = spawn_blocking(move || speaker_of(hosts_dir.as_deref(), &address)).await;
        // Where the runtime ends before the file is read, nobody waits for it.
        let read = read.unwrap_or_else(|_| Ok(Speaker::default()));
        let mut theirs = read.map_err(|source| RegistryError::Hosts { host: host_of(url), source })?;
        theirs.tls.authorities.extend(registry.tls.authorities.iter().cloned());
        Ok(theirs)
    }

    async fn send(&self, url: &Url, speaker: &Speaker, ask: &Ask<'_>, is_foreign: bool) -> Result<Response, RegistryError> {
        let client =
            self.client(speaker, url.scheme() == "https").map_err(|source| RegistryError::Setup { host: ask.host.to_owned(), source })?;
        let mut request = client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
        if !is_foreign {
            request = request.headers(ask.secrets.clone());
        }
        if let Some(form) = &ask.form {
            request = request.header("content-type", "application/x-www-form-urlencoded").body(form.clone());
        }
        // The connection is a part of it, unless that was given more time.
        let patience = speaker.dial.unwrap_or_default().max(self.patience.progress);
        match timeout(patience, request.send()).await {
            Ok(sent) => sent.map_err(|error| unreachable(ask.host, error)),
            Err(_) => Err(self.stalled(ask.host)),
        }
    }

    /// The next bytes of an answer; `None` at its end. Only what it takes from here on counts as the registry's silence, and not what
    /// the caller did with the bytes before.
    pub(super) async fn chunk(&self, host: &str, response: &mut Response, pace: &mut Pace) -> Result<Option<Bytes>, RegistryError> {
        let begun = Instant::now();
        let Ok(chunk) = timeout(self.patience.progress, response.chunk()).await else { return Err(self.stalled(host)) };
        let chunk = chunk.map_err(|error| unreachable(host, error))?;
        if let Some(bytes) = &chunk
            && !pace.keeps_up(begun.elapsed(), bytes.len(), self.patience.progress)
        {
            let (bytes_per_second, patience) = (BYTES_PER_SECOND_MIN, self.patience.progress);
            return Err(RegistryError::Slow { host: host.to_owned(), bytes_per_second, patience });
        }
        Ok(chunk)
    }

    fn stalled(&self, host: &str) -> RegistryError {
        RegistryError::Stalled { host: host.to_owned(), patience: self.patience.progress }
    }

    fn client(&self, speaker: &Speaker, is_https: bool) -> Result<Client, TransferError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        // Settings may change under a daemon; what is not used any more is not kept for ever.
        if clients.len() > 64 {
            clients.clear();
        }
        if let Some(client) = clients.get(&(speaker.clone(), is_https)) {
            return Ok(client.clone());
        }
        let client = self.new_client(speaker, is_https)?;
        clients.insert((speaker.clone(), is_https), client.clone());
        Ok(client)
    }

    fn new_client(&self, speaker: &Speaker, is_https: bool) -> Result<Client, TransferError> {
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(speaker.dial.unwrap_or(self.patience.connect))
            .pool_idle_timeout(Duration::from_secs(30));
        if speaker.is_local || is_without_proxies() {
            builder = builder.no_proxy();
        }
        let mut authorities = Vec::new();
        for pem in &speaker.tls.authorities {
            authorities.extend(Certificate::from_pem_bundle(pem)?);
        }
        builder = match is_https {
            true => builder.tls_certs_merge(authorities),
            // Plain HTTP needs no roots, and a host without any can speak it.
            false => builder.tls_certs_only(authorities),
        };
        if speaker.tls.skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if let Some(identity) = &speaker.tls.identity {
            builder = builder.identity(Identity::from_pem(identity)?);
        }
        Ok(builder.build()?)
    }
}

/// Whether `NO_PROXY` names everybody, as curl and Go's programs read it. The HTTP library takes that for every name, but for no address.
fn is_without_proxies() -> bool {
    let listed = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| std::env::var(name).ok());
    listed.is_some_and(|listed| listed.split(',').any(|entry| entry.trim() == "*"))
}

/// How quickly an answer comes. One that trickles would hold its place, and those behind it, for years.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What podbox waited, since this was looked at.
    waited: Duration,
    bytes: usize,
}

impl Pace {
    /// Counts what came after a wait; false if that was too little for as long as the registry may be silent.
    fn keeps_up(&mut self, waited: Duration, bytes: usize, patience: Duration) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < patience {
            return true;
        }
        let enough = self.bytes as f64 >= self.waited.as_secs_f64() * BYTES_PER_SECOND_MIN as f64;
        *self = Self::default();
        enough
    }
}

fn unreachable(host: &str, error: reqwest::Error) -> RegistryError {
    RegistryError::Unreachable { host: host.to_owned(), source: error.into() }
}

/// Reads an answer's body, if it is not longer than allowed.
pub(super) async fn read_body(
    transport: &Transport,
    host: &str,
    what: &str,
    mut response: Response,
    limit_bytes: u64,
) -> Result<Vec<u8>, RegistryError> {
    let too_large = || RegistryError::TooLarge { host: host.to_owned(), what: what.to_owned(), limit_bytes };
    if response.content_length().is_some_and(|len| len > limit_bytes) {
        return Err(too_large());
    }
    let (mut body, mut pace) = (Vec::new(), Pace::default());
    while let Some(chunk) = transport.chunk(host, &mut response, &mut pace).await? {
        if body.len() as u64 + chunk.len() as u64 > limit_bytes {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
