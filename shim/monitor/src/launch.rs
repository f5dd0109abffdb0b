//! The parent's part of a launch.
//!
//! ```text
//! begin ── clone3 ──► Pending ──[status pipe: the mark, then its end; its label]──► Started ──► process::Running
//!                        └──────[status pipe: a failure, or its end without a mark]──► Failed, once reaped
//! ```
//!
//! One that enters a user namespace may go on as another process: the pending newborn is that one from then on.
//!
//! The child carries the mark out right before `execve(2)`, which closes the pipe. Nothing here waits for the child: one that hangs in
//! a mount stays pending while everything else goes on, until it is killed.

mod streams;

use crate::birth::{ABOUT_TO_EXECUTE, GOES_ON_AS, UNDER_FILTER};
use crate::child::{self, Birth};
use crate::clock;
use crate::exec_cgroup::ExecCgroup;
use crate::label::{ExpectedLabel, Look};
use crate::log::{Log, StreamName};
use crate::output::Output;
use crate::poll::{Poll, Watched};
use crate::process::{AtEnd, Running};
use podbox_plan::wire::LaunchFailure;
use podbox_plan::{LaunchPlan, PidNamespace, ProcessRef, Stdio, UserNamespace};
use podbox_sys::{CloneArguments, CloneFlags, Cloned, clone3, send_signal};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitStatus, pidfd_open, waitid};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;
/// More than any failure is long.
const STATUS_BYTES_MAX: usize = 16 * 1024;

/// Between looks at a process that is becoming its program: that takes microseconds, and longer where its cgroup may use no CPU for a while.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(64);

/// Who asked for a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// [`Connection::number`](crate::connection::Connection::number)
    pub connection: u64,
    /// The request's.
    pub request: u64,
}

/// A newborn that has not executed its program yet.
pub struct Pending {
    /// What the daemon calls it.
    pub process: ProcessRef,
    /// Its id in the monitor's PID namespace.
    pub pid: Pid,
    /// `None` once the asker is gone: then the newborn is killed, and its name is free.
    pub asker: Option<Asker>,
    /// Its streams.
    pub output: Output,
    /// The cgroup of its own, of a command.
    pub own_cgroup: Option<ExecCgroup>,
    pidfd: OwnedFd,
    at_end: AtEnd,
    /// Until it was seen.
    label: Option<ExpectedLabel>,
    /// When to look for it again, and how long to wait after that.
    look_again: Option<(Instant, Duration)>,
    status: Option<Watched>,
    said: Vec<u8>,
    terminal: Option<OwnedFd>,
    /// It is to end, whichever process it is by then.
    is_killed: bool,
}

/// What the status pipe tells so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is not over.
    Open,
    /// The program was executed.
    Executed,
    /// The newborn has failed or was killed; it is to be reaped.
    Failed,
}

/// What a launch needs of the monitor.
pub struct Launcher<'a> {
    /// For the child's pipes.
    pub poll: &'a mut Poll,
    /// Where the monitor comes back to.
    pub own_pid_namespace: &'a OwnedFd,
    /// See [`Prepared`](crate::startup::Prepared).
    pub inherited_oom_score_adj: Option<&'a str>,
    /// Processes whose namespaces can be joined.
    pub running: &'a [Running],
}

