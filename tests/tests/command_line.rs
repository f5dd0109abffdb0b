//! The command line and the configuration file.

use anyhow::{Context, Result};
use podbox_tests::{Client, Daemon, DaemonOptions, wait};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

/// What `podbox serve` says to a configuration file.
fn serve_with(daemon: &Daemon, config: &str) -> Result<Output> {
    std::fs::write(daemon.config_file(), config)?;
    daemon.network().run(|| daemon.command(&["serve"]).output().context("execute podbox"))
}

#[tokio::test]
async fn a_mistake_in_the_configuration_names_file_line_and_key() -> Result<()> {
    let daemon = Daemon::prepare(&DaemonOptions::default())?;
    let file = daemon.config_file().to_string_lossy().into_owned();
    for (config, line, words) in [
        ("socke = \"/x\"\n", 1, &["socke"][..]),
        ("\nlog_level = \"loud\"\n", 2, &["log_level", "loud"]),
        ("socket = \"relative\"\n", 1, &["socket", "absolute"]),
        ("[network]\nbridge = \"a-name-that-is-too-long\"\n", 2, &["network.bridge"]),
        ("[network]\nsubnets = [\"10.0.0.0/99\"]\n", 2, &["network.subnets"]),
        ("[network]\nsubnets = []\n", 2, &["network.subnets", "subnet"]),
        ("[network]\nsubnets = [\"10.88.0.1/16\"]\n", 2, &["network.subnets", "10.88.0.0/16"]),
        ("[network]\nsubnets = [\"10.0.0.0/8\", \"10.1.0.0/16\"]\n", 2, &["network.subnets", "overlap"]),
        ("[metrics]\naddress = \"192.0.2.1:9500\"\n", 2, &["metrics.address", "192.0.2.1"]),
        ("[cgroup]\ndriver = \"none\"\n", 2, &["cgroup.driver"]),
        ("[image]\ndefault_registry = \"a:b:c\"\n", 2, &["image.default_registry", "a:b:c"]),
        ("[image]\ndefault_registry = \"registry\"\n", 2, &["image.default_registry", "host:port"]),
        ("[nowhere]\n", 1, &["nowhere"]),
    ] {
        // The commands for images read the same file, and say the same.
        for output in [serve_with(&daemon, config)?, daemon.command(&["image", "list"]).output()?] {
            assert!(!output.status.success(), "{config:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(&format!("{file}:{line}: ")), "{config:?}: {said}");
            for word in words {
                assert!(said.contains(word), "{config:?}: {said}");
            }
        }
    }
    std::fs::remove_file(daemon.config_file())?;
    let output = daemon.command(&["serve"]).output()?;
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains(&file), "{output:?}");
    assert!(!daemon.state_dir().exists(), "nothing was begun");
    Ok(())
}

#[tokio::test]
async fn an_address_for_streams_that_is_taken_is_refused_by_its_key() -> Result<()> {
    let more_config = "[stream]\naddress = \"127.0.0.1:10010\"\n".to_owned();
    let daemon = Daemon::prepare(&DaemonOptions { more_config, ..DaemonOptions::default() })?;
    let output = daemon.network().run(|| {
        let _taken = std::net::TcpListener::bind("127.0.0.1:10010")?;
        daemon.command(&["serve"]).output().context("execute podbox")
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("stream.address") && said.contains("127.0.0.1:10010"), "{said}");
    assert!(said.contains(&*daemon.config_file().to_string_lossy()), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_second_daemon_on_the_same_state_is_refused() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let output = daemon.network().run(|| daemon.command(&["serve"]).output().context("execute podbox"))?;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&*daemon.state_dir().to_string_lossy()), "{output:?}");
    daemon.client().version().await?;
    Ok(())
}

#[tokio::test]
async fn systemd_is_told_when_the_daemon_serves_and_when_it_stops() -> Result<()> {
    let daemon = Daemon::prepare(&DaemonOptions::default())?;
    let path = daemon.directory().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(wait::scaled(Duration::from_secs(30))))?;
    let mut command = daemon.command(&["serve"]);
    command.env("NOTIFY_SOCKET", &path);
    let mut child = daemon.network().run(|| command.spawn().context("execute podbox"))?;
    let heard = |word: &str| -> Result<()> {
        let mut buffer = [0; 1024];
        let count = socket.recv(&mut buffer).with_context(|| format!("waiting for {word}"))?;
        let said = String::from_utf8_lossy(&buffer[..count]).into_owned();
        anyhow::ensure!(said.contains(word), "{said:?} instead of {word}");
        Ok(())
    };
    let outcome = heard("READY=1");
    let served = daemon.client().version().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id())?), nix::sys::signal::Signal::SIGTERM)?;
    let stopped = heard("STOPPING=1");
    let status = child.wait()?;
    outcome?;
    served?;
    stopped?;
    assert!(status.success(), "{status}");
    Ok(())
}

/// In a mount namespace where `/run` and `/var/lib` are empty, so that a podbox of this machine's own is not disturbed.
#[tokio::test]
async fn without_a_configuration_file_it_serves_where_the_readme_says() -> Result<()> {
    let daemon = Daemon::prepare(&DaemonOptions::default())?;
    let program = daemon.command(&[]).get_program().to_owned();
    let hide = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && exec \"$0\" serve";
    let mut command = Command::new("/bin/busybox");
    command.args(["unshare", "-m", "/bin/busybox", "sh", "-c", hide]).arg(program);
    let mut child = daemon.network().run(|| command.spawn().context("execute podbox"))?;
    let client = Client::new(&PathBuf::from(format!("/proc/{}/root/run/podbox/podbox.sock", child.id())));
    let answered = wait::until("the daemon answers", || async { client.version().await.ok() }).await;
    let root = PathBuf::from(format!("/proc/{}/root/var/lib/podbox", child.id())).is_dir();
    child.kill()?;
    child.wait()?;
    assert_eq!(answered?.runtime_name, "podbox");
    assert!(root, "images go to /var/lib/podbox");
    Ok(())
}
