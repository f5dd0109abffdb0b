//! `podbox exec`, `attach`, `port-forward` and `logs`: the commands that people use, as children of the test, at pipes and at terminals.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podbox_tests::flag::{AWAIT_FLAG, Flag};
use podbox_tests::host::{all_processes, namespace, runs};
use podbox_tests::{Container, ContainerSpec, Daemon, Pod, PodSpec, wait};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;

async fn container(daemon: &Daemon) -> Result<(Pod, Container)> {
    let pod = daemon.run_pod(&PodSpec::new("commands")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    Ok((pod, container))
}

/// A command; the configuration stands before its words, which may be another program's.
fn podbox(daemon: &Daemon, words: &[&str]) -> Command {
    let mut command = daemon.command(&[]);
    command.args(words);
    command
}

fn spawn(daemon: &Daemon, mut command: Command) -> Result<Child> {
    daemon.network().run(|| command.spawn().context("execute podbox"))
}

fn output(daemon: &Daemon, words: &[&str]) -> Result<Output> {
    let mut command = podbox(daemon, words);
    daemon.network().run(|| command.stdin(Stdio::null()).output().context("execute podbox"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn end_of(child: &mut Child) -> Result<ExitStatus> {
    wait::until("the command ends", || std::future::ready(child.try_wait().ok().flatten())).await
}

/// Processes in a container's PID namespace beside its init.
fn companions(init: i32, own: u64) -> usize {
    all_processes().into_iter().filter(|pid| *pid != init && runs(*pid) && namespace(*pid, "pid").is_ok_and(|inode| inode == own)).count()
}

/// What comes out of something, line by line or in pieces, waited for with a deadline.
struct Said {
    pieces: mpsc::Receiver<Vec<u8>>,
    all: String,
}

impl Said {
    fn by(mut source: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..count].to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { pieces, all: String::new() }
    }

    /// Everything so far, once it has these words.
    fn wait_for(&mut self, words: &str) -> Result<&str> {
        while !self.all.contains(words) {
            let piece = self.pieces.recv_timeout(wait::scaled(wait::DEADLINE));
            self.all += &text(&piece.with_context(|| format!("waiting for {words:?} after {:?}", self.all))?);
        }
        Ok(&self.all)
    }
}

/// A terminal, and a command at it.
struct AtTerminal {
    master: File,
    /// Keeps the terminal when the command has gone.
    slave: File,
    child: Child,
    said: Said,
}

impl AtTerminal {
    fn spawn(daemon: &Daemon, words: &[&str], columns: u16, rows: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = File::options().read(true).write(true).open(name.to_str()?)?;
        let master = File::from(master);
        tcsetwinsize(&master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        let mut command = podbox(daemon, words);
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave.try_clone()?);
        let child = spawn(daemon, command)?;
        let said = Said::by(master.try_clone()?);
        Ok(Self { master, slave, child, said })
    }

    fn say(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    fn is_raw(&self) -> Result<bool> {
        Ok(!tcgetattr(&self.slave)?.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG))
    }
}

#[tokio::test]
async fn exec_passes_output_input_and_status_on() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let ran = output(&daemon, &["exec", &container.id[..12], "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 7"])?;
    assert_eq!((ran.status.code(), text(&ran.stdout), text(&ran.stderr)), (Some(7), "out\n".into(), "err\n".into()));
    let mut command = podbox(&daemon, &["exec", "-i", &container.id, "wc", "-c"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = spawn(&daemon, command)?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(&vec![b'x'; 3_000_000])?;
    drop(stdin);
    let ended = child.wait_with_output()?;
    assert_eq!((ended.status.code(), text(&ended.stdout).trim()), (Some(0), "3000000"));
    // The end of the command is the end, whoever holds the input open.
    let mut command = podbox(&daemon, &["exec", "-i", &container.id, "/bin/sh", "-c", "exit 9"]);
    command.stdin(Stdio::piped());
    assert_eq!(end_of(&mut spawn(&daemon, command)?).await?.code(), Some(9));
    Ok(())
}

#[tokio::test]
async fn what_fails_is_told_with_its_reason_and_a_status_of_its_own() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let socket = daemon.socket().to_string_lossy().into_owned();
    let refused = |daemon: &Daemon, words: &[&str], code: i32, reasons: &[&str]| -> Result<()> {
        let ran = output(daemon, words)?;
        let said = text(&ran.stderr);
        ensure!(ran.status.code() == Some(code) && reasons.iter().all(|reason| said.contains(reason)), "{words:?}: {ran:?}");
        ensure!(said.lines().count() == 1, "{said}");
        Ok(())
    };
    refused(&daemon, &["exec", "0000nobody", "true"], 125, &["0000nobody"])?;
    refused(&daemon, &["exec", &container.id, "/bin/nothing-there"], 125, &[&container.id, "/bin/nothing-there"])?;
    refused(&daemon, &["exec", "-it", &container.id, "/bin/sh"], 125, &["the input device is not a TTY"])?;
    refused(&daemon, &["attach", "0000nobody"], 125, &["0000nobody"])?;
    refused(&daemon, &["logs", "0000nobody"], 1, &["0000nobody"])?;
    refused(&daemon, &["port-forward", "0000nobody", ":80"], 1, &["0000nobody"])?;
    daemon.terminate().await?;
    refused(&daemon, &["exec", &container.id, "true"], 125, &[&socket])?;
    refused(&daemon, &["logs", &container.id], 1, &[&socket])?;
    daemon.start_again().await
}

#[tokio::test]
async fn a_terminal_is_raw_as_long_as_it_lasts_and_its_size_is_the_commands() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let mut shell = AtTerminal::spawn(&daemon, &["exec", "-it", &container.id, "/bin/sh"], 97, 31)?;
    shell.say("until stty size | grep '31 97'; do :; done; echo rea''dy\n")?;
    shell.said.wait_for("ready")?;
    assert!(shell.is_raw()?);
    tcsetwinsize(&shell.master, Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 })?;
    // The command is in no foreground group of this terminal.
    kill(Pid::from_raw(shell.child.id().try_into()?), Signal::SIGWINCH)?;
    shell.say("until stty size | grep '40 120'; do :; done; echo rea''lly\n")?;
    shell.said.wait_for("really")?;
    shell.say("exit 5\n")?;
    assert_eq!(end_of(&mut shell.child).await?.code(), Some(5));
    assert!(!shell.is_raw()?);
    Ok(())
}

#[tokio::test]
async fn signals_end_an_exec_and_its_command_and_leave_the_terminal_as_it_was() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let init = container.pid().await?;
    let own = namespace(init, "pid")?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut shell = AtTerminal::spawn(&daemon, &["exec", "-it", &container.id, "/bin/sh", "-c", "echo there; sleep 4321"], 80, 24)?;
        shell.said.wait_for("there")?;
        assert!(shell.is_raw()? && companions(init, own) > 0);
        kill(Pid::from_raw(shell.child.id().try_into()?), signal)?;
        assert_eq!(end_of(&mut shell.child).await?.code(), Some(128 + signal as i32));
        assert!(!shell.is_raw()?, "{signal}");
        wait::until_true("nothing but init is left", || companions(init, own) == 0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn attach_is_as_the_container_was_made_and_ends_with_it_or_by_its_keys() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("attach")).await?;
    let script = "while read line; do echo got $line; test $line = end && exit 6; done";
    let piped = pod.run(&ContainerSpec::shell("piped", script).with(|config| config.stdin = true)).await?;
    let mut command = podbox(&daemon, &["attach", &piped.id]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = spawn(&daemon, command)?;
    let (mut stdin, mut said) = (child.stdin.take().context("stdin")?, Said::by(child.stdout.take().context("stdout")?));
    stdin.write_all(b"one\n")?;
    said.wait_for("got one")?;
    stdin.write_all(b"end\n")?;
    said.wait_for("got end")?;
    assert_eq!(end_of(&mut child).await?.code(), Some(6));
    let terminal = ContainerSpec::shell("terminal", script).with(|config| (config.stdin, config.tty) = (true, true));
    let terminal = pod.run(&terminal).await?;
    let mut attached = AtTerminal::spawn(&daemon, &["attach", &terminal.id], 80, 24)?;
    // What is written before it is attached to is told to nobody.
    attached.say("two\n")?;
    attached.said.wait_for("got two")?;
    attached.say("\x10\x11")?;
    assert_eq!(end_of(&mut attached.child).await?.code(), Some(0));
    attached.said.wait_for("detached")?;
    assert!(!attached.is_raw()?);
    let mut again = AtTerminal::spawn(&daemon, &["attach", &terminal.id], 80, 24)?;
    again.say("end\n")?;
    assert_eq!(end_of(&mut again.child).await?.code(), Some(6));
    Ok(())
}

/// The address that a line of `port-forward` tells first.
fn listener(said: &mut Said) -> Result<String> {
    let line = said.wait_for("\n")?.lines().next().unwrap_or_default().to_owned();
    Ok(line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(" -> ").next()).context(line.clone())?.to_owned())
}

