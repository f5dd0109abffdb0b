//! The task that owns a monitor's socket.

use super::{MonitorError, MonitorEvent};
use podbox_plan::wire::{self, Event, MonitorMessage, Received, Reply, ReplyBody, Request, RequestBody, WireError};
use podbox_plan::{ExitRecord, ProcessRef};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

type Answer = Result<(ReplyBody, Vec<OwnedFd>), MonitorError>;

/// A request on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub body: RequestBody,
    pub descriptors: Vec<OwnedFd>,
    pub reply: oneshot::Sender<Answer>,
    /// For the launch of an exec: its number, and who waits for its end.
    pub exec: Option<(u64, oneshot::Sender<ExitRecord>)>,
}

pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    outgoing: mpsc::Receiver<Outgoing>,
    events: mpsc::Sender<MonitorEvent>,
    /// Who waits for a reply, and the number of the exec it is to start.
    waiting: HashMap<u64, (oneshot::Sender<Answer>, Option<u64>)>,
    execs: HashMap<u64, oneshot::Sender<ExitRecord>>,
    next_id: u64,
}

/// Why the task ends.
enum End {
    /// The monitor closed it, or talks nonsense.
    Lost,
    /// Nobody holds a link any more.
    LinkDropped,
}

impl Connection {
    pub fn new(socket: OwnedFd, outgoing: mpsc::Receiver<Outgoing>, events: mpsc::Sender<MonitorEvent>) -> io::Result<Self> {
        // Deprecated since a descriptor might be closed under the reactor: this one is owned, and never taken out.
        #[allow(deprecated)]
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket, outgoing, events, waiting: HashMap::new(), execs: HashMap::new(), next_id: 1 })
    }

    /// Runs until either side is gone. Dropping `self` then drops every waiting sender, which is how askers hear of it.
    pub async fn run(mut self) {
        loop {
            let step = tokio::select! {
                // Ends of processes come before new wishes.
                biased;
                received = receive(&self.socket) => match received {
                    Ok(received) => self.take(received).await,
                    Err(WireError::Closed) => Err(End::Lost),
                    Err(error) => {
                        tracing::error!(%error, "a monitor sent what cannot be read");
                        Err(End::Lost)
                    }
                },
                outgoing = self.outgoing.recv() => match outgoing {
                    Some(outgoing) => self.send(outgoing).await,
                    None => Err(End::LinkDropped),
                },
            };
            match step {
                Ok(()) => {}
                Err(End::Lost | End::LinkDropped) => return,
            }
        }
    }

    async fn send(&mut self, outgoing: Outgoing) -> Result<(), End> {
        let id = self.next_id;
        self.next_id += 1;
        let request = Request { id, body: outgoing.body };
        let borrowed: Vec<BorrowedFd<'_>> = outgoing.descriptors.iter().map(AsFd::as_fd).collect();
        let sent = loop {
            let mut ready = match self.socket.writable().await {
                Ok(ready) => ready,
                Err(_) => return Err(End::Lost),
            };
            match wire::send(self.socket.get_ref(), &request, &borrowed) {
                Err(WireError::NotReady) => ready.clear_ready(),
                other => break other,
            }
        };
        match sent {
            Ok(()) => {
                let number = outgoing.exec.map(|(number, ended)| {
                    self.execs.insert(number, ended);
                    number
                });
                self.waiting.insert(id, (outgoing.reply, number));
                Ok(())
            }
            Err(WireError::Closed) => Err(End::Lost),
            Err(error) => {
                // An asker that stopped waiting has no use for the reason.
                let _ = outgoing.reply.send(Err(MonitorError::Send(error)));
                Ok(())
            }
        }
    }

    async fn take(&mut self, received: Received<MonitorMessage>) -> Result<(), End> {
        match received.message {
            MonitorMessage::Reply(Reply { id, body }) => {
                if let Some((asker, exec)) = self.waiting.remove(&id) {
                    // An exec that did not start will not end either.
                    if let Some(number) = exec.filter(|_| !matches!(body, ReplyBody::Launched { .. })) {
                        self.execs.remove(&number);
                    }
                    let _ = asker.send(Ok((body, received.descriptors)));
                }
                Ok(())
            }
            MonitorMessage::Event(Event::Exited { process: ProcessRef::Exec(number), record }) => {
                if let Some(waiter) = self.execs.remove(&number) {
                    let _ = waiter.send(record);
                }
                Ok(())
            }
            MonitorMessage::Event(Event::Exited { process, record }) => {
                self.events.send(MonitorEvent::Exited { process, record }).await.map_err(|_| End::LinkDropped)
            }
        }
    }
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> Result<Received<MonitorMessage>, WireError> {
    loop {
        let mut ready = socket.readable().await.map_err(|_| WireError::Closed)?;
        match wire::receive(socket.get_ref()) {
            Err(WireError::NotReady) => ready.clear_ready(),
            other => return other,
        }
    }
}
