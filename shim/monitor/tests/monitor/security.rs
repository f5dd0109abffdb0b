//! Who the program is and what it may: exactly what the plan says.

use crate::support::{FEW_CAPABILITIES, Image, TestMonitor, exec_plan, log_lines, status_of, until};
use podbox_plan::{CapabilitySets, Op, ProcessRef};
use std::os::fd::AsFd;

const CAP_SYS_RESOURCE: u32 = 24;

fn masks(pid: i32) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| u64::from_str_radix(&status_of(pid, set), 16).expect("a mask"))
}

#[test]
fn capabilities_are_exactly_those_of_the_plan_at_start_and_in_exec() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let net_bind = 1 << 10;
    for (number, uid, sets, expected) in [
        // Root gets its permitted set from the bounding set at exec.
        (
            1,
            0,
            CapabilitySets { bounding: FEW_CAPABILITIES, permitted: FEW_CAPABILITIES, ambient: 0 },
            [0, FEW_CAPABILITIES, FEW_CAPABILITIES, FEW_CAPABILITIES, 0],
        ),
        (2, 0, CapabilitySets::default(), [0; 5]),
        // Others get theirs from the ambient set alone.
        (3, 1000, CapabilitySets { bounding: FEW_CAPABILITIES, permitted: FEW_CAPABILITIES, ambient: 0 }, [0, 0, 0, FEW_CAPABILITIES, 0]),
        (
            4,
            1000,
            CapabilitySets { bounding: net_bind, permitted: net_bind, ambient: net_bind },
            [net_bind, net_bind, net_bind, net_bind, net_bind],
        ),
    ] {
        let mut container = image.container(number, &["sleep", "1000"]);
        container.user = (uid, uid, vec![]);
        container.capabilities = sets;
        let launched = monitor.launch(&container.process, &container.plan());
        assert_eq!(masks(launched.pid), expected, "container {number}");
        let mut plan = exec_plan(&container.process, "exec sleep 1000");
        for op in &mut plan.ops {
            if let Op::Credentials { uid: exec_uid, capabilities, .. } = op {
                (*exec_uid, *capabilities) = (uid, sets);
            }
        }
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        let exec = ProcessRef::Exec(number.into());
        let in_exec = monitor.try_launch(&exec, &plan, &[null.as_fd(), null.as_fd(), null.as_fd()]).expect("exec");
        assert_eq!(masks(in_exec.pid), expected, "exec {number}");
    }
}

#[test]
fn a_capability_that_the_host_does_not_have_is_named() {
    let held = u64::from_str_radix(&status_of(std::process::id().try_into().expect("a pid"), "CapPrm"), 16).expect("a mask");
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "true");
    // The last one is no capability anywhere; others are missing where podbox itself is confined.
    let missing = if held & (1 << CAP_SYS_RESOURCE) == 0 { CAP_SYS_RESOURCE } else { 63 };
    container.capabilities.permitted |= 1 << missing;
    let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("not there");
    assert_eq!(failure.step, "become user 0 and group 0");
    assert_eq!(failure.reason, format!("this host does not have the capability number {missing} to give"));
}

#[test]
fn ids_and_groups_are_those_of_the_plan_and_none_is_inherited() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    for (number, user, groups) in
        [(1, (0, 0, vec![]), ""), (2, (1000, 2000, vec![5, 3000]), "5 3000"), (3, (u32::MAX - 1, 1, vec![7]), "7")]
    {
        let mut container = image.container(number, &["sleep", "1000"]);
        container.user = user.clone();
        let pid = monitor.launch(&container.process, &container.plan()).pid;
        assert_eq!(status_of(pid, "Uid"), [user.0; 4].map(|id| id.to_string()).join("\t"));
        assert_eq!(status_of(pid, "Gid"), [user.1; 4].map(|id| id.to_string()).join("\t"));
        assert_eq!(status_of(pid, "Groups"), groups);
    }
    for user in [(u32::MAX, 0, vec![]), (0, u32::MAX, vec![]), (0, 0, vec![u32::MAX])] {
        let mut container = image.shell(9, "true");
        container.user = user;
        let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("no id");
        assert_eq!(failure.reason, "4294967295 is no user or group id");
    }
}

#[test]
fn no_new_privs_is_set_where_it_is_asked_for() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    for (number, wanted) in [(1, true), (2, false)] {
        let mut container = image.container(number, &["sleep", "1000"]);
        container.no_new_privileges = wanted;
        let pid = monitor.launch(&container.process, &container.plan()).pid;
        assert_eq!(status_of(pid, "NoNewPrivs"), u8::from(wanted).to_string());
    }
}

