//! Which namespaces are shared and which are a process's own.

use crate::support::{Image, TestMonitor, exec_plan, log_lines, namespace_of, pause_plan, status_of, until};
use podbox_plan::{Op, PidNamespace, ProcessRef, TargetKind};
use std::os::fd::AsFd;

const OF_THE_POD: [&str; 3] = ["net", "ipc", "uts"];

#[test]
fn containers_share_the_pods_net_ipc_and_uts_and_have_their_own_mnt_and_pid() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let (plan, program) = pause_plan(monitor.directory.path(), PidNamespace::Host);
    let pause = monitor.try_launch(&ProcessRef::Pause, &plan, &[program.as_fd()]).expect("launch pause");
    for kind in OF_THE_POD {
        assert_ne!(namespace_of(pause.pid, kind), namespace_of(monitor.pid(), kind), "{kind}");
    }
    let mut pids = vec![];
    for number in [1, 2] {
        let mut container = image.shell(number, "echo $$ $(hostname); sleep 1000");
        container.join_pause = true;
        pids.push(monitor.launch(&container.process, &container.plan()).pid);
        until("the container is up", || log_lines(&container.log) == ["stdout F 1 the-pod"]);
    }
    for kind in OF_THE_POD {
        for pid in &pids {
            assert_eq!(namespace_of(*pid, kind), namespace_of(pause.pid, kind), "{kind}");
        }
    }
    for kind in ["mnt", "pid"] {
        let all: std::collections::BTreeSet<_> =
            [monitor.pid(), pause.pid, pids[0], pids[1]].map(|pid| namespace_of(pid, kind)).into_iter().collect();
        // Here pause has the host's PID namespace.
        assert_eq!(all.len(), if kind == "pid" { 3 } else { 4 }, "{kind}");
    }
    assert_eq!(namespace_of(pause.pid, "pid"), namespace_of(monitor.pid(), "pid"));
}

#[test]
fn the_answer_to_the_launch_of_pause_brings_its_network_namespace() {
    let mut monitor = TestMonitor::start();
    let (plan, program) = pause_plan(monitor.directory.path(), PidNamespace::Host);
    let pause = monitor.try_launch(&ProcessRef::Pause, &plan, &[program.as_fd()]).expect("launch pause");
    assert_eq!(pause.descriptors.len(), 1);
    let inode = rustix::fs::fstat(&pause.descriptors[0]).expect("fstat").st_ino;
    assert_eq!(format!("net:[{inode}]"), namespace_of(pause.pid, "net"));
}

#[test]
fn pause_runs_unprivileged_in_an_empty_root_with_nothing_open() {
    let mut monitor = TestMonitor::start();
    let (plan, program) = pause_plan(monitor.directory.path(), PidNamespace::New);
    let pause = monitor.try_launch(&ProcessRef::Pause, &plan, &[program.as_fd()]).expect("launch pause");
    let proc = std::path::PathBuf::from(format!("/proc/{}", pause.pid));
    assert_eq!(std::fs::read_dir(proc.join("fd")).expect("fd").count(), 0);
    let root: Vec<_> = std::fs::read_dir(proc.join("root")).expect("root").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(root, ["dev"]);
    assert_eq!(status_of(pause.pid, "Uid"), "65535\t65535\t65535\t65535");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status_of(pause.pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status_of(pause.pid, "NoNewPrivs"), "1");
    // It runs, and has come as far as waiting for signals: the first process of a PID namespace ignores those that it has not asked for.
    until("pause waits for signals", || status_of(pause.pid, "State").starts_with('S'));
    assert_eq!(monitor.signal(&ProcessRef::Pause, 15, false), podbox_plan::wire::ReplyBody::Done);
    assert_eq!(monitor.exit_of(&ProcessRef::Pause).exit_code, 0);
}

