//! Labels of security modules, looked at from outside once a process has executed its program.
//!
//! What a newborn asks for is written to a file of `/proc`, and attacks on runtimes had that write end up elsewhere. So nobody's word is
//! taken for it: who has not the label that was planned does not run.
//!
//! One look is enough. `execve(2)` marks the status pipe for closing before it takes the new label on (`begin_new_exec()`), but what is
//! closed is given back when the process returns to user mode, as everything is since Linux 3.6 (`fput()` leaves it to the task's work):
//! when the monitor reads the pipe's end, the label is there, and the program about to run its first instruction. A test of podbox-sys holds
//! the kernel to that.
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

impl ExpectedLabel {
    /// By a plan; `None` where it asks for none.
    pub fn of(plan: &LaunchPlan) -> Option<Self> {
        plan.ops.iter().find_map(|op| match op {
            Op::SetExecLabel { module, label } => Some(Self { module: *module, label: label.clone() }),
            _ => None,
        })
    }

    /// Looks at a process that has executed and is not reaped.
    pub fn verify(&self, pid: Pid) -> Result<(), LaunchFailure> {
        let found = self.current(pid);
        if found.as_deref().is_some_and(|found| self.is_met_by(found)) {
            return Ok(());
        }
        let reason = match found {
            Some(found) => format!("the process runs as {found:?}"),
            None => "the kernel does not tell what the process runs as".to_owned(),
        };
        let step = Op::SetExecLabel { module: self.module, label: self.label.clone() }.to_string();
        Err(LaunchFailure { step, errno: DENIED, reason })
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
        let failure = expected.verify(rustix::process::getpid()).expect_err("another label");
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
