//! A filesystem that does not answer, as a volume whose server is gone, until it is told to.

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const LOOKUP_ROOT_MODE: u32 = 0o040_755;
/// Operation numbers of the kernel's protocol, see `linux/fuse.h`.
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const HEADER_BYTES: usize = 40;
const REQUEST_BYTES_MAX: usize = 1 << 20;
const ENOSYS: i32 = 38;

/// A mounted filesystem of which every question waits. Dropped, it is unmounted, and all who wait get an error.
#[derive(Debug)]
pub struct HungMount {
    at: PathBuf,
    device: Option<File>,
}

impl HungMount {
    /// Mounts it on a directory, which is made.
    ///
    /// # Errors
    /// The kernel would not.
    pub fn new(at: &Path) -> Result<Self> {
        std::fs::create_dir(at).context("make the mount point")?;
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").context("open /dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("hung"), at, Some("fuse"), MsFlags::MS_NODEV | MsFlags::MS_NOSUID, Some(options.as_str())).context("mount fuse")?;
        Ok(Self { at: at.to_owned(), device: Some(device) })
    }

    /// From now on it answers: it is an empty directory.
    ///
    /// # Errors
    /// It answers already.
    pub fn answer(&mut self) -> Result<()> {
        let device = self.device.take().context("it answers already")?;
        // Ends when the filesystem is unmounted.
        std::thread::spawn(move || serve(device));
        Ok(())
    }
}

impl Drop for HungMount {
    fn drop(&mut self) {
        // Closed first: whoever waits is let go.
        self.device = None;
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

fn serve(mut device: File) -> std::io::Result<()> {
    let mut request = vec![0; REQUEST_BYTES_MAX];
    loop {
        let count = device.read(&mut request)?;
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four bytes"));
        if count < HEADER_BYTES {
            continue;
        }
        let (operation, unique) = (word(4), &request[8..16]);
        let (errno, body) = match operation {
            INIT => (0, initialised()),
            GETATTR => (0, root_attributes()),
            _ => (-ENOSYS, Vec::new()),
        };
        let mut answer = Vec::new();
        answer.extend(u32::try_from(16 + body.len()).expect("a short answer").to_ne_bytes());
        answer.extend(errno.to_ne_bytes());
        answer.extend(unique);
        answer.extend(body);
        // One that nobody waits for any more is refused.
        let _ = device.write(&answer);
    }
}

/// `fuse_init_out`: version 7.31 and nothing optional.
fn initialised() -> Vec<u8> {
    let mut body = Vec::new();
    for word in [7_u32, 31, 0, 0, 0, 4096] {
        body.extend(word.to_ne_bytes());
    }
    body.resize(64, 0);
    body
}

/// `fuse_attr_out` of the root directory.
fn root_attributes() -> Vec<u8> {
    let mut body = vec![0; 16];
    body.extend(1_u64.to_ne_bytes());
    body.resize(16 + 60, 0);
    for word in [LOOKUP_ROOT_MODE, 2, 0, 0, 0, 4096, 0] {
        body.extend(word.to_ne_bytes());
    }
    body
}
