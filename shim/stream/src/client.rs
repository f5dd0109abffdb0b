//! The other end, over SPDY: for podbox's own commands.

use crate::flow::Activity;
use crate::handshake::{PROTOCOL_VERSION, SPDY};
use crate::spdy::{Connection, Role};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::io;
use tokio::net::TcpStream;

/// What is read of a refusal.
const WORDS_BYTES_MAX: usize = 4096;

/// A session cannot be begun.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It has no host and port.
    #[error("{url} is no URL of a stream server")]
    Url {
        /// The URL.
        url: String,
    },
    /// Nobody listens there.
    #[error("connect to {url}")]
    Connect {
        /// The URL.
        url: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It does not speak HTTP.
    #[error("ask the stream server")]
    Http(#[from] hyper::Error),
    /// It does not want to.
    #[error("the stream server refused with {status}: {words}")]
    Refused {
        /// What it answered.
        status: StatusCode,
        /// What it said.
        words: String,
    },
}

/// Goes where an Exec, Attach or PortForward call has pointed to.
///
/// # Errors
/// Names the step that failed.
pub async fn dial(url: &str, protocols: &[&str]) -> Result<Connection, DialError> {
    let (uri, authority) = parse(url)?;
    let (host, port) = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let connection = TcpStream::connect((host, port)).await.and_then(|connection| {
        connection.set_nodelay(true)?;
        Ok(connection)
    });
    begin(connection.map_err(|source| DialError::Connect { url: url.to_owned(), source })?, &uri.to_string(), protocols).await
}

fn parse(url: &str) -> Result<(Uri, Authority), DialError> {
    let uri: Option<Uri> = url.parse().ok();
    let parsed = uri.and_then(|uri| uri.authority().cloned().map(|authority| (uri, authority)));
    parsed.ok_or_else(|| DialError::Url { url: url.to_owned() })
}

/// The same over a connection that is there already.
///
/// # Errors
/// Names the step that failed.
pub async fn begin(connection: TcpStream, url: &str, protocols: &[&str]) -> Result<Connection, DialError> {
    let bad_url = || DialError::Url { url: url.to_owned() };
    let (uri, authority) = parse(url)?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(connection)).await?;
    tokio::spawn(driver.with_upgrades());
    let mut request = Request::builder().method(Method::POST).uri(uri.path());
    request = request.header(HOST, authority.as_str()).header(CONNECTION, "Upgrade").header(UPGRADE, SPDY);
    for protocol in protocols {
        request = request.header(PROTOCOL_VERSION, *protocol);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| bad_url())?;
    let answer = sender.send_request(request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = answer.status();
        let words = Limited::new(answer.into_body(), WORDS_BYTES_MAX).collect().await;
        let words = words.map(|words| String::from_utf8_lossy(&words.to_bytes()).trim().to_owned()).unwrap_or_default();
        return Err(DialError::Refused { status, words });
    }
    let parts = hyper::upgrade::on(answer).await?.downcast::<TokioIo<TcpStream>>().map_err(|_| bad_url())?;
    let (source, sink) = parts.io.into_inner().into_split();
    Ok(Connection::start(Role::Client, source, sink, parts.read_buf, Activity::default()))
}
