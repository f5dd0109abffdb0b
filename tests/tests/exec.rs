//! Exec: a command and the client that is connected to it, over SPDY.

use anyhow::{Context, Result};
use podbox_stream::{Outcome, Received, StandardStreams};
use podbox_tests::host::{all_processes, namespace, runs, status_field};
use podbox_tests::spec::own_users;
use podbox_tests::streams::{ALL, COMMAND_PROTOCOLS, OUTPUTS, Session, TERMINAL, connect, exec_url};
use podbox_tests::{Census, Container, ContainerSpec, Daemon, Pod, PodSpec, assert_refused, wait};
use std::time::{Duration, Instant};
use tonic::Code;

async fn container(daemon: &Daemon) -> Result<(Pod, Container)> {
    let pod = daemon.run_pod(&PodSpec::new("exec")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    Ok((pod, container))
}

/// Processes in the container's PID namespace beside its init.
async fn companions(container: &Container) -> Result<usize> {
    let init = container.pid().await?;
    let own = namespace(init, "pid")?;
    let is_companion = |pid: &i32| *pid != init && runs(*pid) && namespace(*pid, "pid").is_ok_and(|inode| inode == own);
    Ok(all_processes().iter().filter(|pid| is_companion(pid)).count())
}

async fn alone(container: &Container) -> Result<()> {
    wait::until("nothing but init is left", || async { (companions(container).await.ok()? == 0).then_some(()) }).await
}

#[tokio::test]
async fn output_input_and_status_go_their_ways() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let finished =
        Session::exec(&daemon, &container, &["/bin/sh", "-c", "echo out; echo err >&2; exit 7"], OUTPUTS).await?.finish().await?;
    assert_eq!((finished.text(), finished.outcome), (("out\n".into(), "err\n".into()), Outcome::Exited(7)));
    let mut session = Session::exec(&daemon, &container, &["/bin/cat"], ALL).await?;
    session.say("hello\n").await?;
    session.wait_for("hello\n").await?;
    session.say("again\n").await?;
    session.end_input().await?;
    let finished = session.finish().await?;
    assert_eq!((finished.text(), finished.outcome), (("again\n".into(), String::new()), Outcome::Exited(0)));
    let killed = Session::exec(&daemon, &container, &["/bin/sh", "-c", "kill -9 $$"], OUTPUTS).await?.finish().await?;
    assert_eq!(killed.outcome, Outcome::Exited(137));
    let only = StandardStreams { stdin: false, stdout: false, stderr: true, tty: false };
    let finished = Session::exec(&daemon, &container, &["/bin/sh", "-c", "echo out; echo err >&2"], only).await?.finish().await?;
    assert_eq!(finished.text(), (String::new(), "err\n".into()), "what is not connected goes nowhere");
    let missing = Session::exec(&daemon, &container, &["/bin/nothing-there"], OUTPUTS).await?.finish().await?;
    assert!(matches!(&missing.outcome, Outcome::Failed(why) if why.contains("/bin/nothing-there")), "{:?}", missing.outcome);
    assert!(container.output()?.is_empty(), "nothing of it stands in the container's log");
    Ok(())
}

#[tokio::test]
async fn a_terminal_is_the_containers_own_and_takes_the_clients_size() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let mut session = Session::exec(&daemon, &container, &["/bin/sh"], TERMINAL).await?;
    session.say("tty; test -t 0 && test -t 2 && echo all-three; echo $TERM\n").await?;
    let said = session.wait_for("xterm\r\n").await?;
    assert!(said.contains("/dev/pts/0\r\n") && said.contains("all-three\r\n"), "{said:?}");
    let sizes = session.resize.take().context("sizes")?;
    for (columns, rows) in [(80, 24), (132, 43)] {
        // Cut in two, as a network may.
        let size = format!(r#"{{"Width":{columns},"Height":{rows}}}"#);
        let (begin, end) = size.split_at(9);
        sizes.outbound.send(begin.to_owned().into()).await?;
        sizes.outbound.send(end.to_owned().into()).await?;
        session.say("trap 'stty size' WINCH; until stty size | grep -q '^'; do :; done; stty size; echo end\n").await?;
        let expected = format!("{rows} {columns}\r\n");
        let mut said = String::new();
        let end = Instant::now() + wait::scaled(wait::DEADLINE);
        while !said.contains(&expected) {
            assert!(Instant::now() < end, "{said:?}");
            session.say("stty size; echo asked\n").await?;
            said = session.wait_for("asked\r\n").await?;
        }
    }
    session.say("exit 3\n").await?;
    assert_eq!(session.finish().await?.outcome, Outcome::Exited(3));
    Ok(())
}

