//! Mounts, made detached and attached by descriptor (`fsopen(2)`, `open_tree(2)`, `move_mount(2)`).

use super::error::{OpError, leaving_root};
use super::target::{Links, Make, file_type, find_or_make, is_proc};
use super::user_namespace::Opened;
use podbox_plan::{BindPropagation, BindSource, FileSystem, MountAttributes, TargetKind};
use podbox_sys::{MountChange, Propagation, mount_setattr};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A file system's options as `fsconfig(2)` takes them; `None` is a flag.
pub type Options<'a> = [(&'a str, Option<&'a [u8]>)];

/// Every mount of this namespace becomes private.
pub fn leave_host_mounts() -> Result<(), OpError> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let change = MountChange { propagation: Some(Propagation::Private), recursive: true, ..MountChange::default() };
    mount_setattr(&root, &change).map_err(|error| leaving_root(error.errno()))
}

/// A detached copy of the mount at a host path.
pub fn open_bind(bind: &BindSource, users: Option<&Opened>) -> Result<OwnedFd, OpError> {
    let source = rustix::fs::open(&bind.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let propagation = match bind.propagation {
        BindPropagation::Private => Some(Propagation::Private),
        BindPropagation::HostToContainer => {
            demand_propagation(&source, bind, &["shared:", "master:"], "shared or a slave")?;
            Some(Propagation::Slave)
        }
        BindPropagation::Bidirectional => {
            demand_propagation(&source, bind, &["shared:"], "shared")?;
            None
        }
    };
    let mount = open_tree(&source, c"", clone_flags(bind.recursive) | OpenTreeFlags::AT_EMPTY_PATH)?;
    if propagation.is_some() {
        mount_setattr(&mount, &MountChange { propagation, recursive: true, ..MountChange::default() })?;
    }
    set_attributes(&mount, &bind.attributes, false)?;
    set_attributes(&mount, &bind.recursive_attributes, true)?;
    if bind.id_mapped {
        users.ok_or(OpError::NoUserNamespace)?.map(&mount, &bind.source, bind.recursive)?;
    }
    Ok(mount)
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// Fails unless the mount that `source` is on has one of the marks of `proc_pid_mountinfo(5)`.
fn demand_propagation(source: &OwnedFd, bind: &BindSource, marks: &[&str], wanted: &'static str) -> Result<(), OpError> {
    let mount_id = rustix::fs::statx(source, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id.to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // Number, parent, device, root, mount point, options, then the marks up to a lone dash.
    let mount = mounts.lines().map(|line| line.split(' ')).find(|fields| fields.clone().next() == Some(&mount_id));
    let mut its_marks = mount.into_iter().flat_map(|fields| fields.skip(6).take_while(|field| *field != "-"));
    if its_marks.any(|field| marks.iter().any(|mark| field.starts_with(mark))) {
        Ok(())
    } else {
        Err(OpError::NotShared { source_path: bind.source.clone(), wanted })
    }
}

/// A detached copy of the mount at `path` of another process's mount namespace. The copy is made there and belongs to nobody, so it
/// can be attached here.
pub fn open_in(owner: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, OpError> {
    let here = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    move_into_thread_name_spaces(owner, ThreadNameSpaceType::MOUNT)?;
    let opened = open_tree(CWD, path, clone_flags(true));
    move_into_link_name_space(here.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let mount = opened?;
    mount_setattr(&mount, &MountChange { propagation: Some(Propagation::Private), recursive: true, ..MountChange::default() })?;
    Ok(mount)
}

/// Mounts a new file system on a target that no symbolic link leads to.
pub fn mount_fresh(root: BorrowedFd<'_>, target: &Path, fs: &FileSystem) -> Result<(), OpError> {
    let place = find_or_make(root, target, Make::Directory, Links::Refuse)?;
    move_onto(&open_fresh(fs)?, &place)
}

/// A detached mount of a new file system.
pub fn open_fresh(fs: &FileSystem) -> Result<OwnedFd, OpError> {
    let options: Vec<_> = fs.options.iter().map(|(key, value)| (key.as_str(), value.as_deref().map(str::as_bytes))).collect();
    new_file_system(&fs.kind, &options, &fs.attributes)
}

/// A detached mount of a new file system. What the file system says of its options is part of the error.
pub fn new_file_system(kind: &str, options: &Options<'_>, attributes: &MountAttributes) -> Result<OwnedFd, OpError> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(&context, kind, options).map_err(|errno| match messages(&context) {
        said if said.is_empty() => OpError::Kernel(errno),
        said => OpError::FileSystem { errno, said },
    })?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attribute_flags(attributes))?)
}

fn configure(context: &OwnedFd, kind: &str, options: &Options<'_>) -> Result<(), Errno> {
    fsconfig_set_string(context, "source", kind)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context, *key, *value)?,
            None => fsconfig_set_flag(context, *key)?,
        }
    }
    fsconfig_create(context)
}

