//! A gigabyte of a command's output over SPDY, and beside it what a pipe and a socket on loopback alone take for the same: a program that
//! writes zeros, somebody who reads its pipe and writes to the socket, and somebody who reads that. In turns, since the machine's pace
//! changes.

use anyhow::{Context, Result, ensure};
use podbox_stream::{Outcome, Received};
use podbox_tests::streams::{OUTPUTS, Session};
use podbox_tests::{ContainerSpec, Daemon, PodSpec};
use serde::Serialize;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const BYTES: usize = 1 << 30;
/// Zeros come in pieces of a mebibyte.
const DD: [&str; 4] = ["dd", "if=/dev/zero", "bs=1M", "count=1024"];
/// What is read at once, as the daemon does.
const READ_BYTES: usize = 128 * 1024;

/// Medians of the rounds.
#[derive(Debug, Serialize)]
pub(super) struct Streams {
    pub(super) rounds: usize,
    pub(super) bytes: usize,
    /// Through exec.
    pub(super) exec_seconds: f64,
    /// Through a pipe and a socket.
    pub(super) floor_seconds: f64,
}

/// Measures with a daemon that is there.
pub(super) async fn measure(daemon: &Daemon) -> Result<Streams> {
    let pod = daemon.run_pod(&PodSpec::new("streams")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let (mut exec, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let command = [&["/bin/busybox"], &DD[..]].concat();
        let mut session = Session::exec(daemon, &container, &command, OUTPUTS).await?;
        let stdout = session.stdout.as_mut().context("output")?;
        let (begun, mut count) = (Instant::now(), 0);
        while let Received::Bytes(held) = stdout.inbound.next().await {
            count += held.bytes.len();
        }
        exec.push(begun.elapsed());
        ensure!(count == BYTES, "{count} bytes came of {BYTES}");
        session.stdout = None;
        ensure!(session.finish().await?.outcome == Outcome::Exited(0), "dd failed");
        floor.push(tokio::task::spawn_blocking(pipe_and_socket).await??);
    }
    pod.end().await?;
    Ok(Streams { rounds: ROUNDS, bytes: BYTES, exec_seconds: median(exec), floor_seconds: median(floor) })
}

fn pipe_and_socket() -> Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let address = listener.local_addr()?;
    let begun = Instant::now();
    let relay = thread::spawn(move || -> Result<()> {
        let mut command = Command::new("/bin/busybox");
        let mut child = command.args(DD).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("start dd")?;
        let mut pipe = child.stdout.take().context("its output")?;
        let (mut socket, _) = listener.accept()?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match pipe.read(&mut buffer)? {
                0 => break,
                count => socket.write_all(&buffer[..count])?,
            }
        }
        ensure!(child.wait()?.success(), "dd failed");
        Ok(())
    });
    let mut socket = TcpStream::connect(address)?;
    let (mut buffer, mut count) = (vec![0; READ_BYTES], 0);
    loop {
        match socket.read(&mut buffer)? {
            0 => break,
            read => count += read,
        }
    }
    let took = begun.elapsed();
    relay.join().map_err(|_| anyhow::anyhow!("the relay panicked"))??;
    ensure!(count == BYTES, "{count} bytes came of {BYTES}");
    Ok(took)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
