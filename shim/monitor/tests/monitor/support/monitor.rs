//! The daemon's side of a monitor.

use podbox_plan::wire::{
    Event, LaunchFailure, MonitorMessage, ReplyBody, Request, RequestBody, RunningProcess, VERSION_MAX, VERSION_MIN, WireError, receive,
    send,
};
use podbox_plan::{ExitRecord, LaunchPlan, ProcessRef};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing that is waited for takes this long.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until something is so.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that a launch made.
#[derive(Debug)]
pub struct Launched {
    pub pid: i32,
    pub started_at_ns: i64,
    pub descriptors: Vec<OwnedFd>,
}

/// A monitor, a directory for the test's files, and a connection. All end with it.
pub struct TestMonitor {
    pub directory: tempfile::TempDir,
    process: Child,
    connection: Option<OwnedFd>,
    last_request: u64,
    waiting: VecDeque<MonitorMessage>,
    started: Vec<OwnedFd>,
}

impl TestMonitor {
    /// Starts one and says hello to it.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("temporary directory"))
    }

    pub fn start_in(directory: tempfile::TempDir) -> Self {
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket");
        rustix::net::bind(&listener, &SocketAddrUnix::new(directory.path().join("socket")).expect("address")).expect("bind");
        rustix::net::listen(&listener, 4).expect("listen");
        let process =
            Command::new(env!("CARGO_BIN_EXE_podbox-monitor")).arg("test").stdin(Stdio::from(listener)).spawn().expect("start the monitor");
        let mut monitor = Self { directory, process, connection: None, last_request: 0, waiting: VecDeque::new(), started: Vec::new() };
        monitor.connect();
        monitor
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a pid")
    }

    /// Replaces the connection by a new one that has not said anything.
    pub fn connect_silently(&mut self) {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket");
        set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE)).expect("timeout");
        rustix::net::connect(&socket, &SocketAddrUnix::new(self.path("socket")).expect("address")).expect("connect");
        self.connection = Some(socket);
        self.waiting.clear();
    }

    /// Replaces the connection by a new one.
    pub fn connect(&mut self) {
        self.connect_silently();
        let body = self.request(RequestBody::Hello { version_min: VERSION_MIN, version_max: VERSION_MAX }, &[]).0;
        assert_eq!(body, ReplyBody::Hello { version: VERSION_MAX, monitor_pid: self.pid() });
    }

    pub fn wait_for_its_end(&mut self) {
        until("the monitor ends", || self.process.try_wait().is_ok_and(|ended| ended.is_some_and(|status| status.success())));
    }

    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.connection.as_ref().expect("connected").as_fd()
    }

    /// Sends a request without waiting for its answer.
    pub fn send(&mut self, body: RequestBody, descriptors: &[BorrowedFd<'_>]) -> u64 {
        self.last_request += 1;
        send(self.socket(), &Request { id: self.last_request, body }, descriptors).expect("send");
        self.last_request
    }

    /// The answer to a request; events that come before it are kept.
    pub fn answer(&mut self, id: u64) -> (ReplyBody, Vec<OwnedFd>) {
        loop {
            let received = self.receive().expect("an answer");
            match received.0 {
                MonitorMessage::Reply(reply) if reply.id == id => return (reply.body, received.1),
                other => self.waiting.push_back(other),
            }
        }
    }

    pub fn receive(&mut self) -> Result<(MonitorMessage, Vec<OwnedFd>), WireError> {
        receive(self.socket()).map(|received| (received.message, received.descriptors))
    }

    pub fn request(&mut self, body: RequestBody, descriptors: &[BorrowedFd<'_>]) -> (ReplyBody, Vec<OwnedFd>) {
        let id = self.send(body, descriptors);
        self.answer(id)
    }

    pub fn send_launch(&mut self, process: &ProcessRef, plan: &LaunchPlan, descriptors: &[BorrowedFd<'_>]) -> u64 {
        self.send(RequestBody::Launch { process: process.clone(), plan: Box::new(plan.clone()) }, descriptors)
    }

    pub fn try_launch(
        &mut self,
        process: &ProcessRef,
        plan: &LaunchPlan,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Launched, LaunchFailure> {
        let id = self.send_launch(process, plan, descriptors);
        self.launch_answer(id)
    }

    pub fn launch_answer(&mut self, id: u64) -> Result<Launched, LaunchFailure> {
        match self.answer(id) {
            (ReplyBody::Launched { pid, started_at_ns }, descriptors) => {
                // One that is gone already needs no ending.
                if let Ok(pidfd) = pidfd_open(Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty()) {
                    self.started.push(pidfd);
                }
                Ok(Launched { pid, started_at_ns, descriptors })
            }
            (ReplyBody::LaunchFailed(failure), _) => Err(failure),
            (other, _) => panic!("no answer to a launch: {other:?}"),
        }
    }

    pub fn launch(&mut self, process: &ProcessRef, plan: &LaunchPlan) -> Launched {
        self.try_launch(process, plan, &[]).unwrap_or_else(|failure| panic!("launch {process}: {failure}"))
    }

    /// Waits for the end of a process.
    pub fn exit_of(&mut self, wanted: &ProcessRef) -> ExitRecord {
        let mine = |message: &MonitorMessage| matches!(message, MonitorMessage::Event(Event::Exited { process, .. }) if process == wanted);
        let message = match self.waiting.iter().position(mine) {
            Some(at) => self.waiting.remove(at).expect("found"),
            None => loop {
                let message = self.receive().expect("an event").0;
                if mine(&message) {
                    break message;
                }
                self.waiting.push_back(message);
            },
        };
        let MonitorMessage::Event(Event::Exited { record, .. }) = message else { unreachable!() };
        record
    }

    pub fn signal(&mut self, process: &ProcessRef, signal: i32, group: bool) -> ReplyBody {
        self.request(RequestBody::Signal { process: process.clone(), signal, group }, &[]).0
    }

    pub fn state(&mut self) -> Vec<RunningProcess> {
        match self.request(RequestBody::State, &[]).0 {
            ReplyBody::State { processes } => processes,
            other => panic!("no state: {other:?}"),
        }
    }

    /// Descriptors that the monitor has open.
    pub fn open_descriptors(&self) -> Vec<String> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("fd directory");
        let links = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.map(|link| link.to_string_lossy().into_owned()).collect()
    }

    /// The monitor's own end, once it is told to go.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        let mut code = None;
        until("the monitor ends", || {
            let status = self.process.try_wait().expect("wait");
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        code
    }
}

impl Drop for TestMonitor {
    fn drop(&mut self) {
        for pidfd in &self.started {
            // Gone already is as good.
            let _ = podbox_sys::send_signal(pidfd, 9);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads the record that the monitor left.
pub fn record_at(path: &Path) -> Option<ExitRecord> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
