//! The loop: one wait for everything, and who has to do with what happened.

use crate::connection::Connection;
use crate::exec_cgroup::Leftovers;
use crate::launch::{Pending, Progress};
use crate::output::{Output, Scratch};
use crate::poll::{Poll, Token, Watched};
use crate::process::Running;
use crate::startup::Prepared;
use podbox_plan::ProcessRef;
use podbox_plan::wire::{Event, MonitorMessage, Reply, ReplyBody};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Bytes of a `signalfd_siginfo`; SIGCHLD, the only signal watched for, is pending once at most.
const SIGNAL_BYTES: usize = 128;
/// How long, and for how much more, output of an ended process is read that others still hold open.
const HELD_OUTPUT_TIME: Duration = Duration::from_secs(1);
const HELD_OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// How long a monitor waits for the daemon that started it, before it takes that for dead.
const FIRST_CONNECTION_TIME: Duration = Duration::from_secs(60);

/// All that the monitor has.
pub struct Monitor {
    pub(crate) poll: Poll,
    pub(crate) own_pid_namespace: OwnedFd,
    pub(crate) inherited_oom_score_adj: Option<String>,
    pub(crate) connection: Option<Connection>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) running: Vec<Running>,
    /// Set when the daemon has ended the monitor.
    pub(crate) is_over: bool,
    listener: Watched,
    signals: Watched,
    held: Vec<HeldOutput>,
    leftovers: Leftovers,
    scratch: Scratch,
    connections: u64,
    started: Instant,
}

/// Output of an ended process whose writing end somebody else still has.
struct HeldOutput {
    output: Output,
    until: Instant,
    bytes_left: usize,
    /// Nothing more is read: followers have yet to take what was.
    is_closed: bool,
}

impl Monitor {
    /// Watches the listening socket and the children.
    pub fn new(prepared: Prepared) -> Result<Self, Errno> {
        let mut poll = Poll::new()?;
        let listener = poll.watch(prepared.listener)?;
        let signals = poll.watch(prepared.signals)?;
        Ok(Self {
            poll,
            own_pid_namespace: prepared.own_pid_namespace,
            inherited_oom_score_adj: prepared.inherited_oom_score_adj,
            connection: None,
            pending: Vec::new(),
            running: Vec::new(),
            is_over: false,
            listener,
            signals,
            held: Vec::new(),
            leftovers: Leftovers::default(),
            scratch: Scratch::new(),
            connections: 0,
            started: Instant::now(),
        })
    }

    /// Serves until the daemon ends the monitor.
    pub fn run(mut self) -> ExitCode {
        let mut ready = Vec::new();
        while !self.is_over {
            if self.poll.wait(&mut ready, self.time_left()).is_err() {
                return ExitCode::FAILURE;
            }
            for &token in &ready {
                self.handle(token);
            }
            self.look_at_labels();
            self.let_go_of_followers();
            self.let_go_of_held_output();
            self.leftovers.look_if_due();
            self.is_over |= self.is_abandoned();
        }
        ExitCode::SUCCESS
    }

    /// Nothing is left to watch, and nobody is there who could ask for more: the daemon died, before it had anything started or
    /// after all had ended. What there is to know stands on disk.
    fn is_abandoned(&self) -> bool {
        let is_idle = self.connection.is_none() && self.running.is_empty() && self.pending.is_empty() && self.held.is_empty();
        is_idle && (self.connections > 0 || self.started.elapsed() >= FIRST_CONNECTION_TIME)
    }

    /// A token whose watch has ended within the same round is nobody's.
    fn handle(&mut self, token: Token) {
        if token == self.signals.token() {
            self.reap();
        } else if token == self.listener.token() {
            self.accept();
        } else if self.connection.as_ref().is_some_and(|connection| connection.token() == token) {
            self.serve();
        } else if let Some(at) = self.pending.iter().position(|pending| pending.has_status(token)) {
            self.advance(at);
        } else {
            self.read_output(token);
        }
    }

