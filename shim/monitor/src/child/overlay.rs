//! Overlays: the layers of an image put together, as a container's root or as a volume of one.

use super::error::OpError;
use super::mount::{attribute_flags, copy_of, new_file_system};
use super::root::attach;
use super::target::{Links, open};
use super::user_namespace::Opened;
use podbox_plan::{ImageLayers, MountAttributes, Overlay};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, UnmountFlags, unmount};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What overlayfs leaves in its work directory for as long as a `volatile` mount was not synced; while it is there the kernel
/// refuses the layer.
const VOLATILE_MARKS: [&str; 3] = ["work/incompat/volatile/dirty", "work/incompat/volatile", "work/incompat"];

/// What overlayfs puts together.
struct Layers<'a> {
    /// Top-most first.
    lower: &'a [PathBuf],
    /// The layer that is written to, and overlayfs's work directory.
    writable: Option<(&'a Path, &'a Path)>,
    /// SELinux's, of all files.
    context: Option<&'a str>,
}

impl<'a> Layers<'a> {
    fn of(overlay: &'a Overlay) -> Self {
        Self { lower: &overlay.lower, writable: Some((&overlay.upper, &overlay.work)), context: overlay.context.as_deref() }
    }
}

/// An overlay mounted over `at`. `volatile`: at the container's end nobody waits until its files are on the disk.
pub fn root(overlay: &Overlay, at: &Path, attributes: &MountAttributes) -> Result<OwnedFd, OpError> {
    remove_marks(overlay);
    mount(&Layers::of(overlay), at, attributes, None)
}

/// An overlay of layers that have their ids on disk within a user namespace, as a detached mount. Put together over `at`.
pub fn id_mapped_root(overlay: &Overlay, at: &Path, attributes: &MountAttributes, users: &Opened) -> Result<OwnedFd, OpError> {
    remove_marks(overlay);
    let whole = mount(&Layers::of(overlay), at, attributes, Some(users))?;
    let copied = copy_of(&whole, false);
    leave(at, Some(users))?;
    copied
}

/// A start that failed half-way has mounted this layer before.
fn remove_marks(overlay: &Overlay) {
    for mark in VOLATILE_MARKS {
        let path = overlay.work.join(mark);
        let _ = rustix::fs::unlink(&path).or_else(|_| rustix::fs::rmdir(&path));
    }
}

/// Takes away what [`mount`] has put over `at`.
fn leave(at: &Path, users: Option<&Opened>) -> Result<(), Errno> {
    unmount(at, UnmountFlags::DETACH)?;
    users.map_or(Ok(()), |_| unmount(at, UnmountFlags::DETACH))
}

/// The layers of an image, or one directory of them, as a detached mount.
pub fn image(image: &ImageLayers, users: Option<&Opened>) -> Result<OwnedFd, OpError> {
    // Before Linux 6.15 only what is attached can be copied.
    let layers = Layers { lower: &image.lower, writable: None, context: image.context.as_deref() };
    let whole = mount(&layers, &image.at, &image.attributes, users)?;
    let copied = match &image.sub_path {
        None => copy_of(&whole, false),
        Some(path) => directory_of(&whole, path).and_then(|directory| copy_of(directory, false)),
    };
    leave(&image.at, users)?;
    copied
}

fn directory_of(image: &OwnedFd, path: &Path) -> Result<OwnedFd, OpError> {
    open(image.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY, Links::Follow)
        .map_err(|errno| OpError::Part { part: "its sub path".to_owned(), errno })
}

/// With `users`, the layers are looked up in a mapped copy of the directory that they all lie in, which is attached over `at` first: one
/// mapping for all of them.
fn mount(layers: &Layers<'_>, at: &Path, attributes: &MountAttributes, users: Option<&Opened>) -> Result<OwnedFd, OpError> {
    // Relative names are short: fsconfig(2) takes 255 bytes of one, mount(2) one page of all.
    let parent = common_parent(layers);
    let mounted = match users {
        None => {
            rustix::process::chdir(&parent)?;
            mount_from_here(layers, &parent, at, attributes)
        }
        Some(users) => {
            let mapped = users.mapped_copy(&parent)?;
            attach(&mapped, at)?;
            rustix::process::fchdir(&mapped)?;
            users.with_its_files(|| mount_from_here(layers, &parent, at, attributes))
        }
    };
    rustix::process::chdir("/")?;
    mounted
}

