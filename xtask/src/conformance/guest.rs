//! The specs in a guest: what goes there, and what runs there.

use super::specs::Expected;
use super::suite::Parts;
use super::{EXPECTED, SpecArgs, run_once};
use crate::vm::{self, Job, Payload};
use crate::{build, interrupt};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// As long as the runs over both kinds of streams may take, with what they need started before each.
const TIME_MAX: Duration = Duration::from_secs(2 * super::RUN_MAX.as_secs() + 10 * 60);
/// Where the guest finds its payload.
const PAYLOAD: &str = "/mnt";

/// What the guest's command is told.
#[derive(Debug, clap::Args)]
pub(crate) struct InGuestArgs {
    /// Where the parts are.
    parts: PathBuf,
    #[command(flatten)]
    specs: SpecArgs,
}

/// The specs in a guest, under way. The guest ends with this program, if not before.
pub(super) struct Begun(oneshot::Receiver<Result<()>>);

/// Boots it and runs them.
pub(super) fn begin(parts: &Parts, args: &SpecArgs) -> Result<Begun> {
    let xtask = std::env::current_exe().context("find this program")?;
    let files = parts.files().map(|(name, path)| (name.to_owned(), path.to_owned()));
    let own = [("xtask".to_owned(), xtask), ("expected.toml".to_owned(), build::workspace().join(EXPECTED))];
    let payload: Payload = files.into_iter().chain(own).collect();
    let streams = args.streams.iter().map(|streams| format!("--streams={streams}"));
    let focus = args.focus.iter().map(|focus| format!("--focus={}", quoted(focus)));
    let words = [format!("{PAYLOAD}/xtask conformance-in-guest {PAYLOAD}")].into_iter().chain(streams).chain(focus);
    let command = words.collect::<Vec<_>>().join(" ");
    let (say, hears) = oneshot::channel();
    // Not waited for when a signal comes.
    std::thread::spawn(move || say.send(vm::run_job(Job { name: "conformance".to_owned(), command }, TIME_MAX, &payload)));
    Ok(Begun(hears))
}

impl Begun {
    /// Waits for what comes of them, or for a signal.
    pub(super) fn end(self) -> Result<()> {
        let runtime = Runtime::new().context("start the asynchronous runtime")?;
        runtime.block_on(interrupt::or_else(async { self.0.await.context("what watched the guest panicked")? }))
    }
}

/// As one word of a shell's (POSIX.1-2017, Shell Command Language, 2.2.2).
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What runs in the guest.
pub(super) fn run_inside(args: &InGuestArgs) -> Result<()> {
    let parts = Parts::below(&args.parts);
    let expected = Expected::read(&args.parts.join("expected.toml"))?;
    let folder = tempfile::tempdir().context("make a folder for logs")?;
    let mut faults = Vec::new();
    for streams in args.specs.streams() {
        match run_once(&parts, folder.path(), &streams.to_string(), &args.specs, streams, &expected) {
            Ok((said, found)) => {
                // For who reads what the guest prints.
                println!("@@ note {said}");
                faults.extend(found);
            }
            Err(error) => faults.push(format!("{streams}: {error:#}")),
        }
    }
    faults.iter().for_each(|fault| println!("{fault}"));
    if !faults.is_empty() {
        show_logs(folder.path())?;
    }
    ensure!(faults.is_empty(), "{} faults", faults.len());
    Ok(())
}

/// Nothing of the guest's is left when it is gone.
fn show_logs(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).context("list the logs")? {
        let path = entry.context("list the logs")?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            println!("--- {}", path.display());
            println!("{}", String::from_utf8_lossy(&std::fs::read(&path).with_context(|| path.display().to_string())?));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_focus_is_one_word_to_a_shell() {
        let focus = r#"it's a "spec" $HOME `x` \ [a b]*"#;
        let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(focus))]).output().expect("a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), focus);
    }
}
