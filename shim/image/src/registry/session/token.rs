//! From a challenge to an `Authorization` header: a password as it is, or a token from the server that the registry names
//! (distribution specification's token authentication, and its OAuth2 form for identity tokens).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::Place;
use crate::registry::challenge::Challenge;
use crate::registry::credentials::Credentials;
use crate::registry::error::Message;
use crate::registry::transport::{Ask, Transport, is_passing, read_body};
use crate::registry::{RegistryError, host_of};

const ANSWER_LEN_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// `Bearer …`; `None` if no header can hold the token.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    sensitive(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What to answer a challenge with; `None` if there is nothing.
pub(super) async fn authorization(
    transport: &Transport,
    place: &Place,
    repository: &str,
    challenge: &Challenge,
) -> Result<Option<HeaderValue>, RegistryError> {
    match (challenge, &place.credentials) {
        (Challenge::Basic, Credentials::Password { username, password }) => Ok(basic(username, password)),
        (Challenge::Basic, _) | (_, Credentials::RegistryToken(_)) => Ok(None),
        (Challenge::Bearer { realm, service, scope }, credentials) => {
            let host = &place.endpoint.host;
            let protocol = |reason| RegistryError::Protocol { host: host.clone(), reason };
            let realm = Url::parse(realm).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
            let realm = realm.ok_or_else(|| protocol("its token server has no address"))?;
            if !place.may_know(&realm) {
                return Err(protocol("its token server is asked in plain HTTP, though the registry is not"));
            }
            let scope = scope.clone().unwrap_or_else(|| format!("repository:{repository}:pull"));
            let request = TokenRequest { realm, service: service.as_deref(), scope: &scope };
            let token = request.token(transport, place, repository, credentials).await?;
            bearer(&token).map(Some).ok_or_else(|| protocol("its token server gave no token"))
        }
    }
}

struct TokenRequest<'a> {
    realm: Url,
    service: Option<&'a str>,
    scope: &'a str,
}

impl TokenRequest<'_> {
    async fn token(
        &self,
        transport: &Transport,
        place: &Place,
        repository: &str,
        credentials: &Credentials,
    ) -> Result<String, RegistryError> {
        let is_own = self.realm.origin() == place.endpoint.base.origin();
        let speaker =
            if is_own { place.endpoint.speaker.clone() } else { transport.speaker_of(&self.realm, &place.endpoint.speaker).await? };
        let host = host_of(&self.realm);
        let (url, ask) = self.ask(credentials, &host);
        // Once: whoever asked the registry asks it again after a failure that may pass, and then comes here again.
        let response = transport.ask(&url, &speaker, &ask).await?.response;
        let status = response.status();
        let body = read_body(transport, &host, "a token", response, ANSWER_LEN_MAX).await?;
        if is_passing(status) {
            return Err(RegistryError::Busy { host, status, message: Message::of_body(&body) });
        }
        if !status.is_success() {
            let (repository, message) = (repository.to_owned(), Message::of_body(&body));
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                    RegistryError::Denied { host, repository, status, message }
                }
                status => RegistryError::Status { host, status, message },
            });
        }
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| RegistryError::Protocol { host, reason: "its token server gave no token" })?;
        Ok(if answer.token.is_empty() { answer.access_token } else { answer.token })
    }

    fn ask<'h>(&self, credentials: &Credentials, host: &'h str) -> (Url, Ask<'h>) {
        let mut url = self.realm.clone();
        let mut secrets = HeaderMap::new();
        let mut form = None;
        let pairs = [("service", self.service), ("scope", Some(self.scope))];
        let pairs = pairs.into_iter().filter_map(|(key, value)| Some((key, value?)));
        match credentials {
            Credentials::IdentityToken(refresh_token) => {
                // A URL's query is written as a form is.
                let mut writer = self.realm.clone();
                writer.set_query(None);
                let refresh = [("grant_type", "refresh_token"), ("client_id", "podbox"), ("refresh_token", refresh_token.as_str())];
                writer.query_pairs_mut().extend_pairs(pairs.chain(refresh));
                form = Some(writer.query().unwrap_or_default().to_owned());
            }
            _ => {
                url.query_pairs_mut().extend_pairs(pairs);
                if let Credentials::Password { username, password } = credentials {
                    url.query_pairs_mut().append_pair("account", username);
                    secrets.extend(basic(username, password).map(|value| (AUTHORIZATION, value)));
                }
            }
        }
        let method = if form.is_some() { Method::POST } else { Method::GET };
        (url, Ask { method, headers: HeaderMap::new(), secrets, form, host })
    }
}
