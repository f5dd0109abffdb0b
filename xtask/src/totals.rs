//! How many tests ended how, counted in what their programs print, on this machine and in guests alike.

use std::collections::BTreeSet;
use std::fmt;

/// Of any number of test programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Without those that were skipped.
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Those that said what they lack; to their programs they are tests that passed.
    pub(crate) skipped: u64,
    pub(crate) ignored: u64,
}

impl Totals {
    /// Takes `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines say nothing.
    pub(crate) fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else { return };
        for count in counts.split("; ") {
            let Some((Ok(number), what)) = count.split_once(' ').map(|(number, what)| (number.parse::<u64>(), what)) else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// With those among its tests of which each line, `NAME: REASON`, says what one lacks. A test may lack several things.
    pub(crate) fn with_skipped<'a>(self, lines: impl IntoIterator<Item = &'a str>) -> Self {
        let names: BTreeSet<&str> = lines.into_iter().filter_map(|line| line.split(": ").next()).collect();
        let skipped = names.len() as u64;
        Self { passed: self.passed.saturating_sub(skipped), skipped: self.skipped + skipped, ..self }
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
            ignored: self.ignored + other.ignored,
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped, ignored } = self;
        write!(f, "{passed} passed; {failed} failed; {skipped} skipped; {ignored} ignored")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_and_all_else_is_passed_over() {
        let mut totals = Totals::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.00s",
            "test a::b ... ok",
        ] {
            totals.add(line);
        }
        assert_eq!(totals, Totals { passed: 5, failed: 4, skipped: 0, ignored: 1 });
    }

    #[test]
    fn a_test_that_lacks_several_things_is_skipped_once() {
        let totals = Totals { passed: 5, ..Totals::default() };
        let here = totals.with_skipped(["a: this machine has no swap", "a: this machine has no fuse", "b: this machine has no swap"]);
        assert_eq!(here, Totals { passed: 3, skipped: 2, ..Totals::default() });
        // The same test, in two guests.
        assert_eq!(here.plus(here).to_string(), "6 passed; 0 failed; 4 skipped; 0 ignored");
    }
}
