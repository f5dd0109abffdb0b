//! Programs: how they are found, what stops them, and executing in a container that runs.

use crate::support::{Image, TestCgroup, TestMonitor, exec_plan, log_lines, namespace_of, pause_plan, until};
use podbox_plan::wire::ReplyBody;
use podbox_plan::{CgroupEntry, Op, PidNamespace, ProcessRef, Program, Stdio};
use std::io::{PipeReader, Write};
use std::os::fd::AsFd;

fn read_all(reader: PipeReader) -> String {
    std::io::read_to_string(reader).expect("read")
}

#[test]
fn an_exec_runs_in_the_containers_namespaces_and_cgroup() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let (pids, unified) = (TestCgroup::new("pids"), TestCgroup::new("unified"));
    let (pause, program) = pause_plan(monitor.directory.path(), PidNamespace::Host);
    monitor.try_launch(&ProcessRef::Pause, &pause, &[program.as_fd()]).expect("launch pause");
    let mut container = image.shell(1, "sleep 1000");
    container.join_pause = true;
    container.cgroup = CgroupEntry { unified: Some(unified.path().to_owned()), v1: vec![pids.path().to_owned()], ..CgroupEntry::default() };
    let launched = monitor.launch(&container.process, &container.plan());
    let mut plan = exec_plan(&container.process, "sleep 1000");
    plan.cgroup = container.cgroup.clone();
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let in_exec = monitor.try_launch(&ProcessRef::Exec(1), &plan, &[null.as_fd(), null.as_fd(), null.as_fd()]).expect("exec");
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        assert_eq!(namespace_of(in_exec.pid, kind), namespace_of(launched.pid, kind), "{kind}");
    }
    let mut members = pids.members();
    members.sort_unstable();
    let mut both = [launched.pid, in_exec.pid];
    both.sort_unstable();
    assert_eq!(members, both);
    let own = unified.path().join("exec-1");
    assert_eq!(unified.members(), [launched.pid]);
    assert_eq!(std::fs::read_to_string(own.join("cgroup.procs")).expect("the command's"), format!("{}\n", in_exec.pid));
    // With the container's PID 1 the exec goes too, and both ends are told.
    monitor.signal(&container.process, 9, false);
    assert_eq!(monitor.exit_of(&ProcessRef::Exec(1)).signal, Some(9));
    assert!(monitor.exit_of(&container.process).killed_on_request);
    until("the command's cgroup is gone", || !own.exists());
}

/// In both hierarchies that a command's cgroup can stand in.
#[test]
fn a_command_is_killed_with_all_it_started_and_leaves_no_cgroup() {
    for hierarchy in ["unified", "freezer"] {
        let mut monitor = TestMonitor::start();
        let image = Image::new(monitor.directory.path());
        let cgroup = TestCgroup::new(hierarchy);
        let place = cgroup.path().to_owned();
        let mut container = image.shell(1, "sleep 1000");
        container.cgroup = match hierarchy {
            "unified" => CgroupEntry { unified: Some(place), ..CgroupEntry::default() },
            _ => CgroupEntry { v1: vec![place], ..CgroupEntry::default() },
        };
        let init = monitor.launch(&container.process, &container.plan());
        // Sessions of their own, and one that nobody waits for; the last is born after a while.
        let mut plan = exec_plan(&container.process, "setsid sleep 1000 & (setsid sh -c 'while :; do sleep 0.05; done' &) ; sleep 1000");
        plan.cgroup = container.cgroup.clone();
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        monitor.try_launch(&ProcessRef::Exec(7), &plan, &[null.as_fd(), null.as_fd(), null.as_fd()]).expect("exec");
        let own = cgroup.path().join("exec-7");
        let members = || std::fs::read_to_string(own.join("cgroup.procs")).unwrap_or_default().lines().count();
        until("all of it runs", || members() >= 4);
        monitor.signal(&ProcessRef::Exec(7), 9, true);
        assert_eq!(monitor.exit_of(&ProcessRef::Exec(7)).signal, Some(9));
        until("nothing of it is left", || !own.exists());
        assert_eq!(cgroup.members(), [init.pid], "{hierarchy}: the container is as it was");
        monitor.signal(&container.process, 9, false);
        monitor.exit_of(&container.process);
    }
}

