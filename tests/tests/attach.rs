//! Attach: clients that look at a container's streams, and write to its input, beside its log.

use anyhow::{Context, Result, ensure};
use podbox_proto::v1::ContainerState;
use podbox_stream::{Outcome, StandardStreams};
use podbox_tests::streams::{ALL, OUTPUTS, Session, TERMINAL, attach_url, read_all};
use podbox_tests::{Census, Container, ContainerSpec, Daemon, PodSpec, assert_refused, wait};
use std::time::Duration;
use tonic::Code;

/// Says back what it is told, to both outputs, and ends with its input.
const ECHO: &str = "while read line; do echo out $line; echo err $line >&2; done; echo over; exit 4";

async fn echo(daemon: &Daemon, change: impl FnOnce(&mut podbox_proto::v1::ContainerConfig)) -> Result<Container> {
    let pod = daemon.run_pod(&PodSpec::new("attach")).await?;
    let spec = ContainerSpec::shell("a", ECHO).with(|config| config.stdin = true).with(change);
    Ok(pod.run(&spec).await?)
}

#[tokio::test]
async fn several_clients_see_the_same_and_the_log_has_all_of_it() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let container = echo(&daemon, |_| {}).await?;
    let mut first = Session::attach(&daemon, &container, ALL).await?;
    first.say("before\n").await?;
    first.wait_for("out before\n").await?;
    first.wait_for_error("err before\n").await?;
    let mut second = Session::attach(&daemon, &container, ALL).await?;
    second.say("both\n").await?;
    assert_eq!(second.wait_for("out both\n").await?, "out both\n", "what was before is not told again");
    first.wait_for("out both\n").await?;
    // One that goes leaves the rest as it is, its input too.
    drop(first);
    second.say("after\n").await?;
    second.wait_for("out after\n").await?;
    assert_eq!(second.wait_for_error("err after\n").await?, "err both\nerr after\n");
    container.stop(0).await?;
    let finished = second.finish().await?;
    assert_eq!((finished.text().1.as_str(), finished.outcome), ("", Outcome::Exited(0)));
    // Which of the two pipes is read first is nobody's to say.
    let logged = container.output()?;
    let of = |stream: &str| logged.lines().filter(|line| line.starts_with(stream)).collect::<Vec<_>>();
    assert_eq!((of("out"), of("err")), (vec!["out before", "out both", "out after"], vec!["err before", "err both", "err after"]));
    Ok(())
}

/// `stdin_once`: the input ends with the first client that has it, whether it says so, goes, or the daemon does.
#[tokio::test]
async fn input_that_is_for_one_client_ends_with_it() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    for way in ["says so", "goes", "goes with the daemon"] {
        let container = echo(&daemon, |config| config.stdin_once = true).await?;
        let mut session = Session::attach(&daemon, &container, ALL).await?;
        session.say("hello\n").await?;
        session.wait_for("out hello\n").await?;
        let second = Session::attach(&daemon, &container, ALL).await?.finish().await?;
        assert!(matches!(&second.outcome, Outcome::Failed(why) if why.contains("one client")), "{:?}", second.outcome);
        match way {
            "says so" => {
                session.end_input().await?;
                let finished = session.finish().await?;
                assert_eq!((finished.text().0.as_str(), finished.outcome), ("over\n", Outcome::Exited(0)));
            }
            "goes" => drop(session),
            _ => {
                daemon.kill_9()?;
                daemon.start_again().await?;
            }
        }
        assert_eq!(container.exit_code().await.context(way)?, 4, "{way}");
    }
    Ok(())
}

#[tokio::test]
async fn input_that_is_for_all_stays_open_when_a_client_ends_its_own() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let container = echo(&daemon, |_| {}).await?;
    let mut first = Session::attach(&daemon, &container, ALL).await?;
    // It is attached for certain once it has heard something.
    first.say("one\n").await?;
    first.wait_for("out one\n").await?;
    first.end_input().await?;
    let mut second = Session::attach(&daemon, &container, ALL).await?;
    second.say("still\n").await?;
    second.wait_for("out still\n").await?;
    first.wait_for("out still\n").await?;
    assert_eq!(container.state().await?, ContainerState::ContainerRunning);
    // Whoever came for nothing but input is done with it.
    let only = StandardStreams { stdout: false, stderr: false, ..ALL };
    let mut third = Session::attach(&daemon, &container, only).await?;
    third.say("from the third\n").await?;
    third.end_input().await?;
    assert_eq!(third.finish().await?.outcome, Outcome::Exited(0));
    second.wait_for("out from the third\n").await?;
    Ok(())
}

