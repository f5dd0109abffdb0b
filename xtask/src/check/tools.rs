//! The steps that other tools do. Their output is shown only when they find something.

use super::Findings;
use crate::build;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

pub(super) fn generated_code() -> Vec<String> {
    crate::codegen::run(true).err().map(|fault| format!("{fault:#}")).into_iter().collect()
}

pub(super) fn rustfmt(root: &Path) -> Result<Findings> {
    run(cargo(root).args(["fmt", "--all", "--check", "--", "--files-with-diff"]))
}

pub(super) fn clippy(root: &Path) -> Result<Findings> {
    run(cargo(root).args(["clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
}

/// The targets of `cargo fuzz`, which are no part of the workspace: that they fit what they call. Its library in C++ would be compiled by the
/// build script of its crate; one that is named is not, and nothing is linked here.
pub(super) fn fuzz_targets(root: &Path) -> Result<Findings> {
    let target = build::target_folder()?;
    let mut cargo = cargo(root);
    cargo.env("CUSTOM_LIBFUZZER_PATH", "/nonexistent/libfuzzer.a").arg("check").arg("--target-dir").arg(target);
    run(cargo.args(["--quiet", "--locked", "--all-targets", "--manifest-path", "tests/fuzz/cargo-fuzz/Cargo.toml"]))
}

pub(super) fn documentation(root: &Path) -> Result<Findings> {
    let mut cargo = cargo(root);
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    run(cargo.args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items", "--locked"]))
}

pub(super) fn advisories(root: &Path) -> Result<Findings> {
    if !cargo(root).args(["deny", "--version"]).output().context("run cargo")?.status.success() {
        return Ok(vec!["cargo-deny is not installed, so no advisory could be looked up".to_owned()].into());
    }
    run(cargo(root).args(["deny", "--locked", "check", "advisories"]))
}

pub(super) fn advisories_left_out() -> Findings {
    let note = "known vulnerabilities were not looked up, as that needs a network: `cargo xtask check --advisories`";
    Findings { violations: Vec::new(), notes: vec![note.to_owned()] }
}

fn cargo(root: &Path) -> Command {
    let mut command = build::cargo();
    command.current_dir(root).env("CARGO_TERM_COLOR", "never");
    command
}

fn run(command: &mut Command) -> Result<Findings> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if output.status.success() {
        return Ok(Findings::default());
    }
    let said = [output.stdout, output.stderr].concat();
    Ok(vec![format!("{}\n{}", output.status, String::from_utf8_lossy(&said))].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_fails_is_a_violation_with_all_it_said() {
        let findings = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).expect("a shell");
        let [violation] = findings.violations.as_slice() else { panic!("{findings:?}") };
        assert!(violation.contains("out") && violation.contains("err") && violation.contains('3'), "{violation}");
        assert_eq!(run(&mut Command::new("true")).expect("true"), Findings::default());
        assert!(run(&mut Command::new("/nonexistent/tool")).is_err());
    }
}
