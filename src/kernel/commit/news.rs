//! What others do to our table, as nf_tables tells it.
//!
//! The kernel sends every change of the rules of a network namespace to a multicast group, with the port of the socket that
//! made it, and at the end of each transaction its number. Those of our own writer are skipped. Before a large transaction of
//! our own we leave the group: with 10,000 services its messages would fill any buffer, and the kernel need not make them.
//! What is not heard shows in the numbers: they have no gaps. Deliberately absent: elements that packets add, that expire or
//! whose counters are reset: the kernel tells nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::attributes::{Attribute, Attributes, Header, PREAMBLE};
use super::batch::LIST_ELEMENTS;
use super::error::CommitError;
use super::read::elements_in;
use super::{Standing, Table, expression};
use crate::kernel::netlink::{Connection, Protocol};
use crate::plan::repair::Stranger;
use crate::ruleset::Key;

/// NFNLGRP_NFTABLES, linux/netfilter/nfnetlink.h, as a bit.
const GROUP: u32 = 1 << (7 - 1);
/// For what a foreign transaction of some ten thousand objects tells.
const RECEIVE_BUFFER: usize = 8 << 20;
/// More than any datagram has: 64 KiB of elements and the rest of their message.
const DATAGRAM: usize = 128 << 10;
/// A transaction of our own of more messages is not listened to.
const SMALL: usize = 256;
/// Datagrams that are read in one turn.
const TURN: usize = 4096;
/// Names that are remembered, and keys of each set: of more, everything is looked at.
const NAMES: usize = 1024;

/// NFT_MSG_NEWFLOWTABLE and NFT_MSG_DELFLOWTABLE, nf_tables.h.
const NEW_FLOWTABLE: i32 = 22;
const DELETE_FLOWTABLE: i32 = 24;
/// NFTA_GEN_ID, NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME, nf_tables.h.
const GENERATION: u16 = 1;
const PROCESS: u16 = 2;
const PROCESS_NAME: u16 = 3;
/// In all messages about a table or what is in it, its name is the first attribute, and that of an object in it the second
/// or, of a chain, the third.
const TABLE: u16 = 1;
const NAME: u16 = 2;
const CHAIN_NAME: u16 = 3;
const SET_FLAGS: u16 = 3;
const OBJECT_TYPE: u16 = 3;

/// What others touched since it was last looked at.
#[derive(Debug, Default, Clone)]
pub struct News {
    /// Something was not heard, or too much: everything may be different, unless nobody else can write to the table.
    pub missed: bool,
    /// The kernel did not do what we wanted: everything may be different.
    pub suspected: bool,
    /// The table was there and its flags changed, or it was deleted.
    pub table: bool,
    pub table_deleted: bool,
    /// Chains were made, deleted, renamed, or got another policy.
    pub chains_listed: bool,
    /// Chains, also those of which only rules changed.
    pub chains: BTreeSet<String>,
    /// Sets that were made or deleted.
    pub sets: BTreeSet<String>,
    pub sets_deleted: BTreeSet<String>,
    pub elements: BTreeMap<String, BTreeMap<Key, Touched>>,
    pub counters: BTreeSet<String>,
    pub counters_deleted: BTreeSet<String>,
    pub strangers: BTreeSet<(Stranger, String)>,
    /// Who it was: `nft[4711]`.
    pub by: BTreeSet<String>,
}

/// What was first done to an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    Added,
    /// It had so many milliseconds left, if it was to expire.
    Removed {
        expires_ms: Option<u64>,
    },
}

impl News {
    pub fn is_empty(&self) -> bool {
        !self.missed
            && !self.suspected
            && !self.table
            && !self.chains_listed
            && self.chains.is_empty()
            && self.sets.is_empty()
            && self.elements.is_empty()
            && self.counters.is_empty()
            && self.strangers.is_empty()
    }

    /// Everything is to be compared.
    pub(super) fn is_about_everything(&self) -> bool {
        self.missed || self.suspected
    }

