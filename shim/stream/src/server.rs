//! The server of sessions: tokens, connections, upgrades, and the end of them all.

use crate::endpoint::Endpoint;
use crate::flow::{Activity, CLOSE_PATIENCE};
use crate::handshake::{Answer, Upgrade, negotiate, refusal};
use crate::remote_command::{self, Kind, Limits};
use crate::spdy::{Connection, Role};
use crate::token::{Awaited, TokenError, Tokens};
use crate::transport::prepare;
use crate::{port_forward, websocket};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;

/// Sessions at the same time; the next client is told to come later.
const SESSIONS_MAX: usize = 1000;
/// Connections at the same time, those included that have not come as far as a session; the next is closed at once.
const CONNECTIONS_MAX: usize = SESSIONS_MAX + 200;
/// For the request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The request's headers, in bytes.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// After a connection could not be taken, for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long sessions are given to end when the server does.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Where clients are sent to, with tokens.
#[derive(Debug, Clone)]
pub struct Tickets {
    tokens: Arc<Tokens>,
    address: SocketAddr,
}

impl Tickets {
    /// Keeps a request for its client, and gives the URL by which that comes for it: once, within a minute.
    ///
    /// # Errors
    /// Too many requests wait.
    pub fn issue(&self, awaited: Awaited) -> Result<String, TokenError> {
        let path = awaited.path();
        let token = self.tokens.issue(awaited)?;
        Ok(format!("http://{}/{path}/{token}", self.address))
    }
}

/// Listens already; clients wait until it [runs](Server::run).
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tickets: Tickets,
}

impl Server {
    /// Takes an address; port 0 is a free one.
    ///
    /// # Errors
    /// The address is taken or not this node's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let mut reachable = listener.local_addr()?;
        // All addresses are none that one could connect to.
        if reachable.ip().is_unspecified() {
            let loopback = if reachable.is_ipv4() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { IpAddr::from(Ipv6Addr::LOCALHOST) };
            reachable.set_ip(loopback);
        }
        Ok(Self { listener, tickets: Tickets { tokens: Arc::default(), address: reachable } })
    }

    /// Where it is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.tickets.address
    }

    /// What requests are announced with.
    #[must_use]
    pub fn tickets(&self) -> Tickets {
        self.tickets.clone()
    }

    /// Serves until `stop`, and then ends every session. One in which nothing moves for `idle` is ended as well.
    pub async fn run<E: Endpoint>(self, endpoint: Arc<E>, idle: Duration, stop: impl Future<Output = ()>) {
        let (stopping, is_stopping) = watch::channel(false);
        let visit =
            Arc::new(Visit { endpoint, idle, tokens: self.tickets.tokens, sessions: Arc::new(Semaphore::new(SESSIONS_MAX)), is_stopping });
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut tasks = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = tasks.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((connection, _)) => {
                        let Ok(place) = connections.clone().try_acquire_owned() else { continue };
                        let visit = visit.clone();
                        tasks.spawn(async move {
                            visit.serve(connection).await;
                            drop(place);
                        });
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        }
        drop(self.listener);
        stopping.send_replace(true);
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        // Those that do not end are cut off.
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, all_ended).await;
    }
}

/// What every connection is served with.
struct Visit<E> {
    endpoint: Arc<E>,
    idle: Duration,
    tokens: Arc<Tokens>,
    sessions: Arc<Semaphore>,
    is_stopping: watch::Receiver<bool>,
}

/// A session that begins once the upgrade is through.
struct Session {
    upgrade: Upgrade,
    awaited: Awaited,
    _place: OwnedSemaphorePermit,
}