    /// A new connection takes the place of the old.
    fn accept(&mut self) {
        self.connections += 1;
        if let Some(connection) = Connection::accept(&self.listener, &mut self.poll, self.connections) {
            self.drop_connection();
            self.connection = Some(connection);
        }
    }

    /// Forgets the daemon. Launches that it asked for and that have not come to anything are ended: whoever connects next starts
    /// them anew, under the same names.
    pub(crate) fn drop_connection(&mut self) {
        if self.connection.take().is_some() {
            for running in self.running.iter_mut().filter(|running| running.output.stdin_goes_with_connection) {
                running.output.close_stdin();
            }
            for pending in self.pending.iter_mut().filter(|pending| pending.asker.is_some()) {
                pending.asker = None;
                pending.kill();
            }
        }
    }

    fn advance(&mut self, at: usize) {
        // One that failed stays until it is reaped, and is answered for then.
        let pending = &mut self.pending[at];
        if pending.read_status() == Progress::Executed && pending.asker.is_some() && pending.has_its_label() {
            let pending = self.pending.swap_remove(at);
            self.launched(pending);
        }
    }

    fn launched(&mut self, pending: Pending) {
        let asker = pending.asker;
        let running = pending.into_running(&mut self.poll);
        let descriptor = if running.process == ProcessRef::Pause { network_namespace(running.pid) } else { None };
        let body = ReplyBody::Launched { pid: running.pid.as_raw_nonzero().get(), started_at_ns: running.started_at_ns };
        self.running.push(running);
        if let Some(asker) = asker {
            self.reply_to(asker.connection, asker.request, body, descriptor);
        }
    }

    fn reap(&mut self) {
        // What it says does not matter: one signal may stand for many, and all are asked after.
        let _ = rustix::io::read(&self.signals, &mut [0; SIGNAL_BYTES]);
        while let Ok(Some(ended)) = podbox_sys::ended_child() {
            // As long as it is not reaped, its number is its own and its label can be seen.
            self.hear_of(ended);
            // A child that a tracer holds cannot be reaped yet; its signal comes again.
            let Ok(Some((pid, status))) = rustix::process::waitpid(Some(ended), WaitOptions::NOHANG) else { break };
            self.reaped(pid, status);
        }
    }

    /// Processes that nobody knows are orphans of the pod, which end here.
    fn reaped(&mut self, pid: Pid, status: WaitStatus) {
        if let Some(at) = self.pending.iter().position(|pending| pending.pid == pid) {
            let mut pending = self.pending.swap_remove(at);
            let executed = pending.read_status() == Progress::Executed;
            if pending.pid != pid {
                // It goes on as another process, which may have come to something already.
                if executed && pending.asker.is_some() && pending.has_its_label() {
                    self.launched(pending);
                } else {
                    self.pending.push(pending);
                }
                return;
            }
            match pending.asker {
                Some(_) if executed => self.launched(pending),
                asker => {
                    if let Some(own) = pending.own_cgroup.take() {
                        self.leftovers.take(own);
                    }
                    if let Some(asker) = asker {
                        let failure = pending.into_failure(status);
                        self.reply_to(asker.connection, asker.request, ReplyBody::LaunchFailed(failure), None);
                    }
                }
            }
        }
        if let Some(at) = self.running.iter().position(|running| running.pid == pid) {
            let mut running = self.running.swap_remove(at);
            let record = running.end(status, &mut self.scratch);
            if let Some(own) = running.own_cgroup.take() {
                self.leftovers.take(own);
            }
            self.send(MonitorMessage::Event(Event::Exited { process: running.process, record }), None);
            if !running.output.is_over() {
                let until = Instant::now() + HELD_OUTPUT_TIME;
                self.held.push(HeldOutput { output: running.output, until, bytes_left: HELD_OUTPUT_BYTES_MAX, is_closed: false });
            }
        }
    }

