//! Fuzz targets: functions that take any bytes and panic where podbox breaks a promise. Each makes of the bytes what a stranger could
//! send, nearly right where that gets deeper than noise does.
//!
//! They run twice: with `cargo xtask test` for a minute each, on bytes of proptest's, which shrinks what it finds; and with `cargo fuzz`
//! (`tests/fuzz/cargo-fuzz`, which needs a nightly compiler) for as long as one likes, led by coverage.
//!
//! ```text
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz/cargo-fuzz layer
//! ```

mod cri;
mod cursor;
mod layer;
mod protocol;
// The daemon's own, by symbolic links: the daemon is a program, and this part of it names no other.
#[allow(dead_code, unreachable_pub, unused_imports)]
mod request;
mod seccomp;
mod spdy;

pub use cri::request;
pub use layer::layer;
pub use protocol::protocol;
pub use seccomp::seccomp;
pub use spdy::spdy;
