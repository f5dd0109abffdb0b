//! The conversation: nothing that a daemon says or does not say hurts the monitor or what runs.

use crate::support::{Image, TestCgroup, TestMonitor, record_at, until};
use podbox_plan::wire::{LaunchFailure, PACKET_BYTES_MAX, ReplyBody, RequestBody, VERSION_MAX, VERSION_MIN, WireError};
use podbox_plan::{CgroupEntry, Op, ProcessRef};
use rustix::net::SendFlags;
use std::os::fd::AsFd;

#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "sleep 1000");
    monitor.launch(&container.process, &container.plan());
    for garbage in [&b"garbage"[..], b"{}", b"memfd", b"{\"id\":1,\"body\":\"Nonsense\"}", &[b'1'; PACKET_BYTES_MAX + 1]] {
        rustix::net::send(monitor.socket(), garbage, SendFlags::NOSIGNAL).expect("send");
        assert!(matches!(monitor.receive(), Err(WireError::Closed)));
        monitor.connect();
        assert_eq!(monitor.state().len(), 1);
    }
}

#[test]
fn nothing_is_answered_before_hello_or_to_a_version_that_is_not_spoken() {
    let mut monitor = TestMonitor::start();
    // A monitor that watches nothing ends with its connection.
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "sleep 1000");
    monitor.launch(&container.process, &container.plan());
    for first in [RequestBody::State, RequestBody::Shutdown] {
        monitor.connect_silently();
        monitor.send(first, &[]);
        assert!(matches!(monitor.receive(), Err(WireError::Closed)));
    }
    for (version_min, version_max) in [(VERSION_MAX + 1, 99), (0, VERSION_MIN - 1)] {
        monitor.connect_silently();
        let (answer, _) = monitor.request(RequestBody::Hello { version_min, version_max }, &[]);
        assert_eq!(answer, ReplyBody::Refused { reason: format!("it speaks versions {VERSION_MIN} to {VERSION_MAX}") });
        assert!(matches!(monitor.receive(), Err(WireError::Closed)));
    }
    for (version_min, version_max, spoken) in
        [(0, 99, VERSION_MAX), (VERSION_MIN, VERSION_MIN, VERSION_MIN), (VERSION_MAX, 99, VERSION_MAX)]
    {
        monitor.connect_silently();
        let (answer, _) = monitor.request(RequestBody::Hello { version_min, version_max }, &[]);
        assert!(matches!(answer, ReplyBody::Hello { version, .. } if version == spoken), "{answer:?}");
    }
}

#[test]
fn a_new_connection_takes_the_place_of_the_old() {
    let mut monitor = TestMonitor::start();
    let old = monitor.socket().try_clone_to_owned().expect("dup");
    monitor.connect();
    assert!(matches!(podbox_plan::wire::receive::<podbox_plan::wire::MonitorMessage>(&old), Err(WireError::Closed)));
    assert_eq!(monitor.state(), []);
}

#[test]
fn a_daemon_that_does_not_read_is_cut_off_and_containers_do_not_notice() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "sleep 1000");
    monitor.launch(&container.process, &container.plan());
    // Answers fill the socket and then the queue, until nobody takes requests any more.
    let mut cut_off = false;
    for id in 0..100_000 {
        let request = podbox_plan::wire::Request { id, body: RequestBody::State };
        match podbox_plan::wire::send(monitor.socket(), &request, &[]) {
            Ok(()) => {}
            Err(WireError::Closed) => {
                cut_off = true;
                break;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(cut_off);
    monitor.connect();
    assert_eq!(monitor.state().len(), 1);
    monitor.signal(&container.process, 9, false);
    assert_eq!(monitor.exit_of(&container.process).signal, Some(9));
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "sleep 1000");
    monitor.launch(&container.process, &container.plan());
    let id = monitor.send_launch(&container.process, &container.plan(), &[]);
    assert!(matches!(monitor.answer(id).0, ReplyBody::Refused { .. }));
    assert_eq!(monitor.state().len(), 1);
}

#[test]
fn a_launch_larger_than_a_packet_arrives() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "exit ${#BIG}");
    container.environment.push(format!("BIG={}", "x".repeat(77)).as_str().into());
    for number in 0..1000 {
        container.environment.push(format!("VARIABLE_{number}={}", "y".repeat(100)).into());
    }
    monitor.launch(&container.process, &container.plan());
    assert_eq!(monitor.exit_of(&container.process).exit_code, 77);
}

/// A launch that hangs in the kernel: its child is born into a frozen cgroup.
fn frozen() -> TestCgroup {
    let cgroup = TestCgroup::new("unified");
    cgroup.set("cgroup.freeze", "1");
    cgroup
}

