//! `cargo xtask vm`: the end-to-end tests on another kernel, in a virtual machine.
//!
//! The kernel is Debian's own for clouds, older than most machines that podbox is developed on, and the machine is emulated in
//! software, so that it comes up anywhere. Each guest is one boot:
//!
//! ```text
//! initramfs   busybox, modules, the guest's scripts and settings       made for each boot
//! /dev/vda    Debian's systemd, D-Bus, nftables, iproute2 and libraries   made once: the guest's root, writes are thrown away
//! /dev/vdb    podbox and the test programs                              made when they changed, read-only
//! ttyS0       the kernel's log and the console, to a file
//! ttyS1       what the test programs print, to standard output
//! ```
//!
//! A guest that panics, is silent for too long or fails a test fails the command; the last lines of the console are shown then.
//! Does not know: what the tests promise, or which of them a kernel can run. A test that cannot run says so itself, and is listed.

mod disk;
mod guest;
mod initramfs;
mod kernel;
mod programs;
mod qemu;
mod report;

use crate::{build, setup};
use anyhow::{Context, Result, ensure};
use guest::Guest;
use report::Report;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Whether guests can be made here: their kernel and their machine are those of this architecture.
pub(crate) const CAN_BOOT: bool = cfg!(target_arch = "x86_64");

/// Which guests to boot, and which tests to run in them.
#[derive(Debug, clap::Args)]
pub(crate) struct VmArgs {
    /// Only the guest with this version of cgroups.
    #[arg(long, value_enum)]
    cgroup: Option<guest::Cgroup>,
    /// Only the guest with systemd as its first process, which started podbox from its unit.
    #[arg(long, conflicts_with = "cgroup")]
    systemd: bool,
    /// Every test program; without it only those for which the kernel makes a difference.
    #[arg(long)]
    all: bool,
    /// Only the test programs that are about cgroups, as in `cargo xtask test`.
    #[arg(long, conflicts_with = "all")]
    brief: bool,
    /// Who makes pods' cgroups in the guest with systemd, where a test does not choose.
    #[arg(long, value_enum, default_value = "cgroupfs")]
    driver: guest::Driver,
    /// Keep the console's log and the initramfs after a success, too.
    #[arg(long)]
    keep: bool,
    /// Names of test programs, or parts of names of tests.
    filters: Vec<String>,
}

impl VmArgs {
    /// What is part of `cargo xtask test`: the cgroup version that the machine itself may lack.
    pub(crate) fn of_test() -> Self {
        Self {
            cgroup: Some(guest::Cgroup::V2),
            systemd: false,
            all: false,
            brief: true,
            driver: guest::Driver::Cgroupfs,
            keep: false,
            filters: Vec::new(),
        }
    }

    fn extent(&self) -> programs::Extent {
        match (self.all, self.brief) {
            (true, _) => programs::Extent::All,
            (false, true) => programs::Extent::Brief,
            (false, false) => programs::Extent::Kernel,
        }
    }

    fn guests(&self) -> Vec<Guest> {
        let systemd = Guest::Systemd(self.driver);
        match (self.systemd, self.cgroup) {
            (true, _) => vec![systemd],
            (false, Some(version)) => vec![Guest::Plain(version)],
            (false, None) => vec![Guest::Plain(guest::Cgroup::V2), Guest::Plain(guest::Cgroup::V1), systemd],
        }
    }
}

/// Boots the guests one after the other.
///
/// # Errors
/// Something is missing and cannot be installed, a build fails, or a guest or a test in it does.
pub(crate) fn run(args: &VmArgs) -> Result<()> {
    setup::ensure_ready()?;
    setup::ensure_ready_for_guests()?;
    let folder = folder()?;
    let programs = programs::build()?;
    let kernel = kernel::fetch(&folder)?;
    let root = disk::root(&folder)?;
    let payload = disk::payload(&folder, &programs)?;
    let mut failed = Vec::new();
    for guest in args.guests() {
        let report = boot(guest, args, &Boot { folder: &folder, kernel: &kernel, programs: &programs, disks: [&root, &payload] })?;
        print!("{report}");
        if !report.is_success() {
            failed.push(guest.to_string());
        }
    }
    ensure!(failed.is_empty(), "failed in the guest with {}", failed.join(", and with "));
    Ok(())
}

/// What all guests are made of.
struct Boot<'a> {
    folder: &'a Path,
    kernel: &'a kernel::Kernel,
    programs: &'a programs::Programs,
    disks: [&'a Path; 2],
}

fn boot(guest: Guest, args: &VmArgs, boot: &Boot<'_>) -> Result<Report> {
    eprintln!("booting Linux {} with {guest}", boot.kernel.release);
    let started = Instant::now();
    let initramfs = boot.folder.join(format!("{}.cpio", guest.name()));
    let selection = boot.programs.select(guest, args.extent(), &args.filters);
    initramfs::write(&initramfs, boot.kernel, &guest.settings(&selection.filters), &selection.programs)?;
    let console = boot.folder.join(format!("{}.console", guest.name()));
    let machine = qemu::Machine { kernel: &boot.kernel.image, initramfs: &initramfs, disks: &boot.disks, console: &console };
    let mut report = Report::new(guest.to_string());
    let ended = machine.run(&guest.kernel_arguments(), |line| report.take(line));
    report.ended(ended, started.elapsed(), &console);
    if report.is_success() && !args.keep {
        // They tell nothing that is not in the report.
        let _ = std::fs::remove_file(&console);
        let _ = std::fs::remove_file(&initramfs);
    } else {
        eprintln!("the console's log is {}", console.display());
    }
    Ok(report)
}

/// Where everything that is fetched and made stays.
fn folder() -> Result<PathBuf> {
    ensure!(CAN_BOOT, "guests are made on x86_64 only");
    let folder = build::target_folder()?.join("vm");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}
