//! Builds the two programs that podbox carries within itself, pause and the monitor, so that plain `cargo build` gives one file.
//!
//! Both are for the host's own target, static and not position-independent (a monitor's private memory is smallest so), and neither
//! needs a target that is not installed. Their paths go to the daemon as `PODBOX_PAUSE` and `PODBOX_MONITOR`.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What the two programs are made of, from the workspace's root; a change of anything else does not build them again.
const SOURCES: [&str; 14] = [
    "Cargo.toml",
    "Cargo.lock",
    "pause/rustc-args.txt",
    "pause/src",
    "pause/Cargo.toml",
    "shim/monitor/src",
    "shim/monitor/Cargo.toml",
    "shim/cgroup/src",
    "shim/cgroup/Cargo.toml",
    "shim/plan/src",
    "shim/plan/Cargo.toml",
    "shim/sys/src",
    "shim/sys/Cargo.toml",
    "shim/daemon/build.rs",
];

/// Set by the cargo that runs this script and meant for it alone: the nested one has its own target directory and flags, and a
/// wrapper (clippy's, say) would check the monitor and build nothing.
const NOT_FOR_NESTED_CARGO: [&str; 8] = [
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CLIPPY_ARGS",
];

#[derive(Debug)]
enum BuildError {
    Unset(&'static str),
    Start { command: String, source: std::io::Error },
    Failed { command: String },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset(name) => write!(f, "cargo set no {name}"),
            Self::Start { command, source } => write!(f, "start {command}: {source}"),
            Self::Failed { command } => write!(f, "failed: {command}"),
        }
    }
}

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo:warning={error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), BuildError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the daemon is two levels below the workspace");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = variable("TARGET")?;
    println!("cargo:rustc-env=PODBOX_PAUSE={}", build_pause(root, &out, &target)?.display());
    println!("cargo:rustc-env=PODBOX_MONITOR={}", build_monitor(root, &out, &target)?.display());
    Ok(())
}

/// The compiler itself on the one crate: no nested cargo and so no lock to wait for.
fn build_pause(root: &Path, out: &Path, target: &OsString) -> Result<PathBuf, BuildError> {
    let program = out.join("podbox-pause");
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc.current_dir(root.join("pause")).args(["@rustc-args.txt", "src/main.rs", "--target"]).arg(target).arg("-o").arg(&program);
    run(&mut rustc)?;
    Ok(program)
}

/// With `--target` the flags hold for the monitor alone, not for procedural macros, which cannot be static.
fn build_monitor(root: &Path, out: &Path, target: &OsString) -> Result<PathBuf, BuildError> {
    let target_directory = out.join("monitor");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(root)
        .args(["build", "--quiet", "--locked", "--package", "podbox-monitor", "--bin", "podbox-monitor", "--profile", "monitor"])
        .arg("--target")
        .arg(target)
        .arg("--target-dir")
        .arg(&target_directory);
    for name in NOT_FOR_NESTED_CARGO {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static");
    run(&mut cargo)?;
    Ok(target_directory.join(target).join("monitor/podbox-monitor"))
}

fn variable(name: &'static str) -> Result<OsString, BuildError> {
    env::var_os(name).ok_or(BuildError::Unset(name))
}

fn run(command: &mut Command) -> Result<(), BuildError> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(BuildError::Failed { command: format!("{command:?}") }),
        Err(source) => Err(BuildError::Start { command: format!("{command:?}"), source }),
    }
}
