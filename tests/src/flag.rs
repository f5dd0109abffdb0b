//! A sign to scripts in containers, which needs no daemon.

use crate::Pod;
use anyhow::{Context, Result};

/// A file in the pod's shared memory.
#[derive(Debug)]
pub struct Flag(String);

/// The part of a script that waits until the flag is raised.
pub const AWAIT_FLAG: &str = "while ! test -e /dev/shm/go; do sleep 0.02; done";

impl Flag {
    /// The pod's.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn of(pod: &Pod) -> Result<Self> {
        Ok(Self(format!("/proc/{}/root/dev/shm/go", pod.pause_pid().await?)))
    }

    /// Raises it.
    ///
    /// # Errors
    /// The pod is gone.
    pub fn raise(&self) -> Result<()> {
        std::fs::write(&self.0, "").context("raise the flag")
    }
}
