//! What podbox keeps on disk is root's alone.

use anyhow::{Context, Result, ensure};
use podbox_tests::host::directories_below;
use podbox_tests::{ContainerSpec, Daemon, PodSpec};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

const NOBODY: u32 = 65534;

/// What a stranger finds below a directory, itself left out.
fn found_by_stranger(directory: &std::path::Path) -> Result<Vec<String>> {
    let output = Command::new("/bin/busybox").arg("find").arg(directory).uid(NOBODY).gid(NOBODY).output().context("run find")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.starts_with(&*directory.to_string_lossy()), "the stranger stands before the door: {output:?}");
    Ok(text.lines().skip(1).map(str::to_owned).collect())
}

/// Seen to fail: with directories of mode 0755, the stranger was told of the lock, the pods and the socket.
#[tokio::test]
async fn a_stranger_reads_nothing_below_the_state_and_root_directories() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("private")).await?;
    pod.run(&ContainerSpec::shell("a", "umask 0; touch /world; mkdir /open; sleep 1000")).await?;
    for directory in [daemon.state_dir(), daemon.root_dir()] {
        assert_eq!(found_by_stranger(&directory)?, Vec::<String>::new());
        let metadata = directory.metadata()?;
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o700, 0, 0), "{}", directory.display());
    }
    // A container that went leaves the daemon's other folders behind.
    pod.run(&ContainerSpec::sleeper("b")).await?.remove().await?;
    for directory in directories_below(&daemon.state_dir()) {
        assert_eq!(directory.metadata()?.mode() & 0o7777, 0o700, "{}", directory.display());
    }
    // Nor would more be open if the door were.
    let keep = daemon.state_dir().metadata()?.permissions();
    std::fs::set_permissions(daemon.state_dir(), std::fs::Permissions::from_mode(0o711))?;
    let inner = found_by_stranger(&daemon.state_dir().join("pods"));
    std::fs::set_permissions(daemon.state_dir(), keep)?;
    assert_eq!(inner?, Vec::<String>::new());
    Ok(())
}

/// Seen to fail: with a socket of mode 0666.
#[tokio::test]
async fn the_socket_is_for_root_and_its_group() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let metadata = daemon.socket().metadata()?;
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o660, 0, 0));
    Ok(())
}

/// The programs run from memory: there is nothing on disk to be overwritten, and no way to write them through `/proc`.
#[tokio::test]
async fn pause_and_monitor_run_from_sealed_memory() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("sealed")).await?;
    let monitor = daemon.monitor_of(&pod.id).context("the pod has a monitor")?;
    for pid in [monitor, pod.pause_pid().await?] {
        let program = std::fs::read_link(format!("/proc/{pid}/exe"))?;
        assert!(program.to_string_lossy().contains("memfd:"), "{}", program.display());
        let written = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/exe"));
        assert!(written.is_err());
    }
    Ok(())
}