    /// A process that nobody knows may be one that a newborn goes on as, and has said so.
    fn hear_of(&mut self, pid: Pid) {
        if let Some(at) = self.pending.iter().position(|pending| pending.pid == pid) {
            self.advance(at);
            return;
        }
        let is_known = self.running.iter().any(|running| running.pid == pid);
        let mut at = if is_known { self.pending.len() } else { 0 };
        while at < self.pending.len() {
            let before = self.pending.len();
            if self.pending[at].may_go_on() {
                self.advance(at);
            }
            // One that has come to something is not there any more.
            at += usize::from(self.pending.len() == before);
        }
    }

    fn read_output(&mut self, token: Token) {
        let pending = self.pending.iter_mut().map(|pending| &mut pending.output);
        let mut alive = pending.chain(self.running.iter_mut().map(|running| &mut running.output));
        if let Some(output) = alive.find(|output| output.has(token)) {
            output.handle_ready(token, &mut self.scratch);
        } else if let Some(held) = self.held.iter_mut().find(|held| held.output.has(token)) {
            let bytes = held.output.handle_ready(token, &mut self.scratch);
            held.bytes_left = held.bytes_left.saturating_sub(bytes);
        }
    }

    fn time_left(&self) -> Option<Duration> {
        let unvisited = (self.connections == 0).then(|| self.started + FIRST_CONNECTION_TIME);
        let held = self.held.iter().filter(|held| !held.is_closed).map(|held| held.until);
        let outputs = self.running.iter().map(|running| &running.output).chain(self.held.iter().map(|held| &held.output));
        let followers = outputs.filter_map(Output::followers_due);
        let looks = self.pending.iter().filter_map(Pending::look_due);
        let first = held.chain(followers).chain(looks).chain(unvisited).chain(self.leftovers.due()).min();
        first.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Of newborns that had not become their programs when they were looked at.
    fn look_at_labels(&mut self) {
        let now = Instant::now();
        let is_due = |pending: &Pending| pending.look_due().is_some_and(|due| due <= now);
        while let Some(at) = self.pending.iter().position(is_due) {
            // It goes, or is due later.
            self.advance(at);
        }
    }

    /// Those who follow a container and take nothing for too long.
    fn let_go_of_followers(&mut self) {
        let outputs = self.running.iter_mut().map(|running| &mut running.output).chain(self.held.iter_mut().map(|held| &mut held.output));
        let now = Instant::now();
        for output in outputs.filter(|output| output.followers_due().is_some_and(|due| due <= now)) {
            output.let_go_of_followers(now);
        }
    }

    fn let_go_of_held_output(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let now = Instant::now();
        for held in self.held.iter_mut().filter(|held| held.until <= now || held.bytes_left == 0) {
            // Its followers may have yet to take what was read.
            held.output.close(&mut self.scratch);
            held.is_closed = true;
        }
        self.held.retain(|held| !held.output.is_over());
    }

    /// Answers a request, if who asked is still there.
    pub(crate) fn reply_to(&mut self, connection: u64, request: u64, body: ReplyBody, descriptor: Option<OwnedFd>) {
        if self.connection.as_ref().is_some_and(|current| current.number == connection) {
            self.send(MonitorMessage::Reply(Reply { id: request, body }), descriptor);
        }
    }

    /// Sends to the daemon, if one is there, has said hello and understands it; one that cannot be sent to is let go.
    fn send(&mut self, message: MonitorMessage, descriptor: Option<OwnedFd>) {
        let understands = |connection: &&mut Connection| connection.version.is_some_and(|version| version >= message.version_needed());
        if let Some(connection) = self.connection.as_mut().filter(understands)
            && connection.send(message, descriptor).is_err()
        {
            self.drop_connection();
        }
    }
}

/// The network namespace of a process that is not reaped.
pub(crate) fn network_namespace(pid: Pid) -> Option<OwnedFd> {
    let path = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}
