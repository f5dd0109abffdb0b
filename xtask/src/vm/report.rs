//! What a guest says of its tests, line by line, and what is made of it.
//!
//! ```text
//! @@ up SECONDS …             the tests begin; seconds since the kernel started
//! @@ broken …                 the guest is not what it should be
//! @@ begin PROGRAM            what follows is the program's output
//! @@ end PROGRAM STATUS
//! @@ done                     every program ran
//! ```

use super::qemu::{Ended, tail};
use crate::test::Totals;
use anyhow::Result;
use std::fmt;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many of the console's lines are shown after a failure.
const CONSOLE_LINES: usize = 40;

/// What came of a guest.
#[derive(Debug)]
pub(super) struct Report {
    guest: String,
    totals: Totals,
    /// What the guest said when it came up.
    up: Option<String>,
    done: bool,
    /// `NAME: REASON` of each test that said it cannot run here.
    skipped: Vec<String>,
    /// Why the command fails.
    failures: Vec<String>,
    program: Option<Program>,
    took: Duration,
}

/// The one that runs.
#[derive(Debug)]
struct Program {
    name: String,
    began: Instant,
    output: Vec<String>,
    totals: Totals,
}

impl Report {
    pub(super) fn new(guest: String) -> Self {
        let took = Duration::ZERO;
        Self { guest, totals: Totals::default(), up: None, done: false, skipped: Vec::new(), failures: Vec::new(), program: None, took }
    }

    /// Whether every program ran and succeeded.
    pub(super) fn is_success(&self) -> bool {
        self.done && self.failures.is_empty()
    }

    /// Takes a line of the guest's.
    pub(super) fn take(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("@@ ") else { return self.take_output(line) };
        match rest.split_once(' ').unwrap_or((rest, "")) {
            ("up", text) => {
                self.up = Some(text.to_owned());
                println!("up after {text}");
            }
            ("broken", text) => self.failures.push(text.to_owned()),
            ("begin", name) => {
                let (name, began) = (name.to_owned(), Instant::now());
                self.program = Some(Program { name, began, output: Vec::new(), totals: Totals::default() });
                progress(|program| format!("{} …", program.name), self.program.as_ref());
            }
            ("end", text) => self.program_ended(text.rsplit_once(' ').map_or("", |(_, status)| status)),
            ("done", _) => self.done = true,
            _ => self.take_output(line),
        }
    }

    fn take_output(&mut self, line: &str) {
        if let Some(skip) = line.strip_prefix(podbox_tests::host::SKIPPED) {
            self.skipped.push(skip.to_owned());
        }
        let Some(program) = &mut self.program else { return println!("{line}") };
        program.totals.add(line);
        program.output.push(line.to_owned());
        if line.starts_with("test ") {
            progress(|program| format!("{} {}", program.name, line), Some(program));
        }
    }

    /// Its whole output is shown only if it failed.
    fn program_ended(&mut self, status: &str) {
        let Some(program) = self.program.take() else { return };
        let Totals { passed, failed, .. } = program.totals;
        let verdict = if status == "0" { "ok  " } else { "FAIL" };
        clear_progress();
        println!("{verdict} {:<20} {passed:>3} passed {failed:>3} failed {:>7.1} s", program.name, program.began.elapsed().as_secs_f64());
        if status != "0" {
            program.output.iter().for_each(|line| println!("     {line}"));
            self.failures.push(format!("{}: {failed} of its tests failed, exit status {status}", program.name));
        }
        self.totals = self.totals.plus(program.totals);
    }

    /// Takes how the machine ended; shows the last lines of its console if that was not as it should be.
    pub(super) fn ended(&mut self, ended: Result<Ended>, took: Duration, console: &Path) {
        self.took = took;
        match ended {
            Ok(Ended::ByItself) if self.done => {}
            Ok(Ended::ByItself) => self.failures.push("the guest ended before its tests did".to_owned()),
            Ok(Ended::QemuFailed(how)) => self.failures.push(format!("qemu: {how}")),
            Ok(Ended::Silent(patience)) => self.failures.push(format!("the guest was silent for {} s", patience.as_secs())),
            Err(error) => self.failures.push(format!("{error:#}")),
        }
        if let Some(program) = self.program.take() {
            clear_progress();
            println!("FAIL {} did not come to an end:", program.name);
            program.output.iter().for_each(|line| println!("     {line}"));
        }
        if !self.is_success() {
            println!("--- the end of the guest's console ---\n{}\n---", tail(console, CONSOLE_LINES));
        }
    }
}

/// On a terminal, a line that the next one overwrites.
fn progress(text: impl FnOnce(&Program) -> String, program: Option<&Program>) {
    if let Some(program) = program
        && std::io::stderr().is_terminal()
    {
        let text: String = text(program).chars().take(100).collect();
        eprint!("\r\x1b[K{text}");
    }
}

fn clear_progress() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for skip in &self.skipped {
            writeln!(f, "skipped {skip}")?;
        }
        for failure in &self.failures {
            writeln!(f, "failure: {failure}")?;
        }
        let Totals { passed, failed, ignored } = self.totals;
        let skipped = self.skipped.len();
        // A test that skips itself has passed as far as its program knows.
        let passed = passed.saturating_sub(skipped as u64);
        let took = self.took.as_secs();
        writeln!(f, "guest with {}: {passed} passed; {failed} failed; {skipped} skipped; {ignored} ignored; {took} s", self.guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> Report {
        let mut report = Report::new("cgroup v2".to_owned());
        lines.iter().for_each(|line| report.take(line));
        report
    }

    const RESULT: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s";

    #[test]
    fn a_guest_succeeds_only_if_it_said_that_all_ran() {
        let console = Path::new("/nonexistent");
        let lines = ["@@ up 3.1 6.1.0", "@@ begin crash", "test a ... ok", "skipped b: no overlay", RESULT, "@@ end crash 0", "@@ done"];
        let mut whole = report(&lines);
        whole.ended(Ok(Ended::ByItself), Duration::from_secs(7), console);
        assert!(whole.is_success());
        let text = whole.to_string();
        assert!(text.contains("skipped b: no overlay\n"), "{text}");
        assert!(text.ends_with("guest with cgroup v2: 2 passed; 0 failed; 1 skipped; 1 ignored; 7 s\n"), "{text}");

        let mut panicked = report(&lines[..4]);
        panicked.ended(Ok(Ended::ByItself), Duration::ZERO, console);
        assert!(!panicked.is_success());
    }

    #[test]
    fn failures_are_named() {
        let mut failed = report(&["@@ up 3", "@@ broken no AppArmor", "@@ begin crash", "@@ end crash 101", "@@ done"]);
        failed.ended(Ok(Ended::Silent(Duration::from_secs(9))), Duration::ZERO, Path::new("/nonexistent"));
        let text = failed.to_string();
        for words in ["no AppArmor", "crash: 0 of its tests failed, exit status 101", "silent for 9 s"] {
            assert!(text.contains(words), "{text}");
        }
    }
}
