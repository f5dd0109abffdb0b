//! `cargo xtask vm`: the end-to-end tests on another kernel, in a virtual machine.
//!
//! The kernel is Debian's own for clouds, older than most machines that podbox is developed on, and the machine is emulated in
//! software, so that it comes up anywhere. Each guest is one boot:
//!
//! ```text
//! initramfs   busybox, modules, the guest's scripts and settings       made for each boot
//! /dev/vda    Debian's systemd, D-Bus, AppArmor, nftables, … and libraries   made once: the guest's root, writes are thrown away
//! /dev/vdb    podbox and the test programs, or what another job needs   made when they changed, read-only
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
use programs::Programs;
pub(crate) use qemu::SILENCE_MAX;
use report::Report;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Whether guests can be made here: their kernel and their machine are those of this architecture.
pub(crate) const CAN_BOOT: bool = cfg!(target_arch = "x86_64");

/// Two processors are what developers' smallest machines have, and CI's.
const GUESTS_AT_ONCE: u8 = 2;

/// A test program that runs longer hangs: it is aborted, and the next one runs.
const PROGRAM_MAX: Duration = Duration::from_secs(1200);

/// Something to do in a guest.
#[derive(Debug)]
pub(crate) struct Job {
    /// A word.
    pub(crate) name: String,
    /// A simple command, for a shell.
    pub(crate) command: String,
}

/// What a guest finds below `/mnt`: files and folders by their paths there.
pub(crate) type Payload = Vec<(String, PathBuf)>;

/// Which guests to boot, and which tests to run in them.
#[derive(Debug, clap::Args)]
pub(crate) struct VmArgs {
    /// Only the guest with this version of cgroups.
    #[arg(long, value_enum)]
    cgroup: Option<guest::Cgroup>,
    /// Only the guest with systemd as its first process, which started podbox from its unit.
    #[arg(long, conflicts_with = "cgroup")]
    systemd: bool,
    /// Only the guest with SELinux instead of AppArmor.
    #[arg(long, conflicts_with_all = ["cgroup", "systemd"])]
    selinux: bool,
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
    #[arg(long, default_value_t = GUESTS_AT_ONCE, value_parser = clap::value_parser!(u8).range(1..=4))]
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
            selinux: false,
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
        match (self.cgroup, self.systemd, self.selinux) {
            (Some(version), _, _) => vec![Guest::Plain(version)],
            (None, true, _) => vec![systemd],
            (None, false, true) => vec![Guest::Selinux],
            (None, false, false) => vec![Guest::Plain(guest::Cgroup::V2), Guest::Plain(guest::Cgroup::V1), systemd, Guest::Selinux],
        }
    }
}

/// What came of the guests.
#[derive(Debug)]
pub(crate) struct Outcome {
    reports: Vec<Report>,
    took: Duration,
}

/// The last words of each, which were hidden by what others printed.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reports.iter().try_for_each(|report| write!(f, "{report}"))?;
        writeln!(f, "all guests: {}; {} s", self.totals(), self.took.as_secs())
    }
}

impl Outcome {
    /// Of all tests that came to an end.
    pub(crate) fn totals(&self) -> Totals {
        self.reports.iter().fold(Totals::default(), |totals, report| totals.plus(report.totals()))
    }

    /// # Errors
    /// A guest failed, or a test in it.
    pub(crate) fn ensure_success(&self) -> Result<()> {
        let failed: Vec<&str> = self.reports.iter().filter(|report| !report.is_success()).map(Report::guest).collect();
        ensure!(failed.is_empty(), "failed in the guest with {}", failed.join(", and with "));
        Ok(())
    }
}

/// Runs tests in guests.
///
/// # Errors
/// Something is missing and cannot be installed, a build fails, or a guest or a test in it does.
pub(crate) fn run(args: &VmArgs) -> Result<()> {
    setup::ensure_ready()?;
    let outcome = Guests::prepare(args)?.boot()?;
    print!("{outcome}");
    outcome.ensure_success()
}