fn ask(daemon: &Daemon, address: &str, question: &str) -> Result<String> {
    let mut connection = daemon.network().run(|| Ok(TcpStream::connect(address)?))?;
    connection.set_read_timeout(Some(wait::scaled(wait::DEADLINE)))?;
    connection.write_all(question.as_bytes())?;
    connection.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test]
async fn ports_lead_to_the_pods_and_what_is_refused_there_spoils_nothing() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("ports")).await?;
    let serve = "nc -ll -p 8080 -e /bin/sh -c 'read x; echo answer $x'";
    let server = pod.run(&ContainerSpec::shell("server", serve)).await?;
    wait::until("it listens", || async { server.sh("grep -q :1F90 /proc/net/tcp /proc/net/tcp6").await.ok() }).await?;
    let mut command = podbox(&daemon, &["port-forward", &pod.id[..12], "127.0.0.1::8080", "127.0.0.1:9999:8081"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&daemon, command)?;
    let mut said = Said::by(child.stdout.take().context("stdout")?);
    let mut told = Said::by(child.stderr.take().context("stderr")?);
    let address = listener(&mut said)?;
    said.wait_for("Forwarding from 127.0.0.1:9999 -> 8081\n")?;
    let open = daemon.network().run(|| Ok(TcpStream::connect(&address)?))?;
    assert_eq!(ask(&daemon, &address, "one\n")?, "answer one\n");
    assert!(ask(&daemon, "127.0.0.1:9999", "two\n").is_err(), "it is reset");
    told.wait_for("8081")?;
    assert_eq!(ask(&daemon, &address, "three\n")?, "answer three\n");
    // The one that was open all the time.
    (&open).write_all(b"four\n")?;
    let mut line = String::new();
    BufReader::new(&open).read_line(&mut line)?;
    assert_eq!(line, "answer four\n");
    // The session goes with the daemon, and the next connection has a new one.
    daemon.restart().await?;
    assert_eq!(ask(&daemon, &address, "five\n")?, "answer five\n");
    pod.end().await?;
    assert!(ask(&daemon, &address, "six\n").is_err());
    assert_eq!(end_of(&mut child).await?.code(), Some(1));
    told.wait_for(&pod.id[..12])?;
    Ok(())
}