#[tokio::test]
async fn a_command_is_in_all_of_the_containers_namespaces_with_its_limits_and_rights() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    for users in [None, Some(own_users())] {
        let pod = daemon.run_pod(&PodSpec::new("rights").users(users.clone())).await?;
        let spec = ContainerSpec::sleeper("a").users(users).security(|security| {
            security.no_new_privs = true;
            security.run_as_user = Some(podbox_proto::v1::Int64Value { value: 1234 });
        });
        let container = pod.run(&spec).await?;
        let init = container.pid().await?;
        let script = "echo $$; ls /proc/self/fd; grep -E '^(Uid|Cap|NoNewPrivs|Seccomp):?' /proc/self/status; read wait";
        for streams in [ALL, TERMINAL] {
            let mut session = Session::exec(&daemon, &container, &["/bin/sh", "-c", script], streams).await?;
            let said = session.wait_for("Seccomp").await?;
            let (shell, own) = (said.lines().next().context("its number")?.trim(), namespace(init, "pid")?);
            // `grep` may be there a moment longer.
            let is_shell = |pid: i32| status_field(pid, "NSpid").is_ok_and(|numbers| numbers.split_whitespace().last() == Some(shell));
            let command = all_processes().into_iter().find(|pid| is_shell(*pid) && namespace(*pid, "pid").is_ok_and(|inode| inode == own));
            let command = command.context("the command")?;
            for kind in ["pid", "mnt", "net", "ipc", "uts", "cgroup", "user"] {
                assert_eq!(namespace(command, kind)?, namespace(init, kind)?, "{kind}");
            }
            for field in ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"] {
                assert_eq!(status_field(command, field)?, status_field(init, field)?, "{field}");
            }
            let descriptors: Vec<String> = std::fs::read_dir(format!("/proc/{command}/fd"))?
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            // The shell of a terminal may keep one more of it.
            assert!(descriptors.iter().all(|fd| ["0", "1", "2", "10"].contains(&fd.as_str())), "{descriptors:?}");
            session.say("\n").await?;
            assert_eq!(session.finish().await?.outcome, Outcome::Exited(0));
        }
        pod.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_takes_its_command_along() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    // Orphans that the container's init does not reap are its own affair.
    let before = Census::at_rest(&daemon).await?.without("process");
    for streams in [ALL, TERMINAL] {
        let script = "trap '' HUP TERM PIPE; echo there; setsid sleep 600 & sleep 600";
        let mut session = Session::exec(&daemon, &container, &["/bin/sh", "-c", script], streams).await?;
        session.wait_for("there").await?;
        drop(session);
        alone(&container).await?;
    }
    // One whose input nobody takes, so that nothing more is read of its connection.
    let mut session = Session::exec(&daemon, &container, &["/bin/sh", "-c", "echo there; yes >&2 & sleep 600"], ALL).await?;
    session.wait_for("there").await?;
    let flood = async { while session.say(vec![0; 1 << 16]).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(2), flood).await.is_err(), "it is held up");
    drop(session);
    alone(&container).await?;
    // What is left of a command whose processes die slowly is removed at another's end.
    container.exec(&["/bin/true"]).await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// A command must not take what came so far for all there is: it is killed before its input ends.
#[tokio::test]
async fn input_that_breaks_off_does_not_read_as_complete() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    for round in 0..20 {
        let mut session =
            Session::exec(&daemon, &container, &["/bin/sh", "-c", "echo there; cat > /tmp/part && mv /tmp/part /tmp/whole"], ALL).await?;
        session.wait_for("there").await?;
        session.say("the first half").await?;
        if round % 2 == 0 {
            session.stdin.take().context("input")?.outbound.abort().await?;
        }
        drop(session);
    }
    alone(&container).await?;
    container.sh("test ! -e /tmp/whole").await?;
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_command_and_not_the_daemon() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let resident = || -> Result<u64> { Ok(status_field(daemon.pid()?, "VmRSS")?.split_whitespace().next().unwrap_or_default().parse()?) };
    let before = resident()?;
    let script = "i=0; while head -c 1048576 /dev/zero; do i=$((i+1)); echo $i > /tmp/count; done";
    let session = Session::exec(&daemon, &container, &["/bin/sh", "-c", script], OUTPUTS).await?;
    let count = async || container.sh("cat /tmp/count 2>/dev/null || echo 0").await.ok().and_then(|text| text.trim().parse::<u64>().ok());
    let stalled = wait::until("the command is held up", || async {
        let before = count().await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        (count().await? == before && before > 0).then_some(before)
    });
    let stalled = stalled.await?;
    assert!(stalled < 64, "{stalled} MiB were written that nobody read");
    let grown_kb = resident()?.saturating_sub(before);
    assert!(grown_kb < 16 << 10, "the daemon grew by {grown_kb} kB");
    drop(session);
    alone(&container).await
}

#[tokio::test]
async fn output_is_whole_and_a_grandchild_that_holds_it_open_does_not_hold_the_end() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    for script in ["sleep 600 & echo done; exit 5", "(while :; do echo more; done) & echo done; exit 5"] {
        let session = Session::exec(&daemon, &container, &["/bin/sh", "-c", script], OUTPUTS).await?;
        let finished = session.finish().await?;
        assert!(finished.text().0.starts_with("done\n") || finished.text().0.contains("done\n"), "{script}");
        assert_eq!(finished.outcome, Outcome::Exited(5), "{script}");
    }
    // All that was written before the end comes, to a client that is late as well.
    let session = Session::exec(&daemon, &container, &["/bin/sh", "-c", "head -c 600000 /dev/zero; echo end"], OUTPUTS).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let finished = session.finish().await?;
    assert!(finished.stdout.len() == 600_004 && finished.stdout.ends_with(b"end\n"), "{}", finished.stdout.len());
    Ok(())
}

