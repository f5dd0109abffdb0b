//! Who makes cgroups.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The owner of the cgroup tree outside of what is delegated to podbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Nobody: podbox makes every cgroup itself, in the file systems.
    Cgroupfs,
    /// systemd: a pod is a scope that it makes and delegates, and podbox makes what is below.
    Systemd,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        })
    }
}
