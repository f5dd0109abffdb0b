//! A proxy that makes tunnels (CONNECT), and remembers where to.

use super::listener::Listener;
use crate::network::NetworkNamespace;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// A proxy on loopback; it ends with its value.
pub struct Proxy {
    listener: Listener,
    log: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts one in a network namespace, in which its tunnels lead to addresses as well: it knows no names.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(network: Arc<NetworkNamespace>, port: u16) -> Result<Self> {
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (its_log, its_network) = (log.clone(), network.clone());
        let listener = Listener::start(network, SocketAddr::from(([127, 0, 0, 1], port)), move |stream| {
            // Who goes away is none of its business.
            drop(serve(&stream, &its_network, &its_log));
        })?;
        Ok(Self { listener, log })
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.address)
    }

    /// The first line of each request.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(stream: &TcpStream, network: &NetworkNamespace, log: &Mutex<Vec<String>>) -> Result<()> {
    // Nothing of TLS comes before the tunnel is there, so that nothing of it can be in the buffer.
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().context("a request")?.context("read a request")?;
    log.lock().unwrap_or_else(PoisonError::into_inner).push(first.clone());
    while !lines.next().context("the end of a request")?.context("read a request")?.is_empty() {}
    let target = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()?.parse::<SocketAddr>().ok());
    let mut client = stream;
    let Some(target) = target else {
        client.write_all(b"HTTP/1.1 400 no\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").context("refuse")?;
        bail!("no tunnel");
    };
    let server = network.run(|| TcpStream::connect(target).context("connect"))?;
    client.write_all(b"HTTP/1.1 200 yes\r\n\r\n").context("answer")?;
    std::thread::scope(|scope| {
        scope.spawn(|| pass_on(&server, stream));
        pass_on(stream, &server);
    });
    Ok(())
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    // However it ends, the other side is told.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
