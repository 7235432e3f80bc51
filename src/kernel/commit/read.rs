//! Reads of the kernel's table. They need no ownership and never list a big set.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::attributes::{Attribute, Attributes, Request};
use super::batch::{LIST_ELEMENTS, hook_from};
use super::error::CommitError;
use super::expression::OBJECT_COUNTER;
use super::rule::verdict_from;
use super::set::{Ends, flags, from_the_wire, greatest, key_length, on_the_wire, predecessor, successor};
use super::socket::ATTEMPTS;
use super::{Standing, Table};
use crate::kernel::ffi;
use crate::model::Time;
use crate::plan::{Inventory, Step};
use crate::ruleset::{Element, Hook, Key, Ruleset, Set, SetKind, Verdict};

/// Attributes of nf_tables.h, by the object they belong to.
pub(super) mod attribute {
    pub const SET_TABLE: u16 = 1;
    pub const SET_NAME: u16 = 2;
    pub const SET_FLAGS: u16 = 3;
    pub const SET_KEY_LENGTH: u16 = 5;
    pub const SET_DESCRIPTION: u16 = 9;
    pub const SET_TIMEOUT: u16 = 11;
    pub const DESCRIPTION_SIZE: u16 = 1;
    pub const CHAIN_TABLE: u16 = 1;
    pub const CHAIN_NAME: u16 = 3;
    pub const CHAIN_HOOK: u16 = 4;
    pub const CHAIN_POLICY: u16 = 5;
    pub const CHAIN_TYPE: u16 = 7;
    pub const HOOK_NUMBER: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;
    pub const OBJECT_TABLE: u16 = 1;
    pub const OBJECT_NAME: u16 = 2;
    pub const OBJECT_TYPE: u16 = 3;
    pub const OBJECT_DATA: u16 = 4;
    pub const COUNTER_PACKETS: u16 = 2;
    pub const RULE_TABLE: u16 = 1;
    pub const RULE_CHAIN: u16 = 2;
    pub const LIST_TABLE: u16 = 1;
    pub const LIST_SET: u16 = 2;
    pub const LIST_ITEM: u16 = 1;
    pub const ELEMENT_KEY: u16 = 1;
    pub const ELEMENT_DATA: u16 = 2;
    pub const ELEMENT_FLAGS: u16 = 3;
    pub const ELEMENT_EXPIRATION: u16 = 5;
    pub const ELEMENT_USER_DATA: u16 = 6;
    pub const ELEMENT_EXPRESSION: u16 = 7;
    pub const ELEMENT_KEY_END: u16 = 10;
    pub const ELEMENT_EXPRESSIONS: u16 = 11;
    pub const DATA_VALUE: u16 = 1;
    pub const DATA_VERDICT: u16 = 2;
    pub const VERDICT_CODE: u16 = 1;
    pub const VERDICT_CHAIN: u16 = 2;
    pub const EXPRESSION_NAME: u16 = 1;
    pub const EXPRESSION_DATA: u16 = 2;
    pub const GENERATION: u16 = 1;
}
use attribute::*;

/// Questions in one datagram: their answers fit the receive buffer many times.
const QUESTIONS: usize = 128;

/// A set as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    pub flags: u32,
    pub key_length: u32,
    /// The size and the timeout in milliseconds.
    pub limits: (Option<u32>, Option<u64>),
}

/// What an element counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub key: Key,
    pub packets: u64,
    /// Milliseconds until it expires.
    pub expires_ms: Option<u64>,
}

/// An element as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub key: Key,
    pub last: Option<Key>,
    pub verdict: Option<Verdict>,
    /// Milliseconds until it expires.
    pub expires_ms: Option<u64>,
    pub packets: Option<u64>,
    pub user_data: Option<Vec<u8>>,
    /// It ends a range of an rbtree set.
    pub is_end: bool,
}

/// An element in our own shape, ends of ranges put together, beside its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub last: Option<Key>,
    pub verdict: Option<Verdict>,
    /// Milliseconds until it expires.
    pub expires_ms: Option<u64>,
    pub user_data: Option<Vec<u8>>,
}

