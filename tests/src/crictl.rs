//! `crictl`, others' client of the CRI, pointed at a daemon of the tests.
//!
//! Knows how it is called, and how its tables are laid out; not what any of its commands is to answer.

use crate::{Daemon, host, network::NetworkNamespace, programs};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

/// The program, and where the daemon is.
#[derive(Debug)]
pub struct Crictl {
    program: PathBuf,
    endpoint: String,
    network: Arc<NetworkNamespace>,
}

/// A line of a table: its cells by the names of their columns.
pub type Row = BTreeMap<String, String>;

impl Crictl {
    /// For a daemon. `None`: there is no Go to build it with, and the test has been reported as skipped.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn of(daemon: &Daemon) -> Result<Option<Self>> {
        let Some(program) = programs::crictl()? else {
            host::lacks("Go, to build crictl with");
            return Ok(None);
        };
        let endpoint = format!("unix://{}", daemon.socket().display());
        Ok(Some(Self { program, endpoint, network: daemon.shared_network() }))
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A command that reads nothing and whose output is taken.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--config", "/dev/null", "--runtime-endpoint", &self.endpoint, "--image-endpoint", &self.endpoint]);
        command.args(["--timeout", "60s"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it where the daemon's stream server is reached.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.network.run(|| command.spawn().context("execute crictl"))
    }

    /// Runs it.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        self.spawn(self.command(arguments))?.wait_with_output().context("wait for crictl")
    }

    /// What it writes to standard output.
    ///
    /// # Errors
    /// It failed; what it said is in the error.
    pub fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        ensure!(output.status.success(), "crictl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).context("what crictl writes")
    }

    /// The one word or line that it writes.
    ///
    /// # Errors
    /// As [`Crictl::text`].
    pub fn line(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.text(arguments)?.trim_end().to_owned())
    }

    /// The JSON that it writes.
    ///
    /// # Errors
    /// As [`Crictl::text`], or it is none.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.text(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("crictl {arguments:?}: {text}"))
    }

    /// The table that it writes.
    ///
    /// # Errors
    /// As [`Crictl::text`].
    pub fn table(&self, arguments: &[&str]) -> Result<Vec<Row>> {
        let text = self.text(arguments)?;
        // Some commands clear the screen first.
        let mut lines = text.trim_start_matches("\u{1b}[2J\u{1b}[H").lines().map(cells);
        let columns = lines.next().with_context(|| format!("crictl {arguments:?} writes no table"))?;
        lines
            .map(|cells| {
                ensure!(cells.len() == columns.len(), "crictl {arguments:?}: a row without all its cells: {text}");
                Ok(columns.iter().map(|column| (*column).to_owned()).zip(cells.into_iter().map(str::to_owned)).collect())
            })
            .collect()
    }

    /// What it says when it fails.
    ///
    /// # Errors
    /// It does not fail.
    pub fn refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        ensure!(!output.status.success(), "crictl {arguments:?} did not fail: {output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Columns are three blanks or more apart.
fn cells(line: &str) -> Vec<&str> {
    line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}
