//! Starting a monitor.

use super::{MonitorError, open_folder, socket_address};
use crate::effects::Programs;
use crate::effects::open_files::limit_open_files;
use podbox_plan::SandboxId;
use rustix::fs::{AtFlags, Mode};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// Makes a monitor's socket in the pod's folder and starts the monitor on it. The socket is listening before the monitor
/// runs, so that connecting needs no second try. The monitor is a child until this daemon dies, and reaped when it ends before.
///
/// Waits for the kernel to copy and to execute: not for a task that serves.
///
/// # Errors
/// Nothing is left but perhaps the socket's file, which goes with the folder.
pub fn spawn_monitor(programs: &Programs, folder: &Path, socket: &str, id: &SandboxId) -> Result<(), MonitorError> {
    let failed = |step| move |source: io::Error| MonitorError::Spawn { step, source };
    let listener = listening(folder, socket).map_err(|errno| failed("listen on its socket")(errno.into()))?;
    // The path is resolved in the child, whose descriptors are copies of ours.
    let mut monitor = Command::new(format!("/proc/self/fd/{}", programs.monitor.as_raw_fd()))
        .arg0("podbox-monitor")
        .arg(id.as_str())
        .env_clear()
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("execute it"))?;
    // It starts nothing before it is told to, which needs a connection first.
    if let Some(pid) = monitor.id()
        && let Err(source) = limit_open_files(pid, &programs.open_files)
    {
        // Reaped by the runtime, which takes over children that are dropped.
        let _ = monitor.start_kill();
        return Err(failed("limit its open files")(source));
    }
    tokio::spawn(async move { monitor.wait().await });
    Ok(())
}

fn listening(folder: &Path, name: &str) -> Result<OwnedFd, rustix::io::Errno> {
    let folder = open_folder(folder)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(socket.as_fd(), &socket_address(&folder, name)?)?;
    rustix::fs::chmodat(&folder, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    rustix::net::listen(socket.as_fd(), 4)?;
    Ok(socket)
}
