//! What the monitor makes of itself before it serves: a session of its own, parent of all orphans below it, unreadable to others,
//! deaf to the terminal's signals, and holding no descriptor but its own.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketType;
use std::fs;
use std::os::fd::OwnedFd;

/// A step of the start failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {errno}")]
pub struct StartError {
    /// What was tried.
    pub step: &'static str,
    /// What the kernel said.
    pub errno: Errno,
}

/// What the rest of the monitor works with.
pub struct Prepared {
    /// The socket that the daemon connects to; does not block.
    pub listener: OwnedFd,
    /// A `signalfd(2)` that tells of ended children; does not block.
    pub signals: OwnedFd,
    /// The PID namespace that the monitor is in, to come back to after a child is born elsewhere.
    pub own_pid_namespace: OwnedFd,
    /// The `oom_score_adj` to start children with, where the monitor changed its own.
    pub inherited_oom_score_adj: Option<String>,
}

/// Better kept than any container: the pod is lost with it. As low as what belongs to a node goes.
const OWN_OOM_SCORE_ADJ: &str = "-998";
const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";
/// Descriptors below this one are the standard streams.
const FIRST_DESCRIPTOR: u32 = 3;
const IGNORED: [i32; 4] = [Signal::SIGTERM as i32, Signal::SIGHUP as i32, Signal::SIGINT as i32, Signal::SIGPIPE as i32];

/// Carries out the steps; called first in `main`, before anything owns a descriptor.
pub fn prepare() -> Result<Prepared, StartError> {
    podbox_sys::close_from(FIRST_DESCRIPTOR).map_err(at("close what was inherited"))?;
    let listener = take_listener()?;
    // Run from a memfd, it would be called after a descriptor's number.
    rustix::thread::set_name(c"podbox-monitor").map_err(at("take a name"))?;
    // It may be a session's leader already.
    let _ = rustix::process::setsid();
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).map_err(at("become unreadable"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(at("become the parent of orphans"))?;
    for signal in IGNORED {
        podbox_sys::ignore_signal(signal).map_err(at("ignore signals"))?;
    }
    let signals = watch_children()?;
    rustix::process::chdir("/").map_err(at("enter /"))?;
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let inherited_oom_score_adj = lower_oom_score_adj();
    let own_pid_namespace =
        rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(at("open the PID namespace"))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(at("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(at("let go of the standard streams"))?;
    rustix::stdio::dup2_stdout(&null).map_err(at("let go of the standard streams"))?;
    rustix::stdio::dup2_stderr(&null).map_err(at("let go of the standard streams"))?;
    Ok(Prepared { listener, signals, own_pid_namespace, inherited_oom_score_adj })
}

/// For `map_err`: names the step. nix and rustix each have an `Errno` of their own.
pub fn at<E: Into<AnyErrno>>(step: &'static str) -> impl Fn(E) -> StartError {
    move |error| StartError { step, errno: error.into().0 }
}

/// An `Errno` of either crate.
pub struct AnyErrno(Errno);

impl From<Errno> for AnyErrno {
    fn from(errno: Errno) -> Self {
        Self(errno)
    }
}

impl From<nix::errno::Errno> for AnyErrno {
    fn from(errno: nix::errno::Errno) -> Self {
        Self(Errno::from_raw_os_error(errno as i32))
    }
}

impl From<podbox_sys::SysError> for AnyErrno {
    fn from(error: podbox_sys::SysError) -> Self {
        Self(error.errno())
    }
}

fn take_listener() -> Result<OwnedFd, StartError> {
    let step = "take the listening socket from descriptor 0";
    let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(at(step))?;
    let listens = rustix::net::sockopt::socket_acceptconn(&listener).map_err(at(step))?;
    let kind = rustix::net::sockopt::socket_type(&listener).map_err(at(step))?;
    if !listens || kind != SocketType::SEQPACKET {
        return Err(StartError { step, errno: Errno::PROTOTYPE });
    }
    rustix::io::ioctl_fionbio(&listener, true).map_err(at(step))?;
    Ok(listener)
}

fn watch_children() -> Result<OwnedFd, StartError> {
    let step = "watch for ended children";
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block().map_err(at(step))?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(at(step))?;
    rustix::io::fcntl_dupfd_cloexec(&signals, 3).map_err(at(step))
}

/// Without CAP_SYS_RESOURCE the kernel refuses, and the monitor goes on with what it inherited. Gives what was there before.
fn lower_oom_score_adj() -> Option<String> {
    let before = fs::read_to_string(OOM_SCORE_ADJ).ok()?;
    fs::write(OOM_SCORE_ADJ, OWN_OOM_SCORE_ADJ).ok()?;
    Some(before)
}
