//! Birth in a cgroup that is named later.

use crate::support::{TestCgroup, until};
use podbox_sys::send_signal;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SIGKILL: i32 = 9;

fn unified() -> &'static str {
    if Path::new("/sys/fs/cgroup/unified").exists() { "unified" } else { "" }
}

/// A placeholder, and the pipe over which it learns of the cgroup.
fn unborn(id: &str) -> (Child, File) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket");
    let address = rustix::net::SocketAddrUnix::new(directory.path().join("socket")).expect("address");
    rustix::net::bind(&listener, &address).expect("bind");
    rustix::net::listen(&listener, 4).expect("listen");
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    let mut command = Command::new(env!("CARGO_BIN_EXE_podbox-monitor"));
    command.args([id, "unborn"]).stdin(Stdio::from(listener)).stdout(Stdio::from(read));
    (command.spawn().expect("start the placeholder"), write.into())
}

#[test]
fn the_monitor_is_born_in_the_cgroup_that_is_named_and_the_placeholder_ends() {
    let cgroup = TestCgroup::new(unified());
    let (mut placeholder, mut pipe) = unborn("birth");
    assert!(placeholder.try_wait().expect("look").is_none(), "it waits");
    pipe.write_all(cgroup.path().as_os_str().as_bytes()).expect("name the cgroup");
    drop(pipe);
    assert!(placeholder.wait().expect("wait").success());
    let members = cgroup.members();
    for pid in &members {
        let pidfd = pidfd_open(Pid::from_raw(*pid).expect("a pid"), PidfdFlags::empty()).expect("it runs");
        send_signal(pidfd, SIGKILL).expect("end the monitor");
    }
    assert_eq!(members.len(), 1, "the monitor and nothing else");
    assert_ne!(members[0], i32::try_from(placeholder.id()).expect("a pid"));
}

#[test]
fn a_placeholder_whose_daemon_is_gone_ends() {
    let (mut placeholder, pipe) = unborn("gone");
    drop(pipe);
    until("the placeholder ends", || placeholder.try_wait().is_ok_and(|ended| ended.is_some_and(|status| !status.success())));
}
