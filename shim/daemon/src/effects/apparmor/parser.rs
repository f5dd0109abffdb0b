//! `apparmor_parser`, which compiles a profile and hands it to the kernel.
//!
//! It has a limited time and a process group of its own, of which nothing is left afterwards. What it writes to its standard error is read
//! to its end, and the beginning is told. Does not know which profile it is.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Of what the parser says.
const SAID_BYTES_MAX: usize = 1024;

/// The parser did not load the profile.
#[derive(Debug, thiserror::Error)]
pub enum ParserError {
    /// It cannot be executed or waited for.
    #[error("execute it")]
    Execute(#[source] io::Error),
    /// It took too long and was killed.
    #[error("it did not end within {} s and was killed", limit.as_secs())]
    TimedOut {
        /// How long it was waited for.
        limit: Duration,
    },
    /// It failed.
    #[error("it ended with {status}: {said}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The beginning of what it said.
        said: String,
    },
}

/// Loads a profile, in place of one of its name. This blocks. A text is no longer than a pipe is deep (64 KiB).
pub(super) fn load(parser: &Path, text: &str, limit: Duration) -> Result<(), ParserError> {
    let mut command = Command::new(parser);
    // Nothing is kept on disk: the kernel has it, and another kernel needs another.
    command.args(["--replace", "--skip-cache", "--quiet"]).process_group(0);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(ParserError::Execute)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended early says why on its standard error.
        let _ = stdin.write_all(text.as_bytes());
    }
    let said = said_until_the_end(&mut child, limit);
    // It is not reaped yet, so that the group cannot be another's. There may be nothing left of it.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let status = child.wait().map_err(ParserError::Execute)?;
    let said = said?;
    if status.success() {
        return Ok(());
    }
    Err(ParserError::Failed { status, said: String::from_utf8_lossy(&said).trim().replace('\n', "; ") })
}

/// Returns when it is a zombie. What it started may go on writing, and is not waited for.
fn said_until_the_end(child: &mut Child, limit: Duration) -> Result<Vec<u8>, ParserError> {
    let failed = |errno: Errno| ParserError::Execute(errno.into());
    let end = Instant::now() + limit;
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(failed)?;
    let mut stderr = child.stderr.take();
    let mut said = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok().filter(|_| !left.is_zero()).ok_or(ParserError::TimedOut { limit })?;
        let mut events = vec![PollFd::new(&process, PollFlags::IN)];
        events.extend(stderr.as_ref().map(|stderr| PollFd::new(stderr, PollFlags::IN)));
        match poll(&mut events, Some(&left)) {
            Err(Errno::INTR) => continue,
            polled => polled.map_err(failed)?,
        };
        let is_ready = |number: usize| events.get(number).is_some_and(|event: &PollFd<'_>| !event.revents().is_empty());
        let (has_ended, has_written) = (is_ready(0), is_ready(1));
        if let Some(readable) = stderr.as_mut().filter(|_| has_written) {
            let mut piece = [0; 4096];
            let count = readable.read(&mut piece).map_err(ParserError::Execute)?;
            let room = SAID_BYTES_MAX - said.len();
            said.extend_from_slice(&piece[..count.min(room)]);
            if count == 0 {
                stderr = None;
            }
        } else if has_ended {
            return Ok(said);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const LONG: Duration = Duration::from_secs(60);

    fn run(script: &str, limit: Duration) -> Result<(), ParserError> {
        let folder = tempfile::tempdir().expect("a folder");
        let parser = folder.path().join("parser");
        std::fs::write(&parser, format!("#!/bin/sh\n{script}\n")).expect("write");
        std::fs::set_permissions(&parser, std::fs::Permissions::from_mode(0o700)).expect("make executable");
        load(&parser, "the profile", limit)
    }

    #[test]
    fn a_parser_gets_the_text_and_says_what_is_wrong_with_it() {
        run(r#"test "$(cat)" = "the profile" && test "$1" = --replace"#, LONG).expect("loaded");
        // It may say a lot, leave something behind, and need none of the text.
        run("exec <&-; yes complaint | head -c 300000 >&2; sleep 1000 & exit 0", LONG).expect("loaded");
        let error = run("echo first >&2; echo second >&2; yes | head -c 300000 >&2; exit 3", LONG).expect_err("fails");
        let text = error.to_string();
        assert!(text.starts_with("it ended with exit status: 3: first; second; y; y"), "{text}");
        assert!(text.len() < 2 * SAID_BYTES_MAX, "{}", text.len());
        let absent = load(Path::new("/nowhere/parser"), "", LONG).expect_err("absent");
        assert!(matches!(&absent, ParserError::Execute(error) if error.kind() == io::ErrorKind::NotFound), "{absent:?}");
    }

    #[test]
    fn a_parser_that_does_not_end_is_killed_with_all_it_started() {
        let pids = tempfile::NamedTempFile::new().expect("a file");
        let path = pids.path().display();
        let script = format!("echo $$ >{path}; sleep 1000 & echo $! >>{path}; wait");
        let error = run(&script, Duration::from_secs(2)).expect_err("never ends");
        assert_eq!(error.to_string(), "it did not end within 2 s and was killed");
        let text = std::fs::read_to_string(pids.path()).expect("read");
        let mut alive: Vec<&str> = text.lines().collect();
        assert_eq!(alive.len(), 2, "{text}");
        // The sleeper is somebody else's to reap.
        let end = Instant::now() + LONG;
        while !alive.is_empty() && Instant::now() < end {
            let state = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            alive.retain(|pid| state(pid).rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X'])));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(alive.is_empty(), "{alive:?} are left");
    }
}
