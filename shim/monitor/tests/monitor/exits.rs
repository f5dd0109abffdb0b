//! How processes end, and what is known of it afterwards.

use crate::support::{Image, TestCgroup, TestMonitor, exec_plan, log_lines, pause_plan, record_at, until};
use podbox_plan::wire::{ReplyBody, RequestBody};
use podbox_plan::{CgroupEntry, PidNamespace, ProcessRef};
use std::os::fd::AsFd;

#[test]
fn exit_codes_and_signals_are_what_a_shell_would_show_and_on_disk() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    // A process that is PID 1 dies by no signal of its own namespace, so a child of it does.
    for (number, script, code) in [(1, "exit 0", 0), (2, "exit 3", 3), (3, "exit 255", 255), (4, "sh -c 'kill -15 $$'; exit $?", 143)] {
        let container = image.shell(number, script);
        monitor.launch(&container.process, &container.plan());
        let record = monitor.exit_of(&container.process);
        assert_eq!((record.exit_code, record.signal, record.oom_killed), (code, None, false), "{script}");
        assert!(record.finished_at_ns >= record.started_at_ns && record.started_at_ns > 0);
        assert_eq!(record_at(&container.record), Some(record));
    }
    let container = image.shell(5, "sleep 1000");
    monitor.launch(&container.process, &container.plan());
    assert_eq!(monitor.signal(&container.process, 0, false), ReplyBody::Done);
    assert_eq!(monitor.signal(&container.process, 9, false), ReplyBody::Done);
    let record = monitor.exit_of(&container.process);
    assert_eq!((record.exit_code, record.signal), (137, Some(9)));
    assert_eq!(monitor.signal(&container.process, 9, false), ReplyBody::NotRunning);
    assert_eq!(monitor.state(), []);
}

#[test]
fn a_trapped_signal_reaches_pid_1_real_time_signals_too() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    for (number, signal) in [(1, 15), (2, 34), (3, 64)] {
        let container = image.shell(number, &format!("trap 'exit 9' {signal}; echo ready; while :; do sleep 0.05; done"));
        monitor.launch(&container.process, &container.plan());
        until("the trap is set", || log_lines(&container.log) == ["stdout F ready"]);
        assert_eq!(monitor.signal(&container.process, signal, false), ReplyBody::Done);
        assert_eq!(monitor.exit_of(&container.process).exit_code, 9);
    }
    for bad in [-1, 65, i32::MAX] {
        assert!(matches!(monitor.signal(&ProcessRef::Pause, bad, false), ReplyBody::Refused { .. }));
    }
}

#[test]
fn a_memory_kill_is_recorded_as_one() {
    let cgroup = TestCgroup::new("memory");
    cgroup.set("memory.limit_in_bytes", "8388608");
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let entry = CgroupEntry {
        v1: vec![cgroup.path().to_owned()],
        oom_counter: Some(cgroup.path().join("memory.oom_control")),
        ..CgroupEntry::default()
    };
    let mut eater = image.shell(1, "exec tail /dev/zero");
    eater.cgroup = entry.clone();
    monitor.launch(&eater.process, &eater.plan());
    let record = monitor.exit_of(&eater.process);
    assert_eq!((record.exit_code, record.signal, record.oom_killed), (137, Some(9), true));
    assert!(record_at(&eater.record).is_some_and(|record| record.oom_killed));
    // The counter stays, and is not held against the next.
    let mut modest = image.shell(2, "true");
    modest.cgroup = entry;
    monitor.launch(&modest.process, &modest.plan());
    assert!(!monitor.exit_of(&modest.process).oom_killed);
}

#[test]
fn what_a_container_leaves_in_its_cgroup_is_killed_where_the_kernel_does_not() {
    for hierarchy in ["pids", "unified"] {
        let cgroup = TestCgroup::new(hierarchy);
        let mut monitor = TestMonitor::start();
        let image = Image::new(monitor.directory.path());
        let mut container = image.shell(1, "sleep 1000 & sleep 1000 & echo ready; read x; exit 0");
        container.pid = PidNamespace::Host;
        container.stdio = Some(podbox_plan::Stdio::Piped { stdin: true, log: container.log_target() });
        container.cgroup.kill_rest_on_exit = true;
        if hierarchy == "unified" {
            container.cgroup.unified = Some(cgroup.path().to_owned());
        } else {
            container.cgroup.v1 = vec![cgroup.path().to_owned()];
        }
        let launched = monitor.launch(&container.process, &container.plan());
        until("all are there", || log_lines(&container.log).len() == 1 && cgroup.members().len() == 3);
        assert!(cgroup.members().contains(&launched.pid));
        monitor.signal(&container.process, 9, false);
        assert_eq!(monitor.exit_of(&container.process).exit_code, 137);
        until("the rest is gone", || cgroup.members().is_empty());
    }
}

