//! What specs came to, and what they were expected to come to.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::fmt;
use std::path::Path;

/// What became of a spec, as ginkgo says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
    /// It was not asked for.
    Pending,
    Panicked,
    Interrupted,
    Aborted,
    #[serde(rename = "timedout")]
    TimedOut,
    #[serde(rename = "")]
    NotRun,
}

/// One spec.
#[derive(Debug)]
pub(super) struct Spec {
    /// The texts that lead to it, with blanks between them.
    pub(super) name: String,
    pub(super) outcome: Outcome,
    /// Why it was not passed.
    pub(super) reason: String,
}

/// All specs of a run that were asked for.
#[derive(Debug)]
pub(super) struct Report(pub(super) Vec<Spec>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Vec<SpecReport>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SpecReport {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_text: String,
    leaf_node_type: String,
    state: Outcome,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

impl Report {
    /// Reads ginkgo's JSON.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let suites: Vec<Suite> = serde_json::from_str(text).context("parse ginkgo's report")?;
        let reports = suites.into_iter().flat_map(|suite| suite.spec_reports);
        let specs = reports.filter_map(|report| {
            let is_spec = report.leaf_node_type == "It";
            let reason = report.failure.map(|failure| failure.message).unwrap_or_default();
            let mut texts = report.container_hierarchy_texts.unwrap_or_default();
            // Suites have steps of their own, before and after all specs: they are told of only when they fail.
            if !is_spec && matches!(report.state, Outcome::Passed | Outcome::Skipped) {
                return None;
            }
            texts.push(if is_spec { report.leaf_node_text } else { report.leaf_node_type });
            // Left out by the focus, or one of the benchmark's, which have a flag of their own.
            let was_asked_for = !(report.state == Outcome::Skipped && reason.is_empty()) && report.state != Outcome::Pending;
            was_asked_for.then(|| Spec { name: texts.join(" "), outcome: report.state, reason })
        });
        let specs: Vec<Spec> = specs.collect();
        ensure!(!specs.is_empty(), "no spec was run");
        Ok(Self(specs))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |outcome| self.0.iter().filter(|spec| spec.outcome == outcome).count();
        let (passed, skipped) = (count(Outcome::Passed), count(Outcome::Skipped));
        write!(f, "{passed} passed, {} failed, {skipped} skipped", self.0.len() - passed - skipped)
    }
}

/// `expected.toml`: the specs that do not pass.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    #[serde(default, rename = "spec")]
    specs: Vec<Exception>,
}

/// One spec, or all whose names begin alike.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    /// The beginning of the name.
    name: String,
    outcome: Outcome,
    /// Where that is so; everywhere without it.
    on: Option<Kernel>,
    /// Why that is so; for people.
    reason: String,
}

/// What a kernel lacks that specs are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kernel {
    /// AppArmor is not there, or off.
    NoApparmor,
}

impl Kernel {
    /// Whether this is one.
    fn is_this(self) -> bool {
        match self {
            Self::NoApparmor => !podbox_tests::apparmor::is_enabled(),
        }
    }
}

impl Expected {
    /// Reads the table.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let mut expected: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
        for exception in &expected.specs {
            ensure!(!exception.reason.trim().is_empty(), "{}: {:?} has no reason", path.display(), exception.name);
            ensure!(exception.outcome != Outcome::Passed, "{}: {:?} is expected to pass, as all are", path.display(), exception.name);
        }
        expected.specs.retain(|exception| exception.on.is_none_or(Kernel::is_this));
        Ok(expected)
    }

    /// What is not as it is expected, a line each. Where only `some` specs ran, an exception that none of them is says nothing.
    pub(super) fn faults(&self, report: &Report, some: bool) -> Vec<String> {
        let mut faults = Vec::new();
        for spec in &report.0 {
            let due = self.specs.iter().find(|exception| spec.name.starts_with(&exception.name)).map_or(Outcome::Passed, |one| one.outcome);
            if spec.outcome != due {
                let reason = spec.reason.lines().next().unwrap_or_default();
                faults.push(format!("{:?} instead of {due:?}: {} {reason}", spec.outcome, spec.name));
            }
        }
        let is_met = |exception: &&Exception| report.0.iter().any(|spec| spec.name.starts_with(&exception.name));
        if !some {
            faults.extend(
                self.specs.iter().filter(|one| !is_met(one)).map(|one| format!("expected, and there is no such spec: {}", one.name)),
            );
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[{"SpecReports": [
        {"ContainerHierarchyTexts": ["A", "b"], "LeafNodeText": "passes", "LeafNodeType": "It", "State": "passed"},
        {"ContainerHierarchyTexts": ["A"], "LeafNodeText": "fails", "LeafNodeType": "It", "State": "failed", "Failure": {"Message": "so\nit is"}},
        {"ContainerHierarchyTexts": ["B"], "LeafNodeText": "skips", "LeafNodeType": "It", "State": "skipped", "Failure": {"Message": "no kernel"}},
        {"ContainerHierarchyTexts": ["C"], "LeafNodeText": "was not asked for", "LeafNodeType": "It", "State": "skipped"},
        {"ContainerHierarchyTexts": null, "LeafNodeText": "", "LeafNodeType": "BeforeSuite", "State": "passed"}
    ]}]"#;

    fn expected(specs: &[(&str, Outcome)]) -> Expected {
        let exception = |(name, outcome): &(&str, Outcome)| Exception {
            name: (*name).to_owned(),
            outcome: *outcome,
            on: None,
            reason: "why".to_owned(),
        };
        Expected { specs: specs.iter().map(exception).collect() }
    }

    #[test]
    fn what_is_expected_is_no_fault_and_everything_else_is() {
        let report = Report::parse(REPORT).expect("a report");
        assert_eq!(report.to_string(), "1 passed, 1 failed, 1 skipped");
        let all = [("A fails", Outcome::Failed), ("B", Outcome::Skipped)];
        assert_eq!(expected(&all).faults(&report, false), Vec::<String>::new());
        assert_eq!(
            expected(&all[..1]).faults(&report, false),
            ["Skipped instead of Passed: B skips no kernel"],
            "what is not named must pass"
        );
        let too_many = [("A fails", Outcome::Failed), ("B", Outcome::Skipped), ("A b passes", Outcome::Failed), ("D", Outcome::Skipped)];
        let faults = expected(&too_many).faults(&report, false);
        assert_eq!(faults, ["Passed instead of Failed: A b passes ", "expected, and there is no such spec: D"]);
        assert_eq!(expected(&too_many).faults(&report, true).len(), 1, "of a part nothing is missed");
        assert_eq!(expected(&[("A fails", Outcome::Skipped), ("B", Outcome::Skipped)]).faults(&report, false).len(), 1);
    }

    #[test]
    fn a_run_without_specs_is_none() {
        assert!(Report::parse("[]").is_err());
        assert!(Report::parse("not JSON").is_err());
    }
}
