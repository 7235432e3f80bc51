//! A changeset as one datagram, and the way back from a refused message to what it was about.

use std::collections::BTreeMap;

use mnl::NlMessages;
use nftnl::{Batch, nftnl_sys as sys};

use super::attributes::{Attributes, Header};
use super::elements::{self, About};
use super::error::{CommitError, Failure};
use super::expression::OBJECT_COUNTER;
use super::socket::Answer;
use super::{rule, set, text};
use crate::kernel::ffi::{self, Body, ElementMessages, Message, Messages};
use crate::model::Time;
use crate::plan::Step;
use crate::plan::repair::Stranger;
use crate::ruleset::{Hook, Rule};

/// NFT_MSG_DESTROYSETELEM, nf_tables.h (kernel 6.3): as DELSETELEM, but what is gone already is no error.
pub const DESTROY_ELEMENTS: i32 = 30;
/// NFT_MSG_DELFLOWTABLE, nf_tables.h (kernel 4.16).
const DELETE_FLOWTABLE: i32 = 24;
/// NFTA_SET_ELEM_LIST_ELEMENTS and NFTA_SET_ELEM_TIMEOUT, nf_tables.h.
pub const LIST_ELEMENTS: u16 = 3;
const ELEMENT_TIMEOUT: u16 = 4;

const CREATE: i32 = libc::NLM_F_CREATE;
const APPEND: i32 = libc::NLM_F_CREATE | libc::NLM_F_APPEND;

/// What a message is about, for the error text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Named(String),
    /// Elements of a set, by their numbers in the step; as many as the message has room for.
    Elements {
        set: String,
        numbers: Vec<usize>,
    },
    /// The elements for which the message before had no room.
    MoreElements,
}

/// Messages for one transaction.
pub struct Transaction {
    batch: Messages,
    /// The message that ends it.
    end: Vec<u8>,
    subjects: Vec<Subject>,
    /// Rules of each chain so far.
    rules: BTreeMap<String, usize>,
    set_ids: u32,
    /// Deletes elements in such a way that those which are gone already are no error.
    destroy: bool,
    built_at: Time,
}

impl Transaction {
    /// `now`: what the elements' timeouts count from; [`Datagram::count_from`] moves it.
    pub fn new(destroy: bool, now: Time) -> Self {
        let (begin, end) = frame();
        let sequence = Header::of(&begin).map_or(0, |header| header.sequence) + 1;
        Self {
            batch: Messages::behind(&begin, sequence),
            end,
            subjects: Vec::new(),
            rules: BTreeMap::new(),
            set_ids: 0,
            destroy,
            built_at: now,
        }
    }

    /// Creates the table, or takes it over with these flags.
    pub fn add_table(&mut self, name: &str, flags: u32) -> Result<(), CommitError> {
        let table = named_table(name)?.u32(sys::NFTNL_TABLE_FLAGS, flags);
        self.push(libc::NFT_MSG_NEWTABLE, CREATE, Body::Table(&table), "the table".into());
        Ok(())
    }

    pub fn delete_table(&mut self, name: &str) -> Result<(), CommitError> {
        let table = named_table(name)?;
        self.push(libc::NFT_MSG_DELTABLE, 0, Body::Table(&table), "the table".into());
        Ok(())
    }

    pub fn add(&mut self, table: &str, steps: &[Step]) -> Result<(), CommitError> {
        steps.iter().try_for_each(|step| self.step(table, step))
    }

