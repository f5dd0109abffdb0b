//! Programs that keep credentials, as docker has them: `docker-credential-NAME` on the path, called with `get`.
//!
//! It reads the registry's address from its standard input and writes JSON with `Username` and `Secret` to its standard output, or fails
//! and writes why. The username `<token>` stands for an identity token. It has 30 s and 64 KiB, podbox's own environment and standard
//! error, and a process group of its own, of which nothing is left afterwards.
//!
//! What it writes to its standard output is in no error, for it may be the secret.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::Deserialize;

use super::Credentials;

const TIME_MAX: Duration = Duration::from_secs(30);
const ANSWER_LEN_MAX: usize = 64 * 1024;
const NAME_LEN_MAX: usize = 128;
/// In what a program writes that failed because it has nothing for the registry (docker-credential-helpers, `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found";
/// The username of an identity token.
const TOKEN: &str = "<token>";

/// A program that keeps credentials gave none.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It cannot be executed or waited for.
    #[error("execute it")]
    Execute(#[source] io::Error),
    /// It took too long and was killed.
    #[error("it did not answer within {} s", limit.as_secs())]
    TimedOut {
        /// How long it was waited for.
        limit: Duration,
    },
    /// It wrote too much and was killed.
    #[error("it answered with more than {limit_bytes} bytes")]
    TooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// It failed. Why, it may have told on its standard error, which is podbox's own.
    #[error("it ended with {0}")]
    Failed(ExitStatus),
    /// It wrote something else than is due.
    #[error("it did not answer with the JSON of a username and a secret")]
    Answer,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Whether a program can have this name: one that leads out of the path's folders is none.
pub(super) fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Asks the program of a name for a registry's credentials. This blocks.
pub(super) fn ask(name: &str, server: &str) -> Result<Credentials, HelperError> {
    ask_program(Command::new(format!("docker-credential-{name}")), server, TIME_MAX)
}

fn ask_program(mut program: Command, server: &str, limit: Duration) -> Result<Credentials, HelperError> {
    program.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    let mut child = program.spawn().map_err(HelperError::Execute)?;
    let answer = answer_of(&mut child, server, limit);
    // It is not reaped yet, so that the group cannot be another's. There may be nothing left of it.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let status = child.wait().map_err(HelperError::Execute)?;
    let answer = answer?;
    if !status.success() {
        return if String::from_utf8_lossy(&answer).contains(NOT_FOUND) {
            Ok(Credentials::Anonymous)
        } else {
            Err(HelperError::Failed(status))
        };
    }
    // An error of JSON repeats what was read.
    let Answer { username, secret } = serde_json::from_slice(&answer).map_err(|_| HelperError::Answer)?;
    Ok(match username.as_str() {
        TOKEN => Credentials::IdentityToken(secret),
        "" if secret.is_empty() => Credentials::Anonymous,
        _ => Credentials::Password { username, password: secret },
    })
}

/// What the program writes until it ends; it is a zombie then. What it started may go on writing, and is not waited for.
fn answer_of(child: &mut Child, server: &str, limit: Duration) -> Result<Vec<u8>, HelperError> {
    let end = Instant::now() + limit;
    if let Some(mut stdin) = child.stdin.take() {
        // An address fits the pipe, so that this waits for nobody. One who does not read it may know whom it is for.
        match stdin.write_all(server.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(HelperError::Execute(error)),
            _ => {}
        }
    }
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(failed)?;
    let mut stdout = child.stdout.take();
    let mut answer = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok().filter(|_| !left.is_zero()).ok_or(HelperError::TimedOut { limit })?;
        let mut events = vec![PollFd::new(&process, PollFlags::IN)];
        events.extend(stdout.as_ref().map(|stdout| PollFd::new(stdout, PollFlags::IN)));
        match poll(&mut events, Some(&left)) {
            Err(Errno::INTR) => continue,
            polled => polled.map_err(failed)?,
        };
        let is_ready = |number: usize| events.get(number).is_some_and(|event: &PollFd<'_>| !event.revents().is_empty());
        let (has_ended, has_written) = (is_ready(0), is_ready(1));
        if let Some(readable) = stdout.as_mut().filter(|_| has_written) {
            if read_some(readable, &mut answer)? == 0 {
                stdout = None;
            }
        } else if has_ended {
            return Ok(answer);
        }
    }
}

fn read_some(stdout: &mut ChildStdout, answer: &mut Vec<u8>) -> Result<usize, HelperError> {
    let mut piece = [0; 4096];
    let count = stdout.read(&mut piece).map_err(HelperError::Execute)?;
    answer.extend_from_slice(&piece[..count]);
    if answer.len() > ANSWER_LEN_MAX { Err(HelperError::TooLong { limit_bytes: ANSWER_LEN_MAX }) } else { Ok(count) }
}

fn failed(errno: Errno) -> HelperError {
    HelperError::Execute(errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask_script(script: &str, limit: Duration) -> Result<Credentials, HelperError> {
        let mut program = Command::new("/bin/sh");
        program.args(["-c", script]).stderr(Stdio::null());
        ask_program(program, "reg.test:5000", limit)
    }

    #[test]
    fn a_program_is_told_the_registry_and_tells_its_credentials() {
        let password =
            |username: &str, password: &str| Credentials::Password { username: username.to_owned(), password: password.to_owned() };
        for (script, expected) in [
            (r#"printf '{"ServerURL":"%s","Username":"%s","Secret":"%s"}' x "$(cat)" "$0""#, password("reg.test:5000", "get")),
            (r#"echo '{"Username":"<token>","Secret":"long-lived"}'"#, Credentials::IdentityToken("long-lived".to_owned())),
            ("echo credentials not found in native keychain; exit 1", Credentials::Anonymous),
            ("echo '{}'", Credentials::Anonymous),
            // What it leaves behind has the pipe open and is not waited for.
            (r#"sleep 1000 & echo '{"Username":"u","Secret":"p"}'"#, password("u", "p")),
            (r#"echo '{"Username":"u","Secret":"p"}'; exec >&-; sleep 0.1"#, password("u", "p")),
        ] {
            assert_eq!(ask_script(script, TIME_MAX).expect(script), expected, "{script}");
        }
    }

    #[test]
    fn a_program_that_fails_or_does_not_end_is_an_error_without_its_words() {
        let short = Duration::from_millis(300);
        for (script, limit, words) in [
            ("echo the secret; exit 3", TIME_MAX, "exit status: 3"),
            ("echo '{\"Secret\": 5, \"Username\": \"the secret\"}'", TIME_MAX, "JSON"),
            ("true", TIME_MAX, "JSON"),
            ("kill -9 $$", TIME_MAX, "signal: 9"),
            ("yes the secret", TIME_MAX, "more than 65536 bytes"),
            ("echo the secret; exec sleep 1000", short, "within 0 s"),
            ("exec >&-; sleep 1000", short, "within 0 s"),
        ] {
            let error = ask_script(script, limit).expect_err(script).to_string();
            assert!(error.contains(words) && !error.contains("secret;"), "{script}: {error}");
            assert!(!error.contains("the secret"), "{script}: {error}");
        }
        let absent = ask("is-not-there", "reg.test").expect_err("no such program");
        assert!(matches!(&absent, HelperError::Execute(source) if source.kind() == io::ErrorKind::NotFound), "{absent:?}");
    }

    #[test]
    fn names_of_programs_have_no_way_out_of_the_path() {
        for (name, is_one) in [("ecr-login", true), ("a.B_9", true), ("", false), ("../x", false), ("a b", false), ("ä", false)] {
            assert_eq!(is_name(name), is_one, "{name}");
        }
    }
}
