//! `clone3` and signals, each promise in a process of one thread.

use podbox_sys::{
    CloneArguments, CloneFlags, Cloned, IdMap, SysError, clone3, ended_child, exec_is_over, ignore_signal, new_user_namespace,
    reset_signals, send_signal, send_signal_to_group,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

fn main() {
    a_child_goes_on_from_here_and_is_waited_for();
    a_child_can_be_pid_1_of_new_namespaces();
    a_child_is_born_in_the_cgroup();
    the_pidfd_is_closed_on_exec_and_signals_go_through_it();
    real_time_signals_and_groups_are_reached();
    reset_undoes_what_was_ignored();
    a_sibling_is_waited_for_by_the_parent();
    a_user_namespace_is_there_without_a_process_and_has_the_ids_asked_for();
    an_exec_that_has_closed_its_files_is_over_when_its_credentials_are_there();
    a_process_of_two_threads_is_refused();
    println!("10 promises kept");
}

/// Runs `act` in a child; its result is the child's exit status.
fn child(arguments: CloneArguments<'_>, act: impl FnOnce() -> i32) -> (Pid, OwnedFd) {
    match clone3(arguments).expect("clone3") {
        Cloned::Child => std::process::exit(act()),
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    }
}

fn wait(pid: Pid) -> WaitStatus {
    waitpid(Some(pid), WaitOptions::empty()).expect("waitpid").expect("an end").1
}

/// Sleeps until a signal comes.
fn sleep() -> i32 {
    std::thread::sleep(std::time::Duration::from_secs(60));
    99
}

fn a_child_goes_on_from_here_and_is_waited_for() {
    let mut before = 40;
    let (pid, _pidfd) = child(CloneArguments::default(), || {
        before += 2;
        before
    });
    let ended = loop {
        match ended_child().expect("there is a child") {
            Some(ended) => break ended,
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(ended, pid, "it is told, and not reaped by that");
    assert_eq!(wait(pid).exit_status(), Some(42));
    assert_eq!(ended_child().expect_err("no child is left").errno(), Errno::CHILD);
}

fn a_child_can_be_pid_1_of_new_namespaces() {
    let ours = std::fs::read_link("/proc/self/ns/mnt").expect("link");
    let flags = CloneFlags::NEW_PID | CloneFlags::NEW_MOUNT | CloneFlags::NEW_IPC | CloneFlags::NEW_UTS | CloneFlags::NEW_NET;
    let (pid, _pidfd) = child(CloneArguments { flags, ..CloneArguments::default() }, || {
        let mount = std::fs::read_link("/proc/self/ns/mnt").expect("link");
        i32::from(std::process::id() != 1) + 2 * i32::from(mount == ours)
    });
    assert_eq!(wait(pid).exit_status(), Some(0));
}

fn a_child_is_born_in_the_cgroup() {
    let Some(root) =
        ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].iter().find(|path| std::path::Path::new(path).join("cgroup.procs").exists())
    else {
        panic!("no cgroup2 hierarchy");
    };
    let name = format!("podbox-test-sys-{}", std::process::id());
    let path = std::path::Path::new(root).join(&name);
    std::fs::create_dir(&path).expect("make a cgroup");
    let cgroup = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("open");
    let (pid, _pidfd) = child(CloneArguments { cgroup: Some(cgroup.as_fd()), ..CloneArguments::default() }, || {
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").expect("read");
        i32::from(!cgroups.lines().any(|line| line == format!("0::/{name}")))
    });
    let status = wait(pid).exit_status();
    std::fs::remove_dir(&path).expect("remove the cgroup");
    assert_eq!(status, Some(0));
}

fn the_pidfd_is_closed_on_exec_and_signals_go_through_it() {
    let (pid, pidfd) = child(CloneArguments::default(), sleep);
    assert!(rustix::io::fcntl_getfd(&pidfd).expect("fcntl").contains(rustix::io::FdFlags::CLOEXEC));
    send_signal(&pidfd, 0).expect("it is there");
    assert_eq!(send_signal(&pidfd, 65).expect_err("no signal").errno(), Errno::INVAL);
    send_signal(&pidfd, 9).expect("signal");
    assert_eq!(wait(pid).terminating_signal(), Some(9));
    assert_eq!(send_signal(&pidfd, 0).expect_err("reaped").errno(), Errno::SRCH);
}

fn real_time_signals_and_groups_are_reached() {
    let (pid, _pidfd) = child(CloneArguments::default(), || {
        rustix::process::setsid().expect("setsid");
        sleep()
    });
    while rustix::process::getpgid(Some(pid)).expect("getpgid") != pid {
        std::thread::yield_now();
    }
    send_signal_to_group(pid, 64).expect("signal");
    assert_eq!(wait(pid).terminating_signal(), Some(64));
}

fn reset_undoes_what_was_ignored() {
    let (pid, pidfd) = child(CloneArguments::default(), || {
        ignore_signal(15).expect("ignore");
        assert_eq!(ignore_signal(9).expect_err("not that one").errno(), Errno::INVAL);
        let ignored = std::fs::read_to_string("/proc/self/status").expect("status");
        reset_signals().expect("reset");
        let reset = std::fs::read_to_string("/proc/self/status").expect("status");
        let bit = |status: &str| {
            let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("a mask").to_owned();
            u64::from_str_radix(&mask, 16).expect("a number")
        };
        i32::from(bit(&ignored) & (1 << 14) == 0) + 2 * i32::from(bit(&reset) != 0)
    });
    assert_eq!(wait(pid).exit_status(), Some(0));
    drop(pidfd);
}

fn a_sibling_is_waited_for_by_the_parent() {
    let (mut told, tell) = std::io::pipe().expect("pipe");
    let (pid, _pidfd) = child(CloneArguments::default(), || {
        let flags = CloneFlags::NEW_PID;
        let (sibling, _pidfd) = child(CloneArguments { flags, sibling: true, ..CloneArguments::default() }, || 42);
        (&tell).write_all(&sibling.as_raw_nonzero().get().to_ne_bytes()).expect("tell");
        0
    });
    assert_eq!(wait(pid).exit_status(), Some(0));
    let mut number = [0; 4];
    told.read_exact(&mut number).expect("it was told");
    assert_eq!(wait(Pid::from_raw(i32::from_ne_bytes(number)).expect("a process")).exit_status(), Some(42));
}

fn a_user_namespace_is_there_without_a_process_and_has_the_ids_asked_for() {
    let (uids, gids) = (IdMap { first_outside: 300_000, length: 10 }, IdMap { first_outside: 400_000, length: 20 });
    let namespace = new_user_namespace(uids, gids).expect("a user namespace");
    assert_eq!(rustix::process::wait(WaitOptions::NOHANG).expect_err("no child is left"), Errno::CHILD);
    let (pid, _pidfd) = child(CloneArguments::default(), || {
        let entered = nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWUSER);
        let words = |file: &str| -> Vec<String> {
            let text = std::fs::read_to_string(file).expect("read");
            text.split_whitespace().map(str::to_owned).collect()
        };
        i32::from(entered.is_err())
            + 2 * i32::from(words("/proc/self/uid_map") != ["0", "300000", "10"])
            + 4 * i32::from(words("/proc/self/gid_map") != ["0", "400000", "20"])
    });
    assert_eq!(wait(pid).exit_status(), Some(0));
    let none = IdMap { first_outside: 0, length: 0 };
    assert_eq!(new_user_namespace(none, gids).expect_err("no ids").errno(), Errno::INVAL);
    assert_eq!(rustix::process::wait(WaitOptions::NOHANG).expect_err("no child is left"), Errno::CHILD);
}

/// The kernel's own, on which the look at labels relies: they are credentials, as the effective user is that a set-user-ID program has.
fn an_exec_that_has_closed_its_files_is_over_when_its_credentials_are_there() {
    const SOMEBODY: u32 = 65534;
    const ROUNDS: u32 = 200;
    // Not below /tmp, where such programs may be ordinary ones.
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("podbox-test-sys-{}", std::process::id()));
    let program = folder.join("busybox");
    std::fs::create_dir(&folder).expect("make a folder");
    std::fs::copy("/bin/busybox", &program).expect("copy");
    std::os::unix::fs::chown(&program, Some(SOMEBODY), None).expect("chown");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).expect("chmod");
    let effective = |pid: Pid| -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).expect("status");
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("user ids");
        ids.split_whitespace().nth(1).expect("the effective one").parse().expect("a number")
    };
    let found: Vec<u32> = (0..ROUNDS)
        .map(|_| {
            let (mut end, held) = std::io::pipe().expect("pipe");
            let (pid, pidfd) = child(CloneArguments::default(), || {
                // The files that are closed after the pipe give the moment some length.
                let _more: Vec<_> = (0..900).map(|_| std::fs::File::open("/dev/null").expect("open")).collect();
                let error = std::process::Command::new(&program).args(["sleep", "60"]).exec();
                eprintln!("execute {}: {error}", program.display());
                99
            });
            // Whoever closes the pipe last brings its end about, and this process may be as late as it happens to be.
            let childs = format!("/proc/{}/fd/{}", pid.as_raw_nonzero(), held.as_raw_fd());
            while std::fs::symlink_metadata(&childs).is_ok() {}
            drop(held);
            assert_eq!(end.read(&mut [0]).expect("read"), 0, "nothing but its end");
            while !exec_is_over(pid) {
                std::thread::yield_now();
            }
            let found = effective(pid);
            send_signal(&pidfd, 9).expect("signal");
            wait(pid);
            found
        })
        .collect();
    std::fs::remove_dir_all(&folder).expect("remove");
    let others = found.iter().filter(|user| **user != SOMEBODY).count();
    assert_eq!(others, 0, "of {ROUNDS} that executed");
}

fn a_process_of_two_threads_is_refused() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || receiver.recv());
    assert_eq!(clone3(CloneArguments::default()).expect_err("two threads"), SysError::Threads);
    drop(sender);
    let _ = thread.join();
}
