//! What a process is confined by from `execve(2)` on, beside its capabilities: labels of security modules, and a seccomp filter.

use super::error::OpError;
use super::{Newborn, target};
use crate::birth::{ChildStreams, UNDER_FILTER};
use podbox_plan::SecurityModule;
use podbox_sys::{FilterFlags, FilterInstruction, load_filter};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

/// More instructions the kernel does not take (`BPF_MAXINSNS`).
const FILTER_BYTES_MAX: usize = 4096 * size_of::<FilterInstruction>();

/// Where a process asks for a label. AppArmor has a folder of its own since Linux 5.8.
const APPARMOR: [&str; 2] = ["self/attr/apparmor/exec", "self/attr/exec"];
const SELINUX: [&str; 1] = ["self/attr/exec"];

/// Asks for a label in the host's `/proc`.
pub fn set_exec_label(module: SecurityModule, label: &str) -> Result<(), OpError> {
    let (places, text) = match module {
        SecurityModule::AppArmor => (APPARMOR.as_slice(), format!("exec {label}")),
        SecurityModule::Selinux => (SELINUX.as_slice(), label.to_owned()),
    };
    let file = open_attribute(places)?;
    // The kernel takes it in one piece or not at all.
    Ok(rustix::io::retry_on_intr(|| rustix::io::write(&file, text.as_bytes())).map(drop)?)
}

fn open_attribute(places: &[&str]) -> Result<OwnedFd, OpError> {
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if !target::is_proc(&proc)? {
        return Err(OpError::Part { part: "/proc".to_owned(), errno: Errno::NODEV });
    }
    // `self` is a plain link. A mount over a part of /proc would take the label, and the process would run without.
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let mut result = Err(OpError::Kernel(Errno::NOENT));
    for place in places {
        match rustix::fs::openat2(&proc, *place, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), below) {
            Ok(file) => return Ok(file),
            Err(errno) => result = Err(OpError::Part { part: format!("/proc/{place}"), errno }),
        }
        if !matches!(&result, Err(OpError::Part { errno: Errno::NOENT, .. })) {
            break;
        }
    }
    result
}

/// A filter's instructions.
pub fn read_filter(path: &Path) -> Result<Vec<FilterInstruction>, OpError> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; FILTER_BYTES_MAX + 1];
    let mut length = 0;
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut bytes[length..]))? {
            0 => break,
            count => length += count,
        }
    }
    let (instructions, rest) = bytes[..length].as_chunks();
    if instructions.is_empty() || !rest.is_empty() || length > FILTER_BYTES_MAX {
        return Err(OpError::NoFilter { bytes: length });
    }
    Ok(instructions.to_vec())
}

impl Newborn<'_> {
    /// Takes the filter on that was read. What comes after is done under it, so that everything else comes before.
    pub(super) fn load_seccomp_filter(&mut self, flags: FilterFlags) -> Result<(), OpError> {
        let filter = self.filter.take().ok_or(OpError::NoFilterRead)?;
        self.mark_descriptors()?;
        // A filter that ends the process at its next step leaves nobody to tell of it.
        self.say(&[UNDER_FILTER])?;
        Ok(load_filter(&filter, flags)?)
    }

    /// Everything but the standard streams goes at `execve(2)`, and the limit for what the program opens itself is set.
    pub(super) fn mark_descriptors(&mut self) -> Result<(), OpError> {
        if !self.descriptors_are_marked {
            let first = if matches!(self.birth.streams, ChildStreams::Closed) { 0 } else { 3 };
            podbox_sys::close_on_exec_from(first)?;
            self.limit_open_files()?;
            self.descriptors_are_marked = true;
        }
        Ok(())
    }
}
