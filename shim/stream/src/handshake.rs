//! From an HTTP request to what is spoken instead: the upgrade, or why there is none.

use crate::remote_command::{VERSIONS, Version};
use crate::token::Awaited;
use crate::{port_forward, websocket};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL};
use hyper::header::{SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What answers have for a body.
pub(crate) type Answer = Response<Full<Bytes>>;

pub(crate) const SPDY: &str = "SPDY/3.1";
pub(crate) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// The only version of WebSocket there is.
const WEBSOCKET_VERSION: &str = "13";

/// What a connection is to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// SPDY, for a command.
    SpdyCommand(Version),
    /// SPDY, for port-forward.
    SpdyPortForward,
    /// A WebSocket, for a command.
    WebSocketCommand,
    /// A WebSocket with SPDY in it, for port-forward.
    WebSocketPortForward,
}

/// Finds out what is to be spoken.
///
/// # Errors
/// The answer that says what is wrong: 400 where it is no upgrade, 403 where no protocol is common.
pub(crate) fn negotiate<B>(request: &Request<B>, awaited: &Awaited) -> Result<(Upgrade, Answer), Box<Answer>> {
    let headers = request.headers();
    let wants = |name: &str| words(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case(name));
    if !words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Err(refusal(StatusCode::BAD_REQUEST, "an upgrade is due: the header Connection does not say so"));
    }
    if wants("websocket") {
        negotiate_websocket(request, awaited)
    } else if wants(SPDY) {
        negotiate_spdy(headers, awaited)
    } else {
        Err(refusal(StatusCode::BAD_REQUEST, "the header Upgrade must be SPDY/3.1 or websocket"))
    }
}

fn negotiate_spdy(headers: &HeaderMap, awaited: &Awaited) -> Result<(Upgrade, Answer), Box<Answer>> {
    let offered: Vec<&str> = words(headers, &PROTOCOL_VERSION).collect();
    if offered.is_empty() {
        return Err(refusal(StatusCode::BAD_REQUEST, "the header X-Stream-Protocol-Version is missing"));
    }
    let spoken: Vec<(&'static str, Upgrade)> = match awaited {
        Awaited::Exec(_) | Awaited::Attach(_) => VERSIONS.iter().map(|version| (version.name, Upgrade::SpdyCommand(*version))).collect(),
        Awaited::PortForward(_) => vec![(port_forward::PROTOCOL, Upgrade::SpdyPortForward)],
    };
    let Some((name, upgrade)) = first_common(&offered, &spoken) else {
        let mut refused = refusal(StatusCode::FORBIDDEN, "none of the protocol versions that the client speaks is served");
        for (name, _) in spoken {
            refused.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(name));
        }
        return Err(refused);
    };
    let mut answer = switching(SPDY);
    answer.headers_mut().insert(PROTOCOL_VERSION, HeaderValue::from_static(name));
    Ok((upgrade, answer))
}

fn negotiate_websocket<B>(request: &Request<B>, awaited: &Awaited) -> Result<(Upgrade, Answer), Box<Answer>> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket begins with GET"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != WEBSOCKET_VERSION) {
        let mut refused = refusal(StatusCode::BAD_REQUEST, "the header Sec-WebSocket-Version must be 13");
        refused.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(WEBSOCKET_VERSION));
        return Err(refused);
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(refusal(StatusCode::BAD_REQUEST, "the header Sec-WebSocket-Key is missing"));
    };
    let offered: Vec<&str> = words(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    let spoken: Vec<(&'static str, Upgrade)> = match awaited {
        Awaited::Exec(_) | Awaited::Attach(_) => {
            websocket::COMMAND_PROTOCOLS.iter().map(|name| (*name, Upgrade::WebSocketCommand)).collect()
        }
        Awaited::PortForward(_) => vec![(websocket::TUNNEL_PROTOCOL, Upgrade::WebSocketPortForward)],
    };
    let Some((name, upgrade)) = first_common(&offered, &spoken) else {
        let names: Vec<&str> = spoken.iter().map(|(name, _)| *name).collect();
        let words = format!("the header Sec-WebSocket-Protocol must have one of: {}", names.join(", "));
        return Err(refusal(StatusCode::FORBIDDEN, &words));
    };
    let mut answer = switching("websocket");
    let accept = derive_accept_key(key.as_bytes());
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    Ok((upgrade, answer))
}

/// The first that the client offers and that is spoken: the order is the client's to choose.
fn first_common(offered: &[&str], spoken: &[(&'static str, Upgrade)]) -> Option<(&'static str, Upgrade)> {
    offered.iter().find_map(|offered| spoken.iter().find(|(name, _)| name == offered)).copied()
}

/// The words of a header that may come several times, and have several each time.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn switching(to: &'static str) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(to));
    answer
}

/// An answer that is no upgrade, after which nothing more is taken.
pub(crate) fn refusal(status: StatusCode, words: &str) -> Box<Answer> {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{words}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Box::new(answer)
}