impl Launcher<'_> {
    /// Makes the newborn. On a failure nothing is left.
    pub fn begin(self, asker: Asker, process: ProcessRef, plan: &LaunchPlan, descriptors: Vec<OwnedFd>) -> Result<Pending, LaunchFailure> {
        let log = open_log(&plan.stdio)?;
        let (for_child, for_monitor) = streams::open_streams(&plan.stdio).map_err(at("make the standard streams"))?;
        let mut output = Output::new(log, for_monitor.stdin);
        for (source, name) in [(for_monitor.stdout, StreamName::Stdout), (for_monitor.stderr, StreamName::Stderr)] {
            if let Some(source) = source {
                output.add_stream(self.poll, source, name, false).map_err(at("watch the standard streams"))?;
            }
        }
        let (status, childs_status) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(at("make the status pipe"))?;
        rustix::io::ioctl_fionbio(&status, true).map_err(at("make the status pipe"))?;
        let status = self.poll.watch(status).map_err(at("watch the status pipe"))?;
        let at_end = AtEnd::of(plan);
        let own_cgroup = ExecCgroup::make(&process, &plan.cgroup).map_err(at("make the command's cgroup"))?;
        let cgroup = own_cgroup.as_ref().map_or_else(|| plan.cgroup.clone(), |own| own.entry(&plan.cgroup));
        let birth = Birth {
            plan,
            cgroup: &cgroup,
            streams: for_child,
            descriptors,
            status: Some(childs_status),
            running: self.running,
            oom_score_adj: self.inherited_oom_score_adj,
        };
        let (pid, pidfd) = match self.clone(plan, birth) {
            Ok(child) => child,
            Err(failure) => {
                if let Some(own) = own_cgroup {
                    // Nothing was born in it, so nothing holds it.
                    own.remove();
                }
                return Err(failure);
            }
        };
        let terminal = for_monitor.terminal;
        Ok(Pending {
            process,
            pid,
            asker: Some(asker),
            output,
            own_cgroup,
            pidfd,
            at_end,
            label: ExpectedLabel::of(plan),
            look_again: None,
            status: Some(status),
            said: Vec::new(),
            terminal,
            is_killed: false,
        })
    }

    /// Clones in the right PID namespace and cgroup. The parent's copies of what is the child's alone are closed with `birth`.
    fn clone(&self, plan: &LaunchPlan, birth: Birth<'_>) -> Result<(Pid, OwnedFd), LaunchFailure> {
        let cgroup = birth
            .cgroup
            .unified
            .as_ref()
            .map(|path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))
            .transpose()
            .map_err(at("open the cgroup"))?;
        let arguments = CloneArguments { flags: clone_flags(plan), cgroup: cgroup.as_ref().map(AsFd::as_fd), sibling: false };
        if let PidNamespace::Of(owner) = &plan.pid {
            let failed = |errno| failure(format!("enter the PID namespace of {owner}"), errno);
            let owner = self.running.iter().find(|running| running.process == *owner).ok_or_else(|| failed(Errno::SRCH))?;
            move_into_thread_name_spaces(owner.pidfd.as_fd(), ThreadNameSpaceType::PROCESS_ID).map_err(failed)?;
        }
        let cloned = match clone3(arguments) {
            Ok(Cloned::Child) => child::be_born(birth),
            Ok(Cloned::Parent { pid, pidfd }) => Ok((pid, pidfd)),
            Err(error) => Err(failure("make the process".to_owned(), error.errno())),
        };
        if let PidNamespace::Of(_) = &plan.pid {
            move_into_link_name_space(self.own_pid_namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))
                .expect("a process may always have children in its own PID namespace");
        }
        cloned
    }
}

impl Pending {
    /// Whether a watch is the status pipe's.
    pub fn has_status(&self, token: crate::poll::Token) -> bool {
        self.status.as_ref().is_some_and(|status| status.token() == token)
    }

    /// Takes what the newborn has said so far.
    pub fn read_status(&mut self) -> Progress {
        while let Some(status) = &self.status {
            let mut bytes = [0; 512];
            match rustix::io::read(status, &mut bytes) {
                Ok(0) => self.status = None,
                Ok(count) if self.said.len() + count <= STATUS_BYTES_MAX => self.said.extend_from_slice(&bytes[..count]),
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Open,
                Ok(_) | Err(_) => self.status = None,
            }
            self.follow();
        }
        if self.words() == [ABOUT_TO_EXECUTE] { Progress::Executed } else { Progress::Failed }
    }

    /// Whether the process, which has executed and is not reaped, has the label that was planned. One that has not is ended, and its launch
    /// has failed; one of which it cannot be told yet is [to be looked at again](Self::look_due).
    pub fn has_its_label(&mut self) -> bool {
        let last = self.look_again.take();
        match self.label.as_ref().map_or(Look::Right, |label| label.look(self.pid)) {
            Look::Right => self.label = None,
            Look::TooEarly => {
                let pause = last.map_or(FIRST_PAUSE, |(_, pause)| pause);
                self.look_again = Some((Instant::now() + pause, (pause * 2).min(LAST_PAUSE)));
                return false;
            }
            Look::Wrong(failure) => {
                // One that was killed on the way has that to tell, and not what it then ran as.
                self.said = if self.was_killed() { Vec::new() } else { serde_json::to_vec(&failure).unwrap_or_default() };
                self.status = None;
                self.kill();
                return false;
            }
        }
        true
    }

    /// When [`Self::has_its_label`] is to be asked again; never once nobody wants to know.
    pub fn look_due(&self) -> Option<Instant> {
        self.look_again.filter(|_| self.asker.is_some()).map(|(due, _)| due)
    }

