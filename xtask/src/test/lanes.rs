//! The workspace's test programs, a few at once: most of what they do is waiting. Each one's output is printed whole when it has ended.

use crate::build;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Programs at once: two processors are used a little over half by two of them. More only make each other late: tests of one run side by side
/// already.
const LANES: usize = 3;
/// Programs that take long, most of it waiting: they begin first.
const LONG: [&str; 8] = ["crictl", "targets", "breakout", "user_namespace_attacks", "stop", "stream_server", "attach", "pull_transfer"];

/// A test program, as cargo builds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    name: String,
    executable: PathBuf,
    /// The package's folder, where cargo runs its tests.
    folder: PathBuf,
}

/// A line of cargo's messages, as far as it matters.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds all of the workspace.
///
/// # Errors
/// cargo fails; it has said why.
pub(super) fn build() -> Result<Vec<Program>> {
    let mut command = build::cargo();
    command.args(["test", "--no-run", "--workspace", "--locked", "--message-format=json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output().context("start cargo")?;
    ensure!(output.status.success(), "cargo test --no-run: {}", output.status);
    let mut programs = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        programs.extend(program(serde_json::from_slice(line).context("parse what cargo says")?));
    }
    programs.sort_by_key(|program| !LONG.contains(&program.name.as_str()));
    Ok(programs)
}

fn program(message: Message) -> Option<Program> {
    let folder = message.manifest_path?.parent()?.to_owned();
    message.profile.filter(|profile| profile.test)?;
    Some(Program { name: message.target?.name, executable: message.executable?, folder })
}

/// Runs them, and tells `heard` every line that they print. Gives the names of those that failed.
///
/// # Errors
/// One cannot be started.
pub(super) fn run(
    programs: Vec<Program>,
    environment: &[(&str, &Path)],
    arguments: &[String],
    heard: impl FnMut(&str) + Send,
) -> Result<Vec<String>> {
    let (queue, heard, failed) = (Mutex::new(VecDeque::from(programs)), Mutex::new(heard), Mutex::new(Vec::new()));
    let lane = || -> Result<()> {
        loop {
            let Some(program) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { return Ok(()) };
            let (said, succeeded) = one(&program, environment, arguments)?;
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            let mut stdout = std::io::stdout().lock();
            // Whoever listens no more is not told.
            let _ = writeln!(stdout, "     Running {} ({})", program.name, program.executable.display());
            let _ = stdout.write_all(said.as_bytes());
            let _ = stdout.flush();
            said.lines().for_each(&mut *heard);
            if !succeeded {
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(program.name);
            }
        }
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What one printed, and whether it succeeded.
fn one(program: &Program, environment: &[(&str, &Path)], arguments: &[String]) -> Result<(String, bool)> {
    let mut output: File = tempfile::tempfile().context("make a file for what a test prints")?;
    let mut command = Command::new(&program.executable);
    command.args(arguments).current_dir(&program.folder).stdin(Stdio::null());
    command.env("CARGO_MANIFEST_DIR", &program.folder).envs(environment.iter().copied());
    command.stdout(output.try_clone().context("share the file")?).stderr(output.try_clone().context("share the file")?);
    let status = command.status().with_context(|| format!("execute {}", program.executable.display()))?;
    output.rewind().context("read what a test printed")?;
    let mut said = Vec::new();
    output.read_to_end(&mut said).context("read what a test printed")?;
    Ok((String::from_utf8_lossy(&said).into_owned(), status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, name: &str, script: &str) -> Program {
        let executable = folder.join(name);
        std::fs::write(&executable, format!("#!/bin/sh\n{script}\n")).expect("write");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&executable, mode).expect("chmod");
        Program { name: name.to_owned(), executable, folder: folder.to_owned() }
    }

    #[test]
    fn all_run_with_their_arguments_and_those_that_fail_are_named() {
        let folder = tempfile::tempdir().expect("tempdir");
        let programs =
            (0..5).map(|number| shell(folder.path(), &format!("p{number}"), &format!("echo $1 $X {number} >&2; exit $(({number} % 2))")));
        let mut lines = Vec::new();
        let environment = [("X", Path::new("/x"))];
        let failed = run(programs.collect(), &environment, &["a".to_owned()], |line| lines.push(line.to_owned()));
        let mut failed = failed.expect("all start");
        failed.sort();
        lines.sort();
        assert_eq!(failed, ["p1", "p3"]);
        assert_eq!(lines, ["a /x 0", "a /x 1", "a /x 2", "a /x 3", "a /x 4"]);
    }

    #[test]
    fn programs_are_what_cargo_built_as_tests() {
        let parsed = |text| program(serde_json::from_str(text).expect("JSON"));
        let test = parsed(
            r#"{"reason": "compiler-artifact", "target": {"name": "exec", "kind": ["test"]}, "profile": {"test": true},
            "executable": "/t/exec-1", "manifest_path": "/w/tests/Cargo.toml"}"#,
        );
        assert_eq!(test, Some(Program { name: "exec".into(), executable: "/t/exec-1".into(), folder: "/w/tests".into() }));
        assert_eq!(
            parsed(
                r#"{"target": {"name": "podbox"}, "profile": {"test": false}, "executable": "/t/podbox", "manifest_path": "/w/Cargo.toml"}"#
            ),
            None
        );
        assert_eq!(parsed(r#"{"reason": "build-finished", "success": true}"#), None);
    }
}