#[tokio::test]
async fn logs_are_shown_as_they_were_written_or_as_objects() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("logs")).await?;
    let script = format!("echo out; echo err >&2; {AWAIT_FLAG}; head -c 100000 /dev/zero | tr '\\0' x; echo; printf 'no end'");
    let container = pod.run(&ContainerSpec::shell("a", &script)).await?;
    // Two pipes have no order between them: what is to come last is written when all else has been read.
    wait::until_true("both are in the log", || container.log_lines().is_ok_and(|lines| lines.len() == 2)).await?;
    Flag::of(&pod).await?.raise()?;
    container.exited().await?;
    let long = "x".repeat(100_000);
    let shown = output(&daemon, &["logs", &container.id[..12]])?;
    assert_eq!((text(&shown.stdout), text(&shown.stderr)), (format!("out\n{long}\nno end"), "err\n".into()));
    let shown = output(&daemon, &["logs", "--tail", "2", "--follow", &container.id])?;
    assert_eq!((text(&shown.stdout), text(&shown.stderr)), (format!("{long}\nno end"), String::new()));
    let shown = text(&output(&daemon, &["logs", "--timestamps", "--tail", "1", &container.id])?.stdout);
    assert!(shown.contains("T") && shown.ends_with("Z no end"), "{shown}");
    let shown = text(&output(&daemon, &["logs", "--output", "json", &container.id])?.stdout);
    let objects: Vec<serde_json::Value> = shown.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let of = |stream: &str| objects.iter().filter(|line| line["stream"] == stream).map(|line| line["text"].clone()).collect::<Vec<_>>();
    assert_eq!((of("stdout"), of("stderr")), (vec!["out".into(), long.into(), "no end".into()], vec!["err".into()]));
    assert_eq!(objects.iter().filter(|line| line["partial"] == true).count(), 1);
    // A reader that has enough is no error to tell of.
    let mut command = podbox(&daemon, &["logs", &container.id]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&daemon, command)?;
    drop(child.stdout.take());
    let ended = child.wait_with_output()?;
    assert!(ended.status.code() == Some(141) && text(&ended.stderr) == "err\n" || ended.stderr.is_empty(), "{ended:?}");
    Ok(())
}

