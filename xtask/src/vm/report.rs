//! What a guest says of its tests, line by line, and what is made of it.
//!
//! ```text
//! @@ up SECONDS …             the tests begin; seconds since the kernel started
//! @@ broken …                 the guest is not what it should be
//! @@ begin PROGRAM            what follows is the program's output
//! @@ note …                   a line of it that is shown whatever comes of the program
//! @@ end PROGRAM STATUS
//! @@ done                     every program ran
//! ```

use super::qemu::{BOOT_MAX, Ended, tail};
use crate::terminal;
use crate::totals::Totals;
use anyhow::Result;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many of the console's lines are shown after a failure.
const CONSOLE_LINES: usize = 40;

/// What came of a guest.
#[derive(Debug)]
pub(super) struct Report {
    guest: String,
    /// As the test programs count: what was skipped has passed.
    counted: Totals,
    started: Instant,
    /// From the start of qemu until the first test program began.
    up_after: Option<Duration>,
    done: bool,
    /// `NAME: REASON` of each test that said what it lacks here.
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
    /// Of a guest that is started at `started`.
    pub(super) fn new(guest: String, started: Instant) -> Self {
        Self {
            guest,
            counted: Totals::default(),
            started,
            up_after: None,
            done: false,
            skipped: Vec::new(),
            failures: Vec::new(),
            program: None,
            took: Duration::ZERO,
        }
    }

    /// Of a guest for which something is missing.
    pub(super) fn not_started(guest: String, started: Instant, error: &anyhow::Error) -> Self {
        let failures = vec![format!("it was not started: {error:#}")];
        Self { failures, took: started.elapsed(), ..Self::new(guest, started) }
    }

    pub(super) fn guest(&self) -> &str {
        &self.guest
    }

    /// Of the programs that came to an end.
    pub(super) fn totals(&self) -> Totals {
        self.counted.with_skipped(self.skipped.iter().map(String::as_str))
    }

    /// Whether every program ran and succeeded.
    pub(super) fn is_success(&self) -> bool {
        self.done && self.failures.is_empty()
    }

    /// Takes a line of the guest's; whether its tests have begun.
    pub(super) fn take(&mut self, line: &str) -> bool {
        match line.strip_prefix("@@ ") {
            Some(rest) => self.take_word(rest.split_once(' ').unwrap_or((rest, "")), line),
            None => self.take_output(line),
        }
        self.up_after.is_some()
    }

    fn take_word(&mut self, (word, text): (&str, &str), line: &str) {
        match word {
            "up" => self.say(&format!("up after {text}")),
            "broken" => self.failures.push(text.to_owned()),
            "note" => self.say(text),
            "begin" => {
                let (name, began) = (text.to_owned(), Instant::now());
                self.up_after.get_or_insert(self.started.elapsed());
                self.program = Some(Program { name, began, output: Vec::new(), totals: Totals::default() });
                self.progress("…");
            }
            "end" => self.program_ended(text.rsplit_once(' ').map_or("", |(_, status)| status)),
            "done" => self.done = true,
            _ => self.take_output(line),
        }
    }

    /// Prints what is one thing at once: other guests print as well.
    fn say(&self, text: &str) {
        clear_progress();
        println!("{:>30}: {text}", self.guest);
    }

    fn take_output(&mut self, line: &str) {
        self.skipped.extend(line.strip_prefix(podbox_tests::host::SKIPPED).map(str::to_owned));
        let Some(program) = &mut self.program else { return self.say(line) };
        program.totals.add(line);
        program.output.push(line.to_owned());
        if line.starts_with("test ") {
            self.progress(line);
        }
    }

    /// Its whole output is shown only if it failed.
    fn program_ended(&mut self, status: &str) {
        let Some(program) = self.program.take() else { return };
        let Totals { passed, failed, .. } = program.totals;
        let verdict = if status == "0" { "ok  " } else { "FAIL" };
        let took = program.began.elapsed().as_secs_f64();
        // What is no test program says itself how many of what there were.
        let is_test = program.totals != Totals::default();
        let counts = if is_test { format!(" {passed:>3} passed {failed:>3} failed") } else { String::new() };
        let line = format!("{verdict} {:<20}{counts} {took:>7.1} s", program.name);
        if status == "0" {
            self.say(&line);
        } else {
            self.say(&format!("{line}{}", program.indented_output()));
            self.failures.push(format!("{}: {failed} of its tests failed, exit status {status}", program.name));
        }
        self.counted = self.counted.plus(program.totals);
    }

