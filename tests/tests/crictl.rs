//! The streams of others' client: `crictl` over SPDY and over WebSockets.

use anyhow::{Context, Result, ensure};
use podbox_tests::network::NetworkNamespace;
use podbox_tests::{Container, ContainerSpec, Crictl, Daemon, Pod, PodSpec, wait};
use sha2::{Digest, Sha256};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

struct Scene {
    crictl: Crictl,
    daemon: Daemon,
    pod: Pod,
    container: Container,
}

impl Scene {
    /// With a container that waits; `None`: there is nothing to build crictl with.
    async fn with(spec: &ContainerSpec) -> Result<Option<Self>> {
        let daemon = Daemon::for_test().await?;
        let Some(crictl) = Crictl::of(&daemon)? else { return Ok(None) };
        let pod = daemon.run_pod(&PodSpec::new("crictl")).await?;
        let container = pod.run(spec).await?;
        Ok(Some(Self { crictl, daemon, pod, container }))
    }
}

fn text(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_input_output_exit_codes_and_a_terminal() -> Result<()> {
    let Some(scene) = Scene::with(&ContainerSpec::sleeper("a")).await? else { return Ok(()) };
    let id = scene.container.id.clone();
    for transport in TRANSPORTS {
        let output = scene.crictl.output(&["exec", "-r", transport, &id, "/bin/sh", "-c", "echo out; echo err >&2"])?;
        assert!(output.status.success() && text(&output) == ("out\n".into(), "err\n".into()), "{transport}: {output:?}");
        let output = scene.crictl.output(&["exec", "-r", transport, &id, "/bin/sh", "-c", "exit 7"])?;
        assert!(!output.status.success() && text(&output).1.contains("exit code 7"), "{output:?}");
        let output = scene.crictl.output(&["exec", "-r", transport, &id, "/bin/no-such"])?;
        assert!(!output.status.success() && text(&output).1.contains("/bin/no-such"), "{transport}: {output:?}");
        let mut command = scene.crictl.command(&["exec", "-r", transport, "-i", &id, "/bin/cat"]);
        let mut child = scene.crictl.spawn({
            command.stdin(Stdio::piped());
            command
        })?;
        child.stdin.take().context("input")?.write_all(b"through and back\n")?;
        let output = child.wait_with_output()?;
        assert!(output.status.success() && text(&output).0 == "through and back\n", "{transport}: {output:?}");
        // It wants a terminal of its own, which `script` makes.
        let inner = scene.crictl.command(&["exec", "-r", transport, "-it", &id, "/bin/sh", "-c", "'test -t 1 && tty'"]);
        let words: Vec<_> = std::iter::once(inner.get_program()).chain(inner.get_args()).map(|word| word.to_string_lossy()).collect();
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = scene.crictl.spawn(command)?.wait_with_output()?;
        assert!(output.status.success() && text(&output).0.contains("/dev/pts/0"), "{transport}: {output:?}");
        let output = scene.crictl.output(&["exec", "-s", &id, "/bin/echo", "sync"])?;
        assert!(output.status.success() && text(&output).0.starts_with("sync\n"), "{output:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_sees_the_output_and_ends_with_the_input() -> Result<()> {
    for transport in TRANSPORTS {
        let spec = ContainerSpec::shell("a", "while read line; do echo said $line; done; echo over").with(|config| {
            (config.stdin, config.stdin_once) = (true, true);
        });
        let Some(scene) = Scene::with(&spec).await? else { return Ok(()) };
        let mut command = scene.crictl.command(&["attach", "-r", transport, "-i", &scene.container.id]);
        command.stdin(Stdio::piped());
        let mut child = scene.crictl.spawn(command)?;
        let mut input = child.stdin.take().context("input")?;
        let mut output = BufReader::new(child.stdout.take().context("output")?);
        input.write_all(b"hello\n")?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        assert_eq!(line, "said hello\n", "{transport}");
        drop(input);
        let mut rest = String::new();
        output.read_to_string(&mut rest)?;
        assert_eq!(rest, "over\n", "{transport}");
        assert!(child.wait()?.success(), "{transport}");
        assert_eq!(scene.container.exit_code().await?, 0, "{transport}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded() -> Result<()> {
    for transport in TRANSPORTS {
        let Some(scene) = Scene::with(&ContainerSpec::sleeper("a")).await? else { return Ok(()) };
        let network = NetworkNamespace::of_process(scene.pod.pause_pid().await?)?;
        let listener = network.run(|| Ok(std::net::TcpListener::bind("127.0.0.1:8080")?))?;
        std::thread::spawn(move || -> io::Result<()> {
            for connection in listener.incoming() {
                let mut connection = connection?;
                io::copy(&mut connection.try_clone()?, &mut connection)?;
                connection.shutdown(std::net::Shutdown::Write)?;
            }
            Ok(())
        });
        let mut child = scene.crictl.spawn(scene.crictl.command(&["port-forward", "-r", transport, &scene.pod.id, "18080:8080"]))?;
        let mut said = BufReader::new(child.stdout.take().context("output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        assert!(line.contains("18080"), "{transport}: {line}");
        for _ in 0..3 {
            let answer = scene.daemon.network().run(|| {
                let mut connection = std::net::TcpStream::connect("127.0.0.1:18080")?;
                connection.set_read_timeout(Some(wait::scaled(wait::DEADLINE)))?;
                connection.write_all(b"there and back")?;
                connection.shutdown(std::net::Shutdown::Write)?;
                let mut answer = String::new();
                connection.read_to_string(&mut answer)?;
                Ok(answer)
            })?;
            assert_eq!(answer, "there and back", "{transport}");
        }
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

/// Files through `cat`, in each direction: one of a gigabyte over SPDY.
#[tokio::test(flavor = "multi_thread")]
async fn large_files_go_in_and_come_out_the_same() -> Result<()> {
    let Some(scene) = Scene::with(&ContainerSpec::sleeper("a")).await? else { return Ok(()) };
    let id = scene.container.id.clone();
    // Blocks that tell where they stand.
    let block = |at: usize| -> Vec<u8> { at.to_le_bytes().into_iter().cycle().take(1 << 20).collect() };
    for (transport, blocks) in TRANSPORTS.into_iter().zip([1024, 128]) {
        let mut command = scene.crictl.command(&["exec", "-r", transport, "-i", &id, "/bin/sh", "-c", "cat > /data"]);
        command.stdin(Stdio::piped());
        let mut child = scene.crictl.spawn(command)?;
        let mut input = child.stdin.take().context("input")?;
        let mut sent = Sha256::new();
        for at in 0..blocks {
            let block = block(at);
            sent.update(&block);
            input.write_all(&block)?;
        }
        drop(input);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{transport}: {output:?}");
        let sent = sent.finalize();
        let hex: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
        let there = scene.container.exec_within(&["/bin/sha256sum", "/data"], 0).await?;
        assert!(there.stdout.starts_with(hex.as_bytes()), "{transport}: {there:?}");
        let mut child = scene.crictl.spawn(scene.crictl.command(&["exec", "-r", transport, &id, "/bin/cat", "/data"]))?;
        let mut output = child.stdout.take().context("output")?;
        let (mut received, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            match output.read(&mut buffer)? {
                0 => break,
                count => received.update(&buffer[..count]),
            }
        }
        assert!(child.wait()?.success() && received.finalize() == sent, "{transport}");
    }
    Ok(())
}
