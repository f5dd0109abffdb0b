//! What the daemon asks, and what it is answered.

use crate::connection::ConnectionError;
use crate::event_loop::{Monitor, network_namespace};
use crate::follower::Follower;
use crate::launch::{Asker, Launcher};
use crate::log::StreamName;
use podbox_plan::wire::{
    AttachedStdin, MonitorMessage, Received, Reply, ReplyBody, Request, RequestBody, RunningProcess, VERSION_MAX, VERSION_MIN,
};
use podbox_plan::{ContainerId, LaunchPlan, Op, ProcessRef, Slot};
use podbox_sys::{send_signal, send_signal_to_group};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

const SIGKILL: i32 = 9;
/// The largest signal number of Linux.
const SIGNAL_MAX: i32 = 64;
/// Streams that clients follow in a pod at the same time: each is a descriptor, and the monitor needs some for its other duties.
const FOLLOWERS_MAX: usize = 256;

impl Monitor {
    /// Takes one request. A daemon that breaks the protocol is let go, and nothing else is touched.
    pub(crate) fn serve(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let number = connection.number;
        match connection.flush().and_then(|()| connection.receive()) {
            Ok(None) => {}
            Ok(Some(Received { message, descriptors })) => self.answer(number, message, descriptors),
            Err(ConnectionError::Wire(_) | ConnectionError::QueueFull | ConnectionError::Watch(_)) => self.drop_connection(),
        }
    }

    fn answer(&mut self, connection: u64, request: Request, descriptors: Vec<OwnedFd>) {
        let greeted = self.connection.as_ref().is_some_and(|connection| connection.version.is_some());
        let body = match request.body {
            RequestBody::Hello { version_min, version_max } => self.greet(request.id, version_min, version_max),
            _ if !greeted => None,
            RequestBody::Launch { process, plan } => {
                match self.launch(Asker { connection, request: request.id }, process, &plan, descriptors) {
                    // Answered when the newborn has come to something.
                    None => return,
                    answer => answer,
                }
            }
            RequestBody::Signal { process, signal, group } => Some(self.signal(&process, signal, group)),
            RequestBody::ReopenLog { container } => Some(self.reopen_log(&container)),
            RequestBody::Attach { container, stdout, stderr, stdin } => {
                let (body, input) = self.attach(&container, [stdout, stderr], stdin, descriptors);
                self.reply_to(connection, request.id, body, input);
                return;
            }
            RequestBody::CloseStdin { container } => Some(self.close_stdin(&container)),
            RequestBody::OpenNetwork => {
                let pause = self.running.iter().find(|running| running.process == ProcessRef::Pause);
                let network = pause.and_then(|pause| network_namespace(pause.pid));
                let body = if network.is_some() { ReplyBody::Network } else { ReplyBody::NotRunning };
                self.reply_to(connection, request.id, body, network);
                return;
            }
            RequestBody::State => Some(self.state()),
            RequestBody::Shutdown => Some(self.shut_down()),
        };
        match body {
            Some(body) => self.reply_to(connection, request.id, body, None),
            None => self.drop_connection(),
        }
    }

    /// `None` where there is no common version: the daemon was told, and is let go.
    fn greet(&mut self, request: u64, version_min: u32, version_max: u32) -> Option<ReplyBody> {
        let connection = self.connection.as_mut()?;
        let version = version_max.min(VERSION_MAX);
        if version < version_min.max(VERSION_MIN) {
            let body = refused(format!("it speaks versions {VERSION_MIN} to {VERSION_MAX}"));
            // Whether it hears of it or not, it is let go.
            let _ = connection.send(MonitorMessage::Reply(Reply { id: request, body }), None);
            return None;
        }
        connection.version = Some(version);
        Some(ReplyBody::Hello { version, monitor_pid: rustix::process::getpid().as_raw_nonzero().get() })
    }

    fn launch(&mut self, asker: Asker, process: ProcessRef, plan: &LaunchPlan, descriptors: Vec<OwnedFd>) -> Option<ReplyBody> {
        let is_running = self.running.iter().any(|running| running.process == process);
        if is_running || self.pending.iter().any(|pending| pending.process == process && pending.asker.is_some()) {
            return Some(refused(format!("{process} is there already")));
        }
        if !matches!(plan.ops.last(), Some(Op::Exec { .. })) {
            return Some(refused(format!("the plan of {process} executes nothing")));
        }
        let launcher = Launcher {
            poll: &mut self.poll,
            own_pid_namespace: &self.own_pid_namespace,
            inherited_oom_score_adj: self.inherited_oom_score_adj.as_deref(),
            running: &self.running,
        };
        match launcher.begin(asker, process, plan, descriptors) {
            Ok(pending) => {
                self.pending.push(pending);
                None
            }
            Err(failure) => Some(ReplyBody::LaunchFailed(failure)),
        }
    }