#[test]
fn a_launch_that_hangs_holds_up_nothing_else_and_can_be_killed() {
    let cgroup = frozen();
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut hanging = image.shell(1, "true");
    hanging.cgroup = CgroupEntry { unified: Some(cgroup.path().to_owned()), ..CgroupEntry::default() };
    let id = monitor.send_launch(&hanging.process, &hanging.plan(), &[]);
    let other = image.shell(2, "exit 3");
    monitor.launch(&other.process, &other.plan());
    assert_eq!(monitor.exit_of(&other.process).exit_code, 3);
    assert_eq!(monitor.state(), []);
    assert!(matches!(monitor.request(RequestBody::Shutdown, &[]).0, ReplyBody::Refused { .. }));
    assert_eq!(monitor.signal(&hanging.process, 15, false), ReplyBody::Done);
    let failure = monitor.launch_answer(id).expect_err("killed");
    assert_eq!(failure.reason, "it was killed by signal 9 before it became its program");
    assert_eq!(monitor.signal(&hanging.process, 9, false), ReplyBody::NotRunning);
    until("the cgroup is empty", || cgroup.members().is_empty());
}

#[test]
fn launches_of_a_daemon_that_is_gone_are_ended_and_can_be_asked_for_again() {
    let cgroup = frozen();
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "exit 8");
    let plain = container.plan();
    container.cgroup = CgroupEntry { unified: Some(cgroup.path().to_owned()), ..CgroupEntry::default() };
    monitor.send_launch(&container.process, &container.plan(), &[]);
    until("it hangs", || cgroup.members().len() == 1);
    monitor.connect();
    monitor.launch(&container.process, &plain);
    assert_eq!(monitor.exit_of(&container.process).exit_code, 8);
    until("the first is gone", || cgroup.members().is_empty());
    assert_eq!(record_at(&container.record).map(|record| record.exit_code), Some(8));
}

#[test]
fn launches_leave_no_descriptor_and_no_process_behind() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let before = monitor.open_descriptors().len();
    let (null, file) = (std::fs::File::open("/dev/null").expect("open"), std::fs::File::open("/bin/busybox").expect("open"));
    for round in 0..20 {
        let mut container = image.shell(1, "exit 1");
        monitor.launch(&container.process, &container.plan());
        monitor.exit_of(&container.process);
        container.opened = vec![Op::OpenFromPause { slot: 0, path: "/".into() }];
        let _: LaunchFailure =
            monitor.try_launch(&container.process, &container.plan(), &[null.as_fd(), file.as_fd()]).expect_err("no pause");
        container.opened = vec![];
        container.stdio = Some(podbox_plan::Stdio::Terminal { log: None });
        monitor.launch(&container.process, &container.plan());
        monitor.exit_of(&container.process);
        let refused = monitor.send_launch(
            &ProcessRef::Exec(round),
            &podbox_plan::LaunchPlan { ops: vec![], ..container.plan() },
            &[null.as_fd(), file.as_fd()],
        );
        assert!(matches!(monitor.answer(refused).0, ReplyBody::Refused { .. }));
    }
    until("the descriptors are as before", || monitor.open_descriptors().len() == before);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", monitor.pid())).expect("children");
    assert_eq!(children, "");
}

#[test]
fn an_idle_monitor_does_nothing_and_holds_nothing_of_who_started_it() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "sleep 1000");
    monitor.launch(&container.process, &container.plan());
    let switches = |monitor: &TestMonitor| crate::support::status_of(monitor.pid(), "voluntary_ctxt_switches");
    // The answer to the launch was its last act.
    until("it has gone to sleep", || crate::support::status_of(monitor.pid(), "State").starts_with('S'));
    let before = switches(&monitor);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(switches(&monitor), before);
    let links = monitor.open_descriptors();
    assert_eq!(links.iter().filter(|link| *link == "/dev/null").count(), 3, "{links:?}");
    assert_eq!(std::fs::read_link(format!("/proc/{}/cwd", monitor.pid())).expect("cwd").to_str(), Some("/"));
}

#[test]
fn a_monitor_without_a_listening_socket_does_not_start() {
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_podbox-monitor"))
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .output()
        .expect("run");
    assert!(!status.status.success());
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(said.starts_with("podbox-monitor: take the listening socket from descriptor 0: "), "{said}");
}

#[test]
fn signals_that_end_other_programs_do_not_end_the_monitor() {
    let mut monitor = TestMonitor::start();
    for signal in [1, 2, 13, 15] {
        let pid = rustix::process::Pid::from_raw(monitor.pid()).expect("a pid");
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("pidfd");
        podbox_sys::send_signal(&pidfd, signal).expect("signal");
    }
    assert_eq!(monitor.state(), []);
}
