//! What the top folder holds, and how long files are.

use super::Findings;
use super::rules::{BUILD_OUTPUT, GENERATED, README_LINES_MAX, SOURCE_LINES_MAX, TOP_LEVEL};
use super::sources::SourceFile;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

pub(super) fn check(root: &Path, sources: &[SourceFile]) -> Result<Findings> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
        entries.push(entry.with_context(|| format!("list {}", root.display()))?.file_name().to_string_lossy().into_owned());
    }
    entries.sort();
    let mut violations = top_level(&entries);
    violations.extend(long_readme(sources));
    Ok(Findings { violations, notes: long_files(sources) })
}

fn top_level(entries: &[String]) -> Vec<String> {
    let visible = entries.iter().filter(|name| !name.starts_with('.') && *name != BUILD_OUTPUT);
    let strange = visible.filter(|name| !TOP_LEVEL.contains(&name.as_str())).map(|name| format!("{name} does not belong at the top"));
    let missing = TOP_LEVEL.iter().filter(|name| !entries.iter().any(|entry| entry == *name)).map(|name| format!("{name} is missing"));
    strange.chain(missing).collect()
}

fn long_readme(sources: &[SourceFile]) -> Option<String> {
    let lines = sources.iter().find(|file| file.path == "README.md")?.text.lines().count();
    (lines > README_LINES_MAX).then(|| format!("README.md has {lines} lines, more than {README_LINES_MAX}"))
}

fn long_files(sources: &[SourceFile]) -> Vec<String> {
    let written = sources.iter().filter(|file| file.is_rust() && !GENERATED.contains(&file.path.as_str()));
    let lines = written.map(|file| (file, file.text.lines().count()));
    lines.filter(|(_, lines)| *lines > SOURCE_LINES_MAX).map(|(file, lines)| format!("{} has {lines} lines", file.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_folder_holds_what_it_must_and_nothing_else() {
        let mut entries: Vec<String> = TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect();
        entries.extend([".gitignore".to_owned(), "target".to_owned()]);
        assert_eq!(top_level(&entries), Vec::<String>::new());
        entries.retain(|name| name != "LICENSE");
        entries.push("scripts".to_owned());
        assert_eq!(top_level(&entries), ["scripts does not belong at the top", "LICENSE is missing"]);
    }

    #[test]
    fn long_files_are_told_and_generated_ones_are_not() {
        let long = "\n".repeat(SOURCE_LINES_MAX + 1);
        let files = [
            SourceFile::fixture("README.md", &long),
            SourceFile::fixture("shim/sys/src/lib.rs", &long),
            SourceFile::fixture("proto/src/runtime.v1.rs", &long),
        ];
        assert!(long_readme(&files).is_some());
        assert_eq!(long_files(&files), ["shim/sys/src/lib.rs has 601 lines"]);
    }
}
