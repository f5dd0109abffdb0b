//! Pause's promises, kept by the program as the daemon embeds it and as cargo builds it.

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);

/// Pause built the way the daemon's build script does it.
struct Shipped {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn shipped() -> Shipped {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("pause");
    let status = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["@rustc-args.txt", "src/main.rs", "-o"])
        .arg(&path)
        .status()
        .expect("run rustc");
    assert!(status.success());
    Shipped { _directory: directory, path }
}

/// Ends the process when the test does, however it does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(path: &Path) -> Self {
        let running = Self(Command::new(path).spawn().expect("start pause"));
        // Named by its first lines, it sleeps nowhere but where it takes signals.
        until("pause is up", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap_or_default();
            status.starts_with("Name:\tpause\n") && status.contains("\nState:\tS")
        });
        running
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"))
    }

    fn children(&self) -> usize {
        let pid = self.0.id();
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children").split_whitespace().count()
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_file_is_at_most_a_page_and_memory_at_most_four() {
    let shipped = shipped();
    let bytes = std::fs::metadata(&shipped.path).expect("metadata").len();
    assert!(bytes <= 4096, "{bytes} bytes");
    let pause = Running::start(&shipped.path);
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pause.0.id())).expect("smaps_rollup");
    let rss = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).expect("an Rss line");
    let rss_kib: u64 = rss.trim().trim_end_matches("kB").trim().parse().expect("a number");
    assert!(rss_kib <= 16, "{rss_kib} kB");
}

#[test]
fn sigterm_and_sigint_end_it_with_0_and_other_signals_do_not() {
    let shipped = shipped();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut pause = Running::start(&shipped.path);
        for harmless in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGCHLD, Signal::SIGPIPE] {
            kill(pause.pid(), harmless).expect("signal");
        }
        kill(pause.pid(), signal).expect("signal");
        assert_eq!(pause.0.wait().expect("wait").code(), Some(0), "{signal}");
    }
}

#[test]
fn as_pid_1_it_leaves_no_zombie_and_ends_on_sigterm() {
    let shipped = shipped();
    // Children of this thread alone are born in the new namespace, and the first is its PID 1.
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
        let mut pause = Running::start(&shipped.path);
        let status = Command::new("sh").args(["-c", "for i in 1 2 3 4 5; do sleep 0.5 & done"]).status().expect("sh");
        assert!(status.success());
        until("the orphans are pause's", || pause.children() == 5);
        until("the orphans are reaped", || pause.children() == 0);
        kill(pause.pid(), Signal::SIGTERM).expect("signal");
        assert_eq!(pause.0.wait().expect("wait").code(), Some(0));
    })
    .join()
    .expect("the thread's assertions");
}