/// The errors that wait on a file system's context, each behind the letter `e`.
fn messages(context: &OwnedFd) -> String {
    const MESSAGES_MAX: usize = 8;
    let mut texts = Vec::new();
    let mut bytes = [0; 512];
    for _ in 0..MESSAGES_MAX {
        let Ok(count) = rustix::io::read(context, &mut bytes) else { break };
        if let Some(text) = bytes[..count].strip_prefix(b"e ") {
            texts.push(String::from_utf8_lossy(text).trim().to_owned());
        }
    }
    texts.join("; ")
}

/// Attaches a detached mount; what it is attached to is made if it is absent.
pub fn attach(root: BorrowedFd<'_>, mount: &OwnedFd, target: &Path, kind: TargetKind) -> Result<(), OpError> {
    let make = match kind {
        TargetKind::Directory => Make::Directory,
        TargetKind::File => Make::File,
        TargetKind::LikeSource if file_type(mount)? == FileType::Directory => Make::Directory,
        TargetKind::LikeSource => Make::File,
    };
    let place = find_or_make(root, target, make, Links::Follow)?;
    // An image's symbolic link could otherwise put a file of its choice in place of a switch of /proc.
    if is_proc(&place)? && !target.starts_with("/proc") {
        return Err(OpError::LeadsIntoProc);
    }
    move_onto(mount, &place)
}

/// Sees to a directory that the image declares as a volume. Where the root becomes read-only, it is a mount of its own, of the same
/// files, which does not.
pub fn keep_volume(root: BorrowedFd<'_>, target: &Path, root_is_read_only: bool) -> Result<(), OpError> {
    let place = find_or_make(root, target, Make::Directory, Links::Follow)?;
    if root_is_read_only { move_onto(copy_of(&place, false)?, &place) } else { Ok(()) }
}

/// Attaches a detached mount to an open place.
pub fn move_onto(mount: impl AsFd, place: impl AsFd) -> Result<(), OpError> {
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", place, c"", by_descriptor)?)
}

/// A detached copy of the mount that a descriptor is on, from there down.
pub fn copy_of(place: impl AsFd, recursive: bool) -> Result<OwnedFd, OpError> {
    Ok(open_tree(place, c"", clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)?)
}

/// Sets what a plan asks for and leaves the rest as the source has it.
fn set_attributes(mount: &OwnedFd, attributes: &MountAttributes, recursive: bool) -> Result<(), OpError> {
    let set = attribute_flags(attributes);
    if set.is_empty() {
        return Ok(());
    }
    let clear = if attributes.strict_atime { MountAttrFlags::MOUNT_ATTR__ATIME } else { MountAttrFlags::empty() };
    Ok(mount_setattr(mount, &MountChange { set, clear, propagation: None, recursive })?)
}

/// The same in the kernel's bits.
pub fn attribute_flags(attributes: &MountAttributes) -> MountAttrFlags {
    [
        (attributes.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (attributes.no_suid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (attributes.no_dev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (attributes.no_exec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (attributes.strict_atime, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(MountAttrFlags::empty(), |all, (_, flag)| all | flag)
}
