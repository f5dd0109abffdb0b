//! What PullImage is asked: an image, and who asks the registry for it.

use super::{RequestError, required};
use podbox_image::registry::is_address_of;
use podbox_image::{Credentials, Reference};
use podbox_proto::v1;

/// Longer credentials are none.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// An image to pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullConfig {
    /// Its name.
    pub image: String,
    /// For its registry.
    pub credentials: Credentials,
}

impl PullConfig {
    /// Checks a request. Of the pod that it is for nothing matters here. A name without a registry is on `default_registry`.
    ///
    /// # Errors
    /// The image or a credential is missing or malformed; the error repeats no secret.
    pub fn try_from_request(request: v1::PullImageRequest, default_registry: &str) -> Result<Self, RequestError> {
        let image = required("image", request.image)?.image;
        let name = Reference::parse(&image, default_registry);
        let name = name.map_err(|error| RequestError::invalid("image.image", error.to_string().chars().take(400).collect::<String>()))?;
        let credentials = match request.auth {
            // Credentials of another registry are none for this one.
            Some(auth) if auth.server_address.is_empty() || is_address_of(&auth.server_address, name.registry()) => credentials(auth)?,
            _ => Credentials::Anonymous,
        };
        Ok(Self { image, credentials })
    }
}

/// The CRI does not say which of several forms counts; it is the order of what needs the least trust.
fn credentials(auth: v1::AuthConfig) -> Result<Credentials, RequestError> {
    let secrets = [&auth.username, &auth.password, &auth.auth, &auth.identity_token, &auth.registry_token];
    if secrets.iter().any(|secret| secret.len() > SECRET_BYTES_MAX) {
        return Err(RequestError::invalid("auth", format!("a credential is longer than {SECRET_BYTES_MAX} bytes")));
    }
    if !auth.registry_token.is_empty() {
        return Ok(Credentials::RegistryToken(auth.registry_token));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Credentials::IdentityToken(auth.identity_token));
    }
    if !auth.username.is_empty() {
        return Ok(Credentials::Password { username: auth.username, password: auth.password });
    }
    if auth.auth.is_empty() {
        return Ok(Credentials::Anonymous);
    }
    Credentials::from_basic(&auth.auth).map_err(|error| RequestError::invalid("auth.auth", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulled(image: &str, auth: v1::AuthConfig) -> Result<Credentials, RequestError> {
        let image = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = v1::PullImageRequest { image: Some(image), auth: Some(auth), sandbox_config: None };
        PullConfig::try_from_request(request, "docker.io").map(|config| config.credentials)
    }

    #[test]
    fn credentials_come_in_every_form_that_the_cri_has() {
        let auth = v1::AuthConfig::default;
        let password = Credentials::Password { username: "u".to_owned(), password: "p:q".to_owned() };
        let cases = [
            (auth(), Credentials::Anonymous),
            (v1::AuthConfig { username: "u".into(), password: "p:q".into(), ..auth() }, password.clone()),
            (v1::AuthConfig { auth: "dTpwOnE=".into(), ..auth() }, password.clone()),
            (v1::AuthConfig { auth: "dTpwOnE=".into(), server_address: "https://reg.test/v2/".into(), ..auth() }, password),
            (v1::AuthConfig { auth: "dTpwOnE=".into(), server_address: "other.test".into(), ..auth() }, Credentials::Anonymous),
            (v1::AuthConfig { identity_token: "i".into(), ..auth() }, Credentials::IdentityToken("i".to_owned())),
            (v1::AuthConfig { registry_token: "r".into(), username: "u".into(), ..auth() }, Credentials::RegistryToken("r".to_owned())),
        ];
        for (auth, expected) in cases {
            assert_eq!(pulled("reg.test/a", auth.clone()), Ok(expected), "{auth:?}");
        }
        let hub = v1::AuthConfig { username: "u".into(), server_address: "https://index.docker.io/v1/".into(), ..auth() };
        assert_ne!(pulled("busybox", hub), Ok(Credentials::Anonymous));
        let malformed = pulled("reg.test/a", v1::AuthConfig { auth: "c2VjcmV0".into(), ..auth() }).expect_err("no colon");
        assert!(malformed.to_string().starts_with("auth.auth: "), "{malformed}");
        assert!(pulled("", auth()).is_err() && pulled("x/UPPER", auth()).is_err());
    }
}
