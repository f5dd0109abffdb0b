//! `cargo xtask vm`: the end-to-end tests on another kernel, in a virtual machine.
//!
//! The kernel is Debian's own for clouds, older than most machines that podbox is developed on, and the machine is emulated in
//! software, so that it comes up anywhere. Each guest is one boot:
//!
//! ```text
//! initramfs   busybox, modules, the guest's scripts and settings       made for each boot
//! /dev/vda    Debian's systemd, D-Bus, AppArmor, nftables, iproute2 and libraries   made once: the guest's root, writes are thrown away
//! /dev/vdb    podbox and the test programs                              made when they changed, read-only
//! ttyS0       the kernel's log and the console, to a file
//! ttyS1       what the test programs print, to standard output
//! ```
//!
//! Two guests run at once, on two processors: what they do is bound by these, but the waits of one, about a tenth, are work of the other.
//!
//! A guest that panics, does not come up, is silent for too long or fails a test fails the command; the last lines of the console are shown then.
//! Does not know: what the tests promise, or which of them a kernel can run. A test that cannot run says so itself, and is listed.

mod disk;
mod guest;
mod initramfs;
mod kernel;
mod programs;
mod qemu;
mod report;

use crate::totals::Totals;
use crate::{build, setup};
use anyhow::{Context, Result, anyhow, ensure};
use guest::Guest;
use report::Report;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Whether guests can be made here: their kernel and their machine are those of this architecture.
pub(crate) const CAN_BOOT: bool = cfg!(target_arch = "x86_64");

/// Two processors are what developers' smallest machines have, and CI's.
const GUESTS_AT_ONCE: u8 = 2;

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
    /// Only what is another interface in each guest, cgroups and their drivers: as in `cargo xtask test`.
    #[arg(long, conflicts_with = "all")]
    brief: bool,
    /// Who makes pods' cgroups in the guest with systemd, where a test does not choose.
    #[arg(long, value_enum, default_value = "systemd")]
    driver: guest::Driver,
    /// How many guests to run at once.
    #[arg(long, default_value_t = GUESTS_AT_ONCE, value_parser = clap::value_parser!(u8).range(1..=3))]
    at_once: u8,
    /// Keep the console's log and the initramfs after a success, too.
    #[arg(long)]
    keep: bool,
    /// Names of test programs, or parts of names of tests.
    filters: Vec<String>,
}

impl VmArgs {
    /// What is part of `cargo xtask test`: every guest, with what is another interface in each.
    pub(crate) fn of_test() -> Self {
        Self {
            cgroup: None,
            systemd: false,
            all: false,
            brief: true,
            driver: guest::Driver::Systemd,
            at_once: GUESTS_AT_ONCE,
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

/// What came of the guests; each has told it by itself.
#[derive(Debug)]
pub(crate) struct Outcome(Vec<Report>);

impl Outcome {
    /// Of all tests that came to an end.
    pub(crate) fn totals(&self) -> Totals {
        self.0.iter().fold(Totals::default(), |totals, report| totals.plus(report.totals()))
    }

    /// # Errors
    /// A guest failed, or a test in it.
    pub(crate) fn ensure_success(&self) -> Result<()> {
        let failed: Vec<&str> = self.0.iter().filter(|report| !report.is_success()).map(Report::guest).collect();
        ensure!(failed.is_empty(), "failed in the guest with {}", failed.join(", and with "));
        Ok(())
    }
}

/// Runs tests in guests.
///
/// # Errors
/// Something is missing and cannot be installed, a build fails, or a guest or a test in it does.
pub(crate) fn run(args: &VmArgs) -> Result<()> {
    boot_guests(args)?.ensure_success()
}

/// Boots the guests, some at once.
///
/// # Errors
/// Something is missing and cannot be installed, or a build fails.
pub(crate) fn boot_guests(args: &VmArgs) -> Result<Outcome> {
    setup::ensure_ready()?;
    setup::ensure_ready_for_guests()?;
    let folder = folder()?;
    let programs = programs::build()?;
    let kernel = kernel::fetch(&folder)?;
    let root = disk::root(&folder)?;
    let payload = disk::payload(&folder, &programs)?;
    let parts = Parts { folder: &folder, kernel: &kernel, programs: &programs, disks: [&root, &payload] };
    let started = Instant::now();
    let outcome = Outcome(boot_all(args, &parts)?);
    // The last words of each, where the next guest's do not hide them.
    outcome.0.iter().for_each(|report| print!("{report}"));
    println!("all guests: {}; {} s", outcome.totals(), started.elapsed().as_secs());
    Ok(outcome)
}

/// What all guests are made of.
struct Parts<'a> {
    folder: &'a Path,
    kernel: &'a kernel::Kernel,
    programs: &'a programs::Programs,
    disks: [&'a Path; 2],
}

/// Boots each guest on the first thread that is free; the reports are in the guests' order. A guest that cannot be started is one that
/// failed: what the others found is told all the same.
fn boot_all(args: &VmArgs, parts: &Parts<'_>) -> Result<Vec<Report>> {
    let guests = args.guests();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(guest) = guests.get(index) else { return reports };
            let started = Instant::now();
            let report = boot(*guest, args, parts, started);
            reports.push((index, report.unwrap_or_else(|error| Report::not_started(guest.to_string(), started, &error))));
        }
    };
    let mut reports = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.at_once).map(|_| scope.spawn(work)).collect();
        let mut reports = Vec::new();
        for worker in workers {
            reports.extend(worker.join().map_err(|_| anyhow!("what watched a guest panicked"))?);
        }
        anyhow::Ok(reports)
    })?;
    reports.sort_by_key(|(index, _)| *index);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

fn boot(guest: Guest, args: &VmArgs, parts: &Parts<'_>, started: Instant) -> Result<Report> {
    eprintln!("booting Linux {} with {guest}", parts.kernel.release);
    let initramfs = parts.folder.join(format!("{}.cpio", guest.name()));
    let selection = parts.programs.select(guest, args.extent(), &args.filters);
    initramfs::write(&initramfs, parts.kernel, &guest.settings(&selection.filters), &selection.programs)?;
    let console = parts.folder.join(format!("{}.console", guest.name()));
    let machine = qemu::Machine { kernel: &parts.kernel.image, initramfs: &initramfs, disks: &parts.disks, console: &console };
    let mut report = Report::new(guest.to_string(), started);
    let ended = machine.run(&guest.kernel_arguments(), |line| report.take(line));
    report.ended(ended, &console);
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
