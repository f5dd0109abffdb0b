//! The workspace as `cargo metadata` tells it.

use crate::build;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// All packages, podbox's own and others', and who depends on whom.
#[derive(Debug, Deserialize)]
pub(super) struct Workspace {
    #[serde(rename = "workspace_root")]
    pub(super) root: PathBuf,
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
pub(super) struct Package {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) version: String,
    /// `None` for a package by path.
    pub(super) source: Option<String>,
    /// An SPDX expression.
    pub(super) license: Option<String>,
    pub(super) manifest_path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

/// An edge of the resolved graph.
#[derive(Debug, Deserialize)]
pub(super) struct Dependency {
    /// The name in the sources: of the library, or the one it was renamed to.
    #[serde(rename = "name")]
    pub(super) name_in_sources: String,
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// Whom a dependency serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Code,
    Tests,
    BuildScript,
}

impl Workspace {
    /// As it is on disk.
    pub(super) fn load() -> Result<Self> {
        let output = build::cargo().args(["metadata", "--locked", "--format-version", "1"]).output();
        let output = output.context("run cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("parse what cargo metadata says")
    }

    pub(super) fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// Podbox's own.
    pub(super) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.is_member(package))
    }

    pub(super) fn is_member(&self, package: &Package) -> bool {
        self.workspace_members.contains(&package.id)
    }

    /// Direct dependencies.
    pub(super) fn dependencies<'a>(&'a self, package: &'a Package) -> impl Iterator<Item = (&'a Dependency, &'a Package)> {
        let node = self.resolve.nodes.iter().find(move |node| node.id == package.id);
        let edges = node.into_iter().flat_map(|node| &node.deps);
        edges.filter_map(|edge| self.packages.iter().find(|package| package.id == edge.pkg).map(|package| (edge, package)))
    }

    /// What `package`'s code is linked with, each with the one that brings it; tests and build scripts do not count.
    pub(super) fn linked_with<'a>(&'a self, package: &'a Package) -> BTreeMap<&'a str, &'a str> {
        let mut brought_by = BTreeMap::new();
        let mut unvisited = vec![package];
        while let Some(dependent) = unvisited.pop() {
            for (edge, dependency) in self.dependencies(dependent) {
                if edge.serves(Purpose::Code) && !brought_by.contains_key(dependency.name.as_str()) {
                    brought_by.insert(dependency.name.as_str(), dependent.name.as_str());
                    unvisited.push(dependency);
                }
            }
        }
        brought_by
    }
}

impl Dependency {
    pub(super) fn serves(&self, purpose: Purpose) -> bool {
        let kind = match purpose {
            Purpose::Code => None,
            Purpose::Tests => Some("dev"),
            Purpose::BuildScript => Some("build"),
        };
        self.dep_kinds.iter().any(|served| served.kind.as_deref() == kind)
    }
}

impl Package {
    /// Its folder, relative to the workspace's and with a slash at the end.
    pub(super) fn folder(&self, root: &Path) -> String {
        let folder = self.manifest_path.parent().and_then(|folder| folder.strip_prefix(root).ok());
        folder.map(|folder| format!("{}/", folder.display())).unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod fixture {
    use super::Workspace;
    use serde_json::{Value, json};

    /// A package `name` version `1.2.3`, MIT; a member if `member`.
    pub(in crate::check) fn package(name: &str, member: bool) -> Value {
        let registry = (!member).then_some("registry+https://example.invalid/rust-lang/crates.io-index");
        json!({ "id": name, "name": name, "version": "1.2.3", "license": "MIT", "source": registry,
                "manifest_path": format!("/w/{name}/Cargo.toml") })
    }

    /// Edges as (dependent, dependency, kind).
    pub(in crate::check) fn workspace(packages: &[Value], edges: &[(&str, &str, Option<&str>)]) -> Workspace {
        let id = |package: &Value| package["id"].as_str().expect("text").to_owned();
        let members: Vec<String> = packages.iter().filter(|package| package["source"].is_null()).map(id).collect();
        let node = |package: &Value| {
            let from = id(package);
            let deps: Vec<Value> = edges.iter().filter(|edge| edge.0 == from).map(dependency).collect();
            json!({ "id": from, "deps": deps })
        };
        let nodes: Vec<Value> = packages.iter().map(node).collect();
        let metadata = json!({ "workspace_root": "/w", "packages": packages, "workspace_members": members,
                               "resolve": { "nodes": nodes } });
        serde_json::from_value(metadata).expect("as cargo's")
    }

    fn dependency((_, to, kind): &(&str, &str, Option<&str>)) -> Value {
        json!({ "name": to.replace('-', "_"), "pkg": to, "dep_kinds": [{ "kind": kind, "target": null }] })
    }
}
