//! Programs of others that the tests need: Debian's packages, which are installed, and clients of the CRI, which are built with Go.

use crate::host::say;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// A file that proves that a package is there, and the package.
const PACKAGES: [(&str, &str); 3] = [("/bin/busybox", "busybox-static"), ("/usr/sbin/nft", "nftables"), ("/sbin/ip", "iproute2")];
/// Where the registry is where it is not installed.
const REGISTRY_FOLDER: &str = "/var/cache/podbox-tests/docker-registry";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Installs the Debian packages that the tests use and the machine lacks; prints the names of what it installs.
///
/// # Errors
/// apt-get failed.
pub fn install_packages() -> Result<()> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    install(&PACKAGES)
}

fn install(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing Debian packages: {}", missing.join(" ")));
    // A fresh machine has no package lists.
    apt_get(&["update"])?;
    apt_get(&[&["install", "--yes", "--no-install-recommends"], missing.as_slice()].concat())
}

/// What makes certificates.
///
/// # Errors
/// apt-get failed.
pub fn openssl() -> Result<()> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    install(&[("/usr/bin/openssl", "openssl")])
}

/// The program of Debian's `docker-registry`. The package is unpacked and not installed, which on a
/// machine with systemd would start a registry for everybody.
///
/// # Errors
/// The packages cannot be had.
pub fn docker_registry() -> Result<PathBuf> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(REGISTRY_FOLDER);
    let found = [Path::new("/usr/bin/docker-registry").to_owned(), folder.join("usr/bin/docker-registry")];
    if let Some(program) = found.iter().find(|program| program.exists()) {
        return Ok(program.clone());
    }
    say("unpacking the Debian package docker-registry");
    apt_get(&["update"])?;
    let staging = PathBuf::from(format!("{REGISTRY_FOLDER}-{}", std::process::id()));
    std::fs::create_dir_all(&staging).context("make a folder for the package")?;
    let shell = "cd \"$1\" && apt-get -qq download docker-registry && dpkg-deb -x docker-registry_*.deb . && rm docker-registry_*.deb";
    let status = Command::new("/bin/sh").args(["-c", shell, "sh"]).arg(&staging).stdin(Stdio::null()).status().context("run a shell")?;
    ensure!(status.success(), "the package docker-registry cannot be unpacked");
    // Another test program may have been faster.
    let moved = std::fs::rename(&staging, folder);
    if moved.is_err() {
        let _ = std::fs::remove_dir_all(&staging);
    }
    ensure!(found[1].exists(), "the package docker-registry brings no program");
    Ok(found[1].clone())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=300"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("run apt-get")?;
    ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
    Ok(())
}

/// `crictl`, of the version that `tests/conformance/go.mod` names; built with the machine's Go. `None`: there is no Go.
///
/// # Errors
/// It cannot be built.
pub fn crictl() -> Result<Option<PathBuf>> {
    build_with_go("crictl", &["build"], "sigs.k8s.io/cri-tools/cmd/crictl")
}

/// `grpcurl`, in the same way.
///
/// # Errors
/// It cannot be built.
pub fn grpcurl() -> Result<Option<PathBuf>> {
    build_with_go("grpcurl", &["build"], "github.com/fullstorydev/grpcurl/cmd/grpcurl")
}

/// `critest`, in the same way; it is a test program.
///
/// # Errors
/// It cannot be built.
pub fn critest() -> Result<Option<PathBuf>> {
    build_with_go("critest", &["test", "-c"], "sigs.k8s.io/cri-tools/cmd/critest")
}

fn build_with_go(name: &str, how: &[&str], package: &str) -> Result<Option<PathBuf>> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/conformance").join(name);
    // In a guest there are neither sources nor Go.
    if !module.exists() {
        return Ok(None);
    }
    // What it is made of is written there whole.
    let parts = ["go.mod", "go.sum"].map(|file| std::fs::read(module.join(file)).with_context(|| format!("read {file}")));
    let made_of = parts.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let built_from = program.with_extension("made-of");
    if program.exists() && std::fs::read(&built_from).is_ok_and(|built| built == made_of) {
        return Ok(Some(program));
    }
    if Command::new("go").arg("version").stdout(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    say(&format!("building {name}"));
    let staged = program.with_extension(std::process::id().to_string());
    let mut build = Command::new("go");
    build.args(how).args(["-mod=readonly", "-o"]).arg(&staged).arg(package);
    let output = build.current_dir(module).env("CGO_ENABLED", "0").output().context("run go")?;
    ensure!(output.status.success(), "go {} {name}: {}", how.join(" "), String::from_utf8_lossy(&output.stderr));
    // Another test program may have been as fast: it is the same.
    std::fs::rename(&staged, &program).with_context(|| format!("put {name} into its place"))?;
    std::fs::write(built_from, made_of).with_context(|| format!("say what {name} was built from"))?;
    Ok(Some(program))
}