/// Fetches what guests are made of that is not podbox's: it is there when they are prepared.
///
/// # Errors
/// Something is missing and cannot be installed or fetched.
pub(crate) fn fetch() -> Result<()> {
    if CAN_BOOT {
        setup::ensure_ready_for_guests()?;
        let folder = folder()?;
        kernel::fetch(&folder)?;
        disk::root(&folder)?;
    }
    Ok(())
}

/// Guests that can be booted.
pub(crate) struct Guests<'a> {
    args: &'a VmArgs,
    programs: Programs,
    parts: Parts,
}

impl<'a> Guests<'a> {
    /// Builds and makes all that they need.
    ///
    /// # Errors
    /// Something is missing and cannot be installed, or a build fails.
    pub(crate) fn prepare(args: &'a VmArgs) -> Result<Self> {
        setup::ensure_ready_for_guests()?;
        let folder = folder()?;
        let programs = programs::build()?;
        let parts = Parts::new(folder, "payload", &programs.all(), args.keep)?;
        Ok(Self { args, programs, parts })
    }

    /// Boots them, some at once, and waits for what comes of them.
    ///
    /// # Errors
    /// What watched a guest panicked.
    pub(crate) fn boot(&self) -> Result<Outcome> {
        let started = Instant::now();
        let reports = boot_all(self.args, &self.programs, &self.parts)?;
        Ok(Outcome { reports, took: started.elapsed() })
    }
}

/// Boots one guest with cgroup v2 that does this alone.
///
/// # Errors
/// Something is missing and cannot be installed; the guest fails, or the job does.
pub(crate) fn run_job(job: Job, program_max: Duration, payload: &Payload) -> Result<()> {
    setup::ensure_ready_for_guests()?;
    let parts = Parts::new(folder()?, &job.name, payload, false)?;
    let started = Instant::now();
    let report = boot(Guest::Plain(guest::Cgroup::V2), &[job], program_max, &parts, started)?;
    print!("{report}");
    let took = started.elapsed();
    Outcome { reports: vec![report], took }.ensure_success()
}

/// What all guests are made of.
struct Parts {
    folder: PathBuf,
    /// Of the payload.
    name: String,
    kernel: kernel::Kernel,
    disks: [PathBuf; 2],
    keep: bool,
}

impl Parts {
    fn new(folder: PathBuf, name: &str, payload: &Payload, keep: bool) -> Result<Self> {
        let kernel = kernel::fetch(&folder)?;
        let disks = [disk::root(&folder)?, disk::payload(&folder, name, payload)?];
        Ok(Self { folder, name: name.to_owned(), kernel, disks, keep })
    }
}

/// Boots each guest on the first thread that is free; the reports are in the guests' order. A guest that cannot be started is one that
/// failed: what the others found is told all the same.
fn boot_all(args: &VmArgs, programs: &Programs, parts: &Parts) -> Result<Vec<Report>> {
    let guests = args.guests();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(guest) = guests.get(index) else { return reports };
            let started = Instant::now();
            let jobs = programs.select(*guest, args.extent(), &args.filters);
            let report = boot(*guest, &jobs, PROGRAM_MAX, parts, started);
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

fn boot(guest: Guest, jobs: &[Job], program_max: Duration, parts: &Parts, started: Instant) -> Result<Report> {
    eprintln!("booting Linux {} with {guest}", parts.kernel.release);
    let file = |kind| parts.folder.join(format!("{}-{}.{kind}", parts.name, guest.name()));
    let (initramfs, console) = (file("cpio"), file("console"));
    initramfs::write(&initramfs, &parts.kernel, &guest.settings(program_max), jobs)?;
    let disks: Vec<&Path> = parts.disks.iter().map(PathBuf::as_path).collect();
    let machine = qemu::Machine { kernel: &parts.kernel.image, initramfs: &initramfs, disks: &disks, console: &console };
    let mut report = Report::new(guest.to_string(), started);
    let ended = machine.run(&guest.kernel_arguments(), |line| report.take(line));
    report.ended(ended, &console);
    if report.is_success() && !parts.keep {
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
