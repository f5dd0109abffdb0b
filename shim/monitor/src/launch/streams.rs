//! Both ends of a process's standard streams.

use crate::birth::ChildStreams;
use podbox_plan::Stdio;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair};
use rustix::pipe::PipeFlags;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// The monitor's ends; the output's do not block.
#[derive(Default)]
pub struct MonitorStreams {
    /// Writing end of the input.
    pub stdin: Option<OwnedFd>,
    /// Reading end of the output.
    pub stdout: Option<OwnedFd>,
    /// Reading end of the error output.
    pub stderr: Option<OwnedFd>,
    /// Where a terminal's master comes from.
    pub terminal: Option<OwnedFd>,
}

/// Makes what the plan asks for.
pub fn open_streams(stdio: &Stdio) -> Result<(ChildStreams, MonitorStreams), Errno> {
    match stdio {
        Stdio::Closed => Ok((ChildStreams::Closed, MonitorStreams::default())),
        Stdio::Passed { stdin, stdout, stderr } => Ok((ChildStreams::Passed([*stdin, *stdout, *stderr]), MonitorStreams::default())),
        Stdio::PassedTerminal { channel } => Ok((ChildStreams::PassedTerminal(*channel), MonitorStreams::default())),
        Stdio::Piped { stdin, .. } => {
            let (input, kept_input) = if *stdin { Some(pipe()?).unzip() } else { (None, None) };
            let ((output, stdout), (error_output, stderr)) = (pipe()?, pipe()?);
            rustix::io::ioctl_fionbio(&output, true)?;
            rustix::io::ioctl_fionbio(&error_output, true)?;
            let monitor = MonitorStreams { stdin: kept_input, stdout: Some(output), stderr: Some(error_output), terminal: None };
            Ok((ChildStreams::Piped { stdin: input, stdout, stderr }, monitor))
        }
        Stdio::Terminal { .. } => {
            let (ours, channel) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            rustix::io::ioctl_fionbio(&ours, true)?;
            Ok((ChildStreams::Terminal { channel }, MonitorStreams { terminal: Some(ours), ..MonitorStreams::default() }))
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
}

/// The terminal's master that the child has sent, made non-blocking; `None` if it sent none.
pub fn take_terminal(channel: &OwnedFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(channel, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    let master = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })?;
    rustix::io::ioctl_fionbio(&master, true).ok()?;
    Some(master)
}