    /// Whether a signal has ended it.
    fn was_killed(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::PidFd(self.pidfd.as_fd()), options), Ok(Some(status)) if status.terminating_signal().is_some())
    }

    /// What it said, without what it says before it takes a filter on.
    fn words(&self) -> &[u8] {
        self.said.strip_prefix(&[UNDER_FILTER]).unwrap_or(&self.said)
    }

    /// Whether it may yet go on as a process that it has not told of.
    pub fn may_go_on(&self) -> bool {
        self.status.is_some()
    }

    /// The newborn goes on as another process, which waits until it has said so ([`GOES_ON_AS`]), and ends itself.
    fn follow(&mut self) {
        let Some(words) = self.said.strip_prefix(&[GOES_ON_AS]) else { return };
        let Some(length) = words.iter().position(|byte| *byte == b'\n') else { return };
        let number = std::str::from_utf8(&words[..length]).ok().and_then(|digits| digits.parse().ok());
        self.said.drain(..length + 2);
        let Some(pid) = number.and_then(Pid::from_raw) else { return };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        // A number is its own until it is reaped, and one that is no child of ours is not meant.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::PidFd(pidfd.as_fd()), options).is_ok() {
            (self.pid, self.pidfd) = (pid, pidfd);
            if self.is_killed {
                self.kill();
            }
        }
    }

    /// Ends the newborn.
    pub fn kill(&mut self) {
        self.is_killed = true;
        // One that has ended is only waiting to be reaped.
        let _ = send_signal(&self.pidfd, SIGKILL);
    }

    /// The program runs: the newborn is a process now.
    pub fn into_running(mut self, poll: &mut Poll) -> Running {
        if let Some(channel) = self.terminal.take()
            && let Some(master) = streams::take_terminal(&channel)
        {
            // Out of memory for the watch, the terminal's output is lost and the process gets a hangup.
            let _ = self.output.add_stream(poll, master, StreamName::Stdout, true);
        }
        Running {
            process: self.process,
            pid: self.pid,
            pidfd: self.pidfd,
            started_at_ns: clock::now_ns(),
            output: self.output,
            at_end: self.at_end,
            own_cgroup: self.own_cgroup,
            killed_on_request: false,
        }
    }

    /// Why nothing runs, of a newborn that is reaped.
    pub fn into_failure(self, status: WaitStatus) -> LaunchFailure {
        let words = self.words();
        let said = words.strip_prefix(&[ABOUT_TO_EXECUTE]).unwrap_or(words);
        serde_json::from_slice(said).unwrap_or_else(|_| LaunchFailure {
            step: match self.said.first() {
                Some(&UNDER_FILTER) => "start the process under its seccomp filter, which may not let it come so far".to_owned(),
                _ => "start the process".to_owned(),
            },
            errno: 0,
            reason: match status.terminating_signal() {
                Some(signal) => format!("it was killed by signal {signal} before it became its program"),
                None => format!("it ended with {} before it became its program", status.exit_status().unwrap_or(0)),
            },
        })
    }
}

fn clone_flags(plan: &LaunchPlan) -> CloneFlags {
    match (&plan.user, plan.namespaces.mount) {
        (UserNamespace::Host, _) => new_namespaces(plan),
        // The host's mounts are worked on first; what is to be new belongs to the user namespace.
        (_, true) => CloneFlags::NEW_MOUNT,
        (_, false) => CloneFlags::EMPTY,
    }
}

/// Those that the process ends up with.
pub fn new_namespaces(plan: &LaunchPlan) -> CloneFlags {
    [
        (plan.namespaces.mount, CloneFlags::NEW_MOUNT),
        (plan.namespaces.net, CloneFlags::NEW_NET),
        (plan.namespaces.ipc, CloneFlags::NEW_IPC),
        (plan.namespaces.uts, CloneFlags::NEW_UTS),
        (plan.pid == PidNamespace::New, CloneFlags::NEW_PID),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(CloneFlags::EMPTY, |flags, (_, flag)| flags | flag)
}

fn open_log(stdio: &Stdio) -> Result<Option<Log>, LaunchFailure> {
    let (Stdio::Piped { log: Some(target), .. } | Stdio::Terminal { log: Some(target) }) = stdio else { return Ok(None) };
    Log::open(&target.path).map(Some).map_err(|errno| failure(format!("open the log {}", target.path.display()), errno))
}

fn at(step: &'static str) -> impl Fn(Errno) -> LaunchFailure {
    move |errno| failure(step.to_owned(), errno)
}

fn failure(step: String, errno: Errno) -> LaunchFailure {
    LaunchFailure { step, errno: errno.raw_os_error(), reason: child::errno_text(errno) }
}
