//! What others' crates may be: under which licence, from where, and which not at all.

use super::rules::{BANNED, LICENCES, REGISTRY, SINGLE_VERSION};
use super::workspace::{Package, Workspace};
use spdx::{Expression, ParseMode};
use std::collections::BTreeSet;

/// Every package's licence expression must hold with permissive licences alone.
pub(super) fn licences(workspace: &Workspace) -> Vec<String> {
    let fault = |package: &Package| licence_fault(package).map(|fault| format!("{} {}: {fault}", package.name, package.version));
    workspace.packages().iter().filter_map(fault).collect()
}

fn licence_fault(package: &Package) -> Option<String> {
    let Some(licence) = &package.license else { return Some("names no licence".to_owned()) };
    // Older crates write `MIT/Apache-2.0`.
    let expression = match Expression::parse_mode(licence, ParseMode::LAX) {
        Ok(expression) => expression,
        Err(fault) => return Some(format!("`{licence}` is no licence expression: {}", fault.reason)),
    };
    let permitted = expression.evaluate(|licence| LICENCES.contains(&licence.to_string().as_str()));
    (!permitted).then(|| format!("`{licence}` does not hold with permissive licences alone"))
}

/// Packages come from the one registry, or are members of this workspace.
pub(super) fn origins(workspace: &Workspace) -> Vec<String> {
    let strangers = workspace.packages().iter().filter(|package| match &package.source {
        Some(source) => !(source.starts_with("registry+") && source.ends_with(REGISTRY)),
        None => !workspace.is_member(package),
    });
    let origin = |package: &Package| package.source.clone().unwrap_or_else(|| package.manifest_path.display().to_string());
    strangers.map(|package| format!("{} {} comes from {}", package.name, package.version, origin(package))).collect()
}

/// Crates that are not used, and crates that are there twice.
pub(super) fn bans(workspace: &Workspace) -> Vec<String> {
    let mut violations = Vec::new();
    for dependent in workspace.packages() {
        for (_, dependency) in workspace.dependencies(dependent) {
            let ban = BANNED.iter().find(|(name, _, _)| *name == dependency.name);
            if let Some((name, except, why)) = ban
                && !except.contains(&dependent.name.as_str())
            {
                violations.push(format!("{} brings {name}: {why}", dependent.name));
            }
        }
    }
    for name in SINGLE_VERSION {
        let namesakes = workspace.packages().iter().filter(|package| package.name == *name);
        let versions: BTreeSet<&str> = namesakes.map(|package| package.version.as_str()).collect();
        let incompatible: BTreeSet<String> = versions.iter().map(|version| compatible_part(version)).collect();
        if incompatible.len() > 1 {
            violations.push(format!("{name} is there as {}", versions.into_iter().collect::<Vec<_>>().join(" and ")));
        }
    }
    violations
}

/// What cargo unifies by: the major number, or with 0 the minor one.
fn compatible_part(version: &str) -> String {
    let mut numbers = version.split('.');
    match (numbers.next().unwrap_or_default(), numbers.next()) {
        ("0", Some(minor)) => format!("0.{minor}"),
        (major, _) => major.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::workspace::fixture::{package, workspace};
    use super::*;
    use serde_json::{Value, json};

    fn with(mut package: Value, key: &str, value: Value) -> Value {
        package[key] = value;
        package
    }

    #[test]
    fn only_permissive_licences_hold() {
        let verdict = |licence: Value| licences(&workspace(&[with(package("x", false), "license", licence)], &[])).is_empty();
        for permitted in
            ["MIT", "MIT/Apache-2.0", "MIT OR GPL-3.0-only", "(MIT OR Apache-2.0) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
        {
            assert!(verdict(json!(permitted)), "{permitted}");
        }
        for refused in ["GPL-3.0-only", "MIT AND LGPL-2.1-or-later", "MPL-2.0", "GPL-2.0-only WITH Classpath-exception-2.0", "whatever"] {
            assert!(!verdict(json!(refused)), "{refused}");
        }
        assert!(!verdict(Value::Null));
    }

    #[test]
    fn only_the_registry_and_members_are_sources() {
        let git = with(package("forked", false), "source", json!("git+https://example.invalid/forked"));
        let elsewhere = with(package("mirror", false), "source", json!("registry+https://example.invalid/index"));
        let found = origins(&workspace(&[package("mine", true), package("theirs", false), git, elsewhere], &[]));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_banned_crate_is_found_with_the_one_that_brings_it() {
        let packages = [package("podbox", true), package("tonic", false), package("axum", false), package("rustables", false)];
        let found = bans(&workspace(&packages, &[("tonic", "axum", None), ("podbox", "rustables", None)]));
        assert_eq!(found, ["podbox brings rustables: GPL"]);
        assert_eq!(bans(&workspace(&packages, &[("podbox", "axum", None)])).len(), 1);
    }

    #[test]
    fn two_incompatible_versions_are_two_and_compatible_ones_are_not() {
        let nix = |id: &str, version: &str| with(with(package("nix", false), "id", json!(id)), "version", json!(version));
        assert_eq!(bans(&workspace(&[nix("a", "0.29.0"), nix("b", "0.31.3")], &[])), ["nix is there as 0.29.0 and 0.31.3"]);
        assert_eq!(bans(&workspace(&[nix("a", "1.29.0"), nix("b", "1.31.3")], &[])), Vec::<String>::new());
    }
}
