//! The container's file system: what is put together, and what of the host stays out of reach.

use crate::support::{ContainerPlan, Image, TestMonitor, leave_mount_namespace, log_lines, mount_tmpfs};
use podbox_plan::{BindPropagation, BindSource, DeviceNode, MountAttributes, NodeKind, Op, TargetKind};
use rustix::mount::{MountPropagationFlags, mount_change};
use std::os::unix::fs::symlink;
use std::path::Path;

fn bind(source: &Path) -> BindSource {
    BindSource {
        slot: 7,
        source: source.to_owned(),
        recursive: true,
        attributes: MountAttributes::default(),
        recursive_attributes: MountAttributes::default(),
        propagation: BindPropagation::Private,
        id_mapped: false,
    }
}

fn with_bind(mut container: ContainerPlan, source: BindSource, target: &str) -> ContainerPlan {
    container.in_root.push(Op::Attach { slot: source.slot, target: target.into(), kind: TargetKind::LikeSource });
    container.opened.push(Op::OpenBind(source));
    container
}

/// Runs a container to its end and gives what it said.
fn run(monitor: &mut TestMonitor, container: &ContainerPlan) -> Vec<String> {
    monitor.launch(&container.process, &container.plan());
    let record = monitor.exit_of(&container.process);
    let lines = log_lines(&container.log);
    assert_eq!(record.exit_code, 0, "{lines:?}");
    lines
}

#[test]
fn the_hosts_mount_table_is_the_same_while_a_container_runs_and_after() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let table = |monitor: &TestMonitor| std::fs::read_to_string(format!("/proc/{}/mountinfo", monitor.pid())).expect("mountinfo");
    let before = table(&monitor);
    let container = with_bind(image.shell(1, "sleep 1000"), bind(&image.lower), "/somewhere/new");
    monitor.launch(&container.process, &container.plan());
    assert_eq!(table(&monitor), before);
    monitor.signal(&container.process, 9, false);
    monitor.exit_of(&container.process);
    assert_eq!(table(&monitor), before);
}

#[test]
fn a_container_sees_its_mounts_and_nothing_of_the_host() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let lines = run(&mut monitor, &image.shell(1, "cut() { while read a b c d e f; do echo $e; done; }; cut < /proc/self/mountinfo"));
    assert_eq!(lines, ["stdout F /", "stdout F /proc", "stdout F /dev", "stdout F /dev/pts"]);
}

#[test]
fn the_image_is_below_and_writes_go_above() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let upper_layer = monitor.path("second-layer");
    std::fs::create_dir_all(upper_layer.join("etc")).expect("mkdir");
    std::fs::write(upper_layer.join("etc/second"), "second\n").expect("write");
    let mut container = image.shell(1, "cat /etc/image /etc/second; echo changed > /etc/image");
    container.overlay.lower.insert(0, upper_layer);
    assert_eq!(run(&mut monitor, &container), ["stdout F image", "stdout F second"]);
    assert_eq!(std::fs::read_to_string(image.lower.join("etc/image")).expect("read"), "image\n");
    assert_eq!(std::fs::read_to_string(container.state.join("upper/etc/image")).expect("read"), "changed\n");
}

#[test]
fn many_layers_with_long_names_and_separators_in_them_are_mounted() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "cat /etc/layer-*");
    let mut expected = vec![];
    for number in 10..70 {
        let layer = monitor.path(&format!("layers/{}:{number},x", "n".repeat(180)));
        std::fs::create_dir_all(layer.join("etc")).expect("mkdir");
        std::fs::write(layer.join(format!("etc/layer-{number}")), format!("{number}\n")).expect("write");
        container.overlay.lower.push(layer);
        expected.push(format!("stdout F {number}"));
    }
    assert_eq!(run(&mut monitor, &container), expected);
}

#[test]
fn a_start_that_failed_can_be_done_again_on_the_same_layer() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.container(1, &["/bin/missing"]);
    for _ in 0..3 {
        monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("no such program");
    }
    container.arguments = vec!["cat".into(), "/etc/image".into()];
    assert_eq!(run(&mut monitor, &container), ["stdout F image"]);
}

#[test]
fn a_bind_mount_brings_a_directory_or_a_file_with_its_attributes() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let (directory, file) = (monitor.path("volume"), monitor.path("hosts"));
    std::fs::create_dir(&directory).expect("mkdir");
    std::fs::write(&file, "127.0.0.1 localhost\n").expect("write");
    let mut hosts = bind(&file);
    (hosts.slot, hosts.attributes.read_only) = (8, true);
    let script = "echo data > /volume/deep/data; cat /etc/hosts; echo x > /etc/hosts || echo read-only";
    let container = with_bind(with_bind(image.shell(1, script), bind(&directory), "/volume/deep"), hosts, "/etc/hosts");
    let lines = run(&mut monitor, &container);
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("stdout")).collect::<Vec<_>>(),
        ["stdout F 127.0.0.1 localhost", "stdout F read-only"]
    );
    assert_eq!(std::fs::read_to_string(directory.join("data")).expect("read"), "data\n");
    assert_eq!(std::fs::read_to_string(&file).expect("read"), "127.0.0.1 localhost\n");
}

