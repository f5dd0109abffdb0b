//! AppArmor profiles of a test's own, loaded into the kernel for as long as the test lasts.

use crate::host;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether this kernel has AppArmor, and it is on.
#[must_use]
pub fn is_enabled() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// What a process runs as: `name (mode)`, or `unconfined`.
///
/// # Errors
/// The process is gone, or the kernel has no AppArmor.
pub fn label(pid: i32) -> Result<String> {
    let path = format!("/proc/{pid}/attr/apparmor/current");
    Ok(std::fs::read_to_string(&path).with_context(|| path)?.trim_end().to_owned())
}

/// A loaded profile; it goes with this.
#[derive(Debug)]
pub struct Profile {
    /// Its name.
    pub name: String,
    text: String,
}

impl Profile {
    /// Loads a profile that lets everything through but what these rules deny.
    ///
    /// # Errors
    /// apparmor_parser is not there, or finds fault with the rules.
    pub fn load(name: &str, rules: &str) -> Result<Self> {
        let name = format!("{name}-{}", std::process::id());
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{ file, network, capability, mount, umount, signal, ptrace, {rules} }}\n"
        );
        parse("--replace", &text)?;
        Ok(Self { name, text })
    }

    /// Takes it out of the kernel before its time.
    ///
    /// # Errors
    /// It is not there any more.
    pub fn unload(&self) -> Result<()> {
        parse("--remove", &self.text)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // A test may have done it.
        let _ = self.unload();
    }
}

fn parse(what: &str, text: &str) -> Result<()> {
    let parser = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"].into_iter().find(|path| Path::new(path).exists());
    let mut command = Command::new(parser.context("there is no apparmor_parser")?);
    command.args([what, "--skip-cache", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = command.spawn().context("run apparmor_parser")?;
    running.stdin.take().context("a pipe")?.write_all(text.as_bytes()).context("write to apparmor_parser")?;
    let output = running.wait_with_output().context("wait for apparmor_parser")?;
    ensure!(output.status.success(), "apparmor_parser {what}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Tells whether a test of AppArmor can show here what it is to show; says so where it cannot.
#[must_use]
pub fn is_lacking() -> bool {
    let lacking = !is_enabled();
    if lacking {
        host::lacks("AppArmor");
    }
    lacking
}