    /// Takes how the machine ended; shows the last lines of its console if that was not as it should be.
    pub(super) fn ended(&mut self, ended: Result<Ended>, console: &Path) {
        self.took = self.started.elapsed();
        match ended {
            Ok(Ended::ByItself) if self.done => {}
            Ok(Ended::ByItself) => self.failures.push("the guest ended before its tests did".to_owned()),
            Ok(Ended::QemuFailed(how)) => self.failures.push(format!("qemu: {how}")),
            Ok(Ended::NotUp) => self.failures.push(format!("no test had begun after {} s", BOOT_MAX.as_secs())),
            Ok(Ended::Silent(patience)) => self.failures.push(format!("the guest was silent for {} s", patience.as_secs())),
            Err(error) => self.failures.push(format!("{error:#}")),
        }
        if let Some(program) = self.program.take() {
            self.say(&format!("FAIL {} did not come to an end:{}", program.name, program.indented_output()));
        }
        if !self.is_success() {
            self.say(&format!("\n--- the end of the guest's console ---\n{}\n---", tail(console, CONSOLE_LINES)));
        }
    }

    /// On a terminal, a line that the next one overwrites.
    fn progress(&self, line: &str) {
        if let Some(program) = &self.program
            && terminal::overwrites_lines()
        {
            let text: String = format!("{}: {} {line}", self.guest, program.name).chars().take(100).collect();
            eprint!("\r\x1b[K{text}");
        }
    }
}

impl Program {
    /// Its lines, each after a line's end.
    fn indented_output(&self) -> String {
        self.output.iter().fold(String::new(), |text, line| text + "\n     " + line)
    }
}

fn clear_progress() {
    if terminal::overwrites_lines() {
        eprint!("\r\x1b[K");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for skip in &self.skipped {
            writeln!(f, "guest with {}: skipped {skip}", self.guest)?;
        }
        for failure in &self.failures {
            writeln!(f, "guest with {}: failure: {failure}", self.guest)?;
        }
        write!(f, "guest with {}: ", self.guest)?;
        if self.totals() != Totals::default() {
            write!(f, "{}; ", self.totals())?;
        }
        write!(f, "{} s", self.took.as_secs())?;
        match self.up_after {
            Some(up_after) => writeln!(f, ", the first {:.1} s until a test began", up_after.as_secs_f64()),
            None => writeln!(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> Report {
        let mut report = Report::new("cgroup v2".to_owned(), Instant::now());
        for line in lines {
            report.take(line);
        }
        report
    }

    const RESULT: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s";

    #[test]
    fn a_guest_succeeds_only_if_it_said_that_all_ran() {
        let console = Path::new("/nonexistent");
        let lines = [
            "@@ up 3.1 6.1.0",
            "@@ begin crash",
            "test a ... ok",
            "skipped b: no overlay",
            "skipped b: no fuse",
            RESULT,
            "@@ end crash 0",
            "@@ done",
        ];
        let mut whole = report(&lines);
        whole.ended(Ok(Ended::ByItself), console);
        assert!(whole.is_success());
        let text = whole.to_string();
        assert!(text.contains("guest with cgroup v2: skipped b: no overlay\n"), "{text}");
        assert!(text.contains("guest with cgroup v2: 2 passed; 0 failed; 1 skipped; 1 ignored; 0 s, the first 0.0 s until"), "{text}");

        let mut panicked = report(&lines[..5]);
        panicked.ended(Ok(Ended::ByItself), console);
        assert!(!panicked.is_success());
    }

    #[test]
    fn a_guest_that_was_not_started_failed() {
        let error = anyhow::anyhow!("no space left").context("write the initramfs");
        let report = Report::not_started("cgroup v1".to_owned(), Instant::now(), &error);
        assert!(!report.is_success());
        assert!(report.to_string().contains("failure: it was not started: write the initramfs: no space left"), "{report}");
    }

    #[test]
    fn failures_are_named() {
        let mut failed = report(&["@@ up 3", "@@ broken no AppArmor", "@@ begin crash", "@@ end crash 101", "@@ done"]);
        failed.ended(Ok(Ended::Silent(Duration::from_secs(9))), Path::new("/nonexistent"));
        let text = failed.to_string();
        assert!(!report(&["@@ up 3"]).take("anything"), "it is up when a test begins");
        for words in ["no AppArmor", "crash: 0 of its tests failed, exit status 101", "silent for 9 s"] {
            assert!(text.contains(words), "{text}");
        }
    }
}
