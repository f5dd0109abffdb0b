//! Labels of security modules, looked at from outside once a process has executed its program.
//!
//! What a newborn asks for is written to a file of `/proc`, and attacks on runtimes had that write end up elsewhere. So nobody's word is
//! taken for it: who has not the label that was planned does not run.
//!
//! The look comes when `execve(2)` is over. The end of the status pipe does not tell that: the kernel closes files long before it takes the
//! new label on, and gives the pipe back once the later of newborn and monitor has closed it. A process that is still on its way does not
//! run its program either, so that it may be looked at again a moment later, and the monitor does other things meanwhile.
//!
//! The program may have run by the time of the look, and have changed its label as its profile lets it. AppArmor's names tell where
//! that leads below the profile, to one of its children or to a stack with it: it is as good as the profile. Who leaves for another profile
//! altogether, or for another SELinux context, within that moment cannot be told from one who never had the label, and is ended; a moment
//! later it may.

use podbox_plan::wire::LaunchFailure;
use podbox_plan::{LaunchPlan, Op, SecurityModule};
use rustix::process::Pid;

/// `EACCES`
const DENIED: i32 = 13;

/// The label that a process is to have.
pub struct ExpectedLabel {
    module: SecurityModule,
    label: String,
}

/// What a look finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// The label that was planned.
    Right,
    /// The process has not become its program yet.
    TooEarly,
    /// Another one, or none that the kernel would tell.
    Wrong(LaunchFailure),
}

impl ExpectedLabel {
    /// By a plan; `None` where it asks for none.
    pub fn of(plan: &LaunchPlan) -> Option<Self> {
        plan.ops.iter().find_map(|op| match op {
            Op::SetExecLabel { module, label } => Some(Self { module: *module, label: label.clone() }),
            _ => None,
        })
    }

    /// Looks at a process that is executing, or has executed, and is not reaped.
    pub fn look(&self, pid: Pid) -> Look {
        // First: what is seen afterwards is what it came to.
        let is_over = podbox_sys::exec_is_over(pid);
        let found = self.current(pid);
        if found.as_deref().is_some_and(|found| self.is_met_by(found)) {
            return Look::Right;
        }
        if !is_over {
            return Look::TooEarly;
        }
        let reason = match found {
            Some(found) => format!("the process runs as {found:?}"),
            None => "the kernel does not tell what the process runs as".to_owned(),
        };
        let step = Op::SetExecLabel { module: self.module, label: self.label.clone() }.to_string();
        Look::Wrong(LaunchFailure { step, errno: DENIED, reason })
    }

    fn current(&self, pid: Pid) -> Option<String> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/attr/{name}", pid.as_raw_nonzero())).ok();
        match self.module {
            SecurityModule::AppArmor => {
                read("apparmor/current").or_else(|| read("current")).map(|text| without_mode(text.trim_end()).to_owned())
            }
            SecurityModule::Selinux => read("current").map(|text| text.trim_end_matches(['\0', '\n']).to_owned()),
        }
    }

    fn is_met_by(&self, found: &str) -> bool {
        // `profile//child`; of a stack, `a//&b`, each part holds.
        let is_below = |part: &str| part.strip_prefix(self.label.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with("//"));
        match self.module {
            SecurityModule::AppArmor => found.split("//&").any(is_below),
            SecurityModule::Selinux => found == self.label,
        }
    }
}

/// `name (enforce)`
fn without_mode(text: &str) -> &str {
    text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")).map_or(text, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This very process runs as something else, or as nothing that the kernel would tell.
    #[test]
    fn another_label_is_told() {
        let expected = ExpectedLabel { module: SecurityModule::AppArmor, label: "podbox-test-nobody".to_owned() };
        let Look::Wrong(failure) = expected.look(rustix::process::getpid()) else { panic!("it has another label") };
        assert_eq!(failure.errno, DENIED);
        assert_eq!(failure.step, "ask for the AppArmor profile \"podbox-test-nobody\"");
    }

    #[test]
    fn a_profiles_mode_is_not_its_name() {
        for (text, name) in [
            ("podbox-default (enforce)", "podbox-default"),
            ("a (b) (complain)", "a (b)"),
            ("unconfined", "unconfined"),
            ("(enforce)", "(enforce)"),
        ] {
            assert_eq!(without_mode(text), name);
        }
    }

    #[test]
    fn what_is_below_a_profile_is_as_good_and_nothing_else() {
        let of = |module| ExpectedLabel { module, label: "a".to_owned() };
        for (found, is_met) in [
            ("a", true),
            ("a//hat", true),
            ("a//child//deeper", true),
            ("a//&b", true),
            ("b//&a", true),
            ("b//&a//hat", true),
            ("b", false),
            ("ab", false),
            ("b//a", false),
            ("a/b", false),
            ("unconfined", false),
        ] {
            assert_eq!(of(SecurityModule::AppArmor).is_met_by(found), is_met, "{found}");
            assert_eq!(of(SecurityModule::Selinux).is_met_by(found), found == "a", "{found}");
        }
    }
}
