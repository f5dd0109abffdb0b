//! Standard streams: what is connected, and that nothing else is.

use crate::support::{Image, TestMonitor, log_lines, until};
use podbox_plan::{NodeKind, Op, Stdio};
use std::os::fd::AsFd;

#[test]
fn a_container_has_descriptors_0_to_2_and_no_other() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    // The shell lists its own: what another program opens to look does not count.
    let container = image.shell(1, "echo /proc/self/fd/*; readlink /proc/self/fd/0");
    monitor.launch(&container.process, &container.plan());
    monitor.exit_of(&container.process);
    let lines = log_lines(&container.log);
    // One more is the directory that the shell itself has open while it expands the pattern.
    assert!(lines[0].starts_with("stdout F /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3"), "{lines:?}");
    assert_eq!(lines[0].split(' ').count(), 6, "{lines:?}");
    assert_eq!(lines[1], "stdout F /dev/null");
    let idle = image.container(2, &["sleep", "1000"]);
    let launched = monitor.launch(&idle.process, &idle.plan());
    let open = std::fs::read_dir(format!("/proc/{}/fd", launched.pid)).expect("fd").count();
    assert_eq!(open, 3);
}

#[test]
fn input_stays_open_where_it_is_asked_for_and_is_at_its_end_where_not() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    for (number, stdin, code) in [(1, false, 0), (2, true, 143)] {
        let mut container = image.shell(number, "timeout 0.3 cat; exit $?");
        container.stdio = Some(Stdio::Piped { stdin, log: container.log_target() });
        monitor.launch(&container.process, &container.plan());
        assert_eq!(monitor.exit_of(&container.process).exit_code, code);
    }
}

#[test]
fn an_unprivileged_user_can_open_its_output_by_name() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "echo by-name > /dev/stdout; echo too > /proc/self/fd/2");
    container.user = (1234, 5678, vec![]);
    container.capabilities = podbox_plan::CapabilitySets::default();
    monitor.launch(&container.process, &container.plan());
    assert_eq!(monitor.exit_of(&container.process).exit_code, 0);
    assert_eq!(log_lines(&container.log), ["stdout F by-name", "stderr F too"]);
}

#[test]
fn a_terminal_is_the_containers_own_and_its_output_is_logged() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let script = "tty; test -c /dev/console && echo by-console > /dev/console; stat -c '%u %g' $(tty); echo late; exit 4";
    let mut container = image.shell(1, script);
    container.user = (1234, 1234, vec![]);
    container.stdio = Some(Stdio::Terminal { log: container.log_target() });
    monitor.launch(&container.process, &container.plan());
    assert_eq!(monitor.exit_of(&container.process).exit_code, 4);
    let lines: Vec<String> = log_lines(&container.log).iter().map(|line| line.trim_end_matches('\r').to_owned()).collect();
    assert_eq!(lines, ["stdout F /dev/pts/0", "stdout F by-console", "stdout F 1234 5", "stdout F late"]);
    until("the terminal is closed", || !monitor.open_descriptors().iter().any(|link| link.contains("ptmx")));
}

#[test]
fn a_terminal_controls_its_session() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "exec 3< /dev/tty && echo controlled; sleep 1000");
    container.in_root = vec![Op::MakeNode(podbox_plan::DeviceNode {
        path: "/dev/tty".into(),
        kind: NodeKind::CharDevice { mode: 0o666, major: 5, minor: 0, uid: 0, gid: 0 },
    })];
    container.stdio = Some(Stdio::Terminal { log: container.log_target() });
    let launched = monitor.launch(&container.process, &container.plan());
    until("the terminal controls", || log_lines(&container.log) == ["stdout F controlled\r"]);
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", launched.pid)).expect("stat");
    let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    // Process group and session are its own.
    assert_eq!((fields[2], fields[3]), (launched.pid.to_string().as_str(), launched.pid.to_string().as_str()));
}

#[test]
fn a_null_device_that_is_something_else_is_refused() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    for kind in [
        NodeKind::CharDevice { mode: 0o666, major: 1, minor: 5, uid: 0, gid: 0 },
        NodeKind::Directory { mode: 0o755 },
        NodeKind::Symlink { to: "/proc/sysrq-trigger".into() },
    ] {
        let container = image.shell(1, "true");
        let mut plan = container.plan();
        for op in &mut plan.ops {
            if let Op::MakeNode(node) = op
                && node.path == std::path::Path::new("/dev/null")
            {
                node.kind = kind.clone();
            }
        }
        let failure = monitor.try_launch(&container.process, &plan, &[]).expect_err("no null device");
        assert_eq!(failure.step, "connect the standard streams");
    }
}

#[test]
fn passed_descriptors_become_the_streams() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "cat; echo error >&2");
    container.stdio = Some(Stdio::Passed { stdin: Some(2), stdout: Some(0), stderr: Some(1) });
    let (output, stdout) = std::io::pipe().expect("pipe");
    let (errors, stderr) = std::io::pipe().expect("pipe");
    let (stdin, mut input) = std::io::pipe().expect("pipe");
    monitor.try_launch(&container.process, &container.plan(), &[stdout.as_fd(), stderr.as_fd(), stdin.as_fd()]).expect("launch");
    drop((stdout, stderr, stdin));
    std::io::Write::write_all(&mut input, b"through").expect("write");
    drop(input);
    assert_eq!(std::io::read_to_string(output).expect("read"), "through");
    assert_eq!(std::io::read_to_string(errors).expect("read"), "error\n");
    // Descriptors that are not there are named.
    let failure = monitor.try_launch(&image.shell(2, "true").process, &container.plan(), &[]).expect_err("no descriptors");
    assert_eq!(failure.reason, "descriptor 2 did not come with the launch");
}
