//! The node's device files, which a privileged container sees all of.

use podbox_plan::{DeviceNode, NodeKind};
use rustix::fs::{FileType, major, minor};
use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders of `/dev` that are file systems of the container's own.
const OWN: [&str; 4] = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/hugepages"];
/// Made in every container.
const STANDARD: [&str; 8] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/console"];
/// More device files than any node has; a bound on what one plan can hold.
const NODES_MAX: usize = 4096;

/// Every device file below `/dev` that a container does not have anyway, with the folders they stand in, parents first.
///
/// # Errors
/// `/dev` cannot be listed.
pub fn node_devices() -> io::Result<Vec<DeviceNode>> {
    let mut nodes = Vec::new();
    let mut folders = VecDeque::from([PathBuf::from("/dev")]);
    while let Some(folder) = folders.pop_front() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            // Whatever goes away between the listing and the look at it is not there.
            let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
            let Some(kind) = kind_of(&path, &metadata) else { continue };
            if matches!(kind, NodeKind::Directory { .. }) {
                folders.push_back(path.clone());
            }
            nodes.push(DeviceNode { path, kind });
            if nodes.len() == NODES_MAX {
                return Ok(nodes);
            }
        }
    }
    Ok(nodes)
}

fn kind_of(path: &Path, metadata: &std::fs::Metadata) -> Option<NodeKind> {
    if OWN.iter().chain(&STANDARD).any(|own| path == Path::new(own)) {
        return None;
    }
    let (mode, rdev) = (metadata.mode() & 0o7777, metadata.rdev());
    let (uid, gid) = (metadata.uid(), metadata.gid());
    match FileType::from_raw_mode(metadata.mode()) {
        FileType::Directory => Some(NodeKind::Directory { mode }),
        FileType::CharacterDevice => Some(NodeKind::CharDevice { mode, major: major(rdev), minor: minor(rdev), uid, gid }),
        FileType::BlockDevice => Some(NodeKind::BlockDevice { mode, major: major(rdev), minor: minor(rdev), uid, gid }),
        _ => None,
    }
}
