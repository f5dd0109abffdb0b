//! Walking and removing what is below a cgroup in one hierarchy.
//!
//! A container that may write its cgroup mount can nest cgroups deeper than `PATH_MAX` reaches, so both walks go by
//! directory descriptors, one at a time, and their memory grows only with the number of cgroups that there are.

use crate::{Error, control_file};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The last process of a cgroup lets go of it a moment after it is reaped.
const REMOVE_ATTEMPTS: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_micros(200);
/// The pauses double: the 11 between 12 attempts are 0.41 s in all.
const PAUSE_GROWTH: u32 = 2;

/// Removes the cgroup at `directory` and all below it; what is gone already is success.
pub(crate) fn remove(directory: &Path) -> Result<(), Error> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        // Nearly always there is nothing below, so no directory need be read.
        let removed = rustix::fs::unlinkat(CWD, directory, AtFlags::REMOVEDIR);
        let removed = match removed {
            Err(Errno::BUSY | Errno::NOTEMPTY) => remove_below(directory).and_then(|()| rustix::fs::rmdir(directory)),
            other => other,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) if attempt < REMOVE_ATTEMPTS => thread::sleep(pause),
            Err(errno) => return Err(Error::Remove { directory: directory.to_owned(), source: errno.into() }),
        }
        pause *= PAUSE_GROWTH;
    }
    unreachable!("the loop ends by returning")
}

/// Removes the cgroups below `top`, deepest first. One that is busy is left, with its ancestors, and is the error.
fn remove_below(top: &Path) -> Result<(), Errno> {
    let mut busy = None;
    let walked = walk(
        top,
        |_| Ok(()),
        |parent, name| {
            match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Err(errno @ (Errno::BUSY | Errno::NOTEMPTY)) => busy = Some(errno),
                Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno),
            }
            Ok(())
        },
    );
    walked.and(busy.map_or(Ok(()), Err))
}

/// The processes in the cgroup at `directory`, and with `recursive` those in all below it. None if it is absent; those outside
/// of this PID namespace are not in it.
pub(crate) fn processes(directory: &Path, recursive: bool) -> Result<BTreeSet<i32>, Error> {
    let mut found = BTreeSet::new();
    let outcome = if recursive {
        walk(directory, |cgroup| read_processes(cgroup, &mut found), |_, _| Ok(()))
    } else {
        open_directory(CWD, directory).and_then(|cgroup| read_processes(cgroup.as_fd(), &mut found))
    };
    match outcome {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => Ok(found),
        Err(errno) => Err(Error::Read { file: directory.join("cgroup.procs"), source: errno.into() }),
    }
}

fn read_processes(cgroup: BorrowedFd<'_>, found: &mut BTreeSet<i32>) -> Result<(), Errno> {
    let file = match rustix::fs::openat(cgroup, c"cgroup.procs", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut content = String::new();
    match File::from(file).read_to_string(&mut content) {
        Ok(_) => {}
        Err(source) if control_file::is_gone(&source) => return Ok(()),
        Err(source) => return Err(Errno::from_io_error(&source).unwrap_or(Errno::IO)),
    }
    // 0 stands for a process outside of this PID namespace.
    found.extend(content.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    Ok(())
}

/// Calls `enter` with each cgroup from `top` down, and `leave` with the parent and the name of each cgroup below `top` after
/// everything below that one was left. Cgroups that vanish on the way are passed over.
fn walk(
    top: &Path,
    mut enter: impl FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CString) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut here = open_directory(CWD, top)?;
    enter(here.as_fd())?;
    // For each level the children not yet visited, and below the top the name by which its parent knows it.
    let mut levels = vec![(CString::default(), children(here.as_fd())?)];
    while let Some((_, unvisited)) = levels.last_mut() {
        if let Some(name) = unvisited.pop() {
            match open_directory(here.as_fd(), &name) {
                Ok(child) => {
                    enter(child.as_fd())?;
                    levels.push((name, children(child.as_fd())?));
                    here = child;
                }
                Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno),
            }
        } else {
            let left = levels.pop();
            if let (Some((name, _)), false) = (left, levels.is_empty()) {
                // The parent of a cgroup never changes, so `..` is where the walk came from.
                here = open_directory(here.as_fd(), c"..")?;
                leave(here.as_fd(), &name)?;
            }
        }
    }
    Ok(())
}

fn children(cgroup: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let entries = match Dir::read_from(cgroup) {
        Ok(entries) => entries,
        Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => break,
            Err(errno) => return Err(errno),
        };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn open_directory(at: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// Whether nothing runs in the cgroup at `directory` or below it.
pub(crate) fn is_empty(directory: &Path) -> Result<bool, Error> {
    Ok(processes(directory, true)?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_walk_leaves_children_before_parents_and_survives_a_path_beyond_the_kernels_limit() {
        let top = std::env::temp_dir().join(format!("podbox-cgroup-walk-{}", std::process::id()));
        fs::create_dir(&top).expect("fresh");
        let name = CString::new("d".repeat(200)).expect("no NUL");
        let mut here = open_directory(CWD, &top).expect("open");
        for _ in 0..40 {
            rustix::fs::mkdirat(&here, &name, Mode::RWXU).expect("mkdir");
            here = open_directory(here.as_fd(), &name).expect("open");
        }
        let removed = remove(&top);
        assert!(removed.is_ok(), "{removed:?}");
        assert!(!top.exists());
    }

    #[test]
    fn an_absent_cgroup_has_no_processes_and_is_removed() {
        let absent = Path::new("/sys/fs/cgroup/podbox-test-absent/child");
        assert!(processes(absent, true).expect("none").is_empty());
        assert!(processes(absent, false).expect("none").is_empty());
        remove(absent).expect("nothing to do");
    }

    #[test]
    fn an_error_names_the_directory() {
        let held = std::env::temp_dir().join(format!("podbox-cgroup-held-{}", std::process::id()));
        fs::create_dir(&held).expect("make");
        fs::write(held.join("file"), "").expect("write");
        let (failed, of_file) = (remove(&held), remove(&held.join("file")));
        fs::remove_dir_all(&held).expect("clean up");
        assert!(matches!(failed, Err(Error::Remove { directory, source }) if directory == held
            && source.kind() == std::io::ErrorKind::DirectoryNotEmpty));
        assert!(of_file.is_ok(), "a control file is no cgroup, and what is no cgroup need not be removed");
    }
}