    fn note(&mut self, kind: i32, attributes: &Attributes) {
        let text = |kind| attributes.clone().find_kind(kind).map(Attribute::text);
        let Some(name) = text(NAME) else { return self.note_unnamed(kind, text(CHAIN_NAME)) };
        match kind {
            libc::NFT_MSG_NEWTABLE | libc::NFT_MSG_DELTABLE => self.note_table(kind),
            libc::NFT_MSG_NEWCHAIN | libc::NFT_MSG_DELCHAIN => {
                self.note_unnamed(kind, text(CHAIN_NAME));
            }
            libc::NFT_MSG_NEWRULE | libc::NFT_MSG_DELRULE => drop(self.chains.insert(name)),
            libc::NFT_MSG_NEWSET | libc::NFT_MSG_DELSET => {
                let flags = attributes.clone().find_kind(SET_FLAGS).and_then(Attribute::u32).unwrap_or(0);
                if flags & libc::NFT_SET_ANONYMOUS as u32 == 0 && !is_anonymous(&name) {
                    if kind == libc::NFT_MSG_DELSET {
                        self.sets_deleted.insert(name.clone());
                    }
                    self.sets.insert(name);
                }
            }
            libc::NFT_MSG_NEWSETELEM | libc::NFT_MSG_DELSETELEM if !is_anonymous(&name) => {
                let known = self.elements.entry(name).or_default();
                let list = attributes.clone().find_kind(LIST_ELEMENTS);
                for found in elements_in(list) {
                    let touched = match kind {
                        libc::NFT_MSG_NEWSETELEM => Touched::Added,
                        _ => Touched::Removed { expires_ms: found.expires_ms },
                    };
                    known.entry(found.key).or_insert(touched);
                }
                self.missed |= known.len() > NAMES;
            }
            libc::NFT_MSG_NEWOBJ | libc::NFT_MSG_DELOBJ => {
                let number = attributes.clone().find_kind(OBJECT_TYPE).and_then(Attribute::u32);
                match number {
                    Some(expression::OBJECT_COUNTER) => {
                        if kind == libc::NFT_MSG_DELOBJ {
                            self.counters_deleted.insert(name.clone());
                        }
                        self.counters.insert(name);
                    }
                    Some(number) => drop(self.strangers.insert((Stranger::Object(number), name))),
                    None => self.missed = true,
                }
            }
            NEW_FLOWTABLE | DELETE_FLOWTABLE => drop(self.strangers.insert((Stranger::Flowtable, name))),
            _ => {}
        }
    }

    fn note_unnamed(&mut self, kind: i32, chain: Option<String>) {
        match kind {
            libc::NFT_MSG_NEWTABLE | libc::NFT_MSG_DELTABLE => self.note_table(kind),
            libc::NFT_MSG_NEWCHAIN | libc::NFT_MSG_DELCHAIN => {
                self.chains_listed = true;
                self.chains.extend(chain);
            }
            _ => self.missed = true,
        }
    }

    fn note_table(&mut self, kind: i32) {
        self.table = true;
        self.table_deleted |= kind == libc::NFT_MSG_DELTABLE;
    }

    /// Keeps it small: whoever touches so much has everything looked at.
    fn bound(&mut self) {
        let all = self.chains.len() + self.sets.len() + self.counters.len() + self.strangers.len();
        if self.missed || all + self.elements.len() > NAMES {
            let (table_deleted, by) = (self.table_deleted, std::mem::take(&mut self.by));
            let suspected = self.suspected;
            let strangers = std::mem::take(&mut self.strangers).into_iter().take(NAMES).collect();
            *self = Self { missed: true, suspected, table_deleted, by, strangers, ..Self::default() };
        }
        while self.by.len() > 8 {
            self.by.pop_last();
        }
    }
}

/// How the kernel numbers the sets of rules; they come and go with these.
fn is_anonymous(name: &str) -> bool {
    let number = name.strip_prefix("__set").or_else(|| name.strip_prefix("__map"));
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Hears what is done to the rules of this network namespace.
pub struct Listener {
    connection: Connection,
    buffer: Vec<u8>,
    /// The last transaction that was heard, or was ours.
    accounted: u32,
    /// What the transaction that is being told did to our table is in the news.
    touched: bool,
    /// A number was missing when it was last looked: the message may be under way.
    behind: bool,
}

impl Listener {
    fn open() -> io::Result<Self> {
        let connection = Connection::open(Protocol::Netfilter)?;
        connection.set_receive_buffer(RECEIVE_BUFFER)?;
        connection.listen_to(GROUP)?;
        Ok(Self { connection, buffer: vec![0; DATAGRAM], accounted: 0, touched: false, behind: false })
    }

    /// Reads what is there.
    fn read(&mut self, table: &str, own_port: u32, news: &mut News) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut outcome = Ok(());
        for _ in 0..TURN {
            match self.connection.try_receive(&mut buffer) {
                Ok(length) => {
                    for message in mnl::NlMessages::new(&buffer[..length]).map_while(Result::ok) {
                        self.take(message, table, own_port, news);
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::ENOBUFS | libc::EMSGSIZE) => news.missed = true,
                    _ => {
                        news.missed = true;
                        outcome = Err(error);
                        break;
                    }
                },
            }
        }
        self.buffer = buffer;
        news.bound();
        outcome
    }

    fn take(&mut self, message: &[u8], table: &str, own_port: u32, news: &mut News) {
        let Some(header) = Header::of(message).filter(|_| message.len() >= PREAMBLE) else { return };
        if i32::from(header.kind >> 8) != libc::NFNL_SUBSYS_NFTABLES {
            return;
        }
        let attributes = Attributes::of_message(message);
        let kind = i32::from(header.kind & 0xff);
        if kind == libc::NFT_MSG_NEWGEN {
            let by = || {
                let name = attributes.clone().find_kind(PROCESS_NAME).map(Attribute::text)?;
                let process = attributes.clone().find_kind(PROCESS).and_then(Attribute::u32)?;
                Some(format!("{name}[{process}]"))
            };
            if std::mem::take(&mut self.touched) {
                news.by.extend(by());
            }
            self.account(attributes.clone().find_kind(GENERATION).and_then(Attribute::u32), news);
            return;
        }
        let family = message.get(PREAMBLE - 4).copied().map(i32::from);
        let ours = || attributes.clone().find_kind(TABLE).is_some_and(|name| name.text() == table);
        if header.port != own_port && family == Some(libc::NFPROTO_INET) && ours() {
            self.touched = true;
            news.note(kind, &attributes);
        }
    }

    /// One transaction more.
    fn account(&mut self, number: Option<u32>, news: &mut News) {
        let Some(number) = number else { return news.missed = true };
        match number.wrapping_sub(self.accounted).cast_signed() {
            ..=0 => {}
            ahead => {
                news.missed |= ahead > 1;
                self.accounted = number;
            }
        }
    }
}