    fn step(&mut self, table: &str, step: &Step) -> Result<(), CommitError> {
        match step {
            Step::AddCounter(name) => self.counter(table, name, libc::NFT_MSG_NEWOBJ, CREATE),
            Step::DeleteCounter(name) => self.counter(table, name, libc::NFT_MSG_DELOBJ, 0),
            Step::AddSet(name, set) => {
                self.set_ids += 1;
                let declared = set::declare(table, name, set, self.set_ids)?;
                self.push(libc::NFT_MSG_NEWSET, CREATE, Body::Set(&declared), format!("set \"{name}\""));
                Ok(())
            }
            Step::DeleteSet(name) => {
                let set = ffi::Set::new()
                    .str(sys::NFTNL_SET_TABLE, &text(table)?)
                    .str(sys::NFTNL_SET_NAME, &text(name)?);
                self.push(libc::NFT_MSG_DELSET, 0, Body::Set(&set), format!("set \"{name}\""));
                Ok(())
            }
            Step::DeleteStranger(kind, name) => self.delete_stranger(table, *kind, name),
            Step::AddChain(name, base) => self.chain(table, name, *base, libc::NFT_MSG_NEWCHAIN, CREATE),
            Step::DeleteChain(name) => self.chain(table, name, None, libc::NFT_MSG_DELCHAIN, 0),
            Step::FlushChain(name) => {
                let all = named_rule(table, name)?;
                self.rules.remove(name);
                self.push(
                    libc::NFT_MSG_DELRULE,
                    0,
                    Body::Rule(&all),
                    format!("the rules of chain \"{name}\""),
                );
                Ok(())
            }
            Step::AddRule(chain, rule) => self.rule(table, chain, rule),
            Step::AddElements(name, set, elements) => {
                let (kind, flags) = (libc::NFT_MSG_NEWSETELEM, CREATE);
                let about = About { table, set: name, kind, flags };
                let added = elements::add(&mut self.batch, about, set, elements, self.built_at)?;
                self.elements(name, added);
                Ok(())
            }
            Step::DeleteElements(name, set, keys) => {
                // Of a range whose start has expired only the end would go, and with the start, when the kernel
                // collects it, the end of the next range (6.12, 6.18): that one would never close.
                let destroy = self.destroy && !set.expires;
                let kind = if destroy { DESTROY_ELEMENTS } else { libc::NFT_MSG_DELSETELEM };
                let about = About { table, set: name, kind, flags: 0 };
                let added = elements::delete(&mut self.batch, about, set, keys);
                self.elements(name, added);
                Ok(())
            }
        }
    }

    fn counter(&mut self, table: &str, name: &str, kind: i32, flags: i32) -> Result<(), CommitError> {
        let object = ffi::Object::new()
            .str(sys::NFTNL_OBJ_TABLE, &text(table)?)
            .str(sys::NFTNL_OBJ_NAME, &text(name)?)
            .u32(sys::NFTNL_OBJ_TYPE, OBJECT_COUNTER);
        self.push(kind, flags, Body::Object(&object), format!("counter \"{name}\""));
        Ok(())
    }

    fn delete_stranger(&mut self, table: &str, kind: Stranger, name: &str) -> Result<(), CommitError> {
        match kind {
            Stranger::Object(number) => {
                let object = ffi::Object::new()
                    .str(sys::NFTNL_OBJ_TABLE, &text(table)?)
                    .str(sys::NFTNL_OBJ_NAME, &text(name)?)
                    .u32(sys::NFTNL_OBJ_TYPE, number);
                self.push(libc::NFT_MSG_DELOBJ, 0, Body::Object(&object), format!("object \"{name}\""));
            }
            Stranger::Flowtable => {
                let flowtable = ffi::Flowtable::new()
                    .str(sys::NFTNL_FLOWTABLE_TABLE, &text(table)?)
                    .str(sys::NFTNL_FLOWTABLE_NAME, &text(name)?);
                let subject = format!("flowtable \"{name}\"");
                self.push(DELETE_FLOWTABLE, 0, Body::Flowtable(&flowtable), subject);
            }
        }
        Ok(())
    }

    fn chain(
        &mut self,
        table: &str,
        name: &str,
        base: Option<(Hook, i32)>,
        kind: i32,
        flags: i32,
    ) -> Result<(), CommitError> {
        let mut chain = ffi::Chain::new()
            .str(sys::NFTNL_CHAIN_TABLE, &text(table)?)
            .str(sys::NFTNL_CHAIN_NAME, &text(name)?);
        if let Some((hook, priority)) = base {
            chain = chain
                .str(sys::NFTNL_CHAIN_TYPE, c"filter")
                .u32(sys::NFTNL_CHAIN_HOOKNUM, hook_number(hook))
                .u32(sys::NFTNL_CHAIN_PRIO, priority.cast_unsigned())
                .u32(sys::NFTNL_CHAIN_POLICY, libc::NF_ACCEPT as u32);
        }
        self.push(kind, flags, Body::Chain(&chain), format!("chain \"{name}\""));
        Ok(())
    }

