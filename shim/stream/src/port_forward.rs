//! A session of port-forward: any number of connections to ports of one pod.
//!
//! The client opens two streams for each, which it ties together by a request id: one for data, one for errors.

use crate::endpoint::{Endpoint, Refusal};
use crate::flow::{Gone, Inbound, Outbound, PIECE_BYTES_MAX, Received};
use crate::spdy::{Connection, Headers, Stream};
use bytes::{Bytes, BytesMut};
use rustix::net::sockopt::set_socket_linger;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// What it is called in the headers.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";
/// How long one of a pair of streams waits for the other.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest request id: clients number their requests.
const REQUEST_BYTES_MAX: usize = 128;

/// What a stream of a pair is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Data,
    Error,
}

/// The first stream of a pair.
struct Waiting {
    part: Part,
    port: u16,
    other: oneshot::Sender<Stream>,
}

/// Serves a client until it is gone; the connection is for the caller to close.
pub(crate) async fn serve(connection: &mut Connection, endpoint: Arc<impl Endpoint>, sandbox: &str) {
    let mut waiting: HashMap<String, Waiting> = HashMap::new();
    // Each gives the request id that is free again, unless its pair was complete before.
    let mut forwards: JoinSet<Option<String>> = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = connection.accept() => stream,
            Some(done) = forwards.join_next() => {
                if let Ok(Some(request)) = done {
                    waiting.remove(&request);
                }
                continue;
            }
        };
        let Some(mut stream) = stream else { return };
        // Of what its opener has said nothing else is kept while it waits: a little that is packed well may be much.
        let said = std::mem::take(&mut stream.headers);
        let Some((request, part, port)) = purpose(&said, stream.id) else {
            let _ = stream.outbound.abort().await;
            continue;
        };
        match waiting.remove(&request) {
            Some(first) if first.part != part && first.port == port => {
                // Unless it has waited too long just now.
                let _ = first.other.send(stream);
            }
            Some(first) => {
                waiting.insert(request, first);
                let _ = stream.outbound.abort().await;
            }
            None => {
                let (other, second) = oneshot::channel();
                waiting.insert(request.clone(), Waiting { part, port, other });
                let (endpoint, sandbox) = (endpoint.clone(), sandbox.to_owned());
                forwards.spawn(async move {
                    let Ok(Ok(second)) = tokio::time::timeout(PAIR_TIMEOUT, second).await else {
                        let _ = stream.outbound.abort().await;
                        return Some(request);
                    };
                    let (data, error) = if part == Part::Data { (stream, second) } else { (second, stream) };
                    forward(data, error.outbound, port, endpoint.dial(&sandbox, port)).await;
                    None
                });
            }
        }
    }
}

/// Which request a stream belongs to, what it is for, and the port; `None`: it makes no sense.
fn purpose(headers: &Headers, id: u32) -> Option<(String, Part, u16)> {
    let part = match headers.get("streamType")? {
        "data" => Part::Data,
        "error" => Part::Error,
        _ => return None,
    };
    let port = headers.get("port")?.parse().ok().filter(|port| *port != 0)?;
    let request = match (headers.get("requestID"), part) {
        (Some(request), _) if request.len() > REQUEST_BYTES_MAX => return None,
        (Some(request), _) => request.to_owned(),
        // Clients of old open the error stream first, and the other right after it.
        (None, Part::Error) => id.to_string(),
        (None, Part::Data) => id.checked_sub(2)?.to_string(),
    };
    Some((request, part, port))
}

/// One connection. Whatever becomes of it, the session lives on.
async fn forward(data: Stream, error: Outbound, port: u16, dial: impl Future<Output = Result<TcpStream, Refusal>>) {
    let dialed = tokio::select! {
        dialed = dial => dialed,
        () = data.outbound.taken_back() => return,
    };
    match dialed {
        Ok(connection) => {
            let reset = Reset::of(&connection);
            let (from_pod, to_pod) = connection.into_split();
            let lost = data.outbound.taken_back();
            // The client sees the end of each direction by itself, and what is not sent any more it does not miss.
            let both = async { tokio::join!(send_to_pod(data.inbound, to_pod), send_to_client(from_pod, data.outbound)) };
            tokio::select! {
                _ = both => reset.forget(),
                // What a pod does not read must not hold up what it is not wanted for; and what broke off must not read as complete.
                () = lost => {}
            }
        }
        Err(Refusal(why)) => {
            let words = format!("error forwarding port {port} to pod: {why}");
            let _ = error.send(Bytes::from(words)).await;
            let _ = error.end().await;
            let _ = data.outbound.abort().await;
            return;
        }
    }
    let _ = error.end().await;
}

/// Resets a connection when it is dropped, unless it has ended by itself.
struct Reset(Option<OwnedFd>);

impl Reset {
    fn of(connection: &TcpStream) -> Self {
        // Without a descriptor left for it, the connection is ended as any other.
        Self(connection.as_fd().try_clone_to_owned().ok())
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Reset {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            // One that is over already cannot be told.
            let _ = set_socket_linger(connection, Some(Duration::ZERO));
        }
    }
}

async fn send_to_pod(mut from_client: Inbound, mut to_pod: OwnedWriteHalf) -> io::Result<()> {
    loop {
        match from_client.next().await {
            Received::Bytes(held) => to_pod.write_all(&held.bytes).await?,
            Received::End => return to_pod.shutdown().await,
            // With the whole connection, which follows.
            Received::Lost => std::future::pending().await,
        }
    }
}

async fn send_to_client(mut from_pod: OwnedReadHalf, to_client: Outbound) -> Result<(), Gone> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE_BYTES_MAX);
        let read = tokio::select! {
            biased;
            () = to_client.taken_back() => return Err(Gone),
            read = from_pod.read_buf(&mut buffer) => read,
        };
        match read {
            Ok(0) => return to_client.end().await,
            Ok(_) => to_client.send(buffer.split().freeze()).await?,
            // The pod has reset it, and so do we.
            Err(_) => return to_client.abort().await,
        }
    }
}
