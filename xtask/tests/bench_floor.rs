//! The bench's floor takes away what it makes on the machine, whatever ends it.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podbox_cgroup::{Cgroup, CgroupPath, Hierarchies};
use podbox_tests::{Daemon, PodSpec};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// More than would be done before the test has its way.
const ROUNDS: &str = "1000000";

/// A program that waits, and a layer without anything.
struct Parts {
    pause: PathBuf,
    lower: PathBuf,
    scratch: PathBuf,
}

impl Parts {
    async fn make(daemon: &Daemon) -> Result<Self> {
        let (pause, lower, scratch) =
            (daemon.directory().join("pause"), daemon.directory().join("lower"), daemon.directory().join("scratch"));
        for folder in [&lower, &scratch] {
            std::fs::create_dir(folder)?;
        }
        let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
        std::fs::copy(format!("/proc/{}/exe", pod.pause_pid().await?), &pause)?;
        std::fs::set_permissions(&pause, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        pod.end().await?;
        Ok(Self { pause, lower, scratch })
    }

    fn floor(&self, rounds: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["bench-floor", "--warmup", "0", "--rounds", rounds]);
        command.arg("--pause").arg(&self.pause).arg("--lower").arg(&self.lower).arg("--scratch").arg(&self.scratch);
        command.stdout(Stdio::piped());
        command
    }

    /// One that has done a round, and more to come.
    fn running(&self) -> Result<(Child, BufReader<ChildStdout>)> {
        let mut child = self.floor(ROUNDS).spawn().context("start the floor")?;
        let mut output = BufReader::new(child.stdout.take().context("its output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line.contains("sandbox_us"), "{line}");
        Ok((child, output))
    }
}

/// The cgroups of a floor.
fn cgroups_of(process: u32) -> Result<Vec<PathBuf>> {
    let cgroup = Cgroup::at(&Hierarchies::discover()?, &CgroupPath::new(format!("/podbox-floor-{process}"))?).entry();
    Ok(cgroup.v1.into_iter().chain(cgroup.unified).filter(|path| path.exists()).collect())
}

fn is_empty(folder: &Path) -> Result<bool> {
    Ok(std::fs::read_dir(folder)?.next().is_none())
}

#[tokio::test]
async fn a_floor_that_is_ended_leaves_nothing_and_one_that_was_killed_is_cleaned_up_after() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let parts = Parts::make(&daemon).await?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let (mut child, _output) = parts.running()?;
        ensure!(!cgroups_of(child.id())?.is_empty(), "it has cgroups");
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        ensure!(!child.wait()?.success(), "{signal}: it has not done all that it was told");
        assert_eq!(cgroups_of(child.id())?, Vec::<PathBuf>::new(), "{signal}");
        assert!(is_empty(&parts.scratch)?, "{signal}");
    }
    // Nobody reads it any more.
    let (mut child, output) = parts.running()?;
    drop(output);
    ensure!(!child.wait()?.success(), "it could not tell all");
    assert_eq!(cgroups_of(child.id())?, Vec::<PathBuf>::new());

    let (mut killed, _output) = parts.running()?;
    killed.kill()?;
    killed.wait()?;
    ensure!(!cgroups_of(killed.id())?.is_empty(), "nothing was left that could be cleaned up");
    ensure!(parts.floor("1").status()?.success(), "one more");
    assert_eq!(cgroups_of(killed.id())?, Vec::<PathBuf>::new(), "the next one has taken it away");
    Ok(())
}