#[test]
fn recursive_read_only_reaches_the_mounts_below() {
    leave_mount_namespace();
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let volume = monitor.path("volume");
    std::fs::create_dir_all(volume.join("below")).expect("mkdir");
    mount_tmpfs(&volume.join("below"), c"size=64k");
    // The monitor was started before the mount, but in this namespace.
    for (number, recursive, expected) in [(1, false, "written"), (2, true, "refused")] {
        let mut source = bind(&volume);
        let read_only = MountAttributes { read_only: true, ..MountAttributes::default() };
        (if recursive { source.recursive_attributes = read_only } else { source.attributes = read_only });
        let script = "touch /v/x && exit 9; if touch /v/below/x; then echo written; else echo refused; fi";
        let lines = run(&mut monitor, &with_bind(image.shell(number, script), source, "/v"));
        assert_eq!(lines.last().map(String::as_str), Some(format!("stdout F {expected}").as_str()));
    }
}

#[test]
fn propagation_goes_the_ways_that_were_asked_for() {
    leave_mount_namespace();
    let directory = tempfile::tempdir().expect("temporary directory");
    let volume = directory.path().join("volume");
    std::fs::create_dir(&volume).expect("mkdir");
    mount_tmpfs(&volume, c"size=64k");
    mount_change(&volume, MountPropagationFlags::SHARED).expect("share");
    for name in ["from-host", "from-container"] {
        std::fs::create_dir(volume.join(name)).expect("mkdir");
    }
    let mut monitor = TestMonitor::start_in(directory);
    let image = Image::new(monitor.directory.path());
    for (number, propagation, in_container, on_host) in [
        (1, BindPropagation::Private, false, false),
        (2, BindPropagation::HostToContainer, true, false),
        (3, BindPropagation::Bidirectional, true, true),
    ] {
        let mut source = bind(&volume);
        source.propagation = propagation;
        let script = "mount -t tmpfs none /v/from-container || exit 9; echo ready; read x; test -e /v/from-host/mark && echo seen; true";
        let mut container = with_bind(image.shell(number, script), source, "/v");
        container.capabilities.permitted |= 1 << 21;
        container.capabilities.bounding |= 1 << 21;
        container.stdio = Some(podbox_plan::Stdio::Passed { stdin: Some(0), stdout: Some(1), stderr: Some(1) });
        let (stdin, writer) = std::io::pipe().expect("pipe");
        let (mut reader, stdout) = std::io::pipe().expect("pipe");
        use std::os::fd::AsFd;
        monitor.try_launch(&container.process, &container.plan(), &[stdin.as_fd(), stdout.as_fd()]).expect("launch");
        drop(stdout);
        let mut ready = [0; 6];
        std::io::Read::read_exact(&mut reader, &mut ready).expect("ready");
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        assert_eq!(mounts.contains("from-container"), on_host, "{propagation:?}");
        mount_tmpfs(&volume.join("from-host"), c"size=64k");
        std::fs::write(volume.join("from-host/mark"), "").expect("write");
        drop(writer);
        assert_eq!(std::io::read_to_string(reader).expect("read"), if in_container { "seen\n" } else { "" }, "{propagation:?}");
        assert_eq!(monitor.exit_of(&container.process).exit_code, 0);
        rustix::mount::unmount(volume.join("from-host"), rustix::mount::UnmountFlags::DETACH).expect("unmount");
    }
}

#[test]
fn propagation_that_the_source_cannot_give_is_an_error_that_says_so() {
    leave_mount_namespace();
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    for propagation in [BindPropagation::HostToContainer, BindPropagation::Bidirectional] {
        let mut source = bind(&image.lower);
        source.propagation = propagation;
        let container = with_bind(image.shell(1, "true"), source, "/v");
        let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("not shared");
        assert_eq!(failure.step, format!("open the mount source {}", image.lower.display()));
        assert!(failure.reason.contains("is on a mount that is not shared"), "{}", failure.reason);
    }
}

#[test]
fn an_images_symlink_does_not_take_a_bind_out_of_the_root() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let (volume, canary) = (monitor.path("volume"), monitor.path("canary"));
    std::fs::create_dir(&volume).expect("mkdir");
    std::fs::create_dir(&canary).expect("mkdir");
    let canary_text = canary.to_str().expect("UTF-8");
    let up = format!("../../../../../../../..{canary_text}");
    symlink(&canary, image.lower.join("absolute")).expect("symlink");
    symlink(&up, image.lower.join("up")).expect("symlink");
    symlink("absolute", image.lower.join("chain")).expect("symlink");
    symlink("/proc/1/root", image.lower.join("magic")).expect("symlink");
    symlink("loop", image.lower.join("loop")).expect("symlink");
    for (number, target) in [(1, "/absolute/made/here"), (2, "/up/made"), (3, "/chain"), (4, "/up")] {
        let script =
            format!("echo inside > {target}/file && cat {canary_text}/*/file {canary_text}/*/*/file {canary_text}/file 2> /dev/null; true");
        let container = with_bind(image.shell(number, &script), bind(&volume), target);
        // It lands at the same place below the root.
        assert_eq!(run(&mut monitor, &container), ["stdout F inside"], "{target}");
        assert_eq!(std::fs::read_dir(&canary).expect("read_dir").count(), 0, "{target}");
    }
    for target in ["/magic/tmp", "/loop/x", "relative", "/tmp/no/../such"] {
        let container = with_bind(image.shell(5, "true"), bind(&volume), target);
        let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err(target);
        assert_eq!(failure.step, format!("attach the mount {target}"));
    }
}