    fn rule(&mut self, table: &str, chain: &str, rule: &Rule) -> Result<(), CommitError> {
        let count = self.rules.entry(chain.to_owned()).or_default();
        *count += 1;
        let subject = format!("rule {count} of chain \"{chain}\"");
        let encoded = rule::encode(&text(table)?, rule, &mut self.set_ids)?;
        for set in &encoded.sets {
            self.push(libc::NFT_MSG_NEWSET, CREATE, Body::Set(set), subject.clone());
            ElementMessages::new(set, libc::NFT_MSG_NEWSETELEM as u16, CREATE as u16).add_to(&mut self.batch);
            self.subjects.push(Subject::Named(subject.clone()));
        }
        let message = encoded.expressions.into_iter().fold(named_rule(table, chain)?, ffi::Rule::expression);
        self.push(libc::NFT_MSG_NEWRULE, APPEND, Body::Rule(&message), subject);
        Ok(())
    }

    /// Notes so many messages with elements. `numbers`: which of the step's elements each one of theirs is.
    fn elements(&mut self, set: &str, (messages, numbers): (usize, Vec<usize>)) {
        let set = set.to_owned();
        let first = (messages > 0).then_some(Subject::Elements { set, numbers });
        self.subjects.extend(first);
        self.subjects.extend((1..messages).map(|_| Subject::MoreElements));
    }

    fn push(&mut self, kind: i32, flags: i32, body: Body, subject: String) {
        let message = Message { kind: kind as u16, flags: flags as u16, body };
        message.add_to(&mut self.batch);
        self.subjects.push(Subject::Named(subject));
    }

    pub fn finish(self) -> Datagram {
        let (mut bytes, sequence) = self.batch.finish();
        let mut end = self.end;
        let asks = Header::of(&end).is_some_and(|header| i32::from(header.flags) & libc::NLM_F_ACK != 0);
        if let (true, Some(number)) = (asks, end.get_mut(8..12)) {
            number.copy_from_slice(&sequence.to_ne_bytes());
        }
        bytes.extend(end);
        Datagram { bytes, subjects: self.subjects, counted_from: self.built_at }
    }
}

/// The messages that begin and end a transaction, as nftnl makes them for this kernel: with or without a request to
/// answer.
fn frame() -> (Vec<u8>, Vec<u8>) {
    let empty = Batch::new().finalize().iter().collect::<Vec<_>>().concat();
    let begin = messages(&empty).next().map_or(0, |message| message.len().next_multiple_of(4));
    let (begin, end) = empty.split_at(begin);
    (begin.to_vec(), end.to_vec())
}

fn named_table(name: &str) -> Result<ffi::Table, CommitError> {
    Ok(ffi::Table::new().str(sys::NFTNL_TABLE_NAME, &text(name)?))
}

fn named_rule(table: &str, chain: &str) -> Result<ffi::Rule, CommitError> {
    Ok(ffi::Rule::new().str(sys::NFTNL_RULE_TABLE, &text(table)?).str(sys::NFTNL_RULE_CHAIN, &text(chain)?))
}

/// `enum nf_inet_hooks`, linux/netfilter.h.
fn hook_number(hook: Hook) -> u32 {
    let number = match hook {
        Hook::Input => libc::NF_INET_LOCAL_IN,
        Hook::Forward => libc::NF_INET_FORWARD,
        Hook::Output => libc::NF_INET_LOCAL_OUT,
    };
    number as u32
}

/// The hook with this number; `None` for those that we do not use.
pub fn hook_from(number: u32) -> Option<Hook> {
    [Hook::Input, Hook::Forward, Hook::Output].into_iter().find(|hook| hook_number(*hook) == number)
}

/// A whole transaction, begin and end included, in one piece.
pub struct Datagram {
    pub bytes: Vec<u8>,
    subjects: Vec<Subject>,
    counted_from: Time,
}

impl Datagram {
    /// Messages between begin and end.
    pub fn messages(&self) -> usize {
        self.subjects.len()
    }

