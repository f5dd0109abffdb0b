//! Labels of security modules, looked at from outside once a process has executed its program.
//!
//! What a newborn asks for is written to a file of `/proc`, and attacks on runtimes had that write end up elsewhere. So nobody's word is
//! taken for it: who has not the label that was planned does not run.

use podbox_plan::wire::LaunchFailure;
use podbox_plan::{LaunchPlan, Op, SecurityModule};
use rustix::process::Pid;
use std::thread;
use std::time::{Duration, Instant};

/// `EACCES`
const DENIED: i32 = 13;
/// The kernel closes the status pipe a moment before the label changes (`begin_new_exec()`), on a busy machine a long one.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);

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

    /// Looks at a process that has executed and is not reaped. One with another label is waited for a little.
    pub fn verify(&self, pid: Pid) -> Result<(), LaunchFailure> {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.current(pid);
            if found.as_deref() == Some(self.label.as_str()) {
                return Ok(());
            }
            if Instant::now() >= end {
                let reason = match found {
                    Some(found) => format!("the process runs as {found:?}"),
                    None => "the kernel does not tell what the process runs as".to_owned(),
                };
                let step = Op::SetExecLabel { module: self.module, label: self.label.clone() }.to_string();
                return Err(LaunchFailure { step, errno: DENIED, reason });
            }
            thread::sleep(PAUSE);
        }
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
    fn another_label_is_told_and_nobody_is_waited_for_for_ever() {
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
}