#[test]
fn sysctls_are_the_pods_and_not_the_hosts() {
    let host = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("the host's");
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let (plan, program) = pause_plan(monitor.directory.path(), PidNamespace::Host);
    monitor.try_launch(&ProcessRef::Pause, &plan, &[program.as_fd()]).expect("launch pause");
    let mut container = image.shell(1, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced");
    container.join_pause = true;
    monitor.launch(&container.process, &container.plan());
    assert_eq!(monitor.exit_of(&container.process).exit_code, 0);
    assert_eq!(log_lines(&container.log), ["stdout F 7", "stdout F 1"]);
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("the host's"), host);
}

#[test]
fn a_crafted_sysctl_leads_nowhere() {
    let mut monitor = TestMonitor::start();
    for key in ["../sysrq-trigger", "net/../../sysrq-trigger", "kernel.no_such_thing", ""] {
        let (mut plan, program) = pause_plan(monitor.directory.path(), PidNamespace::Host);
        plan.ops[1] = Op::SetSysctl { key: key.into(), value: "1".into() };
        let failure = monitor.try_launch(&ProcessRef::Pause, &plan, &[program.as_fd()]).expect_err(key);
        assert_eq!(failure.step, format!("set the sysctl {key}=1"));
    }
}

#[test]
fn a_pod_can_share_one_pid_namespace_that_pause_is_pid_1_of() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let (plan, program) = pause_plan(monitor.directory.path(), PidNamespace::New);
    let pause = monitor.try_launch(&ProcessRef::Pause, &plan, &[program.as_fd()]).expect("launch pause");
    let mut container = image.shell(1, "test $$ != 1 && head -n 1 /proc/1/status; sleep 1000");
    container.join_pause = true;
    container.pid = PidNamespace::Of(ProcessRef::Pause);
    let launched = monitor.launch(&container.process, &container.plan());
    until("pause is seen", || log_lines(&container.log) == ["stdout F Name:\tpause"]);
    assert_eq!(namespace_of(launched.pid, "pid"), namespace_of(pause.pid, "pid"));
    // The next container has one of its own again: the monitor came back.
    let own = image.shell(2, "echo $$");
    monitor.launch(&own.process, &own.plan());
    monitor.exit_of(&own.process);
    assert_eq!(log_lines(&own.log), ["stdout F 1"]);
    // With its PID 1 the whole namespace goes.
    monitor.signal(&ProcessRef::Pause, 9, false);
    assert_eq!(monitor.exit_of(&container.process).signal, Some(9));
}

#[test]
fn a_process_that_is_gone_has_no_namespaces_to_join() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "true");
    container.join_pause = true;
    let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("no pause");
    assert_eq!((failure.step.as_str(), failure.reason.as_str()), ("join the namespaces of pause", "pause is not running"));
    let failure = monitor.try_launch(&ProcessRef::Exec(1), &exec_plan(&container.process, "true"), &[]).expect_err("no container");
    assert_eq!(failure.step, format!("enter the PID namespace of {}", container.process));
}

#[test]
fn the_pods_shared_memory_is_one_for_all_containers() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let (plan, program) = pause_plan(monitor.directory.path(), PidNamespace::Host);
    monitor.try_launch(&ProcessRef::Pause, &plan, &[program.as_fd()]).expect("launch pause");
    // The second one's file is over the size of the pod's mount.
    for (number, script, code) in
        [(1, "echo kept > /dev/shm/file", 0), (2, "cat /dev/shm/file; dd if=/dev/zero of=/dev/shm/big bs=1k count=100", 1)]
    {
        let mut container = image.shell(number, script);
        container.join_pause = true;
        container.opened = vec![Op::OpenFromPause { slot: 0, path: "/dev/shm".into() }];
        container.in_root = vec![Op::Attach { slot: 0, target: "/dev/shm".into(), kind: TargetKind::Directory }];
        monitor.launch(&container.process, &container.plan());
        assert_eq!(monitor.exit_of(&container.process).exit_code, code, "{script}");
        assert!(number == 1 || log_lines(&container.log)[0] == "stdout F kept");
    }
}