#[tokio::test]
async fn what_goes_in_comes_out_the_same() -> Result<()> {
    const BYTES: usize = 256 << 20;
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let mut session = Session::exec(&daemon, &container, &["/bin/cat"], ALL).await?;
    let (stdin, mut stdout) = (session.stdin.take().context("input")?, session.stdout.take().context("output")?);
    let piece = |at: usize| -> Vec<u8> { (0..1 << 16).map(|byte| ((at * 31 + byte * 7) % 251) as u8).collect() };
    let send = async {
        for at in 0..BYTES >> 16 {
            stdin.outbound.send(piece(at).into()).await?;
        }
        stdin.outbound.end().await
    };
    let take = async {
        let (mut rest, mut at) = (Vec::new(), 0);
        loop {
            match stdout.inbound.next().await {
                Received::Bytes(held) => rest.extend_from_slice(&held.bytes),
                Received::End => return anyhow::Ok((at, rest.len())),
                Received::Lost => anyhow::bail!("cut off"),
            }
            while rest.len() >= 1 << 16 {
                anyhow::ensure!(rest[..1 << 16] == piece(at), "piece {at} differs");
                rest.drain(..1 << 16);
                at += 1;
            }
        }
    };
    let (sent, taken) = tokio::join!(send, take);
    sent?;
    assert_eq!(taken?, (BYTES >> 16, 0));
    drop(stdin.inbound);
    assert_eq!(session.finish().await?.outcome, Outcome::Exited(0));
    Ok(())
}

#[tokio::test]
async fn two_hundred_at_once_all_succeed() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let before = Census::at_rest(&daemon).await?;
    let commands = (0..200).map(|number| {
        let (daemon, container) = (&daemon, &container);
        async move {
            let session = Session::exec(daemon, container, &["/bin/echo", &number.to_string()], OUTPUTS).await?;
            let finished = session.finish().await?;
            anyhow::ensure!(finished.outcome == Outcome::Exited(0) && finished.stdout == format!("{number}\n").as_bytes(), "{finished:?}");
            anyhow::Ok(())
        }
    });
    futures_util::future::try_join_all(commands).await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn versions_of_old_clients_are_spoken() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    for version in &COMMAND_PROTOCOLS[2..] {
        let url = exec_url(&daemon, &container, &["/bin/sh", "-c", "echo out; exit 9"], OUTPUTS).await?;
        let connection = podbox_stream::begin(connect(&daemon, &url).await?, &url, &[version]).await?;
        let open = async |kind: &str| connection.open(podbox_stream::spdy::Headers::of(&[("streamType", kind)])).await;
        let (mut error, mut stdout, _stderr) = (open("error").await?, open("stdout").await?, open("stderr").await?);
        assert_eq!(podbox_tests::streams::read_all(&mut stdout.inbound).await?, b"out\n");
        let words = String::from_utf8(podbox_tests::streams::read_all(&mut error.inbound).await?)?;
        assert_eq!(words, "command terminated with non-zero exit code: exit status 9", "{version}");
    }
    Ok(())
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_the_call() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let nothing = StandardStreams { stdin: false, stdout: false, stderr: false, tty: false };
    assert_refused(exec_url(&daemon, &container, &["/bin/true"], nothing).await, Code::InvalidArgument, &["stdin"]);
    let both = StandardStreams { tty: true, ..ALL };
    assert_refused(exec_url(&daemon, &container, &["/bin/true"], both).await, Code::InvalidArgument, &["tty", "stderr"]);
    assert_refused(exec_url(&daemon, &container, &[], OUTPUTS).await, Code::InvalidArgument, &["cmd"]);
    container.stop(0).await?;
    assert_refused(exec_url(&daemon, &container, &["/bin/true"], OUTPUTS).await, Code::FailedPrecondition, &[&container.id]);
    container.remove().await?;
    assert_refused(exec_url(&daemon, &container, &["/bin/true"], OUTPUTS).await, Code::NotFound, &[&container.id]);
    Ok(())
}

#[tokio::test]
async fn a_stopped_daemon_ends_its_sessions_and_their_commands_and_nothing_else() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let mut session = Session::exec(&daemon, &container, &["/bin/sh", "-c", "echo there; sleep 600"], ALL).await?;
    session.wait_for("there").await?;
    assert!(daemon.terminate().await?.success());
    let outcome = session.status().await?;
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("podbox stops")), "silence would be taken for success: {outcome:?}");
    daemon.start_again().await?;
    alone(&container).await?;
    assert_eq!(container.exec(&["/bin/true"]).await?.code, 0);
    Ok(())
}
