//! Streaming: exec, attach and port-forward, over SPDY/3.1 and over WebSockets.
//!
//! ```text
//! CRI call ─► Tickets::issue ─► URL with a token
//! client ───► Server: token ─► handshake ─► spdy │ websocket ─► remote_command │ port_forward ─► Endpoint
//! ```
//!
//! - [`Server`] takes clients in; [`Tickets`] tells it whom to expect.
//! - [`Endpoint`] is whoever has containers: it starts processes and dials ports. Nothing here knows what a container is.
//! - [`spdy`] is the protocol alone; it knows nothing of what its streams are for.
//! - [`dial`] is the client's side, for commands of podbox's own.
//!
//! Invariants:
//! - No peer makes memory grow without a bound: what it sends is read as it is taken, what it does not read is not produced.
//! - A session that ends, however that comes, drops its [`Process`]: whoever was executed for it is ended then.
//! - Whoever has no token learns nothing and starts nothing.

mod client;
mod endpoint;
mod exit_status;
mod flow;
mod handshake;
mod port_forward;
mod remote_command;
mod server;
pub mod spdy;
mod token;
mod transport;
mod websocket;

pub use client::{DialError, begin, dial};
pub use endpoint::{
    AttachRequest, Endpoint, ExecRequest, PortForwardRequest, Process, Refusal, StandardStreams, StreamsError, TerminalSize,
};
pub use exit_status::Outcome;
pub use flow::{Gone, Held, Inbound, Outbound, Received};
pub use server::{Server, Tickets};
pub use token::{Awaited, TokenError};
