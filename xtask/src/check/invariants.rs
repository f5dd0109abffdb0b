//! What `ARCHITECTURE.md` says stays true: each invariant names tests, and the tests are there.

use super::rust_tokens::{Token, tokens};
use super::sources::SourceFile;
use std::collections::HashSet;

const PAGE: &str = "ARCHITECTURE.md";
/// The sections whose tables have invariants: what holds, or is tried, in the first column, test functions in backticks in the last.
const SECTIONS: [&str; 2] = ["## What attackers try", "## What stays true"];

pub(super) fn check(sources: &[SourceFile]) -> Vec<String> {
    let Some(page) = sources.iter().find(|file| file.path == PAGE) else { return vec![format!("{PAGE} is missing")] };
    let tests: HashSet<&str> = sources.iter().filter(|file| file.is_rust()).flat_map(|file| test_functions(&file.text)).collect();
    SECTIONS.into_iter().flat_map(|section| check_section(&page.text, section, &tests)).collect()
}

fn check_section(page: &str, section: &str, tests: &HashSet<&str>) -> Vec<String> {
    let rows = rows(page, section);
    if rows.is_empty() {
        return vec![format!("{PAGE} has no table of invariants below `{section}`")];
    }
    let mut violations = Vec::new();
    for (line, invariant, kept_by) in rows {
        // What stands between backticks: every second piece.
        let names: Vec<&str> = kept_by.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            violations.push(format!("{PAGE}:{line}: no test keeps \"{invariant}\""));
        }
        let absent = names.into_iter().filter(|name| !tests.contains(name));
        violations.extend(absent.map(|name| format!("{PAGE}:{line}: there is no test function `{name}`")));
    }
    violations
}

/// The table's rows as line, first and last cell; its heading and the rule below it left out.
fn rows<'a>(text: &'a str, section: &str) -> Vec<(usize, &'a str, &'a str)> {
    let section = text.lines().enumerate().skip_while(|(_, line)| *line != section).skip(1);
    let table = section.take_while(|(_, line)| !line.starts_with("## ")).filter(|(_, line)| line.starts_with('|'));
    let cells = table.skip(2).filter_map(|(index, line)| {
        let (others, last) = line.trim().trim_matches('|').rsplit_once('|')?;
        Some((index + 1, others.split('|').next()?.trim(), last.trim()))
    });
    cells.collect()
}

/// Functions behind `#[test]`, `#[tokio::test]` or the like.
fn test_functions(source: &str) -> Vec<&str> {
    let all = tokens(source);
    let mut found = Vec::new();
    for at in 0..all.len() {
        if is_test_attribute(&all[at..])
            && let Some(name) = all[at..].windows(2).find(|pair| pair[0].text == "fn").map(|pair| pair[1].text)
        {
            found.push(name);
        }
    }
    found
}

/// `#[test`, `#[tokio::test`, whatever follows.
fn is_test_attribute(ahead: &[Token<'_>]) -> bool {
    let begins = |words: &[&str]| ahead.iter().map(|token| token.text).take(words.len()).eq(words.iter().copied());
    begins(&["#", "[", "test", "]"]) || begins(&["#", "[", "tokio", "::", "test"])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TESTS: &str = "#[test]\nfn kept() {}\n#[tokio::test(flavor = \"multi_thread\")]\nasync fn kept_too() {}\nfn no_test() {}\n";

    fn violations(rows: &str) -> Vec<String> {
        let [attacks, invariants] = SECTIONS;
        let page = format!(
            "# Page\n| a | `table` |\n{attacks}\n| attack | against it | kept by |\n|---|---|---|\n| A | `b` | `kept` |\n\n\
             {invariants}\n| invariant | kept by |\n|---|---|\n{rows}\n## Next\n\n| b | `c` |\n"
        );
        check(&[SourceFile::fixture(PAGE, &page), SourceFile::fixture("tests/tests/a.rs", TESTS)])
    }

    #[test]
    fn an_invariant_names_tests_that_are_there() {
        assert_eq!(violations("| It holds | `kept`, `kept_too` |"), Vec::<String>::new());
        assert_eq!(violations("| It holds | the reader |"), ["ARCHITECTURE.md:11: no test keeps \"It holds\""]);
        let absent = violations("| It holds | `kept`, `gone` |\n| And this | `no_test` |");
        assert_eq!(
            absent,
            ["ARCHITECTURE.md:11: there is no test function `gone`", "ARCHITECTURE.md:12: there is no test function `no_test`"]
        );
    }

    #[test]
    fn a_page_without_invariants_is_a_violation() {
        assert_eq!(violations("").len(), 1);
        assert_eq!(check(&[]).len(), 1);
    }
}
