//! A netfilter socket, the transactions on it, and single messages to other parts of netfilter.
//!
//! The kernel works a batch off and queues every answer before `send` returns, so nothing here ever waits: what is not
//! there to be read afterwards will not come.

use std::io;

use netlink_bindings::nftables::{Chained, ChainedFinal, Nfgenmsg};
use netlink_bindings::traits::NetlinkChained;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::{Socket, SocketAddr};

use crate::error::FirewallError;

/// `NETLINK_NETFILTER`
pub(super) const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_NFTABLES`: whom the batch is for.
pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// `NLMSG_ERROR`: an acknowledgement, with an errno of 0, or a refusal.
const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST`, `NLM_F_ACK` and `NLM_F_DUMP`.
const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACK: u16 = 0x4;
const FLAG_DUMP: u16 = 0x300;
/// `struct nlmsghdr`, in bytes.
const HEADER_BYTES: usize = 16;
/// More than a refusal with the message it is about.
pub(super) const RECEIVE_BYTES: usize = 64 * 1024;
/// Number of the first message of every batch. Answers to an earlier one have been read by then, or thrown away.
const FIRST_SEQUENCE: u32 = 1;
/// Room for the answers to a batch of some thousand messages. It is used only while it is needed.
const ANSWERS_BYTES: usize = 4 << 20;
/// What the kernel wants of room for what is sent, beside its bytes.
const SEND_SPARE_BYTES: usize = 64 * 1024;

/// A blocking netfilter socket of the network namespace it was opened in.
#[derive(Debug)]
pub(in crate::bridge) struct NftSocket {
    socket: Socket,
    port: u32,
}

impl NftSocket {
    pub(in crate::bridge) fn open() -> Result<Self, FirewallError> {
        let connect = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            let port = socket.bind_auto()?.port_number();
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            // A refusal repeats no more than the header of what it is about.
            socket.set_cap_ack(true)?;
            // In a user namespace nobody has more room than everybody.
            let _ = setsockopt(&socket, sockopt::RcvBufForce, &ANSWERS_BYTES);
            Ok(Self { socket, port })
        };
        connect().map_err(|source| FirewallError::Open { source })
    }

    /// The socket's address, by which others are told whose transaction it was.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends what `encode` adds as one transaction: all of it happens, or nothing and an error.
    pub(super) fn transact(&self, encode: impl FnOnce(&mut Chained<'_>)) -> Result<(), FirewallError> {
        let mut batch = Chained::new(FIRST_SEQUENCE);
        let mut header = Nfgenmsg::new();
        header.set_res_id(NFNL_SUBSYS_NFTABLES);
        batch.request().op_batch_begin_do(&header);
        encode(&mut batch);
        batch.request().op_batch_end_do(&header);
        let batch = batch.finalize();
        let failed = |source| FirewallError::Exchange { source };
        self.drain();
        self.send_all(batch.payload()).map_err(failed)?;
        let answers = self.answers().map_err(failed)?;
        verdict(&batch, &answers)
    }

    /// A batch goes in one piece or not at all: the kernel is given room for it, or refuses it.
    fn send_all(&self, batch: &[u8]) -> io::Result<()> {
        let _ = setsockopt(&self.socket, sockopt::SndBufForce, &(batch.len() + SEND_SPARE_BYTES));
        self.socket.send(batch, 0).map(drop)
    }

    /// Throws away what an exchange that failed half-way has left to be read.
    fn drain(&self) {
        // It says at most once that something was lost.
        let _ = self.answers().or_else(|_| self.answers());
    }

    /// Carries out one request, which is no part of a transaction.
    pub(super) fn order(&self, message: &Message) -> io::Result<()> {
        self.drain();
        self.socket.send(&message.bytes(FLAG_REQUEST | FLAG_ACK), 0)?;
        match self.answers()?.first() {
            Some(Answer { errno: 0, .. }) => Ok(()),
            Some(Answer { errno, .. }) => Err(io::Error::from_raw_os_error(*errno)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Of what there is of a kind, what `pick` makes of the messages without their headers. The kernel goes on with a dump as its answers are
    /// read.
    pub(super) fn dump<T>(&self, message: &Message, pick: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        self.drain();
        self.socket.send(&message.bytes(FLAG_REQUEST | FLAG_DUMP), 0)?;
        let mut found = Vec::new();
        loop {
            let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
            match self.socket.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => drop(result?),
            }
            for Received { kind, body, .. } in Messages(&buffer) {
                match kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => {
                        let errno = body.first_chunk().map_or(0, |errno| i32::from_ne_bytes(*errno).saturating_neg());
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                    _ => found.extend(pick(body)),
                }
            }
        }
    }

    /// Everything the kernel has queued.
    fn answers(&self) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        loop {
            let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => parse_answers(&buffer, &mut answers),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(answers),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A message to be: its type, and what follows its header.
pub(super) struct Message {
    kind: u16,
    body: Vec<u8>,
}

pub(super) fn message(kind: u16, body: &[u8]) -> Message {
    Message { kind, body: body.to_vec() }
}

impl Message {
    /// With a `struct nlmsghdr`.
    fn bytes(&self, flags: u16) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + self.body.len()).expect("messages of ours are short");
        let sequence_and_port = [0; 8];
        [&length.to_ne_bytes()[..], &self.kind.to_ne_bytes(), &flags.to_ne_bytes(), &sequence_and_port, &self.body].concat()
    }
}

/// The messages of a datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

/// A message of the kernel's.
pub(super) struct Received<'a> {
    /// Its type.
    pub(super) kind: u16,
    /// The socket whose message it answers, or whose doing it tells of.
    pub(super) port: u32,
    /// What follows its header.
    pub(super) body: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Received<'a>> {
        let header = self.0.first_chunk::<HEADER_BYTES>()?;
        let [l0, l1, l2, l3, kind_low, kind_high, .., p0, p1, p2, p3] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = self.0.get(HEADER_BYTES..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received { kind: u16::from_ne_bytes([kind_low, kind_high]), port: u32::from_ne_bytes([p0, p1, p2, p3]), body })
    }
}