fn mount_from_here(layers: &Layers<'_>, parent: &Path, at: &Path, attributes: &MountAttributes) -> Result<OwnedFd, OpError> {
    if logs_what_it_refuses(rustix::system::uname().release()) {
        mount_old(layers, parent, at, attributes)
    } else {
        match mount_new(layers, parent, attributes) {
            Ok(root) => attach(&root, at).map(|()| root),
            // Before Linux 6.7 there is no `lowerdir+`.
            Err(error) if error.errno() == Errno::INVAL => mount_old(layers, parent, at, attributes).map_err(|_| error),
            Err(error) => Err(error),
        }
    }
}

/// Before Linux 6.5 overlayfs writes to the kernel's log what option it does not know, and `lowerdir+` would be there for each container.
/// What cannot be read is a new kernel: there is another way when it refuses.
fn logs_what_it_refuses(release: &CStr) -> bool {
    let mut numbers = release.to_str().unwrap_or_default().split(|character: char| !character.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) < (6, 5))
}

/// With the new mount API, one layer a call.
fn mount_new(layers: &Layers<'_>, parent: &Path, attributes: &MountAttributes) -> Result<OwnedFd, OpError> {
    let mut options: Vec<(&str, Option<&[u8]>)> = layers.lower.iter().map(|layer| ("lowerdir+", Some(below(layer, parent)))).collect();
    // A backslash escapes in these two alone.
    let writable = layers.writable.map(|(upper, work)| (escaped(below(upper, parent), b"\\"), escaped(below(work, parent), b"\\")));
    if let Some((upper, work)) = &writable {
        options.extend([("upperdir", Some(upper.as_slice())), ("workdir", Some(work.as_slice())), ("volatile", None)]);
    }
    options.extend(layers.context.map(|context| ("context", Some(context.as_bytes()))));
    new_file_system("overlay", &options, attributes)
}