    /// Shortens the timeouts by what has passed since they were computed. A clock that was turned back meanwhile
    /// does not lengthen them.
    pub fn count_from(&mut self, now: Time) {
        // Rounded up: never late.
        let passed = (now - self.counted_from).num_microseconds().unwrap_or(i64::MAX).max(0);
        let passed = passed.unsigned_abs().div_ceil(1000);
        if passed == 0 {
            return;
        }
        for at in timeouts(&self.bytes) {
            if let Some(timeout) = self.bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                *timeout = u64::from_be_bytes(*timeout).saturating_sub(passed).max(1).to_be_bytes();
            }
        }
        self.counted_from = now;
    }

    /// The same without its end: the kernel checks such a transaction and undoes it.
    pub fn without_end(mut self) -> Self {
        let end = messages(&self.bytes).last().map_or(0, |message| message.len().next_multiple_of(4));
        self.bytes.truncate(self.bytes.len() - end);
        self
    }

    /// True when the kernel said that it has done the last message, or was not asked to say so (before 6.10).
    pub fn answered(&self, answers: &[Answer]) -> bool {
        let Some(end) = messages(&self.bytes).last().and_then(Header::of) else {
            return false;
        };
        let asked = i32::from(end.flags) & libc::NLM_F_ACK != 0;
        !asked || answers.iter().any(|answer| answer.sequence == end.sequence && answer.errno == 0)
    }

    /// What was refused, in the order of the messages.
    pub fn failures(&self, answers: &[Answer]) -> Vec<Failure> {
        let mut refused: Vec<_> = answers.iter().filter(|answer| answer.errno != 0).collect();
        refused.sort_by_key(|answer| answer.sequence);
        refused
            .into_iter()
            .map(|answer| Failure {
                object: self.object(answer),
                errno: answer.errno,
                kernel_text: answer.text.clone(),
            })
            .collect()
    }

    /// What a refused message was about.
    fn object(&self, answer: &Answer) -> String {
        let (mut set, mut numbers): (&str, &[usize]) = ("", &[]);
        for (message, subject) in messages(&self.bytes).skip(1).zip(&self.subjects) {
            let refused = Header::of(message).is_some_and(|header| header.sequence == answer.sequence);
            match subject {
                Subject::Named(name) if refused => return name.clone(),
                Subject::Named(_) => continue,
                Subject::Elements { set: name, numbers: all } => (set, numbers) = (name, all),
                Subject::MoreElements => {}
            }
            let (here, rest) = numbers.split_at(elements_in(message).count().min(numbers.len()));
            if refused {
                return describe(set, here, answer.offset.and_then(|at| element_at(message, at)));
            }
            numbers = rest;
        }
        "the transaction".to_owned()
    }
}

/// `position`: which of these elements, where that is known.
fn describe(set: &str, numbers: &[usize], position: Option<usize>) -> String {
    match (position.and_then(|at| numbers.get(at)), numbers) {
        (Some(number), _) | (None, [number]) => format!("element {number} of \"{set}\""),
        (None, [first, .., last]) => format!("elements {first} to {last} of \"{set}\""),
        (None, []) => format!("the elements of \"{set}\""),
    }
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    NlMessages::new(bytes).map_while(Result::ok)
}

/// The elements in a message, each with where it begins in the message.
fn elements_in(message: &[u8]) -> impl Iterator<Item = (usize, Attributes<'_>)> {
    Attributes::of_message(message)
        .filter(|attribute| attribute.kind == LIST_ELEMENTS)
        .flat_map(|list| list.inside().map(move |element| (list.offset + element.offset, element.inside())))
}

/// Which element of a message holds the byte at this offset.
fn element_at(message: &[u8], offset: usize) -> Option<usize> {
    // The kernel points at an attribute's header, 4 bytes before its content.
    elements_in(message).take_while(|(begin, _)| begin - 4 <= offset).count().checked_sub(1)
}

/// Where in a datagram the timeouts of elements are.
fn timeouts(datagram: &[u8]) -> Vec<usize> {
    let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | libc::NFT_MSG_NEWSETELEM as u16;
    let mut found = Vec::new();
    let mut begin = 0;
    for message in messages(datagram) {
        if Header::of(message).is_some_and(|header| header.kind == kind) {
            for (at, attributes) in elements_in(message) {
                let timeout = attributes.into_iter().find(|attribute| attribute.kind == ELEMENT_TIMEOUT);
                found.extend(timeout.map(|timeout| begin + at + timeout.offset));
            }
        }
        begin += message.len().next_multiple_of(4);
    }
    found
}
