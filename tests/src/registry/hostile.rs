//! A registry of our own, which answers as a test wants it to: late, short, false or not at all.
//!
//! It speaks as much HTTP as it takes: one request a connection, bodies of known length.

use super::listener::Listener;
use super::{Authority, Content};
use crate::network::NetworkNamespace;
use anyhow::{Context, Result};
use rustls::{ServerConfig, ServerConnection, Stream};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `GET`
    pub method: String,
    /// With its query: `/v2/a/manifests/latest`.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Of a POST.
    pub body: String,
    /// It was shown a certificate.
    pub is_certified: bool,
}

impl Asked {
    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What it answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// More headers.
    pub headers: Vec<(String, String)>,
    /// The body that it announces.
    pub body: Vec<u8>,
    /// Only so much of the body is sent.
    pub cut_at: Option<usize>,
    /// After that, nothing happens for so long before the connection ends.
    pub stall: Duration,
    /// The length that it announces, if that is not the body's.
    pub length: Option<u64>,
    /// Between any two bytes of the body.
    pub trickle: Duration,
    /// The body is sent so often, one after the other.
    pub times: u64,
    /// The connection is not closed but reset.
    pub is_reset: bool,
}

impl Answer {
    /// A body.
    #[must_use]
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        let (headers, body) = (Vec::new(), body.into());
        Self {
            status: 200,
            headers,
            body,
            cut_at: None,
            stall: Duration::ZERO,
            length: None,
            times: 1,
            trickle: Duration::ZERO,
            is_reset: false,
        }
    }

    /// A status alone.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::ok("") }
    }

    /// With a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Behaviour = dyn Fn(&Asked, &Content) -> Option<Answer> + Send + Sync;

/// A registry; it ends with its value.
pub struct HostileRegistry {
    listener: Listener,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl HostileRegistry {
    /// Starts one on loopback in a network namespace. `behaviour` answers first; where it gives nothing, the content is served as is right.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(
        network: Arc<NetworkNamespace>,
        port: u16,
        content: Content,
        behaviour: impl Fn(&Asked, &Content) -> Option<Answer> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::start_at(network, SocketAddr::from(([127, 0, 0, 1], port)), None, content, behaviour)
    }

    /// As [`HostileRegistry::start`], on an address, and over TLS with a certificate of an authority.
    ///
    /// # Errors
    /// The port is taken, or the certificate cannot be made.
    pub fn start_at(
        network: Arc<NetworkNamespace>,
        address: SocketAddr,
        authority: Option<&Authority>,
        content: Content,
        behaviour: impl Fn(&Asked, &Content) -> Option<Answer> + Send + Sync + 'static,
    ) -> Result<Self> {
        let tls = authority.map(Authority::server).transpose()?;
        let log = Arc::<Mutex<Vec<Asked>>>::default();
        let its_log = log.clone();
        let listener = Listener::start(network, address, move |stream| {
            // A client that goes away is none of its business.
            drop(converse(&stream, tls.as_ref(), &behaviour, &content, &its_log));
        })?;
        Ok(Self { listener, log })
    }

    /// `ADDRESS:PORT`
    #[must_use]
    pub fn host(&self) -> String {
        self.listener.address.to_string()
    }

    /// All that it was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it was asked for what has this in its path, by GET.
    #[must_use]
    pub fn gets_of(&self, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.method == "GET" && asked.path.contains(part)).count()
    }
}

type Log = Mutex<Vec<Asked>>;

fn converse(tcp: &TcpStream, tls: Option<&Arc<ServerConfig>>, behaviour: &Behaviour, content: &Content, log: &Log) -> Result<()> {
    tcp.set_read_timeout(Some(Duration::from_secs(30))).context("set a deadline")?;
    let mut plain = tcp;
    let answer = match tls {
        None => serve(&mut plain, false, behaviour, content, log)?,
        Some(config) => {
            let mut connection = ServerConnection::new(config.clone()).context("begin with TLS")?;
            while connection.is_handshaking() {
                connection.complete_io(&mut plain).context("shake hands")?;
            }
            let is_certified = connection.peer_certificates().is_some();
            let answer = serve(&mut Stream::new(&mut connection, &mut plain), is_certified, behaviour, content, log)?;
            connection.send_close_notify();
            connection.complete_io(&mut plain).context("end TLS")?;
            answer
        }
    };
    std::thread::sleep(answer.stall);
    if answer.is_reset {
        rustix::net::sockopt::set_socket_linger(tcp, Some(Duration::ZERO)).context("let nothing linger")?;
    }
    Ok(())
}

fn serve(stream: &mut (impl Read + Write), is_certified: bool, behaviour: &Behaviour, content: &Content, log: &Log) -> Result<Answer> {
    let asked = read_request(stream, is_certified)?;
    log.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let answer = behaviour(&asked, content).unwrap_or_else(|| content.answer(&asked));
    write_answer(stream, &asked, &answer)?;
    Ok(answer)
}

fn read_request(stream: &mut impl Read, is_certified: bool) -> Result<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).context("read a request")?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().context("a method")?.to_owned(), words.next().context("a path")?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).context("read a header")?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).context("read a body")?;
    Ok(Asked { method, path, headers, body: String::from_utf8_lossy(&body).into_owned(), is_certified })
}

fn write_answer(stream: &mut impl Write, asked: &Asked, answer: &Answer) -> Result<()> {
    let length = answer.length.unwrap_or(answer.body.len() as u64 * answer.times);
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\ncontent-length: {length}\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).context("write an answer")?;
    if asked.method != "HEAD" {
        let body = &answer.body[..answer.cut_at.unwrap_or(answer.body.len()).min(answer.body.len())];
        for _ in 0..answer.times {
            if answer.trickle.is_zero() {
                stream.write_all(body).context("write a body")?;
                continue;
            }
            for byte in body {
                stream.write_all(&[*byte]).and_then(|()| stream.flush()).context("write a byte")?;
                std::thread::sleep(answer.trickle);
            }
        }
    }
    stream.flush().context("write an answer")
}

impl Content {
    /// What a registry in its right mind answers.
    #[must_use]
    pub fn answer(&self, asked: &Asked) -> Answer {
        let path = asked.path.split('?').next().unwrap_or_default();
        // A proxy is told the host as well.
        let path = path.split_once("/v2/").map_or("", |(_, path)| path);
        if let Some((repository, name)) = path.split_once("/manifests/") {
            let tagged = self.tags.get(&(repository.to_owned(), name.to_owned()));
            let digest = tagged.map_or(name, String::as_str);
            return match self.manifests.get(digest) {
                Some((media_type, bytes)) => {
                    Answer::ok(bytes.clone()).with("content-type", media_type).with("docker-content-digest", digest)
                }
                None => Answer {
                    body: br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec(),
                    ..Answer::status(404)
                },
            };
        }
        let blob = path.split_once("/blobs/").and_then(|(_, digest)| self.blobs.get(digest));
        let Some(bytes) = blob else { return Answer::status(404) };
        let start = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok());
        match start {
            Some(start) if start < bytes.len() => {
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                Answer { status: 206, ..Answer::ok(&bytes[start..]) }.with("content-range", &range)
            }
            _ => Answer::ok(bytes.clone()),
        }
    }
}
