//! `cargo xtask check`: everything that must hold before anything is tested.
//!
//! Each step looks at one thing, prints how long it took, and all of them run: one call tells everything that is wrong. The
//! tables that say what is allowed are in [`rules`]; the steps that compile nothing are pure functions of the workspace's
//! metadata and its sources. Nothing here needs a network, the advisories aside.
#![allow(clippy::print_stdout, reason = "a command's output")]

mod dependencies;
mod edges;
mod invariants;
mod layers;
mod layout;
mod rules;
mod rust_tokens;
mod sources;
mod tools;
mod unused;
mod words;
mod workspace;

use anyhow::{Result, bail};
use sources::SourceFile;
use std::time::Instant;
use workspace::Workspace;

/// What to check.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Leave out what compiles: clippy, the targets of `cargo fuzz` and the documentation.
    #[arg(long)]
    quick: bool,
    /// Also ask cargo-deny for known vulnerabilities; needs the tool, and its database from the network.
    #[arg(long)]
    advisories: bool,
}

/// What one step found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    /// Each makes the check fail.
    violations: Vec<String>,
    /// Worth knowing.
    notes: Vec<String>,
}

impl From<Vec<String>> for Findings {
    fn from(violations: Vec<String>) -> Self {
        Self { violations, notes: Vec::new() }
    }
}

/// Runs every step; an error names those that found something.
pub fn run(args: &CheckArgs) -> Result<()> {
    let workspace = Workspace::load()?;
    let sources = SourceFile::load_all(&workspace.root)?;
    let mut failed = Vec::new();
    for (name, step) in steps(args) {
        let started = Instant::now();
        let findings = step(&workspace, &sources)?;
        let verdict = if findings.violations.is_empty() { "ok  " } else { "FAIL" };
        println!("{verdict} {name:<24} {:>7.2} s", started.elapsed().as_secs_f64());
        findings.notes.iter().for_each(|note| println!("     note: {}", indent(note)));
        findings.violations.iter().for_each(|violation| println!("     {}", indent(violation)));
        if !findings.violations.is_empty() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("these checks failed: {}", failed.join(", "));
    }
    Ok(())
}

type Step = fn(&Workspace, &[SourceFile]) -> Result<Findings>;

/// Cheap ones first.
fn steps(args: &CheckArgs) -> Vec<(&'static str, Step)> {
    let mut steps: Vec<(&'static str, Step)> = vec![
        ("layout", |workspace, sources| layout::check(&workspace.root, sources)),
        ("unsafe and raw fds", |_, sources| Ok(words::check(sources).into())),
        ("invariants and tests", |_, sources| Ok(invariants::check(sources).into())),
        ("daemon layers", |_, sources| Ok(layers::check(sources).into())),
        ("crate edges", |workspace, _| Ok(edges::check(workspace).into())),
        ("licences", |workspace, _| Ok(dependencies::licences(workspace).into())),
        ("sources of crates", |workspace, _| Ok(dependencies::origins(workspace).into())),
        ("bans", |workspace, _| Ok(dependencies::bans(workspace).into())),
        ("unused dependencies", |workspace, sources| Ok(unused::check(workspace, sources).into())),
        ("generated code", |_, _| Ok(tools::generated_code().into())),
        ("rustfmt", |workspace, _| tools::rustfmt(&workspace.root)),
    ];
    if !args.quick {
        steps.push(("clippy", |workspace, _| tools::clippy(&workspace.root)));
        steps.push(("fuzz targets", |workspace, _| tools::fuzz_targets(&workspace.root)));
        steps.push(("documentation", |workspace, _| tools::documentation(&workspace.root)));
    }
    steps.push(match args.advisories {
        true => ("advisories", |workspace, _| tools::advisories(&workspace.root)),
        false => ("advisories", |_, _| Ok(tools::advisories_left_out())),
    });
    steps
}

fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n     ")
}
