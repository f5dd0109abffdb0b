//! What a profile says of each system call, where it is to hold.

use super::{Action, Comparison, CompileError, Condition, Guard, Profile, Rule};
use std::collections::{BTreeMap, BTreeSet};

/// What a filter depends on, beside its profile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Surroundings {
    /// Capabilities that who runs under it can have, as `CAP_NAME`.
    pub capabilities: BTreeSet<String>,
    /// The kernel's major and minor number.
    pub kernel: (u32, u32),
}

/// The rules of one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyscallRules {
    /// The same whatever the arguments are.
    Always(Action),
    /// Each action where all conditions of its list hold; the default where no list does.
    Where(Vec<(Action, Vec<Condition>)>),
}

/// Gathers the rules that hold, by system call.
///
/// # Errors
/// [`CompileError::Contradiction`]
pub fn rules_in(profile: &Profile, surroundings: &Surroundings) -> Result<BTreeMap<String, SyscallRules>, CompileError> {
    let mut always: BTreeMap<&str, Action> = BTreeMap::new();
    let mut conditional: BTreeMap<&str, Vec<(Action, Vec<Condition>)>> = BTreeMap::new();
    for rule in profile.rules.iter().filter(|rule| holds(rule, surroundings)) {
        for name in &rule.names {
            if rule.conditions.is_empty() {
                // Of two the more restrictive holds, as of two filters.
                let action = always.entry(name).or_insert(rule.action);
                *action = rule.action.min(*action);
            } else {
                conditional.entry(name).or_default().extend(apart(&rule.conditions).into_iter().map(|list| (rule.action, list)));
            }
        }
    }
    for (name, lists) in &conditional {
        let Some(action) = always.get(name) else { continue };
        // libseccomp drops the conditions then, which is right only if what is left is no weaker.
        if lists.iter().any(|(other, _)| other < action) {
            return Err(CompileError::Contradiction { syscall: (*name).to_owned() });
        }
    }
    let unconditional = always.iter().map(|(name, action)| ((*name).to_owned(), SyscallRules::Always(*action)));
    let mut all: BTreeMap<String, SyscallRules> = unconditional.collect();
    for (name, lists) in conditional {
        all.entry(name.to_owned()).or_insert(SyscallRules::Where(lists));
    }
    Ok(all)
}

/// Conditions on different arguments must all hold; several on one argument are alternatives, each a rule of its own, as in other
/// runtimes.
fn apart(conditions: &[Condition]) -> Vec<Vec<Condition>> {
    let arguments: BTreeSet<u8> = conditions.iter().map(|condition| condition.argument).collect();
    if arguments.len() == conditions.len() {
        return vec![conditions.to_vec()];
    }
    conditions.iter().map(|condition| vec![*condition]).collect()
}

/// Whether a rule is one, there.
pub(crate) fn holds(rule: &Rule, surroundings: &Surroundings) -> bool {
    let Rule { includes, excludes, .. } = rule;
    let has = |name: &String| surroundings.capabilities.contains(name);
    let is_new_enough = |guard: &Guard| guard.kernel_min.is_some_and(|oldest| surroundings.kernel >= oldest);
    let is_native = |name: &String| native_names().contains(&name.as_str());
    includes.capabilities.iter().all(has)
        && (includes.architectures.is_empty() || includes.architectures.iter().any(is_native))
        && (includes.kernel_min.is_none() || is_new_enough(includes))
        && !excludes.capabilities.iter().any(has)
        && !excludes.architectures.iter().any(is_native)
        && !is_new_enough(excludes)
}

/// How guards call this machine's architecture.
fn native_names() -> &'static [&'static str] {
    if cfg!(target_arch = "x86_64") {
        &["amd64", "x86_64"]
    } else if cfg!(target_arch = "aarch64") {
        &["arm64", "aarch64"]
    } else {
        &[]
    }
}

impl Condition {
    /// Whether an argument fits.
    #[must_use]
    pub fn holds(&self, argument: u64) -> bool {
        match self.comparison {
            Comparison::NotEqual => argument != self.value,
            Comparison::Less => argument < self.value,
            Comparison::LessOrEqual => argument <= self.value,
            Comparison::Equal => argument == self.value,
            Comparison::GreaterOrEqual => argument >= self.value,
            Comparison::Greater => argument > self.value,
            Comparison::MaskedEqual { mask } => argument & mask == self.value & mask,
        }
    }
}
