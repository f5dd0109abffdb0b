//! Files of a pod, and its name for `ip netns`.

use crate::plan::{Layout, PodFiles};
use podbox_plan::SandboxId;
use std::io;
use std::path::Path;

/// Where `ip netns` looks.
const NAMES: &str = "/run/netns";

/// Writes resolv.conf, hostname and hosts into the pod's folder; containers read them as any user.
///
/// # Errors
/// One cannot be written.
pub fn write_pod_files(folder: &Path, files: &PodFiles) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for (name, text) in [("resolv.conf", &files.resolv_conf), ("hostname", &files.hostname), ("hosts", &files.hosts)] {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Lets `ip netns` find the pod: a symbolic link to pause's network namespace costs no mount.
///
/// # Errors
/// The link cannot be made.
pub fn link_netns(id: &SandboxId, pause_pid: i32) -> io::Result<()> {
    let name = Layout::named_netns(id);
    if let Some(folder) = name.parent() {
        std::fs::create_dir_all(folder)?;
    }
    unlink_netns(id)?;
    std::os::unix::fs::symlink(format!("/proc/{pause_pid}/ns/net"), name)
}

/// Takes the name away; absent is success.
///
/// # Errors
/// The link stands.
pub fn unlink_netns(id: &SandboxId) -> io::Result<()> {
    match std::fs::remove_file(Layout::named_netns(id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes away names of pods that lead nowhere: whichever daemon made them, their pause is gone.
///
/// # Errors
/// The folder cannot be listed.
pub fn collect_netns_names() -> io::Result<()> {
    let names = match std::fs::read_dir(NAMES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in names {
        let path = entry?.path();
        let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("podbox-"));
        if is_ours && path.is_symlink() && !path.exists() {
            // Another daemon may do the same at this moment.
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(())
}
