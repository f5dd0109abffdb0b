//! What a container's process is: its command, environment, directory, streams and end.

use anyhow::Result;
use podbox_proto::v1::{ContainerState, Signal};
use podbox_tests::spec::words;
use podbox_tests::{Container, ContainerSpec, Daemon, PodSpec, TestImage, wait};
use std::path::Path;

const ECHO: &str = "localhost/podbox-test/echo:latest";

#[tokio::test]
async fn command_and_args_replace_entrypoint_and_cmd_as_the_cri_says() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let image = TestImage { entrypoint: words(&["/bin/echo", "entrypoint"]), cmd: words(&["cmd"]), ..TestImage::named("echo") };
    daemon.import(&image)?;
    let pod = daemon.run_pod(&PodSpec::new("words")).await?;
    for (number, (command, args, want)) in [
        (&[][..], &[][..], "entrypoint cmd"),
        (&[], &["args"], "entrypoint args"),
        (&["/bin/echo", "command"], &[], "command"),
        (&["/bin/echo", "command"], &["args"], "command args"),
    ]
    .into_iter()
    .enumerate()
    {
        let spec = ContainerSpec::new(&format!("c{number}")).image(ECHO).with(|config| {
            config.command = words(command);
            config.args = words(args);
        });
        assert_eq!(pod.output_of(&spec).await?, want);
    }
    Ok(())
}

#[tokio::test]
async fn the_environment_is_the_images_overridden_by_the_requests_byte_for_byte() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let image = TestImage { env: words(&["PATH=/bin:/image", "A=image", "B=image"]), ..TestImage::named("env") };
    daemon.import(&image)?;
    let pod = daemon.run_pod(&PodSpec::new("env")).await?;
    let spec = ContainerSpec::command("a", &["/bin/cat", "/proc/self/environ"]).image(&image.name);
    let container = pod.run(&spec.env("B", b"request").env("RAW", b"\xff\xfe\x80").env("EMPTY", b"")).await?;
    assert_eq!(container.exit_code().await?, 0);
    let bytes: Vec<u8> = container.log_lines()?.into_iter().flat_map(|line| line.text).collect();
    let variables: Vec<&[u8]> = bytes.split(|byte| *byte == 0).filter(|variable| !variable.is_empty()).collect();
    for due in [&b"PATH=/bin:/image"[..], b"A=image", b"B=request", b"RAW=\xff\xfe\x80", b"EMPTY=", b"HOME=/root", b"HOSTNAME=env"] {
        assert!(variables.contains(&due), "{:?} in {:?}", String::from_utf8_lossy(due), String::from_utf8_lossy(&bytes));
    }
    assert_eq!(variables.len(), 7, "and nothing of the host's: {:?}", String::from_utf8_lossy(&bytes));
    Ok(())
}

#[tokio::test]
async fn the_working_directory_is_the_requests_or_the_images_and_is_made_if_absent() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.import(&TestImage { working_dir: "/var".to_owned(), ..TestImage::named("var") })?;
    let pod = daemon.run_pod(&PodSpec::new("cwd")).await?;
    let pwd = |name: &str, directory: &str| {
        ContainerSpec::command(name, &["/bin/pwd"])
            .image("localhost/podbox-test/var:latest")
            .with(|config| directory.clone_into(&mut config.working_dir))
    };
    assert_eq!(pod.output_of(&pwd("image", "")).await?, "/var");
    assert_eq!(pod.output_of(&pwd("request", "/home")).await?, "/home");
    assert_eq!(pod.output_of(&pwd("absent", "/made/for/it")).await?, "/made/for/it");
    let container = pod.run(&ContainerSpec::sleeper("exec").with(|config| "/home".clone_into(&mut config.working_dir))).await?;
    assert_eq!(container.sh("pwd").await?, "/home", "commands run in it start there");
    Ok(())
}

fn descriptors(pid: i32) -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

