//! Tables and verdicts on standard output: coloured where a terminal shows them, plain text anywhere else.

use std::fmt;
use std::io::IsTerminal;

/// Whether what is printed may hold escape sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colours {
    Used,
    Unused,
}

impl Colours {
    /// Of standard output: a terminal that can, and nobody set `NO_COLOR`.
    pub(crate) fn of_stdout() -> Self {
        let asked_for_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !asked_for_none && !is_dumb() { Self::Used } else { Self::Unused }
    }

    /// `text` as it should look.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        match (self, tone.code()) {
            (Self::Used, Some(code)) if !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// Whether standard error is a terminal on which a line can be overwritten, as progress is.
pub(crate) fn overwrites_lines() -> bool {
    std::io::stderr().is_terminal() && !is_dumb()
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb")
}

/// How a text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Heading,
    Faint,
}

impl Tone {
    /// Of ECMA-48's "select graphic rendition".
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Bad => Some("1;31"),
            Self::Heading => Some("1"),
            Self::Faint => Some("2"),
        }
    }

    /// Of a verdict.
    pub(crate) fn of(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// Which side of its column a text stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Rows in aligned columns.
#[derive(Debug)]
pub(crate) struct Table {
    colours: Colours,
    sides: Vec<Side>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// With one heading a column.
    pub(crate) fn new(colours: Colours, columns: &[(&str, Side)]) -> Self {
        let headings = columns.iter().map(|(heading, _)| ((*heading).to_owned(), Tone::Heading)).collect();
        Self { colours, sides: columns.iter().map(|(_, side)| *side).collect(), rows: vec![headings] }
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn row<const N: usize>(&mut self, cells: [(String, Tone); N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count()).max();
        let widths: Vec<usize> = (0..self.sides.len()).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (text, tone)) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column].saturating_sub(text.chars().count()));
                let painted = self.colours.paint(*tone, text);
                line += &match self.sides[column] {
                    Side::Right => format!("{padding}{painted}  "),
                    Side::Left => format!("{painted}{padding}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(colours: Colours) -> String {
        let mut table = Table::new(colours, &[("what", Side::Left), ("ms", Side::Right), ("verdict", Side::Left)]);
        table.row([("pod start".into(), Tone::Plain), ("4.2".into(), Tone::Plain), ("yes".into(), Tone::Good)]);
        table.row([("exec".into(), Tone::Plain), ("12.25".into(), Tone::Plain), ("NO".into(), Tone::Bad)]);
        table.row([("list".into(), Tone::Plain), ("1".into(), Tone::Plain), (String::new(), Tone::Bad)]);
        table.to_string()
    }

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_blanks() {
        let expected = "what          ms  verdict\npod start    4.2  yes\nexec       12.25  NO\nlist           1\n";
        assert_eq!(table(Colours::Unused), expected);
    }

    #[test]
    fn colours_change_nothing_but_the_colour() {
        let coloured = table(Colours::Used);
        let mut plain = coloured.clone();
        for code in ["\x1b[1;31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"] {
            assert!(coloured.contains(code), "{coloured:?}");
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, table(Colours::Unused));
    }
}