impl<E: Endpoint> Visit<E> {
    async fn serve(&self, connection: TcpStream) {
        prepare(&connection);
        let session = Arc::new(Mutex::new(None));
        let service = service_fn(|mut request: Request<Incoming>| {
            let answer = match self.admit(&mut request) {
                Ok((admitted, answer)) => {
                    *session.lock().unwrap_or_else(PoisonError::into_inner) = Some(admitted);
                    answer
                }
                Err(refused) => *refused,
            };
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX);
        let connection = server.serve_connection(TokioIo::new(connection), service).with_upgrades();
        let mut is_stopping = self.is_stopping.clone();
        let mut stopping = std::pin::pin!(async move { drop(is_stopping.wait_for(|stopping| *stopping).await) });
        tokio::select! {
            served = connection => if served.is_err() { return },
            () = &mut stopping => return,
        }
        let session = session.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((session, upgrading)) = session {
            self.hold(session, upgrading, stopping).await;
        }
    }

    /// Finds out who comes for what, and takes the token.
    fn admit(&self, request: &mut Request<Incoming>) -> Result<((Session, OnUpgrade), Answer), Box<Answer>> {
        if ![Method::GET, Method::POST].contains(request.method()) {
            let mut refused = refusal(StatusCode::METHOD_NOT_ALLOWED, "sessions begin with GET or POST");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
            return Err(refused);
        }
        let not_found = || refusal(StatusCode::NOT_FOUND, "nothing waits here: a URL is good once, and for a minute");
        let (path, token) = request.uri().path().trim_start_matches('/').split_once('/').ok_or_else(not_found)?;
        let place = self.sessions.clone().try_acquire_owned();
        let place = place.map_err(|_| refusal(StatusCode::TOO_MANY_REQUESTS, "too many sessions are open: try again later"))?;
        let awaited = self.tokens.redeem(token).filter(|awaited| awaited.path() == path).ok_or_else(not_found)?;
        let (upgrade, answer) = negotiate(request, &awaited)?;
        Ok(((Session { upgrade, awaited, _place: place }, hyper::upgrade::on(request)), answer))
    }

    async fn hold(&self, session: Session, upgrading: OnUpgrade, stopping: impl Future<Output = ()>) {
        let Ok(upgraded) = upgrading.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        let (connection, leftover) = (parts.io.into_inner(), parts.read_buf);
        let activity = Activity::default();
        let watched = activity.clone();
        let ended = async {
            tokio::select! {
                () = watched.idle_for(self.idle) => "nothing has moved in the session for too long",
                () = stopping => "podbox stops",
            }
        };
        match session.upgrade {
            Upgrade::SpdyCommand(_) | Upgrade::SpdyPortForward => {
                let (source, sink) = connection.into_split();
                let spdy = Connection::start(Role::Server, source, sink, leftover, activity.clone());
                self.hold_spdy(spdy, &session, Limits { ended, activity: activity.clone() }).await;
            }
            Upgrade::WebSocketPortForward => {
                let socket = websocket::take(connection, leftover.to_vec()).await;
                let Ok((source, sink)) = websocket::tunnel(socket) else { return };
                let spdy = Connection::start(Role::Server, source, sink, Bytes::new(), activity.clone());
                self.hold_spdy(spdy, &session, Limits { ended, activity: activity.clone() }).await;
            }
            Upgrade::WebSocketCommand => {
                let socket = websocket::take(connection, leftover.to_vec()).await;
                self.hold_websocket(socket, &session, Limits { ended, activity: activity.clone() }).await;
            }
        }
    }

    async fn hold_spdy(&self, mut spdy: Connection, session: &Session, limits: Limits<impl Future<Output = &'static str>>) {
        let connection = &mut spdy;
        {
            match (&session.awaited, session.upgrade) {
                (Awaited::Exec(request), Upgrade::SpdyCommand(version)) => {
                    let start = self.endpoint.exec(request);
                    remote_command::serve(connection, version, request.streams, Kind::Exec, start, limits).await;
                }
                (Awaited::Attach(request), Upgrade::SpdyCommand(version)) => {
                    let start = self.endpoint.attach(request);
                    remote_command::serve(connection, version, request.streams, Kind::Attach, start, limits).await;
                }
                (Awaited::PortForward(request), _) => {
                    tokio::select! {
                        () = port_forward::serve(connection, self.endpoint.clone(), &request.sandbox) => {}
                        _ = limits.ended => {}
                    }
                }
                // Never negotiated.
                (Awaited::Exec(_) | Awaited::Attach(_), _) => {}
            }
        }
        spdy.close(CLOSE_PATIENCE).await;
    }

    async fn hold_websocket(
        &self,
        socket: WebSocketStream<TcpStream>,
        session: &Session,
        limits: Limits<impl Future<Output = &'static str>>,
    ) {
        match &session.awaited {
            Awaited::Exec(request) => {
                let start = self.endpoint.exec(request);
                websocket::serve_command(socket, request.streams, Kind::Exec, start, limits).await;
            }
            Awaited::Attach(request) => {
                let start = self.endpoint.attach(request);
                websocket::serve_command(socket, request.streams, Kind::Attach, start, limits).await;
            }
            // Never negotiated.
            Awaited::PortForward(_) => {}
        }
    }
}