#[test]
fn what_a_command_leaves_behind_goes_on_and_its_cgroup_goes_later() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let cgroup = TestCgroup::new("unified");
    let mut container = image.shell(1, "sleep 1000");
    container.cgroup.unified = Some(cgroup.path().to_owned());
    monitor.launch(&container.process, &container.plan());
    let exec = |monitor: &mut TestMonitor, number: u64, script: &str| {
        let mut plan = exec_plan(&container.process, script);
        plan.cgroup = container.cgroup.clone();
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        monitor.try_launch(&ProcessRef::Exec(number), &plan, &[null.as_fd(), null.as_fd(), null.as_fd()]).expect("exec");
        monitor.exit_of(&ProcessRef::Exec(number));
    };
    exec(&mut monitor, 1, "sleep 1000 & echo $! > /tmp/left");
    let own = cgroup.path().join("exec-1");
    let left = std::fs::read_to_string(own.join("cgroup.procs")).expect("it runs on");
    assert_eq!(left.lines().count(), 1);
    exec(&mut monitor, 2, "kill -9 $(cat /tmp/left)");
    until("both are gone", || !own.exists() && !cgroup.path().join("exec-2").exists());
    monitor.signal(&container.process, 9, false);
    monitor.exit_of(&container.process);
}

#[test]
fn an_exec_has_the_streams_that_came_with_it_and_its_exit_code() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "echo mine > /tmp/file; sleep 1000");
    monitor.launch(&container.process, &container.plan());
    until("the container is up", || container.state.join("upper/tmp/file").exists());
    let process = ProcessRef::Exec(1);
    let (stdin, mut input) = std::io::pipe().expect("pipe");
    let (output, stdout) = std::io::pipe().expect("pipe");
    let (errors, stderr) = std::io::pipe().expect("pipe");
    let plan = exec_plan(&container.process, "cat /tmp/file; cat; echo error >&2; exit 42");
    monitor.try_launch(&process, &plan, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]).expect("exec");
    drop((stdin, stdout, stderr));
    input.write_all(b"typed\n").expect("write");
    drop(input);
    assert_eq!(read_all(output), "mine\ntyped\n");
    assert_eq!(read_all(errors), "error\n");
    let record = monitor.exit_of(&process);
    assert_eq!((record.exit_code, record.signal), (42, None));
    assert_eq!(log_lines(&container.log), Vec::<String>::new());
}

#[test]
fn an_exec_has_descriptors_0_to_2_and_no_other() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "sleep 1000");
    monitor.launch(&container.process, &container.plan());
    let plan = exec_plan(&container.process, "sleep 1000");
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let launched = monitor.try_launch(&ProcessRef::Exec(1), &plan, &[null.as_fd(), null.as_fd(), null.as_fd()]).expect("exec");
    assert_eq!(std::fs::read_dir(format!("/proc/{}/fd", launched.pid)).expect("fd").count(), 3);
}

#[test]
fn an_exec_with_a_terminal_has_one_of_the_containers() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "sleep 1000");
    monitor.launch(&container.process, &container.plan());
    let mut plan = exec_plan(&container.process, "tty; exit 6");
    let log = monitor.path("exec.log");
    plan.stdio = Stdio::Terminal { log: Some(podbox_plan::LogTarget { path: log.clone() }) };
    monitor.try_launch(&ProcessRef::Exec(1), &plan, &[]).expect("exec");
    assert_eq!(monitor.exit_of(&ProcessRef::Exec(1)).exit_code, 6);
    assert_eq!(log_lines(&log), ["stdout F /dev/pts/0\r"]);
}

