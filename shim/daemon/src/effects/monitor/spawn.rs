//! Starting a monitor.

use super::{MonitorError, open_folder, socket_address};
use crate::effects::Programs;
use crate::effects::open_files::limit_open_files;
use podbox_plan::SandboxId;
use rustix::fs::{AtFlags, Mode};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// The argument by which a monitor waits to be born.
const UNBORN: &str = "unborn";
/// A clone takes well under a millisecond.
const BIRTH_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a monitor's socket in the pod's folder and starts the monitor on it. The socket is listening before the monitor
/// runs, so that connecting needs no second try. The monitor is a child until this daemon dies, and reaped when it ends before.
///
/// Waits for the kernel to copy and to execute: not for a task that serves.
///
/// # Errors
/// Nothing is left but perhaps the socket's file, which goes with the folder.
pub fn spawn_monitor(programs: &Programs, folder: &Path, socket: &str, id: &SandboxId) -> Result<(), MonitorError> {
    let mut monitor = spawn(programs, command(programs, folder, socket, id)?.stdout(Stdio::null()))?;
    tokio::spawn(async move { monitor.wait().await });
    Ok(())
}

/// A monitor that waits for the cgroup in which it is to be born: until then a process that systemd can make a scope with. It ends
/// when this is dropped.
#[derive(Debug)]
pub struct UnbornMonitor {
    placeholder: Child,
    /// Where the cgroup is named.
    pipe: OwnedFd,
}

/// As [`spawn_monitor`], with a monitor that is yet to be born.
///
/// # Errors
/// Likewise.
pub fn spawn_unborn_monitor(programs: &Programs, folder: &Path, socket: &str, id: &SandboxId) -> Result<UnbornMonitor, MonitorError> {
    let (read, pipe) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed("make a pipe")(errno.into()))?;
    let mut command = command(programs, folder, socket, id)?;
    command.arg(UNBORN).stdout(Stdio::from(read)).kill_on_drop(true);
    let placeholder = spawn(programs, &mut command)?;
    Ok(UnbornMonitor { placeholder, pipe })
}

impl UnbornMonitor {
    /// The process that waits.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.placeholder.id()
    }

    /// Has the monitor born in the cgroup at `directory`; when this returns, the process that waited is gone. The monitor is
    /// its child no more, and init reaps it.
    ///
    /// # Errors
    /// There is no monitor.
    pub async fn be_born_in(self, directory: &Path) -> Result<(), MonitorError> {
        let Self { mut placeholder, pipe } = self;
        File::from(pipe).write_all(directory.as_os_str().as_bytes()).map_err(failed("name its cgroup"))?;
        match tokio::time::timeout(BIRTH_TIMEOUT, placeholder.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(_)) => Err(failed("be born in its cgroup")(io::ErrorKind::Other.into())),
            Ok(Err(source)) => Err(failed("wait for its birth")(source)),
            Err(_) => Err(failed("wait for its birth")(io::ErrorKind::TimedOut.into())),
        }
    }
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> MonitorError {
    move |source| MonitorError::Spawn { step, source }
}

fn command(programs: &Programs, folder: &Path, socket: &str, id: &SandboxId) -> Result<Command, MonitorError> {
    let listener = listening(folder, socket).map_err(|errno| failed("listen on its socket")(errno.into()))?;
    // The path is resolved in the child, whose descriptors are copies of ours.
    let mut command = Command::new(format!("/proc/self/fd/{}", programs.monitor.as_raw_fd()));
    command.arg0("podbox-monitor").arg(id.as_str()).env_clear().stdin(Stdio::from(listener)).stderr(Stdio::null());
    Ok(command)
}

/// Starts it, with the limit of open files that containers are to have.
fn spawn(programs: &Programs, command: &mut Command) -> Result<Child, MonitorError> {
    let mut monitor = command.spawn().map_err(failed("execute it"))?;
    // It starts nothing before it is told to, which needs a connection first; and what it brings forth itself has its limits.
    if let Some(pid) = monitor.id()
        && let Err(source) = limit_open_files(pid, &programs.open_files)
    {
        // Reaped by the runtime, which takes over children that are dropped.
        let _ = monitor.start_kill();
        return Err(failed("limit its open files")(source));
    }
    Ok(monitor)
}

fn listening(folder: &Path, name: &str) -> Result<OwnedFd, rustix::io::Errno> {
    let folder = open_folder(folder)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(socket.as_fd(), &socket_address(&folder, name)?)?;
    rustix::fs::chmodat(&folder, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    rustix::net::listen(socket.as_fd(), 4)?;
    Ok(socket)
}
