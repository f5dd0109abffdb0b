//! Dependencies that no source names.

use super::rules::{TEST_CRATES, USED_UNNAMED};
use super::rust_tokens::tokens;
use super::sources::SourceFile;
use super::workspace::{Package, Purpose, Workspace};
use std::collections::HashSet;

pub(super) fn check(workspace: &Workspace, sources: &[SourceFile]) -> Vec<String> {
    workspace.members().flat_map(|member| unused_of(workspace, member, sources)).collect()
}

fn unused_of(workspace: &Workspace, member: &Package, sources: &[SourceFile]) -> Vec<String> {
    let folder = member.folder(&workspace.root);
    let mut unused = Vec::new();
    for purpose in [Purpose::Code, Purpose::Tests, Purpose::BuildScript] {
        let places = places(member, purpose);
        let mut named = None;
        for (edge, dependency) in workspace.dependencies(member).filter(|(edge, _)| edge.serves(purpose)) {
            let named = named.get_or_insert_with(|| crates_named(sources, &folder, places));
            let excused = USED_UNNAMED.iter().any(|(user, used, _)| *user == member.name && *used == dependency.name);
            if !excused && !named.contains(edge.name_in_sources.as_str()) {
                unused.push(format!("{}: {} is never named in {}", member.name, dependency.name, places.join(", ")));
            }
        }
    }
    unused
}

/// Below a package's folder.
fn places(member: &Package, purpose: Purpose) -> &'static [&'static str] {
    match purpose {
        Purpose::Code if TEST_CRATES.contains(&member.name.as_str()) => &["src/", "tests/"],
        Purpose::Code => &["src/"],
        Purpose::Tests => &["src/", "tests/", "benches/", "examples/"],
        Purpose::BuildScript => &["build.rs", "build/"],
    }
}

/// All names that stand where a crate's does: before `::`, or behind `use` or `extern crate`.
fn crates_named<'a>(sources: &'a [SourceFile], folder: &str, places: &[&str]) -> HashSet<&'a str> {
    let in_place = |file: &&SourceFile| {
        let below = file.path.strip_prefix(folder);
        file.is_rust() && below.is_some_and(|below| places.iter().any(|place| below.starts_with(place)))
    };
    let mut named = HashSet::new();
    for file in sources.iter().filter(in_place) {
        for pair in tokens(&file.text).windows(2) {
            if pair[1].text == "::" {
                named.insert(pair[0].text);
            } else if matches!(pair[0].text, "use" | "crate") {
                named.insert(pair[1].text);
            }
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::super::workspace::fixture::{package, workspace};
    use super::*;

    #[test]
    fn a_dependency_must_be_named_in_the_place_it_is_for() {
        let packages = [package("podbox", true), package("tokio-util", false), package("insta", false), package("cc", false)];
        let edges = [("podbox", "tokio-util", None), ("podbox", "insta", Some("dev")), ("podbox", "cc", Some("build"))];
        let workspace = workspace(&packages, &edges);
        let file = SourceFile::fixture;
        let used = [
            file("podbox/src/main.rs", "fn f() { tokio_util::x() }"),
            file("podbox/tests/all.rs", "use insta;"),
            file("podbox/build.rs", "fn main() { cc::Build::new() }"),
        ];
        assert_eq!(check(&workspace, &used), Vec::<String>::new());
        let misplaced =
            [file("podbox/src/main.rs", "// tokio_util::x\nfn f(tokio_util: u8) { cc::x() }"), file("other/src/main.rs", "use insta::x;")];
        assert_eq!(check(&workspace, &misplaced).len(), 3);
    }
}
