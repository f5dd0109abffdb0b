//! SPDY/3.1: streams within one connection.
//!
//! ```text
//!             ┌ frame::Decoder ─► Reader (a task) ─► a stream's Inbound
//! connection ─┤                       │ replies, pongs
//!             └ frame::Encoder ◄─ Writer (a task) ◄─ the streams' Outbounds, by one short queue
//! ```
//!
//! What is here knows SPDY and nothing of what its streams are for. Peers of this protocol do without its flow control, so nothing is done
//! with windows: a stream that nobody takes holds up its connection once the connection's budget is used up.
//!
//! Source: SPDY Protocol, Draft 3.1 (chromium.org).

mod connection;
mod frame;
mod headers;

pub use connection::{Connection, OpenError, Role, Stream};
pub use frame::{Decoder, Frame, FrameError};
pub use headers::{HeaderError, Headers};
