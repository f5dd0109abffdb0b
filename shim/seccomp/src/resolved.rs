//! A profile as it holds in some surroundings, in the form of the OCI runtime spec (`config-linux.md`, "Seccomp"), for people and for
//! programs that read a container's spec.
//!
//! What depends on capabilities, kernel and architecture is decided: rules that do not hold are left out, the others stand as the
//! profile has them and in its order. Names of system calls that nobody knows stay.

use super::rules::holds;
use super::{Action, Comparison, Condition, Flags, Profile, Rule, Surroundings};
use serde::Serialize;

/// `linux.seccomp`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resolved<'a> {
    default_action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_errno_ret: Option<u16>,
    architectures: Vec<&'static str>,
    flags: Vec<&'static str>,
    syscalls: Vec<ResolvedRule<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResolvedRule<'a> {
    names: &'a [String],
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<ResolvedCondition>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResolvedCondition {
    index: u8,
    value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_two: Option<u64>,
    op: &'static str,
}

/// The profile as JSON. It is what filters of it were compiled from, whatever became of its text.
#[must_use]
pub fn resolved_json(profile: &Profile, surroundings: &Surroundings) -> String {
    let rules = profile.rules.iter().filter(|rule| holds(rule, surroundings));
    let (default_action, number) = written(profile.default_action);
    let resolved = Resolved {
        default_action,
        // One that the profile does not have makes a difference: see `compile`.
        default_errno_ret: number.filter(|_| profile.default_errno_is_explicit),
        architectures: profile.architectures.iter().map(|architecture| architecture.name()).collect(),
        flags: flag_names(profile.flags),
        syscalls: rules.map(resolved_rule).collect(),
    };
    serde_json::to_string(&resolved).expect("texts and numbers")
}

fn resolved_rule(rule: &Rule) -> ResolvedRule<'_> {
    let (action, errno_ret) = written(rule.action);
    ResolvedRule { names: &rule.names, action, errno_ret, args: rule.conditions.iter().map(resolved_condition).collect() }
}

/// An action's name, and the number beside it.
fn written(action: Action) -> (&'static str, Option<u16>) {
    match action {
        Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        Action::Trap => ("SCMP_ACT_TRAP", None),
        Action::Errno(errno) => ("SCMP_ACT_ERRNO", Some(errno)),
        Action::Trace(message) => ("SCMP_ACT_TRACE", Some(message)),
        Action::Log => ("SCMP_ACT_LOG", None),
        Action::Allow => ("SCMP_ACT_ALLOW", None),
    }
}

fn resolved_condition(condition: &Condition) -> ResolvedCondition {
    let Condition { argument: index, comparison, value } = *condition;
    let plain = |op| ResolvedCondition { index, value, value_two: None, op };
    match comparison {
        Comparison::NotEqual => plain("SCMP_CMP_NE"),
        Comparison::Less => plain("SCMP_CMP_LT"),
        Comparison::LessOrEqual => plain("SCMP_CMP_LE"),
        Comparison::Equal => plain("SCMP_CMP_EQ"),
        Comparison::GreaterOrEqual => plain("SCMP_CMP_GE"),
        Comparison::Greater => plain("SCMP_CMP_GT"),
        Comparison::MaskedEqual { mask } => ResolvedCondition { index, value: mask, value_two: Some(value), op: "SCMP_CMP_MASKED_EQ" },
    }
}

fn flag_names(flags: Flags) -> Vec<&'static str> {
    let Flags { log, spec_allow, tsync } = flags;
    let all = [(log, "SECCOMP_FILTER_FLAG_LOG"), (spec_allow, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"), (tsync, "SECCOMP_FILTER_FLAG_TSYNC")];
    all.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules_in;
    use std::collections::BTreeSet;

    fn surroundings(capabilities: &[&str]) -> Surroundings {
        Surroundings { capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), kernel: (6, 1) }
    }

    #[test]
    fn what_depends_is_decided_and_the_rest_stands_as_it_is_written() {
        let text = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_S390X"],
            "syscalls": [
                {"names": ["read", "nobody_knows"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]},
                 "args": [{"index": 0, "value": 2114060288, "valueTwo": 7, "op": "SCMP_CMP_MASKED_EQ"}]},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
                {"name": "socket", "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]}
            ]}"#;
        let profile = Profile::parse(text.as_bytes()).expect("a profile");
        let said: serde_json::Value = serde_json::from_str(&resolved_json(&profile, &surroundings(&[]))).expect("JSON");
        let due = serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_S390X"],
        "syscalls": [
            {"names": ["read", "nobody_knows"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2_114_060_288_u32, "valueTwo": 7, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]},
        ]});
        assert_eq!(said, due);
    }

    #[test]
    fn it_is_a_profile_that_says_the_same() {
        for capabilities in [&[][..], &["CAP_SYS_ADMIN", "CAP_BPF"]] {
            let (profile, here) = (crate::runtime_default(), surroundings(capabilities));
            let again = Profile::parse(resolved_json(&profile, &here).as_bytes()).expect("a profile");
            let rest = |profile: &Profile| {
                (profile.default_action, profile.default_errno_is_explicit, profile.architectures.clone(), profile.flags)
            };
            assert_eq!(rest(&again), rest(&profile));
            // Of nothing is anything left to be decided.
            let elsewhere = Surroundings { capabilities: BTreeSet::new(), kernel: (0, 0) };
            assert_eq!(rules_in(&again, &elsewhere).expect("rules"), rules_in(&profile, &here).expect("rules"));
        }
    }
}
