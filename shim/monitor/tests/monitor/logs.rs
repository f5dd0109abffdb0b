//! Log files: the format, and what happens when the disk or the reader does not play along.

use crate::support::{Image, Launched, TestMonitor, leave_mount_namespace, log_lines, mount_tmpfs, record_at, until};
use podbox_plan::wire::{ReplyBody, RequestBody};
use podbox_plan::{ContainerId, LogTarget, PidNamespace, ProcessRef, Stdio};
use std::path::Path;

fn container_id(process: &ProcessRef) -> ContainerId {
    match process {
        ProcessRef::Container(id) => id.clone(),
        other => panic!("no container: {other}"),
    }
}

/// Waits until the monitor has logged all that the process has written: it takes what is in the pipe and writes that out in one go,
/// and answers nobody meanwhile.
fn wait_until_taken(monitor: &mut TestMonitor, launched: &Launched) {
    let pipe = std::fs::OpenOptions::new().write(true).open(format!("/proc/{}/fd/1", launched.pid)).expect("the writing end");
    until("its output is taken", || rustix::io::ioctl_fionread(&pipe).expect("FIONREAD") == 0);
    drop(pipe);
    monitor.state();
}

#[test]
fn lines_have_time_stream_and_tag_and_a_last_one_without_newline_is_partial() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "echo out; echo err >&2; echo; echo -n unfinished");
    let launched = monitor.launch(&container.process, &container.plan());
    monitor.exit_of(&container.process);
    let mut lines = log_lines(&container.log);
    // The streams are two pipes, so only each one's own order is known.
    lines.sort_by_key(|line| line.starts_with("stderr"));
    assert_eq!(lines, ["stdout F out", "stdout F ", "stdout P unfinished", "stderr F err"]);
    let text = std::fs::read_to_string(&container.log).expect("read");
    for line in text.lines() {
        let time = line.split(' ').next().expect("a time");
        let (seconds, nanos) = time.split_once('.').expect("fractions");
        assert_eq!((seconds.len(), nanos.len(), &nanos[9..]), (19, 10, "Z"), "{time}");
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&container.log).expect("metadata"));
    assert_eq!(mode & 0o7777, 0o640);
    assert!(launched.started_at_ns > 0);
}

#[test]
fn a_long_line_comes_in_pieces_of_16_kib_and_whole() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "head -c 40000 /dev/zero | tr '\\0' x; echo; echo next");
    monitor.launch(&container.process, &container.plan());
    monitor.exit_of(&container.process);
    let lines = log_lines(&container.log);
    let pieces: Vec<_> = lines.iter().map(|line| (&line[7..8], line.len() - "stdout P ".len())).collect();
    assert_eq!(pieces, [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384), ("F", 4)]);
}

#[test]
fn a_flood_of_lines_is_logged_to_the_last() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "seq 1 200000");
    monitor.launch(&container.process, &container.plan());
    assert_eq!(monitor.exit_of(&container.process).log_bytes_lost, 0);
    let lines = log_lines(&container.log);
    assert_eq!(lines.len(), 200_000);
    assert!(lines.iter().zip(1..).all(|(line, number)| *line == format!("stdout F {number}")));
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file_and_loses_nothing() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "n=0; while ! test -e /tmp/stop; do n=$((n+1)); echo $n; done; echo $n > /tmp/last");
    let launched = monitor.launch(&container.process, &container.plan());
    let rotated = container.state.join("log.1");
    until("there are lines", || log_lines(&container.log).len() > 100);
    std::fs::rename(&container.log, &rotated).expect("rename");
    let reopen = RequestBody::ReopenLog { container: container_id(&container.process) };
    assert_eq!(monitor.request(reopen.clone(), &[]).0, ReplyBody::Done);
    until("there are lines in the new file", || !log_lines(&container.log).is_empty());
    std::fs::write(format!("/proc/{}/root/tmp/stop", launched.pid), "").expect("write");
    monitor.exit_of(&container.process);
    let mut lines = log_lines(&rotated);
    lines.extend(log_lines(&container.log));
    let last: usize = std::fs::read_to_string(container.state.join("upper/tmp/last")).expect("read").trim().parse().expect("a number");
    assert_eq!(lines.len(), last);
    assert!(lines.iter().zip(1..).all(|(line, number)| *line == format!("stdout F {number}")));
    assert_eq!(monitor.request(reopen, &[]).0, ReplyBody::NotRunning);
}

