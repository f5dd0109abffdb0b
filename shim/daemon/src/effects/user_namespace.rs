//! Whether pods can have users of their own here.

use super::facts::kernel_version;
use podbox_sys::{IdMap, map_ids, new_user_namespace};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::path::Path;

/// Any ids that are not root's.
const PROBE: IdMap = IdMap { first_outside: 100_000, length: 65_536 };
/// overlayfs takes layers of mapped mounts from this version on.
const KERNEL_MIN: (u32, u32) = (5, 19);

/// Why a pod cannot have users of its own, whose layers are in `root_dir`; `None`: it can. Tries what the launches will do. Only a process
/// of one thread can find out.
#[must_use]
pub fn why_no_user_namespaces(root_dir: &Path) -> Option<String> {
    let namespace = match new_user_namespace(PROBE, PROBE) {
        Ok(namespace) => namespace,
        Err(error) => return Some(format!("no user namespace can be made: {error}: {}", error.errno())),
    };
    let mapped = open_tree(CWD, root_dir, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .and_then(|mount| map_ids(&mount, &namespace, false).map_err(|error| error.errno()));
    match mapped {
        Ok(()) if is_too_old(&rustix::system::uname().release().to_string_lossy()) => {
            Some("overlayfs takes no layers with mapped ids before Linux 5.19".to_owned())
        }
        Ok(()) => None,
        Err(Errno::INVAL) => Some(format!("the file system of {} (root_dir) does not support mounts with mapped ids", root_dir.display())),
        Err(errno) => Some(format!("no mount of {} (root_dir) with mapped ids can be made: {errno}", root_dir.display())),
    }
}

/// What cannot be read is a new kernel: the launch will tell.
fn is_too_old(release: &str) -> bool {
    kernel_version(release).is_some_and(|version| version < KERNEL_MIN)
}

#[cfg(test)]
mod tests {
    use super::is_too_old;

    #[test]
    fn only_kernels_known_to_be_old_are_taken_for_old() {
        for (release, old) in
            [("5.10.0-32-amd64", true), ("5.18", true), ("5.19.0", false), ("6.1.0-18-cloud-amd64", false), ("10.0", false), ("x", false)]
        {
            assert_eq!(is_too_old(release), old, "{release}");
        }
    }
}
