//! Seccomp filters and labels of security modules, as far as every kernel has them.

use crate::support::{Image, TestMonitor, status_of};
use podbox_plan::wire::LaunchFailure;
use podbox_plan::{LaunchPlan, Op, SecurityModule};

/// `BPF_RET | BPF_K` with `SECCOMP_RET_ALLOW`.
const ALLOW: [u8; 8] = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];
const LOAD: Op = Op::LoadSeccompFilter { log: false, spec_allow: false, tsync: true };

/// A filter's ops where the planner would have them, with `no_new_privs`.
fn under(mut plan: LaunchPlan, path: &std::path::Path) -> LaunchPlan {
    let last = plan.ops.len() - 1;
    plan.ops.insert(last, LOAD);
    plan.ops.insert(0, Op::ReadSeccompFilter { path: path.to_owned() });
    plan
}

fn launch_with(content: Option<&[u8]>) -> Result<String, LaunchFailure> {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let path = monitor.directory.path().join("filter.bpf");
    if let Some(content) = content {
        std::fs::write(&path, content).expect("write");
    }
    let container = image.container(1, &["sleep", "1000"]);
    let launched = monitor.try_launch(&container.process, &under(container.plan(), &path), &[])?;
    Ok(status_of(launched.pid, "Seccomp"))
}

#[test]
fn a_process_runs_under_the_filter_in_its_file() {
    assert_eq!(launch_with(Some(&ALLOW)), Ok("2".to_owned()));
}

/// The file is the daemon's own; one that was damaged must not let anything run without.
#[test]
fn what_is_no_filter_lets_nothing_start() {
    for (content, step) in [
        (None, "read the seccomp filter"),
        (Some(Vec::new()), "read the seccomp filter"),
        (Some(ALLOW[..7].to_vec()), "read the seccomp filter"),
        (Some(ALLOW.repeat(4097)), "read the seccomp filter"),
        // It does not end.
        (Some(vec![0x20, 0, 0, 0, 0, 0, 0, 0]), "load the seccomp filter"),
    ] {
        let failure = launch_with(content.as_deref()).expect_err(step);
        assert_eq!(failure.step, step, "{failure}");
    }
    let mut monitor = TestMonitor::start();
    let container = Image::new(monitor.directory.path()).shell(1, "true");
    let mut plan = container.plan();
    plan.ops.insert(plan.ops.len() - 1, LOAD);
    let failure = monitor.try_launch(&container.process, &plan, &[]).expect_err("nothing was read");
    assert_eq!(failure.step, "load the seccomp filter");
}

/// Whatever the kernel has: there is no such profile.
#[test]
fn a_label_that_cannot_be_had_lets_nothing_start() {
    let mut monitor = TestMonitor::start();
    let container = Image::new(monitor.directory.path()).shell(1, "true");
    for module in [SecurityModule::AppArmor, SecurityModule::Selinux] {
        let mut plan = container.plan();
        plan.ops.insert(0, Op::SetExecLabel { module, label: "podbox-test-nobody".to_owned() });
        let failure = monitor.try_launch(&container.process, &plan, &[]).expect_err("no such label");
        assert!(failure.step.contains("podbox-test-nobody"), "{failure}");
    }
}