/// With `mount(2)`.
fn mount_old(layers: &Layers<'_>, parent: &Path, at: &Path, attributes: &MountAttributes) -> Result<OwnedFd, OpError> {
    let lower: Vec<Vec<u8>> = layers.lower.iter().map(|layer| escaped(below(layer, parent), b"\\:,")).collect();
    let mut data = b"lowerdir=".to_vec();
    data.extend_from_slice(&lower.join(&b':'));
    if let Some((upper, work)) = layers.writable {
        for (key, path) in [(",volatile,upperdir=", upper), (",workdir=", work)] {
            data.extend_from_slice(key.as_bytes());
            data.extend_from_slice(&escaped(below(path, parent), b"\\,"));
        }
    }
    if let Some(context) = layers.context {
        // A level has commas.
        data.extend_from_slice(format!(",context=\"{context}\"").as_bytes());
    }
    let data = CString::new(data).map_err(|_| OpError::NulByte)?;
    rustix::mount::mount("overlay", at, "overlay", mount_flags(attributes), data.as_c_str())?;
    Ok(rustix::fs::open(at, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn mount_flags(attributes: &MountAttributes) -> MountFlags {
    let flags = attribute_flags(attributes);
    [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
        (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
    ]
    .into_iter()
    .filter(|(attribute, _)| flags.contains(*attribute))
    .fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}

/// The deepest directory that all layers lie below.
fn common_parent(layers: &Layers<'_>) -> PathBuf {
    let (upper, work) = layers.writable.unzip();
    let mut all = layers.lower.iter().map(PathBuf::as_path).chain(upper).chain(work);
    let mut parent = all.next().and_then(Path::parent).unwrap_or(Path::new("/")).to_owned();
    for layer in all {
        while layer == parent || !layer.starts_with(&parent) {
            if !parent.pop() {
                break;
            }
        }
    }
    parent
}

fn below<'a>(path: &'a Path, parent: &Path) -> &'a [u8] {
    path.strip_prefix(parent).unwrap_or(path).as_os_str().as_bytes()
}

fn escaped(path: &[u8], special: &[u8]) -> Vec<u8> {
    path.iter().flat_map(|byte| special.contains(byte).then_some(b'\\').into_iter().chain([*byte])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_from_their_common_parent() {
        let parent_of = |lower: &[&str], upper: &str, work: &str| {
            let lower: Vec<PathBuf> = lower.iter().map(PathBuf::from).collect();
            common_parent(&Layers { lower: &lower, writable: Some((Path::new(upper), Path::new(work))), context: None })
        };
        let nested = parent_of(&["/var/lib/p/layers/a", "/var/lib/p/layers/b"], "/var/lib/p/c/1/upper", "/var/lib/p/c/1/work");
        assert_eq!(nested, Path::new("/var/lib/p"));
        assert_eq!(below(Path::new("/var/lib/p/layers/b"), &nested), b"layers/b");
        assert_eq!(parent_of(&["/a"], "/b/upper", "/b/work"), Path::new("/"));
        // A parent that is itself a layer would leave an empty name.
        assert_eq!(parent_of(&["/x/c"], "/x/c/upper", "/x/c/work"), Path::new("/x"));
    }

    #[test]
    fn only_kernels_known_to_be_old_are_taken_for_old() {
        for (release, old) in [
            (c"5.10.0-32-amd64", true),
            (c"6.1.0-18-cloud-amd64", true),
            (c"6.4", true),
            (c"6.5.0", false),
            (c"6.18.5", false),
            (c"10.0", false),
            (c"unknown", false),
            (c"", false),
        ] {
            assert_eq!(logs_what_it_refuses(release), old, "{release:?}");
        }
    }

    /// On a kernel that has both, the older way is not taken by itself.
    #[test]
    fn both_ways_of_mounting_show_the_layers_and_take_writes() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("unshare");
        crate::child::mount::leave_host_mounts().expect("leave the host's mounts");
        let directory = tempfile::tempdir().expect("temporary directory");
        let at = directory.path().join("root");
        for name in ["root", "a:b,c/etc", "second/etc", "upper", "work"] {
            std::fs::create_dir_all(directory.path().join(name)).expect("mkdir");
        }
        std::fs::write(directory.path().join("a:b,c/etc/first"), "").expect("write");
        std::fs::write(directory.path().join("second/etc/second"), "").expect("write");
        let path = |name: &str| directory.path().join(name);
        let overlay = Overlay { lower: vec![path("a:b,c"), path("second")], upper: path("upper"), work: path("work"), context: None };
        let layers = Layers::of(&overlay);
        let attributes = MountAttributes { no_suid: true, ..MountAttributes::default() };
        // The thread has a working directory of its own since it left the host's mounts.
        rustix::process::chdir(directory.path()).expect("chdir");
        mount_old(&layers, directory.path(), &at, &attributes).expect("mount(2)");
        for _ in 0..2 {
            for name in ["etc/first", "etc/second"] {
                assert!(at.join(name).exists(), "{name}");
            }
            std::fs::write(at.join("etc/new"), "").expect("write");
            assert!(path("upper/etc/new").exists());
            unmount(&at, UnmountFlags::empty()).expect("unmount");
            std::fs::remove_file(path("upper/etc/new")).expect("remove");
            root(&overlay, &at, &attributes).expect("fsopen");
        }
        unmount(&at, UnmountFlags::DETACH).expect("unmount");
    }

    #[test]
    fn separators_in_names_are_escaped() {
        assert_eq!(escaped(b"a:b,c\\d", b"\\:,"), b"a\\:b\\,c\\\\d");
    }
}
