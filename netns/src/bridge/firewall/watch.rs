//! Who else changes what is in a bridge's tables: `nft flush ruleset`, `systemctl restart nftables`, an administrator's hand.
//!
//! nftables tells a group of sockets what each transaction did. Of that, deletions in our tables count, by whatever socket but the one that
//! the bridge's own transactions go through. What is added beside our rules counts for nothing: it may be meant.
//!
//! - Nothing is asked of the kernel: who does not change rules is not woken.
//! - What the kernel had no room to tell may have been about us: it is told as [`RulesLost::is_unknown`].
//! - What happened before the socket was opened is not heard of: it is opened before the tables are first written.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::attributes::Attributes;
use super::socket::{Messages, NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, RECEIVE_BYTES, Received};
use super::{NftSocket, families, table};
use crate::error::FirewallError;

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;
/// Room for what a program does at once that rewrites the rules of a thousand services. It is used only while it is needed.
const ROOM_BYTES: usize = 4 << 20;
/// Who deletes rules seldom does so in one transaction.
const BURST: Duration = Duration::from_millis(100);
/// `NFT_MSG_DELTABLE`, `DELCHAIN`, `DELRULE`, `DELSET`, `DELSETELEM`, and `NFT_MSG_DESTROYTABLE` and so on, which delete what may not be there.
const DELETIONS: [u16; 10] = [2, 5, 8, 11, 14, 26, 27, 28, 29, 30];
/// `NFT_MSG_NEWGEN`, the end of a transaction.
const NEW_GENERATION: u16 = 15;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE` and `NFTA_SET_ELEM_LIST_TABLE` are all the same.
const TABLE: u16 = 1;
/// `NFTA_GEN_PROC_NAME`
const PROGRAM: u16 = 3;
/// `struct nfgenmsg`: family, version, and the subsystem's own number.
const HEADER_BYTES: usize = 4;

/// Somebody else deleted rules of a bridge, or may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RulesLost {
    /// The tables that something was deleted from, or that are gone: `ip podbox-podbox0`.
    pub tables: BTreeSet<String>,
    /// Names of the programs that did it.
    pub programs: BTreeSet<String>,
    /// More was done at once than the kernel could tell.
    pub is_unknown: bool,
}

impl RulesLost {
    fn is_nothing(&self) -> bool {
        self.tables.is_empty() && !self.is_unknown
    }
}

/// What was heard, message by message.
#[derive(Default)]
struct Heard {
    lost: RulesLost,
    /// The transaction that is being told of took something from our tables.
    is_ours: bool,
}

/// An ear for what is done to the tables of one bridge.
#[derive(Debug)]
pub(in crate::bridge) struct Watch {
    socket: AsyncFd<Socket>,
    /// The name of the bridge's tables.
    table: String,
    own_port: u32,
}

impl Watch {
    /// Listens from now on, in the network namespace of the calling thread. What goes through `own` is known already.
    pub(in crate::bridge) fn open(bridge: &str, own: &NftSocket) -> Result<Self, FirewallError> {
        let listen = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            // Beyond what the node lets everybody have; in a user namespace that is all there is.
            if setsockopt(&socket, sockopt::RcvBufForce, &ROOM_BYTES).is_err() {
                socket.set_rx_buf_sz(i32::try_from(ROOM_BYTES).unwrap_or(i32::MAX))?;
            }
            socket.bind_auto()?;
            socket.add_membership(GROUP)?;
            socket.set_non_blocking(true)?;
            // Deprecated since a descriptor might be closed under the reactor: this one is owned, and never taken out.
            #[allow(deprecated)]
            AsyncFd::with_interest(socket, Interest::READABLE)
        };
        let socket = listen().map_err(|source| FirewallError::Open { source })?;
        Ok(Self { socket, table: table(bridge).to_string_lossy().into_owned(), own_port: own.port() })
    }

    /// Waits until something is deleted, and a moment longer for what belongs to it.
    pub(in crate::bridge) async fn rules_lost(&self) -> Result<RulesLost, FirewallError> {
        let failed = |source| FirewallError::Watch { source };
        let mut heard = Heard::default();
        while heard.lost.is_nothing() {
            let read = self.socket.async_io(Interest::READABLE, |socket| self.read(socket, &mut heard));
            read.await.map_err(failed)?;
        }
        tokio::time::sleep(BURST).await;
        loop {
            match self.read(self.socket.get_ref(), &mut heard) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard.lost),
                result => result.map_err(failed)?,
            }
        }
    }

    /// Takes one datagram.
    fn read(&self, socket: &Socket, heard: &mut Heard) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        match socket.recv(&mut buffer, 0) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => heard.lost.is_unknown = true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => drop(result?),
        }
        for message in Messages(&buffer) {
            self.note(&message, heard);
        }
        Ok(())
    }

    fn note(&self, message: &Received<'_>, heard: &mut Heard) {
        let [subsystem, kind] = [message.kind >> 8, message.kind & 0xff];
        if subsystem != NFNL_SUBSYS_NFTABLES || message.port == self.own_port {
            return;
        }
        let Some((header, attributes)) = message.body.split_first_chunk::<HEADER_BYTES>() else { return };
        let mut attributes = Attributes(attributes);
        if DELETIONS.contains(&kind) {
            let family = families().into_iter().find(|family| family.nfproto == header[0]);
            let is_ours = attributes.any(|attribute| attribute.kind == TABLE && attribute.text() == self.table);
            if let Some(family) = family.filter(|_| is_ours) {
                heard.lost.tables.insert(format!("{} {}", family.name(), self.table));
                heard.is_ours = true;
            }
        } else if kind == NEW_GENERATION && std::mem::take(&mut heard.is_ours) {
            heard.lost.programs.extend(attributes.find(|attribute| attribute.kind == PROGRAM).map(|name| name.text()));
        }
    }
}
