//! Which endpoints a registry's name stands for: `hosts.toml`, in the layout and with the keys that containerd has.
//!
//! Of a registry `HOST:PORT`, the first of the folders `HOST_PORT_`, `HOST:PORT` and `_default` that is there counts; without a port
//! it is `HOST` and `_default`. In it is `hosts.toml`:
//!
//! ```toml
//! server = "https://registry.test"           # the registry itself, asked last; by default its own name
//!
//! [host."https://mirror.test:5000"]          # asked before it, in the order of the file
//! capabilities = ["pull", "resolve"]         # resolve: trusted to say what a tag means
//! ca = "ca.pem"                              # or a list; beside the system's
//! client = [["client.cert", "client.key"]]   # or one file with both, or a list of such files
//! skip_verify = false
//! override_path = false                      # the URL's path already has what /v2 is elsewhere
//! dial_timeout = "10s"
//! [host."https://mirror.test:5000".header]
//! x-some = ["value"]
//! ```
//!
//! All keys but `host` may stand at the top, too, and are the registry's own then. A folder without the file may hold what docker reads:
//! `*.crt`, authorities, and `NAME.cert` with `NAME.key`. Paths are relative to the folder. Unlike containerd, podbox refuses keys that
//! it does not know, and unlike there, what a file says of TLS does not hold for other hosts that a registry sends us to, its token server
//! or storage: they have folders of their own, or are trusted as the system trusts them.

mod endpoints;
mod file;

pub(crate) use endpoints::{Endpoint, endpoints_of, speaker_of};

use std::io;
use std::path::PathBuf;

/// A registry's settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file cannot be read.
    #[error("read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is malformed.
    #[error("{path}: {reason}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A value cannot be used.
    #[error("{path}: {key}: {reason}", path = path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is due.
        reason: String,
    },
}
