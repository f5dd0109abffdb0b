//! What the commands need of the machine, and where it is missing, its installation from Debian's packages.
//!
//! Here is what it takes to build podbox; what it takes to run and look at pods, the tests' crate knows and installs. A need is
//! looked for by what it is, not by its package, so that a machine that is no Debian does as well if it has all of it.
//! Nothing is installed, and the package lists are not fetched, where nothing is missing.

use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::{Command, Stdio};

/// One thing, the Debian package that brings it, and what it is for.
struct Need {
    package: &'static str,
    purpose: &'static str,
    is_there: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need { package: "gcc", purpose: "the linker", is_there: || in_path("cc") },
    Need { package: "libc6-dev", purpose: "the static C library that the monitor is linked with", is_there: || has_static("libc.a") },
    Need { package: "libseccomp-dev", purpose: "the static libseccomp", is_there: || has_static("libseccomp.a") },
];

/// What it takes to boot guests, beside the above.
const NEEDS_OF_GUESTS: &[Need] = &[
    Need { package: "qemu-system-x86", purpose: "the machine emulator", is_there: || in_path("qemu-system-x86_64") },
    Need { package: "e2fsprogs", purpose: "mke2fs, which makes the guests' disks", is_there: || Path::new("/sbin/mke2fs").exists() },
    Need { package: "binutils", purpose: "strip, which makes the guests' programs small", is_there: || in_path("strip") },
    Need { package: "util-linux", purpose: "setpriv, by which a guest ends with the command", is_there: || in_path("setpriv") },
];

/// What pulls are measured beside.
const NEEDS_OF_BENCH: &[Need] = &[Need { package: "skopeo", purpose: "what pulls are measured beside", is_there: || in_path("skopeo") }];

/// Makes sure that everything is there that podbox is measured beside.
///
/// # Errors
/// Something is missing and there is no apt-get, or it fails.
pub(crate) fn ensure_ready_for_bench() -> Result<()> {
    satisfy(NEEDS_OF_BENCH)
}

/// Makes sure that everything is there to build podbox and to run pods; says on standard error what it installs.
///
/// # Errors
/// Not root; or something is missing and there is no apt-get, or it fails.
pub(crate) fn ensure_ready() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "pods need root: run this as root");
    satisfy(NEEDS)?;
    podbox_tests::programs::install_packages()
}

/// Makes sure that everything is there to boot guests; says on standard error what it installs.
///
/// # Errors
/// Something is missing and there is no apt-get, or it fails; or this is no Debian, whose packages guests are made of.
pub(crate) fn ensure_ready_for_guests() -> Result<()> {
    ensure!(in_path("apt-get") && in_path("dpkg-deb"), "guests are made of Debian's packages, and this machine has no apt-get");
    satisfy(NEEDS_OF_GUESTS)
}

fn satisfy(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.is_there)()).collect();
    if !missing.is_empty() {
        let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
        eprintln!("installing Debian packages: {}", packages.join(" "));
        ensure!(in_path("apt-get"), "this machine has no apt-get; install what these packages of Debian's bring");
        install(&packages)?;
    }
    if let Some(need) = missing.iter().find(|need| !(need.is_there)()) {
        bail!("{} is installed, but {} is still not there", need.package, need.purpose);
    }
    Ok(())
}

/// The package lists are fetched only if those that are there do not do.
fn install(packages: &[&str]) -> Result<()> {
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(packages);
    if apt_get(&install).is_ok() {
        return Ok(());
    }
    update_package_lists()?;
    apt_get(&install)
}

/// A fresh machine has none.
///
/// # Errors
/// apt-get fails.
pub(crate) fn update_package_lists() -> Result<()> {
    apt_get(&["update"])
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    command("apt-get", &[&["-o", "DPkg::Lock::Timeout=120", "-q"], arguments].concat(), Path::new("/"))
}

/// Runs a program of the system's. What it says is shown only if it fails: it is long, and the rest has been said.
///
/// # Errors
/// It is not there, or fails; what it said is in the error.
pub(crate) fn command(program: &str, arguments: &[&str], folder: &Path) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}\n{}", arguments.join(" "), output.status, said.trim_end());
    Ok(())
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A compiler names a file that it cannot find as it was asked for it.
fn has_static(library: &str) -> bool {
    let output = Command::new("cc").arg(format!("-print-file-name={library}")).output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_absolute())
}