impl Table {
    /// Names and shapes in the kernel's table. `None` when there is no table, or one that has to be replaced as a
    /// whole because it cannot be protected.
    pub fn inventory(&mut self) -> Result<Option<Inventory>, CommitError> {
        let what = format!("table inet {}", self.name);
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let inventory = match self.standing()? {
                Standing::Absent | Standing::Unprotected => None,
                Standing::Ours | Standing::Orphaned | Standing::Asleep(_) => Some(self.take_inventory()?),
            };
            if self.generation()? == before {
                self.seen = inventory.is_some();
                return Ok(inventory);
            }
        }
        Err(CommitError::Unsteady { what, attempts: ATTEMPTS })
    }

    /// The generation of the rules of this network namespace; every transaction of anybody counts.
    pub fn generation(&mut self) -> Result<u32, CommitError> {
        let read = self.reader.get(libc::NFT_MSG_GETGEN as u16, |request| request);
        let message = read.map_err(|error| match error.raw_os_error() {
            // nfnetlink knows no subsystem of that number.
            Some(libc::EINVAL | libc::EOPNOTSUPP) => CommitError::NoNftables,
            _ => CommitError::netlink("read the generation of nf_tables", error),
        })?;
        message
            .and_then(|message| Attributes::of_message(&message).find_kind(GENERATION)?.u32())
            .ok_or(CommitError::NoNftables)
    }

    /// Packets of each named counter.
    pub fn counters(&mut self) -> Result<BTreeMap<String, u64>, CommitError> {
        Ok(self.objects()?.iter().filter_map(|message| counter_in(message)).collect())
    }

    /// Packets of these counters; those that are not there are left out. Costs some microseconds each, however many there
    /// are beside them.
    pub fn counters_named<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Result<BTreeMap<String, u64>, CommitError> {
        let (names, table): (Vec<&String>, _) = (names.into_iter().collect(), self.name.clone());
        let mut found = BTreeMap::new();
        for names in names.chunks(QUESTIONS) {
            let ask = |request: Request, name: &&String| {
                request.text(OBJECT_TABLE, &table).text(OBJECT_NAME, name).u32(OBJECT_TYPE, OBJECT_COUNTER)
            };
            let answers = self
                .reader
                .get_each(libc::NFT_MSG_GETOBJ as u16, names, ask)
                .map_err(|error| CommitError::netlink("read counters", error))?;
            found.extend(answers.iter().flatten().filter_map(|message| counter_in(message)));
        }
        Ok(found)
    }

    /// The elements of one set and the packets of each one's counter; those without a counter are left out. Of a set that
    /// changes meanwhile some may come twice, and some not at all.
    pub fn set_counts(&mut self, set: &str, declaration: &Set) -> Result<Vec<Counted>, CommitError> {
        let length = key_length(&declaration.fields).next_multiple_of(4);
        let found = self.dump_elements(set)?;
        Ok(found
            .into_iter()
            .filter(|found| !found.is_end && found.key.bytes().len() == length)
            .filter_map(|found| {
                Some(Counted { packets: found.packets?, expires_ms: found.expires_ms, key: found.key })
            })
            .collect())
    }

    /// The keys of the elements of one set.
    pub fn set_keys(&mut self, set: &str, declaration: &Set) -> Result<Vec<Key>, CommitError> {
        let length = key_length(&declaration.fields).next_multiple_of(4);
        let keys = self.dump_elements(set)?.into_iter().map(|found| found.key);
        Ok(keys.filter(|key| key.bytes().len() == length).collect())
    }

    /// The wanted sets that the table holds already, in the same shape, with the elements that they hold there:
    /// what a former daemon left. Sets that the packet path fills are left out.
    ///
    /// A start has to know them: sets of ranges that are made anew are empty for a moment after the transaction
    /// (nf_tables_commit() switches the generation first and fills them then), and whoever is admitted would be
    /// refused.
    pub fn held(&mut self, wanted: &Ruleset) -> Result<BTreeMap<String, Set>, CommitError> {
        let declared = self.sets()?;
        let mut held = BTreeMap::new();
        for (name, set) in &wanted.sets {
            let shape = (flags(set), key_length(&set.fields) as u32);
            let filled_by_packets = matches!(set.kind, SetKind::Dynamic { .. });
            let found = declared.get(name).map(|set| (set.flags, set.key_length));
            if filled_by_packets || found != Some(shape) {
                continue;
            }
            let elements = assembled(set, self.dump_elements(name)?).into_iter().map(bare).collect();
            held.insert(name.clone(), Set { elements, ..set.declaration() });
        }
        Ok(held)
    }

    fn take_inventory(&mut self) -> Result<Inventory, CommitError> {
        let counters = self.objects()?;
        let name = |message: &Vec<u8>| Some(Attributes::of_message(message).find_kind(OBJECT_NAME)?.text());
        Ok(Inventory {
            counters: counters.iter().filter_map(name).collect(),
            sets: self
                .sets()?
                .into_iter()
                .filter(|(_, set)| set.flags & libc::NFT_SET_ANONYMOUS as u32 == 0)
                .map(|(name, set)| (name, set.flags & libc::NFT_SET_EVAL as u32 != 0))
                .collect(),
            chains: self.chains()?.into_iter().collect(),
        })
    }

    pub(super) fn sets(&mut self) -> Result<BTreeMap<String, Declared>, CommitError> {
        let table = self.name.clone();
        let messages = self
            .reader
            .dump("the sets", libc::NFT_MSG_GETSET as u16, |request| request.text(SET_TABLE, &table))?;
        Ok(messages.iter().filter_map(|message| set_in(message, &table)).collect())
    }

    pub(super) fn chains(&mut self) -> Result<BTreeMap<String, Option<(Hook, i32)>>, CommitError> {
        let table = self.name.clone();
        let messages = self
            .reader
            .dump("the chains", libc::NFT_MSG_GETCHAIN as u16, |request| request.text(CHAIN_TABLE, &table))?;
        Ok(messages.iter().filter_map(|message| chain_in(message, &table)).collect())
    }

    fn objects(&mut self) -> Result<Vec<Vec<u8>>, CommitError> {
        let table = self.name.clone();
        self.reader.dump("the counters", libc::NFT_MSG_GETOBJ as u16, |request| {
            request.text(OBJECT_TABLE, &table).u32(OBJECT_TYPE, OBJECT_COUNTER)
        })
    }

    /// The rules of a chain, each as its expressions' texts; empty for a chain that is not there.
    pub(super) fn rules(&mut self, chain: &str) -> Result<Vec<Vec<String>>, CommitError> {
        let table = self.name.clone();
        let messages = self.reader.dump("the rules of a chain", libc::NFT_MSG_GETRULE as u16, |request| {
            request.text(RULE_TABLE, &table).text(RULE_CHAIN, chain)
        })?;
        Ok(messages.iter().map(|message| texts_in(message)).collect())
    }

    pub(super) fn dump_elements(&mut self, set: &str) -> Result<Vec<Found>, CommitError> {
        let table = self.name.clone();
        let messages =
            self.reader.dump("the elements of a set", libc::NFT_MSG_GETSETELEM as u16, |request| {
                request.text(LIST_TABLE, &table).text(LIST_SET, set)
            })?;
        Ok(messages.iter().flat_map(|message| found_in(message)).collect())
    }

    /// Looks for elements by their keys, both ends exactly as asked for.
    pub(super) fn find_elements(
        &mut self,
        set: &str,
        keys: &[Ends],
    ) -> Result<Vec<Option<Found>>, CommitError> {
        let mut all = Vec::with_capacity(keys.len());
        for keys in keys.chunks(QUESTIONS) {
            let questions: Vec<_> = keys.iter().flat_map(questions).collect();
            let table = self.name.clone();
            let answers = self
                .reader
                .get_each(libc::NFT_MSG_GETSETELEM as u16, &questions, |request, question| {
                    ask_for(request, &table, set, question)
                })
                .map_err(|error| CommitError::netlink(&format!("read elements of \"{set}\""), error))?;
            let mut answers = answers.into_iter().map(|answer| found_in(&answer?).into_iter().next());
            for key in keys {
                let first = answers.next().flatten();
                let end = questions_end(key).and_then(|_| answers.next());
                all.push(first.filter(|first| is_exactly(key, first, end)));
            }
        }
        Ok(all)
    }

    /// The steps without deletions of elements that expired meanwhile: those are refused.
    pub(super) fn without_expired(&mut self, steps: &[Step]) -> Result<Vec<Step>, CommitError> {
        let mut kept = Vec::with_capacity(steps.len());
        for step in steps {
            kept.push(match step {
                Step::DeleteElements(name, set, keys) if set.expires => {
                    let ends: Vec<_> =
                        keys.iter().map(|(key, last)| Ends::of(set, key, last.as_ref())).collect();
                    let found = self.find_elements(name, &ends)?;
                    let present = keys.iter().zip(found).filter(|(_, found)| found.is_some());
                    let keys = present.map(|(key, _)| key.clone()).collect();
                    Step::DeleteElements(name.clone(), set.clone(), keys)
                }
                other => other.clone(),
            });
        }
        Ok(kept)
    }
}

