//! The guests' two disks, made without root's rights over any device: folders that `mke2fs -d` turns into file systems.

use super::Payload;
use crate::packages::{self, recreate};
use crate::setup;
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

/// What the guests' root is made of, with all that these depend on.
const PACKAGES: [&str; 9] = ["apparmor", "busybox-static", "dbus", "iproute2", "libc6", "nftables", "secilc", "systemd", "util-linux"];

/// Folders that packages make when they are installed, or that are mount points.
const FOLDERS: [(&str, u32); 10] = [
    ("dev", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr/local/bin", 0o755),
    ("var/lib/dbus", 0o755),
    ("var/tmp", 0o1777),
];

/// Files that are made when packages are installed, and no more than the tests and systemd ask for.
const FILES: [(&str, &str); 6] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nmessagebus:x:100:101::/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\ntty:x:5:\nmessagebus:x:101:\nsystemd-journal:x:102:\nnogroup:x:65534:\n"),
    ("etc/hostname", "podbox-vm\n"),
    ("etc/hosts", "127.0.0.1 localhost podbox-vm\n"),
    ("etc/resolv.conf", "nameserver 192.0.2.53\n"),
    ("etc/machine-id", "5f0c1f7a9bb94e3c8f0a4d8d6b7e2a11\n"),
];

/// The guests' root, made if there is none of the same packages.
///
/// # Errors
/// Packages cannot be fetched or unpacked, or the disk cannot be made.
pub(super) fn root(folder: &Path) -> Result<PathBuf> {
    let disk = folder.join("root.ext4");
    cached(&disk, &format!("{PACKAGES:?}\n{FOLDERS:?}\n{FILES:?}"), |disk| {
        eprintln!("making the guests' root of Debian packages, unpacked below {}: {}", folder.display(), PACKAGES.join(" "));
        let contents = folder.join("root");
        packages::unpack(&packages::fetch(folder, &PACKAGES)?, &contents)?;
        complete_root(&contents)?;
        make_file_system(&contents, disk)?;
        fs::remove_dir_all(&contents).context("remove the unpacked packages")
    })
}

fn complete_root(root: &Path) -> Result<()> {
    for (path, mode) in FOLDERS {
        let path = root.join(path);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).with_context(|| format!("open {}", path.display()))?;
    }
    for (path, text) in FILES {
        fs::write(root.join(path), text).with_context(|| format!("write {path}"))?;
    }
    let applets = Command::new(root.join("bin/busybox")).arg("--list").output().context("list busybox's applets")?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines() {
        let is_there =
            ["bin", "sbin", "usr/bin", "usr/sbin"].iter().any(|folder| root.join(folder).join(applet).symlink_metadata().is_ok());
        if !is_there {
            symlink("busybox", root.join("bin").join(applet)).with_context(|| format!("link {applet}"))?;
        }
    }
    Ok(())
}

/// What a guest is given, programs without what only a debugger reads. Made anew if a part of it changed.
///
/// # Errors
/// A part cannot be read, or the disk cannot be made.
pub(super) fn payload(folder: &Path, name: &str, parts: &Payload) -> Result<PathBuf> {
    let disk = folder.join(format!("{name}.ext4"));
    let mut made_of = String::new();
    for (name, path) in parts {
        let metadata = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
        let changed = metadata.modified().context("a time of change")?.duration_since(UNIX_EPOCH).context("after 1970")?;
        writeln!(made_of, "{name} {} {} {changed:?}", path.display(), metadata.len()).context("a text")?;
    }
    cached(&disk, &made_of, |disk| {
        let contents = folder.join(name);
        recreate(&contents)?;
        for (name, path) in parts {
            let target = contents.join(name);
            if let Some(above) = target.parent() {
                fs::create_dir_all(above).with_context(|| format!("make {}", above.display()))?;
            }
            let (from, to) = (path.to_string_lossy(), target.to_string_lossy());
            if is_program(path) {
                setup::command("strip", &["--strip-debug", "-o", &to, &from], folder)?;
            } else {
                setup::command("cp", &["-a", &from, &to], folder)?;
            }
        }
        make_file_system(&contents, disk)?;
        fs::remove_dir_all(&contents).context("remove what the disk is made of")
    })
}

/// One in the executable and linkable format (`elf(5)`).
fn is_program(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.is_file() && fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok_and(|()| magic == *b"\x7fELF")
}

/// Makes a file unless it is there and was made of the same.
fn cached(file: &Path, made_of: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let note = file.with_extension("made-of");
    if file.exists() && fs::read_to_string(&note).is_ok_and(|noted| noted == made_of) {
        return Ok(file.to_owned());
    }
    let new = file.with_extension("new");
    make(&new)?;
    fs::rename(&new, file).with_context(|| format!("move {} to its place", file.display()))?;
    fs::write(&note, made_of).with_context(|| format!("write {}", note.display()))?;
    Ok(file.to_owned())
}

fn make_file_system(contents: &Path, disk: &Path) -> Result<()> {
    // A hole until it is written to.
    const SPARE_BYTES: u64 = 512 << 20;
    let mut size_bytes = SPARE_BYTES;
    for path in podbox_tests::host::entries_below(contents) {
        // Inodes and the ends of blocks count, too.
        size_bytes += path.symlink_metadata().with_context(|| format!("look at {}", path.display()))?.size() + 4096;
    }
    let file = fs::File::create(disk).with_context(|| format!("make {}", disk.display()))?;
    file.set_len(size_bytes.next_multiple_of(1 << 20)).context("size the disk")?;
    let (contents, disk) = (contents.to_string_lossy(), disk.to_string_lossy());
    // No journal: a disk whose writes are thrown away never has to be recovered.
    let arguments = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", &contents, &disk];
    setup::command("/sbin/mke2fs", &arguments, Path::new("/"))?;
    ensure!(Path::new(&*disk).exists(), "mke2fs made no {disk}");
    Ok(())
}
