//! The machine: qemu, emulating in software. `/dev/kvm` is not used where it is there: some hosts' hangs stock kernels.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Processors and memory of a guest.
const PROCESSORS: &str = "2";
const MEMORY: &str = "1536M";
/// A guest that prints nothing for so long hangs. A test program, or a run of specs, that hangs is ended before that, by the guest.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(1300);
/// Of a boot, until the first test program begins: 5 s on a machine with nothing else to do, a hundred on one that has much.
pub(super) const BOOT_MAX: Duration = Duration::from_secs(300);
/// Lines longer than this are cut.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// What a machine is made of.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// In order; what is written to them is thrown away.
    pub(super) disks: &'a [&'a Path],
    /// Gets what the first serial port prints.
    pub(super) console: &'a Path,
}

/// How a machine came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The guest powered off or panicked: qemu ended by itself, and well.
    ByItself,
    /// qemu said this.
    QemuFailed(String),
    /// No test had begun after [`BOOT_MAX`].
    NotUp,
    /// Nothing was heard for so long.
    Silent(Duration),
}

/// Ended when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Runs it and hands on each line that it prints on the second serial port, to what says whether the guest is up.
    pub(super) fn run(&self, kernel_arguments: &str, mut heard: impl FnMut(&str) -> bool) -> Result<Ended> {
        let mut qemu = Running(self.command(kernel_arguments).spawn().context("start qemu")?);
        let lines = read_lines(qemu.0.stdout.take().context("qemu has an output")?);
        let (started, mut is_up) = (Instant::now(), false);
        loop {
            let patience = if is_up { SILENCE_MAX } else { BOOT_MAX.saturating_sub(started.elapsed()) };
            match lines.recv_timeout(patience) {
                Ok(line) => is_up = heard(&line),
                Err(RecvTimeoutError::Timeout) if is_up => return Ok(Ended::Silent(patience)),
                Err(RecvTimeoutError::Timeout) => return Ok(Ended::NotUp),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let mut said = String::new();
        if let Some(mut stderr) = qemu.0.stderr.take() {
            stderr.read_to_string(&mut said).context("read what qemu says")?;
        }
        let status = qemu.0.wait().context("wait for qemu")?;
        Ok(if status.success() { Ended::ByItself } else { Ended::QemuFailed(format!("{status}: {}", said.trim_end())) })
    }

    /// Polite to others on this machine, and ended by the kernel should this program be killed.
    fn command(&self, kernel_arguments: &str) -> Command {
        let mut command = Command::new("nice");
        command.args(["-n", "5", "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", PROCESSORS, "-m", MEMORY]);
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs).args(["-append", kernel_arguments]);
        for disk in self.disks {
            command.arg("-drive").arg(format!("if=virtio,format=raw,snapshot=on,cache=unsafe,file={}", escaped(disk)));
        }
        command.arg("-chardev").arg(format!("file,id=console,path={}", escaped(self.console)));
        command.args(["-serial", "chardev:console", "-chardev", "stdio,id=results,signal=off", "-serial", "chardev:results"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// qemu's options are lists with commas between.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Read on a thread, which ends with its source.
fn read_lines(source: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        loop {
            line.clear();
            match source.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) => break,
                Err(error) if error.kind() != ErrorKind::Interrupted => break,
                _ => {}
            }
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The last lines of a file.
pub(super) fn tail(path: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).replace('\r', "");
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
