//! cargo, called by a command: its progress goes to standard error as ever.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Stdio;

/// How what is built is optimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// A line of `cargo build --message-format=json`, as far as it matters.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

pub(crate) use podbox_tests::binary::{cargo, workspace};

/// Where cargo puts what it builds.
///
/// # Errors
/// cargo fails.
pub(crate) fn target_folder() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let output = cargo().args(["metadata", "--locked", "--no-deps", "--format-version", "1"]).output().context("start cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("parse what cargo metadata says")?;
    Ok(metadata.target_directory)
}

/// Builds the program `name` of `package`, alone, so that no other crate's wishes change what it is made of. Its path.
///
/// # Errors
/// When cargo fails; it has said why.
pub(crate) fn program(package: &str, name: &str, profile: Profile) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--locked", "--message-format=json-render-diagnostics", "--package", package, "--bin", name]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let output = command.stderr(Stdio::inherit()).output().context("start cargo")?;
    ensure!(output.status.success(), "cargo build --package {package}: {}", output.status);
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Message = serde_json::from_slice(line).context("parse what cargo says")?;
        if let (Some(target), Some(executable)) = (message.target, message.executable)
            && target.name == name
        {
            return Ok(executable);
        }
    }
    bail!("cargo built {package} and named no program {name}")
}
