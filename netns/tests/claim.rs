//! One holder a bridge, and no claim that outlives its holder.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use podbox_netns::{BridgeClaim, ClaimError};

/// A directory that goes with the test.
struct Claims(PathBuf);

impl Claims {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podbox-claims-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        // Nothing depends on it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_bridge_is_claimed_once_in_each_network_namespace() {
    let claims = Claims::new("namespaces");
    let claim = BridgeClaim::take(&claims.0, "pods0").unwrap();
    let error = BridgeClaim::take(&claims.0, "pods0").unwrap_err();
    assert!(matches!(&error, ClaimError::Taken { bridge } if bridge == "pods0"), "{error}");
    let _other = BridgeClaim::take(&claims.0, "other0").unwrap();
    let path = claims.0.clone();
    let elsewhere = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
        let claim = BridgeClaim::take(&path, "pods0").unwrap();
        BridgeClaim::take(&path, "pods0").unwrap_err();
        claim
    });
    let _elsewhere = elsewhere.join().unwrap();
    drop(claim);
    BridgeClaim::take(&claims.0, "pods0").unwrap();
}