impl Table {
    /// Begins to listen. Returns what becomes readable when somebody changes rules, whose ever: then [`Table::hear`].
    pub fn listen(&mut self) -> Result<OwnedFd, CommitError> {
        let failed = |error| CommitError::netlink("listen to changes of nf_tables", error);
        let mut listener = Listener::open().map_err(failed)?;
        let readable = listener.connection.as_fd().try_clone_to_owned().map_err(failed)?;
        listener.accounted = self.generation()?;
        self.listener = Some(listener);
        Ok(readable)
    }

    /// Adds what others did to our table since.
    pub fn hear(&mut self, news: &mut News) -> Result<(), CommitError> {
        let Some(listener) = &mut self.listener else { return Ok(()) };
        news.append(std::mem::take(&mut self.heard));
        listener
            .read(&self.name, self.writer.port(), news)
            .map_err(|error| CommitError::netlink("hear of changes of nf_tables", error))
    }

    /// Looks whether a transaction was not heard of, also one that is not told: with a second call, since a message may be on
    /// its way. True: everything has to be looked at.
    pub fn is_behind(&mut self) -> Result<bool, CommitError> {
        let number = self.generation()?;
        let mut news = News::default();
        self.hear(&mut news)?;
        // An owner without the flag `persist` that goes takes the table along, and the kernel tells nobody.
        news.missed |= self.seen && !matches!(self.standing(), Ok(Standing::Ours));
        self.heard = news;
        let Some(listener) = &mut self.listener else { return Ok(false) };
        let behind = number.wrapping_sub(listener.accounted).cast_signed() > 0;
        if behind && listener.behind {
            listener.accounted = number;
            self.heard.missed = true;
        }
        listener.behind = behind && !listener.behind;
        Ok(self.heard.missed)
    }

    /// Before a transaction of our own of so many messages.
    pub(super) fn stop_listening(&mut self, messages: usize) -> bool {
        if messages <= SMALL || self.listener.is_none() {
            return false;
        }
        let mut news = News::default();
        let heard = self.hear(&mut news);
        news.missed |= heard.is_err();
        self.heard = news;
        self.listener.as_ref().is_some_and(|listener| listener.connection.listen_to(0).is_ok())
    }

    /// After it. `committed`: it is one of those that have a number.
    pub(super) fn listen_again(&mut self, committed: bool) {
        let mut news = News::default();
        let heard = match &self.listener {
            Some(listener) => listener.connection.listen_to(GROUP),
            None => return,
        };
        news.missed |= heard.is_err() || self.hear(&mut news).is_err();
        let number = self.generation();
        if let Some(listener) = &mut self.listener {
            listener.accounted = listener.accounted.wrapping_add(u32::from(committed));
            // Somebody was faster than we could listen again.
            news.missed |= number.as_ref().ok() != Some(&listener.accounted);
            listener.accounted = number.unwrap_or(listener.accounted);
        }
        self.heard = news;
    }
}

impl News {
    pub fn append(&mut self, other: Self) {
        self.missed |= other.missed;
        self.suspected |= other.suspected;
        self.table |= other.table;
        self.table_deleted |= other.table_deleted;
        self.chains_listed |= other.chains_listed;
        self.chains.extend(other.chains);
        self.sets.extend(other.sets);
        self.sets_deleted.extend(other.sets_deleted);
        for (set, keys) in other.elements {
            let known = self.elements.entry(set).or_default();
            for (key, touched) in keys {
                known.entry(key).or_insert(touched);
            }
        }
        self.counters.extend(other.counters);
        self.counters_deleted.extend(other.counters_deleted);
        self.strangers.extend(other.strangers);
        self.by.extend(other.by);
    }
}
