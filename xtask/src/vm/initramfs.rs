//! The initramfs: a cpio archive in the "newc" format (the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`),
//! not compressed, since unpacking would take the emulated machine longer than reading.

use super::Job;
use super::kernel::Kernel;
use crate::build;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// What the guest runs: name, mode, text.
const SCRIPTS: [(&str, u32, &str); 4] = [
    ("boot", 0o755, include_str!("guest/boot")),
    ("run-tests", 0o755, include_str!("guest/run-tests")),
    ("policy.cil", 0o644, include_str!("guest/policy.cil")),
    ("podbox-vm.service", 0o644, include_str!("guest/podbox-vm.service")),
];

/// Writes the initramfs for a boot.
///
/// # Errors
/// A part is missing, or the file cannot be written.
pub(super) fn write(path: &Path, kernel: &Kernel, settings: &str, jobs: &[Job]) -> Result<()> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "vm"] {
        archive.folder(folder);
    }
    // The kernel opens it before init runs.
    archive.entry("dev/console", 0o020_600, (5, 1), &[]);
    archive.file("bin/busybox", 0o755, &fs::read("/bin/busybox").context("read /bin/busybox")?);
    archive.file("init", 0o755, include_bytes!("guest/init"));
    let mut order = String::new();
    for module in &kernel.modules {
        let name = module.file_name().context("a module has a name")?.to_string_lossy();
        archive.file(&format!("modules/{name}"), 0o644, &fs::read(module).with_context(|| format!("read {}", module.display()))?);
        order += &format!("{name}\n");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    for (name, mode, text) in SCRIPTS {
        archive.file(&format!("vm/{name}"), mode, text.as_bytes());
    }
    let unit = build::workspace().join("shim/daemon/podbox.service");
    archive.file("vm/podbox.service", 0o644, &fs::read(&unit).with_context(|| format!("read {}", unit.display()))?);
    archive.file("vm/settings", 0o644, settings.as_bytes());
    let jobs: String = jobs.iter().map(|job| format!("{} {}\n", job.name, job.command)).collect();
    archive.file("vm/jobs", 0o644, jobs.as_bytes());
    fs::write(path, archive.finish()).with_context(|| format!("write {}", path.display()))
}

/// An archive to be; everything in it is root's.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, path: &str) {
        self.entry(path, 0o040_755, (0, 0), &[]);
    }

    fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, 0o100_000 | permissions, (0, 0), content);
    }

    /// `mode` with the type's bits; `device` of a device's node.
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("files of an initramfs are small");
        let name_size = u32::try_from(path.len() + 1).expect("paths are short");
        // Inode, mode, owner, group, links, time, size, the file system's device, the node's own, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    /// Headers and contents begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn an_archive_is_read_back_by_busybox() {
        let mut archive = Archive::default();
        archive.folder("a");
        archive.file("a/odd", 0o755, b"12345");
        archive.file("a/empty", 0o644, b"");
        podbox_tests::programs::install_packages().expect("busybox");
        let mut busybox =
            Command::new("/bin/busybox").args(["cpio", "-tv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run");
        busybox.stdin.take().expect("a pipe").write_all(&archive.finish()).expect("write");
        let output = busybox.wait_with_output().expect("wait");
        assert!(output.status.success());
        let listed = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<(&str, &str)> =
            listed.lines().filter_map(|line| Some((line.split(' ').next()?, line.rsplit(' ').next()?))).collect();
        assert_eq!(lines, [("drwxr-xr-x", "a"), ("-rwxr-xr-x", "a/odd"), ("-rw-r--r--", "a/empty")]);
    }
}