#[test]
fn without_a_daemon_a_container_goes_on_and_its_end_is_recorded() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "echo one; while ! test -e /tmp/go; do sleep 0.05; done; echo two; exit 7");
    let launched = monitor.launch(&container.process, &container.plan());
    monitor.disconnect();
    // Through the container's own root: the upper directory is the overlay's while it is mounted.
    std::fs::write(format!("/proc/{}/root/tmp/go", launched.pid), "").expect("write");
    until("the end is recorded", || record_at(&container.record).is_some());
    assert_eq!(record_at(&container.record).map(|record| record.exit_code), Some(7));
    assert_eq!(log_lines(&container.log), ["stdout F one", "stdout F two"]);
    // Nothing is left to watch, and nobody there who could ask for more.
    monitor.wait_for_its_end();
}

#[test]
fn a_next_daemon_finds_what_runs_under_the_same_names() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "sleep 1000");
    let launched = monitor.launch(&container.process, &container.plan());
    monitor.connect();
    let state = monitor.state();
    assert_eq!(state.len(), 1);
    assert_eq!((&state[0].process, state[0].pid, state[0].started_at_ns), (&container.process, launched.pid, launched.started_at_ns));
    monitor.signal(&container.process, 9, false);
    assert_eq!(monitor.exit_of(&container.process).signal, Some(9));
}

#[test]
fn the_death_of_pause_is_told_and_leaves_containers_with_their_own_pid_namespace() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let (plan, program) = pause_plan(monitor.directory.path(), PidNamespace::Host);
    let pause = monitor.try_launch(&ProcessRef::Pause, &plan, &[program.as_fd()]).expect("launch pause");
    let mut container = image.shell(1, "sleep 1000");
    container.join_pause = true;
    monitor.launch(&container.process, &container.plan());
    rustix::process::kill_process(rustix::process::Pid::from_raw(pause.pid).expect("a pid"), rustix::process::Signal::KILL).expect("kill");
    let record = monitor.exit_of(&ProcessRef::Pause);
    assert_eq!((record.exit_code, record.signal), (137, Some(9)));
    assert_eq!(record_at(&monitor.path("pause-exit.json")), Some(record));
    let state = monitor.state();
    assert_eq!(state.iter().map(|running| &running.process).collect::<Vec<_>>(), [&container.process]);
}

#[test]
fn orphans_of_the_pod_are_reaped_by_the_monitor() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "sh -c 'sleep 0.2 & echo $!' > /tmp/orphan; sleep 1000");
    container.pid = PidNamespace::Host;
    monitor.launch(&container.process, &container.plan());
    let orphan_file = container.state.join("upper/tmp/orphan");
    until("the orphan is known", || std::fs::read_to_string(&orphan_file).is_ok_and(|text| text.ends_with('\n')));
    let orphan = std::fs::read_to_string(&orphan_file).expect("read");
    until("the orphan is reaped", || !std::path::Path::new("/proc").join(orphan.trim()).exists());
}

#[test]
fn the_monitor_ends_only_when_nothing_runs() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "sleep 1000");
    monitor.launch(&container.process, &container.plan());
    let (answer, _) = monitor.request(RequestBody::Shutdown, &[]);
    assert!(matches!(answer, ReplyBody::Refused { .. }));
    monitor.signal(&container.process, 9, false);
    monitor.exit_of(&container.process);
    assert_eq!(monitor.request(RequestBody::Shutdown, &[]).0, ReplyBody::Done);
    assert_eq!(monitor.wait_for_end(), Some(0));
}

#[test]
fn an_exec_is_over_when_its_group_is_killed() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "sleep 1000");
    monitor.launch(&container.process, &container.plan());
    let exec = ProcessRef::Exec(1);
    let (reader, writer) = std::io::pipe().expect("pipe");
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let plan = exec_plan(&container.process, "sleep 1000 | cat; echo never");
    monitor.try_launch(&exec, &plan, &[null.as_fd(), writer.as_fd(), writer.as_fd()]).expect("exec");
    drop(writer);
    assert_eq!(monitor.signal(&exec, 9, true), ReplyBody::Done);
    assert_eq!(monitor.exit_of(&exec).signal, Some(9));
    // The whole group is gone when nobody has the pipe any more.
    assert_eq!(std::io::read_to_string(reader).expect("read"), "");
    assert_eq!(monitor.state().len(), 1);
}