/// The name and the shape of a set of this table.
pub(super) fn set_in(message: &[u8], table: &str) -> Option<(String, Declared)> {
    let set = Attributes::of_message(message);
    let ours = set.clone().find_kind(SET_TABLE)?.text() == table;
    let declared = Declared {
        flags: set.clone().find_kind(SET_FLAGS).and_then(Attribute::u32).unwrap_or(0),
        key_length: set.clone().find_kind(SET_KEY_LENGTH)?.u32()?,
        limits: limits_of(&set),
    };
    ours.then_some((set.clone().find_kind(SET_NAME)?.text(), declared))
}

/// The name of a chain of this table, and where it hooks in.
pub(super) fn chain_in(message: &[u8], table: &str) -> Option<(String, Option<(Hook, i32)>)> {
    let chain = Attributes::of_message(message);
    // Before 6.x the kernel does not filter chains by table.
    let ours = chain.clone().find_kind(CHAIN_TABLE)?.text() == table;
    let base = chain.clone().find_kind(CHAIN_HOOK).and_then(base_from);
    ours.then_some((chain.clone().find_kind(CHAIN_NAME)?.text(), base))
}

/// The name and the packets of a counter.
pub(super) fn counter_in(message: &[u8]) -> Option<(String, u64)> {
    let object = Attributes::of_message(message);
    let packets = object.clone().find_kind(OBJECT_DATA)?.inside().find_kind(COUNTER_PACKETS)?.u64()?;
    Some((object.clone().find_kind(OBJECT_NAME)?.text(), packets))
}