/// What the kernel says to one message of a batch.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    sequence: u32,
    /// 0 for done.
    errno: i32,
}

fn parse_answers(mut datagram: &[u8], answers: &mut Vec<Answer>) {
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4).and_then(|word| <[u8; 4]>::try_from(word).ok());
    while let (Some(length), Some(kind), Some(sequence)) = (word(datagram, 0), word(datagram, 4), word(datagram, 8)) {
        let [kind_low, kind_high, ..] = kind;
        if u16::from_ne_bytes([kind_low, kind_high]) == NLMSG_ERROR
            && let Some(errno) = word(datagram, HEADER_BYTES)
        {
            let errno = i32::from_ne_bytes(errno).saturating_neg();
            answers.push(Answer { sequence: u32::from_ne_bytes(sequence), errno });
        }
        let length = (u32::from_ne_bytes(length) as usize).next_multiple_of(4).max(HEADER_BYTES);
        datagram = datagram.get(length..).unwrap_or_default();
    }
}

/// The first refusal is the cause; later ones may follow from it. The last message before the end of the batch must
/// have been acknowledged.
fn verdict(batch: &ChainedFinal<'_>, answers: &[Answer]) -> Result<(), FirewallError> {
    let index = |answer: &Answer| NetlinkChained::get_index(batch, answer.sequence);
    if let Some(refusal) = answers.iter().find(|answer| answer.errno != 0) {
        let operation = index(refusal).map_or("an unknown message", |index| batch.name(index));
        return Err(FirewallError::Refused { operation, source: io::Error::from_raw_os_error(refusal.errno) });
    }
    let last = batch.chain_len().checked_sub(2);
    if answers.iter().any(|answer| index(answer) == last) { Ok(()) } else { Err(FirewallError::Unconfirmed) }
}
