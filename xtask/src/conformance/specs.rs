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
pub(super) struct Report {
    specs: Vec<Spec>,
    /// No more than some were.
    is_part: bool,
    /// Why the run as a whole is none: it was interrupted, or something around the specs failed.
    failures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Vec<SpecReport>,
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
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
    /// Reads ginkgo's JSON, of a run of all specs or of a part of them.
    pub(super) fn read(path: &Path, is_part: bool) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text, is_part).with_context(|| path.display().to_string())
    }

    fn parse(text: &str, is_part: bool) -> Result<Self> {
        let suites: Vec<Suite> = serde_json::from_str(text).context("parse ginkgo's report")?;
        let failures = suites.iter().flat_map(|suite| suite.special_suite_failure_reasons.iter().flatten().cloned()).collect();
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
            let name = texts.join(" ");
            // Skipped before it began: by the focus, or as one of the benchmark's, which have a flag of their own.
            let was_left_out = report.state == Outcome::Skipped && reason.is_empty() && (is_part || name.contains("benchmark about"));
            (!was_left_out).then_some(Spec { name, outcome: report.state, reason })
        });
        let specs: Vec<Spec> = specs.collect();
        ensure!(!specs.is_empty(), "no spec was run");
        Ok(Self { specs, is_part, failures })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |outcome| self.specs.iter().filter(|spec| spec.outcome == outcome).count();
        let (passed, skipped) = (count(Outcome::Passed), count(Outcome::Skipped));
        write!(f, "{passed} passed, {} failed, {skipped} skipped", self.specs.len() - passed - skipped)
    }
}

/// `expected.toml`: the specs that do not pass.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    /// How many specs a whole run has at least.
    specs_min: usize,
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
    /// What it says then, in part; anything without it.
    says: Option<String>,
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

    /// What is not as it is expected, a line each. Where only a part of the specs ran, those that did not say nothing.
    pub(super) fn faults(&self, report: &Report) -> Vec<String> {
        let mut faults: Vec<String> = report.failures.iter().map(|failure| format!("the run: {failure}")).collect();
        for spec in &report.specs {
            let exception = self.specs.iter().find(|exception| spec.name.starts_with(&exception.name));
            let due = exception.map_or(Outcome::Passed, |exception| exception.outcome);
            let reason = spec.reason.lines().next().unwrap_or_default();
            if spec.outcome != due {
                faults.push(format!("{:?} instead of {due:?}: {} {reason}", spec.outcome, spec.name));
            } else if let Some(due) = exception.and_then(|exception| exception.says.as_ref())
                && !spec.reason.contains(due)
            {
                faults.push(format!("{:?} as expected, but not for {due:?}: {} {reason}", spec.outcome, spec.name));
            }
        }
        let is_met = |exception: &&Exception| report.specs.iter().any(|spec| spec.name.starts_with(&exception.name));
        if !report.is_part {
            if report.specs.len() < self.specs_min {
                faults.push(format!("{} specs instead of at least {}", report.specs.len(), self.specs_min));
            }
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
        {"ContainerHierarchyTexts": ["C"], "LeafNodeText": "benchmark about it", "LeafNodeType": "It", "State": "skipped"},
        {"ContainerHierarchyTexts": null, "LeafNodeText": "", "LeafNodeType": "BeforeSuite", "State": "passed"}
    ]}]"#;

    fn expected(specs: &[(&str, Outcome)]) -> Expected {
        let exception = |(name, outcome): &(&str, Outcome)| Exception {
            name: (*name).to_owned(),
            outcome: *outcome,
            says: None,
            on: None,
            reason: "why".to_owned(),
        };
        Expected { specs_min: 3, specs: specs.iter().map(exception).collect() }
    }

    #[test]
    fn what_is_expected_is_no_fault_and_everything_else_is() {
        let report = Report::parse(REPORT, false).expect("a report");
        assert_eq!(report.to_string(), "1 passed, 1 failed, 1 skipped");
        let all = [("A fails", Outcome::Failed), ("B", Outcome::Skipped)];
        assert_eq!(expected(&all).faults(&report), Vec::<String>::new());
        let mut other = expected(&all);
        other.specs_min = 4;
        other.specs[0].says = Some("it is not".to_owned());
        let due = ["Failed as expected, but not for \"it is not\": A fails so", "3 specs instead of at least 4"];
        assert_eq!(other.faults(&report), due);
        assert_eq!(expected(&all[..1]).faults(&report), ["Skipped instead of Passed: B skips no kernel"], "what is not named must pass");
        let too_many = [("A fails", Outcome::Failed), ("B", Outcome::Skipped), ("A b passes", Outcome::Failed), ("D", Outcome::Skipped)];
        let faults = expected(&too_many).faults(&report);
        assert_eq!(faults, ["Passed instead of Failed: A b passes ", "expected, and there is no such spec: D"]);
        let part = Report::parse(REPORT, true).expect("a report");
        assert_eq!(expected(&too_many).faults(&part).len(), 1, "of a part nothing is missed");
        assert_eq!(expected(&[("A fails", Outcome::Skipped), ("B", Outcome::Skipped)]).faults(&report).len(), 1);
    }

    #[test]
    fn the_table_is_sound() {
        let table = Expected::read(&crate::build::workspace().join(crate::conformance::EXPECTED)).expect("it is read");
        assert!(table.specs_min > 100 && !table.specs.is_empty(), "{table:?}");
    }

    #[test]
    fn what_was_cut_off_is_a_fault() {
        let text = r#"[{"SpecialSuiteFailureReasons": ["Interrupted by User"], "SpecReports": [
            {"ContainerHierarchyTexts": ["A"], "LeafNodeText": "was not begun", "LeafNodeType": "It", "State": "skipped"},
            {"ContainerHierarchyTexts": ["A"], "LeafNodeText": "waits", "LeafNodeType": "It", "State": "pending"},
            {"ContainerHierarchyTexts": ["A"], "LeafNodeText": "passes", "LeafNodeType": "It", "State": "passed"}]}]"#;
        let faults = expected(&[]).faults(&Report::parse(text, false).expect("a report"));
        let due = ["the run: Interrupted by User", "Skipped instead of Passed: A was not begun ", "Pending instead of Passed: A waits "];
        assert_eq!(faults, due);
    }

    #[test]
    fn a_run_without_specs_is_none() {
        assert!(Report::parse("[]", false).is_err());
        assert!(Report::parse("not JSON", false).is_err());
    }
}
