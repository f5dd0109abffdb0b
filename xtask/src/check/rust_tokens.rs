//! Rust source as names and punctuation, without comments and literals: enough to see who names whom, and no more.

/// A name, `::`, or another punctuation character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    /// From 1.
    pub(super) line: usize,
}

/// All tokens of a file. Literals are left out, numbers are names.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut scanner = Scanner { rest: source, line: 1 };
    std::iter::from_fn(|| scanner.next()).collect()
}

/// The same without what is compiled for tests only: items behind `#[cfg(test)]`.
pub(super) fn tokens_without_tests(source: &str) -> Vec<Token<'_>> {
    const TEST_ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let all = tokens(source);
    let mut kept = Vec::with_capacity(all.len());
    let mut at = 0;
    while at < all.len() {
        let ahead = all[at..].iter().map(|token| token.text);
        if ahead.take(TEST_ATTRIBUTE.len()).eq(TEST_ATTRIBUTE) {
            at = end_of_item(&all, at + TEST_ATTRIBUTE.len());
        } else {
            kept.push(all[at]);
            at += 1;
        }
    }
    kept
}

/// Behind the `}` or `;` that ends the item that begins at `at`.
fn end_of_item(all: &[Token<'_>], at: usize) -> usize {
    let mut depth = 0usize;
    for (offset, token) in all[at..].iter().enumerate() {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && token.text == "}" {
                    return at + offset + 1;
                }
            }
            ";" if depth == 0 => return at + offset + 1,
            _ => {}
        }
    }
    all.len()
}

struct Scanner<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Scanner<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let first = self.rest.chars().next()?;
            if let Some(length) = self.length_of_what_is_left_out(first) {
                self.take(length);
                continue;
            }
            let line = self.line;
            let length = if is_name(first) {
                self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len())
            } else if self.rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            return Some(Token { text: self.take(length), line });
        }
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    /// Of the whitespace, comment or literal that begins here.
    fn length_of_what_is_left_out(&self, first: char) -> Option<usize> {
        let rest = self.rest;
        match first {
            _ if first.is_whitespace() => Some(first.len_utf8()),
            '/' if rest.starts_with("//") => Some(rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => Some(block_comment(rest)),
            '"' => Some(quoted(rest, 1, '"')),
            '\'' => character(rest),
            'b' | 'c' | 'r' => prefixed_string(rest),
            _ => None,
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// They nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length up to the closing quote, the opening one ending at `from`.
fn quoted(text: &str, from: usize, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text[from..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return from + at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// A character literal; `None` for a lifetime, whose quote is then a token.
fn character(text: &str) -> Option<usize> {
    let mut after = text.chars().skip(1);
    let (first, second) = (after.next()?, after.next()?);
    (first == '\\' || second == '\'').then(|| quoted(text, 1, '\''))
}

/// `b"…"`, `c"…"`, `b'…'`, `r"…"`, `br#"…"#` and so on; `None` if a name begins here.
fn prefixed_string(text: &str) -> Option<usize> {
    let prefix = text.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|length| *length <= 2)?;
    let raw = text[..prefix].ends_with('r');
    let behind = &text[prefix..];
    let hashes = behind.find(|c| c != '#')?;
    match behind[hashes..].chars().next()? {
        '"' if raw => {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = prefix + hashes + 1;
            Some(text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()))
        }
        '"' if hashes == 0 => Some(quoted(text, prefix + 1, '"')),
        '\'' if hashes == 0 && &text[..prefix] == "b" => Some(quoted(text, prefix + 1, '\'')),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_name_nothing() {
        let source = r####"
            // unsafe
            /* unsafe /* unsafe */ unsafe */
            let a = "unsafe \" unsafe"; let b = 'u'; let c = '\''; let d = b'\\';
            let e = r#"unsafe " unsafe"#; let f = br"unsafe\"; let g = c"unsafe";
            fn h<'unsafe_>(x: &'unsafe_ str) {}
        "####;
        assert!(!texts(source).contains(&"unsafe"), "{:?}", texts(source));
        assert!(texts(source).contains(&"h"));
    }

    #[test]
    fn names_and_paths_are_tokens_with_their_lines() {
        assert_eq!(texts("use crate::{a, b::c};"), ["use", "crate", "::", "{", "a", ",", "b", "::", "c", "}", ";"]);
        let lines: Vec<usize> = tokens("a\n\"x\ny\"\nb").iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 4]);
        assert_eq!(texts("broken crate_b r#type"), ["broken", "crate_b", "r", "#", "type"]);
    }

    #[test]
    fn items_for_tests_are_left_out() {
        let source = "fn a() {} #[cfg(test)] #[allow(x)] mod tests { fn b() { [1]; } } fn c() {} #[cfg(test)] mod d; fn e() {}";
        let names: Vec<&str> = tokens_without_tests(source).iter().map(|token| token.text).collect();
        assert!(["a", "c", "e"].iter().all(|name| names.contains(name)));
        assert!(!["b", "d", "tests"].iter().any(|name| names.contains(name)), "{names:?}");
    }
}