/// A hook that is none of ours reads as no hook, which no wanted base chain equals.
fn base_from(hook: Attribute) -> Option<(Hook, i32)> {
    let number = hook.inside().find_kind(HOOK_NUMBER)?.u32()?;
    let priority = hook.inside().find_kind(HOOK_PRIORITY)?.u32()?;
    Some((hook_from(number)?, priority.cast_signed()))
}

/// What to ask about an element in order to tell it from its neighbours.
struct Question {
    key: Key,
    last: Option<Key>,
    /// Asks for the nearest end of a range from this key on.
    end: bool,
}

fn questions(ends: &Ends) -> Vec<Question> {
    let ask = |key: &Key, last: Option<&Key>, end| Question { key: key.clone(), last: last.cloned(), end };
    match ends {
        Ends::Single(first) => vec![ask(first, None, false)],
        Ends::Range { first, last } => vec![ask(first, Some(last), false)],
        Ends::Tree { first, .. } => {
            let end = questions_end(ends).map(|key| ask(&key, None, true));
            std::iter::once(ask(first, None, false)).chain(end).collect()
        }
    }
}

/// From where on to look for the end of a range: behind its first key.
fn questions_end(ends: &Ends) -> Option<Key> {
    match ends {
        Ends::Tree { first, .. } => successor(first),
        Ends::Single(_) | Ends::Range { .. } => None,
    }
}

fn ask_for(request: Request, table: &str, set: &str, question: &Question) -> Request {
    let value =
        |element: Request, kind, key: &Key| element.nested(kind, |data| data.bytes(DATA_VALUE, key.bytes()));
    request.text(LIST_TABLE, table).text(LIST_SET, set).nested(LIST_ELEMENTS, |list| {
        list.nested(LIST_ITEM, |element| {
            let element = value(element, ELEMENT_KEY, &question.key);
            match (&question.last, question.end) {
                (Some(last), _) => value(element, ELEMENT_KEY_END, last),
                (None, true) => element.u32(ELEMENT_FLAGS, libc::NFT_SET_ELEM_INTERVAL_END as u32),
                (None, false) => element,
            }
        })
    })
}

/// True when what was found is the element itself: range sets answer with whichever range holds the key. `end`: the
/// answer about the end of the range, if that was asked.
fn is_exactly(asked: &Ends, first: &Found, end: Option<Option<Found>>) -> bool {
    match asked {
        Ends::Single(key) => first.key == from_the_wire(key.bytes()),
        Ends::Range { first: key, last } => {
            first.key == *key && first.last.as_ref().unwrap_or(&first.key) == last
        }
        Ends::Tree { first: key, behind } => {
            let behind = behind.as_ref().map(|behind| from_the_wire(behind.bytes()));
            let end = end.flatten().filter(|end| end.is_end).map(|end| end.key);
            first.key == from_the_wire(key.bytes()) && !first.is_end && end == behind
        }
    }
}

pub(super) fn found_in(message: &[u8]) -> Vec<Found> {
    elements_in(Attributes::of_message(message).find_kind(LIST_ELEMENTS)).collect()
}

