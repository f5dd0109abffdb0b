//! What the commands need of the machine, and where it is missing, its installation from Debian's packages.
//!
//! Here is what it takes to build podbox; what it takes to run and look at pods, the tests' crate knows and installs. A need is
//! looked for by what it is, not by its package, so that a machine that is no Debian does as well if it has all of it.
//! Nothing is installed, and the package lists are not fetched, where nothing is missing.

use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::Command;

/// One thing, the Debian package that brings it, and what it is for.
struct Need {
    package: &'static str,
    purpose: &'static str,
    is_there: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need { package: "gcc", purpose: "the linker", is_there: || in_path("cc") },
    Need { package: "libc6-dev", purpose: "the static C library that the monitor is linked with", is_there: static_libc },
];

/// Makes sure that everything is there; says on standard error what it installs.
///
/// # Errors
/// Not root; or something is missing and there is no apt-get, or it fails.
pub(crate) fn ensure_ready() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "pods need root: run this as root");
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !(need.is_there)()).collect();
    if !missing.is_empty() {
        let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
        eprintln!("installing Debian packages: {}", packages.join(" "));
        ensure!(in_path("apt-get"), "this machine has no apt-get; install what these packages of Debian's bring");
        install(&packages)?;
    }
    if let Some(need) = missing.iter().find(|need| !(need.is_there)()) {
        bail!("{} is installed, but {} is still not there", need.package, need.purpose);
    }
    podbox_tests::host::install_packages()
}

/// The package lists are fetched only if those that are there do not do.
fn install(packages: &[&str]) -> Result<()> {
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(packages);
    if apt_get(&install).is_ok() {
        return Ok(());
    }
    apt_get(&["update"])?;
    apt_get(&install)
}

/// What it says is shown only if it fails: it is long, and the rest has been said.
fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-o", "DPkg::Lock::Timeout=120", "-q"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let output = command.output().context("start apt-get")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "apt-get {}: {}\n{}", arguments.join(" "), output.status, said.trim_end());
    Ok(())
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A compiler names a file that it cannot find as it was asked for it.
fn static_libc() -> bool {
    let output = Command::new("cc").arg("-print-file-name=libc.a").output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_absolute())
}
