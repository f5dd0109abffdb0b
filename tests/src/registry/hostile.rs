//! A registry of our own, which answers as a test wants it to: late, short, false or not at all.
//!
//! It speaks as much HTTP as it takes: one request a connection, bodies of known length.

use super::Content;
use crate::network::NetworkNamespace;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
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
    /// The body is sent so often, one after the other.
    pub times: u64,
}

impl Answer {
    /// A body.
    #[must_use]
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.into(), cut_at: None, stall: Duration::ZERO, length: None, times: 1 }
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

/// A registry on loopback; it ends with its value.
pub struct HostileRegistry {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
    network: Arc<NetworkNamespace>,
    listener: Option<JoinHandle<()>>,
}

impl HostileRegistry {
    /// Starts one in a network namespace. `behaviour` answers first; where it gives nothing, the content is served as is right.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(
        network: Arc<NetworkNamespace>,
        port: u16,
        content: Content,
        behaviour: impl Fn(&Asked, &Content) -> Option<Answer> + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = network.run(|| TcpListener::bind(address).context("listen"))?;
        let (log, ended) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::<AtomicBool>::default());
        let (behaviour, content): (Arc<Behaviour>, _) = (Arc::new(behaviour), Arc::new(content));
        let (its_log, its_end) = (log.clone(), ended.clone());
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if its_end.load(Ordering::SeqCst) {
                    return;
                }
                let (behaviour, content, log) = (behaviour.clone(), content.clone(), its_log.clone());
                // A client that goes away is none of its business.
                std::thread::spawn(move || drop(serve(&stream, &*behaviour, &content, &log)));
            }
        });
        Ok(Self { address, log, ended, network, listener: Some(accepting) })
    }

    /// `127.0.0.1:PORT`
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
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

impl Drop for HostileRegistry {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // The listener sees the end with the next connection; the port is free after it.
        let woken = self.network.run(|| TcpStream::connect(self.address).context("wake the listener"));
        if let (Ok(_), Some(listener)) = (woken, self.listener.take()) {
            let _ = listener.join();
        }
    }
}

fn serve(stream: &TcpStream, behaviour: &Behaviour, content: &Content, log: &Mutex<Vec<Asked>>) -> Result<()> {
    let asked = read_request(stream)?;
    log.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let answer = behaviour(&asked, content).unwrap_or_else(|| honest(&asked, content));
    write_answer(stream, &asked, &answer)
}

fn read_request(stream: &TcpStream) -> Result<Asked> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).context("set a deadline")?;
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
    Ok(Asked { method, path, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

fn write_answer(mut stream: &TcpStream, asked: &Asked, answer: &Answer) -> Result<()> {
    let length = answer.length.unwrap_or(answer.body.len() as u64 * answer.times);
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\ncontent-length: {length}\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).context("write an answer")?;
    if asked.method != "HEAD" {
        let body = &answer.body[..answer.cut_at.unwrap_or(answer.body.len()).min(answer.body.len())];
        for _ in 0..answer.times {
            stream.write_all(body).context("write a body")?;
        }
    }
    stream.flush().context("write an answer")?;
    std::thread::sleep(answer.stall);
    Ok(())
}

/// What a registry in its right mind answers.
fn honest(asked: &Asked, content: &Content) -> Answer {
    let path = asked.path.split('?').next().unwrap_or_default();
    // A proxy is told the host as well.
    let path = path.split_once("/v2/").map_or("", |(_, path)| path);
    if let Some((repository, name)) = path.split_once("/manifests/") {
        let tagged = content.tags.get(&(repository.to_owned(), name.to_owned()));
        let digest = tagged.map_or(name, String::as_str);
        return match content.manifests.get(digest) {
            Some((media_type, bytes)) => Answer::ok(bytes.clone()).with("content-type", media_type).with("docker-content-digest", digest),
            None => {
                Answer { body: br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec(), ..Answer::status(404) }
            }
        };
    }
    let blob = path.split_once("/blobs/").and_then(|(_, digest)| content.blobs.get(digest));
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