fn found(element: &Attributes) -> Option<Found> {
    let find = |kind| element.clone().find_kind(kind);
    let key = |kind| Some(from_the_wire(find(kind)?.inside().find_kind(DATA_VALUE)?.value));
    let flags = find(ELEMENT_FLAGS).and_then(Attribute::u32).unwrap_or(0);
    Some(Found {
        key: key(ELEMENT_KEY)?,
        last: key(ELEMENT_KEY_END),
        verdict: find(ELEMENT_DATA).and_then(verdict_in),
        expires_ms: find(ELEMENT_EXPIRATION).and_then(Attribute::u64),
        packets: packets_of(element),
        user_data: find(ELEMENT_USER_DATA).map(|data| data.value.to_vec()),
        is_end: flags & libc::NFT_SET_ELEM_INTERVAL_END as u32 != 0,
    })
}

/// Elements in our own shape. The ends of a range of an rbtree set are elements of their own.
pub(super) fn assembled(set: &Set, found: Vec<Found>) -> BTreeMap<Key, Held> {
    let ends: BTreeSet<Key> = found.iter().filter(|one| one.is_end).map(|one| one.key.clone()).collect();
    let tree = set.interval && set.fields.len() == 1;
    let last = |one: &Found| match tree {
        true => {
            let end = ends.range((Bound::Excluded(&one.key), Bound::Unbounded)).next();
            let last = end.map_or_else(
                || greatest(&on_the_wire(set, &one.key)),
                |end| predecessor(&on_the_wire(set, end)),
            );
            Some(from_the_wire(last.bytes()))
        }
        false => one.last.clone(),
    };
    found
        .into_iter()
        .filter(|one| !one.is_end)
        .map(|one| {
            let last = last(&one);
            let Found { key, verdict, expires_ms, user_data, .. } = one;
            (key, Held { last, verdict, expires_ms, user_data })
        })
        .collect()
}

/// Without what the kernel alone knows.
fn bare((key, held): (Key, Held)) -> (Key, Element) {
    (key, Element { last: held.last, verdict: held.verdict, ..Element::default() })
}

/// A list of elements.
pub(super) fn elements_in(list: Option<Attribute>) -> impl Iterator<Item = Found> {
    list.into_iter().flat_map(Attribute::inside).filter_map(|element| found(&element.inside()))
}

/// The texts of a rule. What cannot be read is no wanted rule either.
pub(super) fn texts_in(message: &[u8]) -> Vec<String> {
    ffi::Rule::parse(message).map_or_else(|| vec!["unreadable".to_owned()], |rule| rule.texts())
}

/// The type and the name of an object of this table.
pub(super) fn object_of(message: &[u8], table: &str) -> Option<(u32, String)> {
    let object = Attributes::of_message(message);
    let ours = object.clone().find_kind(OBJECT_TABLE)?.text() == table;
    let kind = object.clone().find_kind(OBJECT_TYPE)?.u32()?;
    ours.then(|| object.clone().find_kind(OBJECT_NAME).map(|name| (kind, name.text()))).flatten()
}

fn limits_of(set: &Attributes) -> (Option<u32>, Option<u64>) {
    let description = set.clone().find_kind(SET_DESCRIPTION).map(Attribute::inside);
    let size = description.and_then(|description| description.find_kind(DESCRIPTION_SIZE)?.u32());
    (size, set.clone().find_kind(SET_TIMEOUT).and_then(Attribute::u64))
}

fn verdict_in(data: Attribute) -> Option<Verdict> {
    let verdict = data.inside().find_kind(DATA_VERDICT)?.inside();
    let code = verdict.clone().find_kind(VERDICT_CODE)?.u32()?.cast_signed();
    verdict_from(code, verdict.clone().find_kind(VERDICT_CHAIN).map(Attribute::text))
}

/// The packets of the counter among an element's expressions: the kernel has one attribute for one expression and another
/// for several.
fn packets_of(element: &Attributes) -> Option<u64> {
    let one = element.clone().find_kind(ELEMENT_EXPRESSION);
    let several = element.clone().find_kind(ELEMENT_EXPRESSIONS);
    let several = several.into_iter().flat_map(Attribute::inside);
    one.into_iter().chain(several).find_map(|expression| {
        let name = expression.inside().find_kind(EXPRESSION_NAME)?.text();
        let data = expression.inside().find_kind(EXPRESSION_DATA)?;
        let packets = data.inside().find_kind(COUNTER_PACKETS)?.u64()?;
        (name == "counter").then_some(packets)
    })
}

/// Milliseconds from one instant to another, at least 0.
pub(super) fn ms_until(instant: Time, now: Time) -> u64 {
    (instant - now).num_milliseconds().max(0).unsigned_abs()
}
