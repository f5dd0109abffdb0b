//! The server of the metrics page: one page, a few readers at once, none for long.

use super::text::CONTENT_TYPE;
use super::{Metrics, Population};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE as CONTENT_TYPE_HEADER, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Readers at once; the next is turned away.
const CONNECTIONS_MAX: usize = 8;
/// For the request, the page and its delivery together: whoever is slower is cut off.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// For the request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The request's headers, in bytes.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// After a connection could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens already; readers wait until it [runs](MetricsServer::run).
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl MetricsServer {
    /// Takes an address; port 0 is a free one.
    ///
    /// # Errors
    /// The address is taken or not this node's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves for ever. `population` is asked once a page, on a thread that may wait.
    pub async fn run(self, metrics: Arc<Metrics>, population: impl Fn() -> Population + Clone + Send + Sync + 'static) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok((stream, _reader)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(place) = room.clone().try_acquire_owned() else { continue };
            let (metrics, population) = (metrics.clone(), population.clone());
            tokio::spawn(async move {
                // Neither a reader that goes away nor one that is cut off is news.
                let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serve(stream, metrics, population)).await;
                drop(place);
            });
        }
    }
}

async fn serve(
    stream: TcpStream,
    metrics: Arc<Metrics>,
    population: impl Fn() -> Population + Clone + Send + 'static,
) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| {
        let (metrics, population) = (metrics.clone(), population.clone());
        async move {
            let answer = match (request.uri().path(), request.method()) {
                ("/metrics", &Method::GET | &Method::HEAD) => page(metrics, population).await,
                ("/metrics", _) => refusal(StatusCode::METHOD_NOT_ALLOWED),
                _ => refusal(StatusCode::NOT_FOUND),
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX).keep_alive(false);
    server.serve_connection(TokioIo::new(stream), service).await
}

async fn page(metrics: Arc<Metrics>, population: impl Fn() -> Population + Send + 'static) -> Response<Full<Bytes>> {
    match tokio::task::spawn_blocking(move || metrics.page(population)).await {
        Ok(page) => {
            let mut answer = Response::new(Full::new(Bytes::from(page)));
            answer.headers_mut().insert(CONTENT_TYPE_HEADER, HeaderValue::from_static(CONTENT_TYPE));
            answer
        }
        Err(_cut_off) => refusal(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    answer
}