#[tokio::test]
async fn a_terminal_is_written_to_seen_and_sized_by_its_clients() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("attach")).await?;
    let spec = ContainerSpec::command("a", &["/bin/sh"]).with(|config| (config.tty, config.stdin) = (true, true));
    let container = pod.run(&spec).await?;
    let mut session = Session::attach(&daemon, &container, TERMINAL).await?;
    session.resize.as_ref().context("sizes")?.outbound.send(r#"{"Width":101,"Height":37}"#.into()).await?;
    wait::until("the terminal has its size", || async {
        (container.exec(&["/bin/sh", "-c", "stty size < /dev/console"]).await.ok()?.stdout == "37 101\n").then_some(())
    })
    .await?;
    session.say("echo $((6 * 7))\n").await?;
    session.wait_for("42\r\n").await?;
    session.say("exit 6\n").await?;
    assert_eq!(session.finish().await?.outcome, Outcome::Exited(0), "the container's status is the container's");
    assert_eq!(container.exit_code().await?, 6);
    assert!(container.output()?.contains("42"));
    Ok(())
}

/// A client that does not read holds the container up for a while, loses nothing in that time, and is let go of after it.
#[tokio::test]
async fn a_client_that_is_slow_loses_nothing_and_one_that_hangs_is_let_go_of() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("attach")).await?;
    let script = "read go; i=0; while [ $i -lt 40 ]; do head -c 1048576 /dev/zero | tr '\\0' x; i=$((i+1)); done; echo end";
    let spec = ContainerSpec::shell("slow", script).with(|config| config.stdin = true);
    let container = pod.run(&spec).await?;
    let mut slow = Session::attach(&daemon, &container, ALL).await?;
    slow.say("go\n").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let written = std::fs::metadata(&container.log)?.len();
    assert!(written < 32 << 20, "it is held up, at {written} bytes");
    let output = tokio::time::timeout(wait::scaled(wait::DEADLINE), read_all(&mut slow.stdout.take().context("output")?.inbound)).await??;
    assert!(output.len() == (40 << 20) + 4 && output.ends_with(b"xend\n"), "{}", output.len());
    drop(slow);
    let hanging = pod.run(&spec.clone().with(|config| config.metadata.get_or_insert_default().name = "hanging".to_owned())).await?;
    let session = Session::attach(&daemon, &hanging, ALL).await?;
    session.say("go\n").await?;
    // Longer than what a client is given.
    let end = tokio::time::Instant::now() + wait::scaled(Duration::from_secs(90));
    while hanging.state().await? == ContainerState::ContainerRunning {
        assert!(tokio::time::Instant::now() < end, "the container goes on");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(hanging.exit_code().await?, 0);
    Ok(())
}

#[tokio::test]
async fn clients_that_come_and_go_leave_nothing() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let container = echo(&daemon, |_| {}).await?;
    let before = Census::at_rest(&daemon).await?;
    for round in 0..20 {
        let mut session = Session::attach(&daemon, &container, if round % 2 == 0 { ALL } else { OUTPUTS }).await?;
        if round % 2 == 0 {
            session.say("x\n").await?;
            session.wait_for("out x\n").await?;
        }
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// A monitor has a thousand descriptors where nobody gave it more, and needs them for those that are to come.
#[tokio::test]
async fn so_many_attach_to_a_pod_and_no_more_and_the_rest_goes_on() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let container = echo(&daemon, |_| {}).await?;
    let mut sessions = Vec::new();
    let refused = loop {
        ensure!(sessions.len() <= 128, "{} clients follow two streams each", sessions.len());
        let mut session = Session::attach(&daemon, &container, ALL).await?;
        let answer = match session.say("x\n").await {
            Ok(()) => session.wait_for("out x\n").await.map(drop),
            refused => refused,
        };
        match answer {
            Ok(()) => sessions.push(session),
            // It has ended before anything was said.
            Err(_) => break session.finish().await?.outcome,
        }
    };
    assert!(matches!(&refused, Outcome::Failed(why) if why.contains("followed already")), "{refused:?}");
    assert_eq!(sessions.len(), 128);
    assert_eq!(container.exec(&["/bin/echo", "hi"]).await?.stdout, "hi\n");
    sessions.truncate(64);
    wait::until("there is room again", || async {
        let mut session = Session::attach(&daemon, &container, ALL).await.ok()?;
        session.say("y\n").await.ok()?;
        session.wait_for("out y\n").await.ok().map(drop)
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_the_container_is_refused_by_the_call() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("attach")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    assert_refused(attach_url(&daemon, &container, TERMINAL).await, Code::InvalidArgument, &["tty"]);
    assert_refused(attach_url(&daemon, &container, ALL).await, Code::FailedPrecondition, &["stdin", &container.id]);
    let nothing = StandardStreams { stdin: false, stdout: false, stderr: false, tty: false };
    assert_refused(attach_url(&daemon, &container, nothing).await, Code::InvalidArgument, &["stdin"]);
    // One that ends between the call and the client.
    let url = attach_url(&daemon, &container, OUTPUTS).await?;
    container.stop(0).await?;
    let finished = Session::open(&daemon, &url, OUTPUTS).await?.finish().await?;
    assert!(matches!(&finished.outcome, Outcome::Failed(why) if why.contains(&container.id)), "{:?}", finished.outcome);
    assert_refused(attach_url(&daemon, &container, OUTPUTS).await, Code::FailedPrecondition, &[&container.id]);
    Ok(())
}