#[test]
fn the_failing_step_and_its_reason_are_named() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    std::fs::write(image.lower.join("tmp/plain"), "no program\n").expect("write");
    std::fs::write(image.lower.join("tmp/orphan"), "#!/no/such/interpreter\n").expect("write");
    std::fs::write(image.lower.join("tmp/garbage"), "\x7fgarbage\n").expect("write");
    for name in ["orphan", "garbage"] {
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(image.lower.join("tmp").join(name), executable).expect("chmod");
    }
    for (program, reason, errno) in [
        ("/no/such/program", "no such file or directory", 2),
        ("nosuchprogram", "executable file not found in $PATH", 2),
        ("/tmp/plain", "permission denied", 13),
        ("plain", "permission denied", 13),
        ("/tmp/orphan", "no such file or directory: the file is there, its interpreter or loader is not", 2),
        ("/tmp/garbage", "exec format error", 8),
        ("/etc", "it is a directory", 21),
        ("", "executable file not found in $PATH", 2),
    ] {
        let mut container = image.container(1, &[program]);
        container.environment = vec!["PATH=/bin:/tmp:/missing".into()];
        let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err(program);
        assert_eq!((failure.step, failure.reason.as_str(), failure.errno), (format!("execute {program:?}"), reason, errno));
    }
    let mut container = image.shell(1, "true");
    container.opened = vec![Op::OpenFromPause { slot: 0, path: "/dev/shm".into() }];
    assert_eq!(monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("no pause").step, "open the pod's /dev/shm");
    let missing = podbox_plan::BindSource {
        slot: 0,
        source: "/no/such/source".into(),
        recursive: true,
        attributes: podbox_plan::MountAttributes::default(),
        recursive_attributes: podbox_plan::MountAttributes::default(),
        propagation: podbox_plan::BindPropagation::Private,
        id_mapped: false,
    };
    container.opened = vec![Op::OpenBind(missing)];
    let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("no source");
    assert_eq!(failure.to_string(), "open the mount source /no/such/source: no such file or directory");
    container.opened = vec![];
    for (path, create) in [("/no/such/directory", false), ("/etc/image", false), ("/etc/image", true)] {
        container.workdir = (path.into(), create);
        let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err(path);
        assert_eq!(failure.step, format!("enter the working directory {path}"));
    }
    container.workdir = ("/".into(), false);
    container.environment = vec![podbox_plan::ByteString(b"A=\0".to_vec())];
    let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("a NUL byte");
    assert_eq!(failure.reason, "an argument or environment variable contains a NUL byte");
    assert_eq!(monitor.state(), []);
}

#[test]
fn a_file_system_says_what_it_does_not_like() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "true");
    container.in_root = vec![Op::Mount {
        target: "/tmp".into(),
        fs: podbox_plan::FileSystem {
            kind: "tmpfs".into(),
            options: vec![("sizzle".into(), Some("1".into()))],
            attributes: podbox_plan::MountAttributes::default(),
        },
    }];
    let failure = monitor.try_launch(&container.process, &container.plan(), &[]).expect_err("no such option");
    assert_eq!(failure.step, "mount tmpfs on /tmp");
    assert!(failure.reason.contains("sizzle"), "{}", failure.reason);
}

#[test]
fn a_name_is_looked_up_in_the_path_of_the_new_environment() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    for (number, environment) in [(1, vec![]), (2, vec!["PATH=/missing:/etc/image:/bin".into()]), (3, vec!["PATH=".into()])] {
        let mut container = image.container(number, &["echo", "found"]);
        container.environment = environment;
        // No directory in the PATH is the working one.
        container.workdir = ("/bin".into(), false);
        monitor.launch(&container.process, &container.plan());
        monitor.exit_of(&container.process);
        assert_eq!(log_lines(&container.log), ["stdout F found"]);
    }
}

#[test]
fn arguments_and_environment_arrive_byte_for_byte() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let mut container = image.shell(1, "echo \"$0|$1|$VAR\"; env | grep -c .");
    container.arguments.push("zero".into());
    container.arguments.push(podbox_plan::ByteString(b"\xff \"'".to_vec()));
    container.environment = vec!["PATH=/bin".into(), podbox_plan::ByteString(b"VAR=\xfe=x".to_vec())];
    monitor.launch(&container.process, &container.plan());
    monitor.exit_of(&container.process);
    let log = std::fs::read(&container.log).expect("read");
    let wanted = b"zero|\xff \"'|\xfe=x\n";
    assert!(log.windows(wanted.len()).any(|window| window == wanted), "{}", log.escape_ascii());
}

#[test]
fn a_plan_without_a_program_is_refused() {
    let mut monitor = TestMonitor::start();
    let image = Image::new(monitor.directory.path());
    let container = image.shell(1, "true");
    let mut plan = container.plan();
    plan.ops.pop();
    let id = monitor.send_launch(&container.process, &plan, &[]);
    assert!(matches!(monitor.answer(id).0, ReplyBody::Refused { .. }));
    plan.ops.push(Op::Exec { program: Program::FromArguments, arguments: vec![], environment: vec![] });
    assert_eq!(monitor.try_launch(&container.process, &plan, &[]).expect_err("no arguments").step, "execute nothing");
}
