//! The CRI socket.

use anyhow::Context;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;
use tokio::net::UnixListener;

/// Listens on a socket for root alone. A socket file that nobody listens on, from a daemon that was killed, is replaced;
/// anything else in its place is left alone.
pub(super) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).context("make its directory")?;
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("look at it"),
        Ok(found) if !found.file_type().is_socket() => anyhow::bail!("there is something that is no socket"),
        Ok(_) => {
            let answered = std::os::unix::net::UnixStream::connect(path);
            anyhow::ensure!(answered.is_err(), "another server listens on it");
            std::fs::remove_file(path).context("remove the one of before")?;
        }
    }
    // Nobody else may connect in the moment before the mode is set, so it is set under another name. A daemon that was killed in that
    // moment left it; the state is locked, so nobody else is at it now.
    let hidden = path.with_extension("new");
    match std::fs::remove_file(&hidden) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context("remove what a killed daemon left"),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden).context("bind it")?;
    let placed = std::fs::set_permissions(&hidden, Permissions::from_mode(0o660)).and_then(|()| std::fs::rename(&hidden, path));
    if placed.is_err() {
        let _ = std::fs::remove_file(&hidden);
    }
    placed.context("put it in its place")?;
    Ok(listener)
}