#[test]
fn signals_are_as_a_program_expects_them() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.container(1, &["sleep", "1000"]);
    let pid = monitor.launch(&container.process, &container.plan()).pid;
    for set in ["SigBlk", "SigIgn"] {
        assert_eq!(status_of(pid, set), "0000000000000000", "{set}");
    }
}

#[test]
fn a_working_directory_by_a_magic_link_is_refused_and_one_that_is_missing_is_made() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    for descriptor in 0..64 {
        for create in [false, true] {
            let mut container = image.shell(1, "true");
            container.workdir = (format!("/proc/self/fd/{descriptor}").into(), create);
            let launched = monitor.try_launch(&container.process, &container.plan(), &[]);
            assert!(launched.is_err(), "descriptor {descriptor}, create {create}");
        }
    }
    let canary = monitor.path("canary");
    std::os::unix::fs::symlink(&canary, image.lower.join("to-the-host")).expect("symlink");
    let mut container = image.shell(2, "pwd; stat -c '%a %u' .");
    container.workdir = ("/to-the-host/app/data".into(), true);
    monitor.launch(&container.process, &container.plan());
    assert_eq!(monitor.exit_of(&container.process).exit_code, 0);
    assert!(!canary.exists());
    assert_eq!(log_lines(&container.log), [format!("stdout F {}/app/data", canary.display()), "stdout F 755 0".to_owned()]);
}

#[test]
fn a_container_cannot_write_the_program_it_was_started_from() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let (pause, program) = crate::support::pause_plan(monitor.directory.path(), podbox_plan::PidNamespace::New);
    monitor.try_launch(&ProcessRef::Pause, &pause, &[program.as_fd()]).expect("launch pause");
    // In the pod's PID namespace, pause and the newborns of execs are in sight.
    let attack = "while :; do for exe in /proc/[0-9]*/exe; do (echo x > $exe) 2> /dev/null && echo $exe $(readlink $exe); done; done";
    let mut attacker = image.shell(1, attack);
    attacker.pid = podbox_plan::PidNamespace::Of(ProcessRef::Pause);
    attacker.join_pause = true;
    attacker.capabilities = CapabilitySets { bounding: FEW_CAPABILITIES, permitted: FEW_CAPABILITIES, ambient: 0 };
    monitor.launch(&attacker.process, &attacker.plan());
    let own = std::fs::read(env!("CARGO_BIN_EXE_podbox-monitor")).expect("read the monitor");
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    for number in 0..50 {
        let exec = ProcessRef::Exec(number);
        let plan = exec_plan(&attacker.process, "true");
        monitor.try_launch(&exec, &plan, &[null.as_fd(), null.as_fd(), null.as_fd()]).expect("exec");
        monitor.exit_of(&exec);
    }
    assert_eq!(std::fs::read(env!("CARGO_BIN_EXE_podbox-monitor")).expect("read the monitor"), own);
    let written: Vec<_> = log_lines(&attacker.log).into_iter().filter(|line| !line.ends_with("/bin/busybox")).collect();
    assert_eq!(written, Vec::<String>::new());
}

#[test]
fn the_oom_score_is_the_plans_and_not_the_monitors() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.container(1, &["sleep", "1000"]);
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").expect("read");
    let adj = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("read");
    assert_eq!(adj(monitor.launch(&container.process, &container.plan()).pid), own);
    container = image.container(2, &["sleep", "1000"]);
    container.opened = vec![Op::SetOomScoreAdj { value: 987 }];
    assert_eq!(adj(monitor.launch(&container.process, &container.plan()).pid), "987\n");
}

#[test]
fn the_cgroup_namespace_begins_at_the_containers_cgroup() {
    let cgroup = crate::support::TestCgroup::new("pids");
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "grep :pids: /proc/self/cgroup; sleep 1000");
    container.cgroup.v1 = vec![cgroup.path().to_owned()];
    container.opened = vec![Op::NewCgroupNamespace];
    monitor.launch(&container.process, &container.plan());
    until("it has looked", || log_lines(&container.log).len() == 1);
    assert!(log_lines(&container.log)[0].ends_with(":pids:/"), "{:?}", log_lines(&container.log));
    monitor.signal(&container.process, 9, false);
    monitor.exit_of(&container.process);
}
