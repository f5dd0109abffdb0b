//! The binary under test: given by `PODBOX_BIN`, or built by cargo, which knows best whether it is stale.

use anyhow::{Context, Result, bail, ensure};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// How the binary is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For tests.
    Dev,
    /// For measurements.
    Release,
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the workspace")
}

/// The binary of a profile, built when it is first asked for in this process. `PODBOX_BIN` stands for either profile.
///
/// # Errors
/// It cannot be built.
pub fn podbox(profile: Profile) -> Result<PathBuf> {
    static DEV: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    static RELEASE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(path) = env::var_os("PODBOX_BIN") {
        return Ok(path.into());
    }
    let cell = match profile {
        Profile::Dev => &DEV,
        Profile::Release => &RELEASE,
    };
    cell.get_or_init(|| build(profile).map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

/// cargo in the workspace, the one that started this program, without what that told this program of the package it is of: the
/// environment is part of what some build scripts depend on, and all that follows from them would be built anew for every caller.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|of_a_package| name.to_string_lossy().starts_with(of_a_package)) {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(workspace());
    cargo
}

fn build(profile: Profile) -> Result<PathBuf> {
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--package", "podbox", "--bin", "podbox"]);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    let output = cargo.output().context("run cargo")?;
    ensure!(output.status.success(), "cargo build of podbox failed");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("a message of cargo's")?;
        if let Some(path) = message["executable"].as_str() {
            return Ok(path.into());
        }
    }
    bail!("cargo built no podbox")
}