    fn signal(&mut self, process: &ProcessRef, signal: i32, group: bool) -> ReplyBody {
        if !(0..=SIGNAL_MAX).contains(&signal) {
            return refused(format!("{signal} is no signal"));
        }
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.process == *process && pending.asker.is_some()) {
            // It is no program yet that could handle one; 0 only asks.
            if signal != 0 {
                pending.kill();
            }
            return ReplyBody::Done;
        }
        let Some(running) = self.running.iter_mut().find(|running| running.process == *process) else { return ReplyBody::NotRunning };
        running.killed_on_request |= signal == SIGKILL;
        let sent = if group { send_signal_to_group(running.pid, signal) } else { send_signal(&running.pidfd, signal) };
        if let Some(own) = running.own_cgroup.as_ref().filter(|_| group && signal == SIGKILL)
            && let Err(error) = own.kill()
        {
            return refused(format!("kill what {process} has started: {error}"));
        }
        match sent {
            Ok(()) => ReplyBody::Done,
            Err(error) if error.errno() == Errno::SRCH => ReplyBody::NotRunning,
            Err(error) => refused(format!("signal {signal} to {process}: {}", error.errno())),
        }
    }

    fn reopen_log(&mut self, container: &ContainerId) -> ReplyBody {
        let process = ProcessRef::Container(container.clone());
        let Some(running) = self.running.iter_mut().find(|running| running.process == process) else { return ReplyBody::NotRunning };
        match running.output.log.as_mut().map_or(Ok(()), |log| log.reopen()) {
            Ok(()) => ReplyBody::Done,
            Err(errno) => refused(format!("reopen the log of {process}: {errno}")),
        }
    }

    /// Lets a client follow a container's output and write to its input.
    fn attach(
        &mut self,
        container: &ContainerId,
        pipes: [Option<Slot>; 2],
        stdin: AttachedStdin,
        descriptors: Vec<OwnedFd>,
    ) -> (ReplyBody, Option<OwnedFd>) {
        let process = ProcessRef::Container(container.clone());
        let followers: usize = self.running.iter().map(|running| running.output.followers()).sum();
        let Some(running) = self.running.iter_mut().find(|running| running.process == process) else {
            return (ReplyBody::NotRunning, None);
        };
        // Lent to two, it would not end with the first.
        if stdin == AttachedStdin::ClosedWithConnection && running.output.stdin_goes_with_connection && running.output.has_pipe_for_input()
        {
            return (refused(format!("the input of {process} is for one client, which has it")), None);
        }
        if followers >= FOLLOWERS_MAX {
            return (refused(format!("{followers} streams of the pod are followed already")), None);
        }
        let failed = |errno: Errno| (refused(format!("attach to {process}: {errno}")), None);
        let mut descriptors: Vec<Option<OwnedFd>> = descriptors.into_iter().map(Some).collect();
        let mut followers = Vec::new();
        for (slot, name) in pipes.into_iter().zip([StreamName::Stdout, StreamName::Stderr]) {
            let Some(slot) = slot else { continue };
            let pipe = usize::try_from(slot).ok().and_then(|at| descriptors.get_mut(at)?.take());
            let Some(pipe) = pipe else { return (refused(format!("no descriptor {slot} came with the message")), None) };
            let follower = rustix::io::ioctl_fionbio(&pipe, true).and_then(|()| Follower::new(&mut self.poll, pipe));
            match follower {
                Ok(follower) => followers.push((name, follower)),
                Err(errno) => return failed(errno),
            }
        }
        let is_lent = stdin != AttachedStdin::Unwanted || running.output.is_terminal();
        let input = match running.output.lend_input() {
            Ok(input) => input.filter(|_| is_lent),
            Err(errno) => return failed(errno),
        };
        for (name, follower) in followers {
            running.output.follow(name, follower);
        }
        running.output.stdin_goes_with_connection |= stdin == AttachedStdin::ClosedWithConnection;
        (ReplyBody::Attached, input)
    }

    fn close_stdin(&mut self, container: &ContainerId) -> ReplyBody {
        let process = ProcessRef::Container(container.clone());
        let Some(running) = self.running.iter_mut().find(|running| running.process == process) else { return ReplyBody::NotRunning };
        running.output.close_stdin();
        ReplyBody::Done
    }

    fn state(&self) -> ReplyBody {
        let processes = self.running.iter().map(|running| RunningProcess {
            process: running.process.clone(),
            pid: running.pid.as_raw_nonzero().get(),
            started_at_ns: running.started_at_ns,
        });
        ReplyBody::State { processes: processes.collect() }
    }

    fn shut_down(&mut self) -> ReplyBody {
        if !self.running.is_empty() || !self.pending.is_empty() {
            return refused(format!("{} processes are there", self.running.len() + self.pending.len()));
        }
        self.is_over = true;
        ReplyBody::Done
    }
}

fn refused(reason: String) -> ReplyBody {
    ReplyBody::Refused { reason }
}