#[tokio::test]
async fn a_container_and_a_command_in_it_have_descriptors_0_to_2_and_no_more() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("fds")).await?;
    for (name, tty, stdin) in [("plain", false, false), ("tty", true, true), ("stdin", false, true)] {
        let spec = ContainerSpec::sleeper(name).with(|config| {
            config.tty = tty;
            config.stdin = stdin;
        });
        let container = pod.run(&spec).await?;
        assert_eq!(descriptors(container.pid().await?)?, ["0", "1", "2"], "{name}");
        // The shell forks `ls`, which opens the directory; it would become the last command of a script itself.
        assert_eq!(container.sh("ls /proc/$$/fd; true").await?, "0\n1\n2", "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn standard_input_is_null_unless_asked_for_and_a_terminal_with_tty() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("stdin")).await?;
    let without = pod.run(&ContainerSpec::command("without", &["/bin/cat"])).await?;
    assert_eq!(without.exit_code().await?, 0, "end of file at once");

    let open = pod.run(&ContainerSpec::command("open", &["/bin/cat"]).with(|config| config.stdin = true)).await?;
    let once = ContainerSpec::command("once", &["/bin/cat"]).with(|config| (config.stdin, config.stdin_once) = (true, true));
    let once = pod.run(&once).await?;
    let terminal =
        ContainerSpec::shell("tty", "tty; test -t 0 && test -t 1 && test -t 2 && echo $TERM && stty size >/dev/null && exec cat");
    let terminal = pod.run(&terminal.with(|config| (config.tty, config.stdin) = (true, true))).await?;
    wait::until_true("the container writes", || terminal.output().is_ok_and(|output| output.contains("xterm"))).await?;
    let output = terminal.output()?;
    assert!(output.starts_with("/dev/pts/0") || output.starts_with("/dev/console"), "{output:?}");
    assert!(terminal.log_lines()?.iter().all(|line| line.stream == "stdout"), "a terminal is one stream");
    for container in [&open, &once, &terminal] {
        assert_eq!(container.state().await?, ContainerState::ContainerRunning, "nobody has attached, nothing ends");
    }
    Ok(())
}

/// Waits until the container's script has come to its `echo ready`.
async fn ready(container: &Container) -> Result<()> {
    wait::until_true("the script is ready", || container.output().is_ok_and(|output| output.contains("ready"))).await
}

/// Ends with 10 on TERM, 11 on USR1, 12 on USR2 and 13 on RTMIN+3, by its number.
const TRAPS: &str =
    "trap 'exit 10' TERM; trap 'exit 11' USR1; trap 'exit 12' USR2; trap 'exit 13' 37; echo ready; while :; do sleep 0.05; done";

#[tokio::test]
async fn the_stop_signal_is_the_requests_else_the_images_else_term() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.import(&TestImage { stop_signal: "SIGUSR2".to_owned(), ..TestImage::named("usr2") })?;
    daemon.import(&TestImage { stop_signal: "RTMIN+3".to_owned(), ..TestImage::named("rtmin") })?;
    let pod = daemon.run_pod(&PodSpec::new("signals")).await?;
    let with_signal = |spec: ContainerSpec, signal: Signal| spec.with(|config| config.set_stop_signal(signal));
    for (spec, code, reported) in [
        (ContainerSpec::shell("default", TRAPS), 10, Signal::Sigterm),
        (with_signal(ContainerSpec::shell("request", TRAPS), Signal::Sigusr1), 11, Signal::Sigusr1),
        (ContainerSpec::shell("image", TRAPS).image("localhost/podbox-test/usr2:latest"), 12, Signal::Sigusr2),
        (ContainerSpec::shell("realtime", TRAPS).image("localhost/podbox-test/rtmin:latest"), 13, Signal::Sigrtminplus3),
        (with_signal(ContainerSpec::shell("both", TRAPS).image("localhost/podbox-test/usr2:latest"), Signal::Sigusr1), 11, Signal::Sigusr1),
    ] {
        let container = pod.run(&spec).await?;
        ready(&container).await?;
        assert_eq!(container.status().await?.stop_signal(), reported, "{:?}", spec.config.metadata);
        container.stop(30).await?;
        let status = container.status().await?;
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, code), "{:?}", spec.config.metadata);
    }
    Ok(())
}

#[tokio::test]
async fn what_does_not_stop_within_its_grace_is_killed() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("grace")).await?;
    let stubborn = pod.run(&ContainerSpec::shell("stubborn", "trap '' TERM; echo ready; while :; do sleep 0.05; done")).await?;
    ready(&stubborn).await?;
    let begun = std::time::Instant::now();
    stubborn.stop(1).await?;
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "it had its grace");
    assert_eq!(stubborn.exit_code().await?, 137);
    let graceless = pod.run(&ContainerSpec::shell("graceless", TRAPS)).await?;
    ready(&graceless).await?;
    graceless.stop(0).await?;
    assert_eq!(graceless.exit_code().await?, 137, "no grace, no question");
    stubborn.stop(1).await?;
    Ok(())
}

#[tokio::test]
async fn the_end_of_a_container_is_told_as_it_was() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("ends")).await?;
    for (name, script, code, reason) in [("well", "exit 0", 0, "Completed"), ("badly", "exit 42", 42, "Error")] {
        let status = pod.run(&ContainerSpec::shell(name, script)).await?.exited().await?;
        assert_eq!((status.exit_code, &*status.reason), (code, reason), "{name}");
        assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at && status.created_at > 0, "{status:?}");
    }
    let created = pod.create(&ContainerSpec::sleeper("created")).await?;
    let status = created.status().await?;
    assert_eq!((status.state(), status.started_at, status.finished_at), (ContainerState::ContainerCreated, 0, 0));
    created.start().await?;
    let status = created.status().await?;
    assert_eq!((status.state(), status.finished_at), (ContainerState::ContainerRunning, 0));
    assert!(created.start().await.is_err(), "it is started once");
    Ok(())
}

#[tokio::test]
async fn descendants_go_with_their_container() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("descendants")).await?;
    let container = pod.run(&ContainerSpec::shell("parent", "setsid sleep 7654321 & sleep 7654321 & echo ready; wait")).await?;
    ready(&container).await?;
    container.sh("setsid sleep 7654321 >/dev/null 2>&1 &").await?;
    let pid = container.pid().await?;
    let namespace = podbox_tests::host::namespace(pid, "pid")?;
    container.stop(0).await?;
    wait::until_true("no process of the container's PID namespace is left", || {
        let left = podbox_tests::host::all_processes();
        !left.into_iter().any(|pid| podbox_tests::host::namespace(pid, "pid").is_ok_and(|inode| inode == namespace))
    })
    .await?;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}