#[test]
fn a_symlinked_proc_or_dev_is_refused() {
    for name in ["proc", "dev"] {
        let mut monitor = TestMonitor::start();
        let image = Image::new(monitor.directory.path());
        std::fs::remove_dir(image.lower.join(name)).expect("rmdir");
        symlink("tmp", image.lower.join(name)).expect("symlink");
        let container = image.shell(1, "true");
        let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("a symbolic link");
        assert!(failure.step.ends_with(&format!("on /{name}")), "{}", failure.step);
        assert_eq!(failure.reason, "a symbolic link is in the way");
    }
}

#[test]
fn an_image_without_directories_gets_those_it_needs() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    for name in ["proc", "dev", "sys", "tmp"] {
        std::fs::remove_dir(image.lower.join(name)).expect("rmdir");
    }
    assert_eq!(run(&mut monitor, &image.shell(1, "stat -c '%n %a %u' /proc/self/.. /dev/null | tail -n 1")), ["stdout F /dev/null 666 0"]);
}

#[test]
fn a_bind_does_not_replace_a_switch_of_proc() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let file = monitor.path("file");
    std::fs::write(&file, "").expect("write");
    symlink("/proc/uptime", image.lower.join("etc/hosts")).expect("symlink");
    let container = with_bind(image.shell(1, "true"), bind(&file), "/etc/hosts");
    let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("into proc");
    assert_eq!((failure.step.as_str(), failure.reason.as_str()), ("attach the mount /etc/hosts", "it leads into a proc file system"));
}

#[test]
fn a_read_only_root_takes_no_writes_and_volumes_do() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let volume = monitor.path("volume");
    std::fs::create_dir(&volume).expect("mkdir");
    let script = "touch /etc/x 2> /dev/null || echo refused; touch /v/x && echo taken";
    let mut container = with_bind(image.shell(1, script), bind(&volume), "/v");
    container.last_in_root = vec![Op::ReadOnlyRoot];
    assert_eq!(run(&mut monitor, &container), ["stdout F refused", "stdout F taken"]);
}

#[test]
fn masked_and_read_only_paths_show_and_take_nothing() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let script = "cat /proc/timer_list /proc/kcore | head -c 1; ls -A /proc/bus /proc/acpi /root; \
                  for file in /proc/sys/kernel/domainname /proc/sysrq-trigger /root/x /tmp/x; do \
                  echo x > $file || echo $file; done 2> /dev/null";
    let mut container = image.shell(1, script);
    std::fs::write(image.lower.join("root/secret"), "").expect("write");
    for target in ["/proc/timer_list", "/proc/kcore", "/proc/bus", "/proc/acpi", "/root", "/not/there"] {
        container.last_in_root.push(Op::Mask { target: target.into() });
    }
    for target in ["/proc/sys", "/proc/sysrq-trigger", "/not/there"] {
        container.last_in_root.push(Op::ReadOnlyPath { target: target.into() });
    }
    let lines = run(&mut monitor, &container);
    let refused = ["/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/root/x"];
    let said: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("stdout F "))
        .filter(|line| line.starts_with("/proc/s") || line.ends_with("/x"))
        .collect();
    assert_eq!(said, refused, "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("secret")));
}

#[test]
fn nodes_have_the_mode_and_owner_of_the_plan_and_nothing_is_overwritten() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "stat -c '%F %a %u %g %t %T' /dev/sub/odd /dev/block; readlink /dev/fd");
    let node = |path: &str, kind| Op::MakeNode(DeviceNode { path: path.into(), kind });
    container.in_root = vec![
        node("/dev/sub/odd", NodeKind::CharDevice { mode: 0o622, major: 1, minor: 7, uid: 12, gid: 34 }),
        node("/dev/block", NodeKind::BlockDevice { mode: 0o600, major: 7, minor: 3, uid: 0, gid: 6 }),
        node("/dev/fd", NodeKind::Symlink { to: "/proc/self/fd".into() }),
        node("/dev/dir", NodeKind::Directory { mode: 0o1777 }),
    ];
    assert_eq!(
        run(&mut monitor, &container),
        ["stdout F character special file 622 12 34 1 7", "stdout F block special file 600 0 6 7 3", "stdout F /proc/self/fd"]
    );
    container.in_root.push(node("/dev/fd", NodeKind::Directory { mode: 0o755 }));
    let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("it is there");
    assert_eq!((failure.step.as_str(), failure.reason.as_str()), ("make /dev/fd", "file exists"));
}
