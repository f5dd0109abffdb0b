//! Connecting descriptors 0–2.

use super::Newborn;
use super::dev::open_null;
use super::error::OpError;
use super::mount::{copy_of, move_onto};
use super::target::{Links, Make, find_or_make, has_magic, open};
use crate::birth::ChildStreams;
use podbox_plan::{Op, Slot};
use rustix::fs::{FileType, Gid, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::OpenptFlags;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// Terminals belong to this group by convention (`devpts`, `gid=5`).
const TTY_GROUP: u32 = 5;

impl Newborn<'_> {
    /// Makes the plan's streams descriptors 0–2.
    pub(super) fn connect_stdio(&mut self) -> Result<(), OpError> {
        match &self.birth.streams {
            ChildStreams::Closed => Ok(()),
            ChildStreams::Piped { stdin, stdout, stderr } => {
                let user = self.user();
                for pipe in [stdin.as_ref(), Some(stdout), Some(stderr)].into_iter().flatten() {
                    give_to_user(pipe.as_fd(), user)?;
                }
                rustix::stdio::dup2_stdout(stdout)?;
                rustix::stdio::dup2_stderr(stderr)?;
                match stdin {
                    Some(stdin) => Ok(rustix::stdio::dup2_stdin(stdin)?),
                    None => {
                        let null = open_null(self.root_or_slash()?, OFlags::RDONLY)?;
                        Ok(rustix::stdio::dup2_stdin(&null)?)
                    }
                }
            }
            ChildStreams::Terminal { .. } | ChildStreams::PassedTerminal(_) => self.connect_terminal(),
            ChildStreams::Passed(slots) => self.connect_passed(*slots),
        }
    }

    fn connect_passed(&mut self, slots: [Option<Slot>; 3]) -> Result<(), OpError> {
        let null = match slots {
            [Some(_), Some(_), Some(_)] => None,
            _ => Some(open_null(self.root_or_slash()?, OFlags::RDWR)?),
        };
        let user = self.user();
        let connects: [fn(BorrowedFd<'_>) -> Result<(), Errno>; 3] = [
            |stdin| rustix::stdio::dup2_stdin(stdin),
            |stdout| rustix::stdio::dup2_stdout(stdout),
            |stderr| rustix::stdio::dup2_stderr(stderr),
        ];
        for (slot, connect) in slots.into_iter().zip(connects) {
            match (slot, &null) {
                (Some(slot), _) => {
                    let descriptor = self.descriptor(slot)?;
                    give_to_user(descriptor, user)?;
                    connect(descriptor)?;
                }
                (None, Some(null)) => connect(null.as_fd())?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// A terminal of the container's own devpts. The slave is opened by the master (`TIOCGPTPEER`), never by a name that the
    /// container could redirect.
    fn connect_terminal(&mut self) -> Result<(), OpError> {
        let user = self.user();
        let is_container = self.birth.plan.namespaces.mount;
        let root = self.root_or_slash()?;
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let master = open(root, Path::new("/dev/pts/ptmx"), flags, Links::Refuse)
            .map_err(|errno| OpError::Part { part: "the container's /dev/pts/ptmx".to_owned(), errno })?;
        if !has_magic(&master, DEVPTS_SUPER_MAGIC)? {
            return Err(OpError::NoTerminals);
        }
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::fs::fchown(&slave, Some(user.0), Some(Gid::from_raw(TTY_GROUP)))?;
        if is_container {
            let console = find_or_make(root, Path::new("/dev/console"), Make::File, Links::Refuse)?;
            move_onto(copy_of(&slave, false)?, console)?;
        }
        self.send_terminal(&master)?;
        rustix::process::ioctl_tiocsctty(&slave)?;
        rustix::stdio::dup2_stdin(&slave)?;
        rustix::stdio::dup2_stdout(&slave)?;
        rustix::stdio::dup2_stderr(&slave)?;
        Ok(())
    }

    fn send_terminal(&self, master: &OwnedFd) -> Result<(), OpError> {
        let channel = match &self.birth.streams {
            ChildStreams::Terminal { channel } => channel.as_fd(),
            ChildStreams::PassedTerminal(slot) => self.descriptor(*slot)?,
            ChildStreams::Closed | ChildStreams::Piped { .. } | ChildStreams::Passed(_) => return Err(Errno::INVAL.into()),
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let masters = [master.as_fd()];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&masters)) {
            return Err(Errno::INVAL.into());
        }
        sendmsg(channel, &[IoSlice::new(b"t")], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Whom the program will run as; whom not to be is [`Op::Credentials`]' to say.
    fn user(&self) -> (Uid, Gid) {
        let ids = self.birth.plan.ops.iter().find_map(|op| match op {
            Op::Credentials { uid, gid, .. } if *uid != u32::MAX && *gid != u32::MAX => Some((*uid, *gid)),
            _ => None,
        });
        let (uid, gid) = ids.unwrap_or((0, 0));
        (Uid::from_raw(uid), Gid::from_raw(gid))
    }
}

/// A pipe is given to the user, who may then open it anew as `/dev/stdout`; anything else belongs to whom it belongs.
pub(super) fn give_to_user(descriptor: BorrowedFd<'_>, user: (Uid, Gid)) -> Result<(), Errno> {
    match FileType::from_raw_mode(rustix::fs::fstat(descriptor)?.st_mode) {
        FileType::Fifo => rustix::fs::fchown(descriptor, Some(user.0), Some(user.1)),
        _ => Ok(()),
    }
}