#[tokio::test]
async fn a_followed_log_goes_on_over_rotations_to_the_containers_end() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("follow")).await?;
    // There is always something in the log until it has been rotated often enough.
    let numbers = "i=0; while ! [ -e /tmp/enough ]; do echo $i; i=$((i+1)); done";
    let script = format!("mkfifo /tmp/go; echo begin; read x < /tmp/go; {numbers}; echo almost; {AWAIT_FLAG}; echo last");
    let container = pod.create(&ContainerSpec::shell("a", &script)).await?;
    let mut command = podbox(&daemon, &["logs", "-f", &container.id]);
    command.stdout(Stdio::piped());
    let mut child = spawn(&daemon, command)?;
    let mut said = Said::by(child.stdout.take().context("stdout")?);
    container.start().await?;
    // What is rotated before anybody follows is not shown.
    said.wait_for("begin\n")?;
    container.sh("echo > /tmp/go").await?;
    for number in 0..5 {
        wait::until_true("there is something in the log", || container.log.metadata().is_ok_and(|file| file.len() > 0)).await?;
        std::fs::rename(&container.log, container.log.with_extension(number.to_string()))?;
        container.reopen_log().await?;
        if number == 1 {
            // Two at once.
            std::fs::rename(&container.log, container.log.with_extension("twice"))?;
            container.reopen_log().await?;
        }
    }
    container.sh("touch /tmp/enough").await?;
    said.wait_for("almost\n")?;
    std::fs::rename(&container.log, container.log.with_extension("end"))?;
    container.reopen_log().await?;
    assert!(child.try_wait()?.is_none(), "it follows");
    // By nothing that runs in the container: it would be killed with it.
    Flag::of(&pod).await?.raise()?;
    assert!(end_of(&mut child).await?.success());
    let all = said.wait_for("last\n")?.to_owned();
    let count = all.lines().count().saturating_sub(3);
    let numbers: String = (0..count).map(|number| format!("{number}\n")).collect();
    assert!(count > 5 && all == format!("begin\n{numbers}almost\nlast\n"), "{} bytes", all.len());
    Ok(())
}
