//! Words that only some folders may use: `unsafe` code and raw file descriptors live in one crate, and in the pause program.

use super::rules::WORDS_OF_FOLDERS;
use super::rust_tokens::tokens;
use super::sources::SourceFile;

pub(super) fn check(sources: &[SourceFile]) -> Vec<String> {
    let mut violations = Vec::new();
    for file in sources.iter().filter(|file| file.is_rust()) {
        let tokens = tokens(&file.text);
        for (word, folders) in WORDS_OF_FOLDERS {
            if folders.iter().any(|folder| file.path.starts_with(folder)) {
                continue;
            }
            let found = tokens.iter().filter(|token| token.text == *word);
            violations.extend(found.map(|token| format!("{}:{}: `{word}` outside of {}", file.path, token.line, folders.join(" and "))));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_and_raw_descriptors_are_found_where_they_may_not_be() {
        let text = "use std::os::fd::RawFd;\nfn f() { unsafe { BorrowedFd::borrow_raw(1) } }\n";
        let violations = check(&[SourceFile::fixture("shim/daemon/src/main.rs", text)]);
        assert_eq!(violations.len(), 3, "{violations:?}");
        assert!(violations.iter().any(|violation| violation.starts_with("shim/daemon/src/main.rs:2: `unsafe`")));
        for allowed in ["shim/sys/src/clone.rs", "pause/src/main.rs"] {
            assert_eq!(check(&[SourceFile::fixture(allowed, text)]), Vec::<String>::new());
        }
        let harmless = "// unsafe\n#![forbid(unsafe_code)]\nconst X: &str = \"unsafe\";";
        assert_eq!(check(&[SourceFile::fixture("netns/src/lib.rs", harmless)]), Vec::<String>::new());
    }
}