#[test]
fn a_log_that_cannot_be_reopened_stays_and_nothing_is_made() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "read x; echo end");
    container.log = monitor.path("logs/container/0.log");
    std::fs::create_dir_all(monitor.path("logs/container")).expect("mkdir");
    container.stdio = Some(Stdio::Passed { stdin: Some(0), stdout: None, stderr: None });
    container.stdio = Some(Stdio::Piped { stdin: true, log: container.log_target() });
    monitor.launch(&container.process, &container.plan());
    std::fs::rename(monitor.path("logs/container"), monitor.path("logs/moved")).expect("rename");
    let reopen = RequestBody::ReopenLog { container: container_id(&container.process) };
    assert!(matches!(monitor.request(reopen, &[]).0, ReplyBody::Refused { .. }));
    assert!(!monitor.path("logs/container").exists());
    assert_eq!(std::fs::read_dir(monitor.path("logs/moved")).expect("read_dir").count(), 1);
}

#[test]
fn a_full_disk_stops_the_log_and_not_the_container() {
    leave_mount_namespace();
    let directory = tempfile::tempdir().expect("temporary directory");
    let small = directory.path().join("small");
    std::fs::create_dir(&small).expect("mkdir");
    mount_tmpfs(&small, c"size=64k");
    let mut monitor = TestMonitor::start_in(directory);
    let image = Image::new(monitor.directory.path());
    let script = "seq 1 100000; touch /tmp/done; while ! test -e /tmp/go; do sleep 0.05; done; echo last";
    let mut container = image.shell(1, script);
    container.log = small.join("log");
    let launched = monitor.launch(&container.process, &container.plan());
    let inside = |name: &str| format!("/proc/{}/root/tmp/{name}", launched.pid);
    until("the flood is over", || Path::new(&inside("done")).exists());
    wait_until_taken(&mut monitor, &launched);
    let before = log_lines(&container.log);
    assert!(!before.is_empty() && before.len() < 100_000);
    assert!(before.iter().zip(1..).all(|(line, number)| *line == format!("stdout F {number}")), "torn or out of order");
    // With room again it goes on with whole lines.
    rustix::mount::mount_remount(&small, rustix::mount::MountFlags::empty(), c"size=16m").expect("remount");
    std::fs::write(inside("go"), "").expect("write");
    let record = monitor.exit_of(&container.process);
    assert_eq!(record.exit_code, 0);
    assert!(record.log_bytes_lost > 1_000_000, "{}", record.log_bytes_lost);
    assert_eq!(log_lines(&container.log).last().map(String::as_str), Some("stdout F last"));
    assert_eq!(record_at(&container.record), Some(record));
}

#[test]
fn output_that_somebody_holds_open_does_not_delay_the_exit() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "echo before; sleep 1000 & echo $! > /tmp/holder; exit 5");
    // In the host's PID namespace nobody kills the child that holds the pipes.
    container.pid = PidNamespace::Host;
    monitor.launch(&container.process, &container.plan());
    let record = monitor.exit_of(&container.process);
    assert_eq!(record.exit_code, 5);
    assert_eq!(log_lines(&container.log), ["stdout F before"]);
    assert_eq!(record_at(&container.record), Some(record));
    let holder: i32 = std::fs::read_to_string(container.state.join("upper/tmp/holder")).expect("read").trim().parse().expect("a pid");
    let pidfd = rustix::process::pidfd_open(rustix::process::Pid::from_raw(holder).expect("a pid"), rustix::process::PidfdFlags::empty())
        .expect("the holder lives on");
    until("the pipes are let go of", || !monitor.open_descriptors().iter().any(|link| link.starts_with("pipe:")));
    podbox_sys::send_signal(&pidfd, 9).expect("kill the holder");
}

#[test]
fn what_a_child_writes_right_after_the_exit_is_still_logged() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "sh -c 'while test -d /proc/$PPID/fd/0/..; do :; done; sleep 0.1; echo after' & exit 0");
    container.pid = PidNamespace::Host;
    monitor.launch(&container.process, &container.plan());
    monitor.exit_of(&container.process);
    until("the late line is there", || log_lines(&container.log) == ["stdout F after"]);
}

#[test]
fn a_log_that_cannot_be_opened_is_a_launch_that_failed() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "true");
    container.stdio = Some(Stdio::Piped { stdin: false, log: Some(LogTarget { path: monitor.path("no/such/log") }) });
    let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("no directory");
    assert_eq!((failure.step, failure.errno), (format!("open the log {}", monitor.path("no/such/log").display()), 2));
}
