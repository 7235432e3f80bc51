//! Messages with the elements of a set, written straight into the transaction: a table of 10,000 services has hundreds of
//! thousands, and libnftnl would keep a copy of each, some hundred bytes large, before it wrote the first.
//!
//! The order of the attributes is libnftnl's. A message holds as many elements as one attribute has room for.

use super::attributes::{HEADER, NESTED, PREAMBLE};
use super::batch::LIST_ELEMENTS;
use super::error::CommitError;
use super::rule::verdict_parts;
use super::set::{Ends, timeout_ms};
use super::userdata;
use crate::kernel::ffi::Messages;
use crate::model::Time;
use crate::ruleset::{Element, Elements, Key, Set};

/// Attributes of nf_tables.h.
mod attribute {
    pub const LIST_TABLE: u16 = 1;
    pub const LIST_SET: u16 = 2;
    pub const LIST_ELEM: u16 = 1;
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const TIMEOUT: u16 = 4;
    pub const USERDATA: u16 = 6;
    pub const KEY_END: u16 = 10;
    pub const DATA_VALUE: u16 = 1;
    pub const DATA_VERDICT: u16 = 2;
    pub const VERDICT_CODE: u16 = 1;
    pub const VERDICT_CHAIN: u16 = 2;
}

/// What an attribute's length can say.
const MOST: usize = u16::MAX as usize;

/// What every message about elements of a set says.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub table: &'a str,
    pub set: &'a str,
    /// One of `NFT_MSG_*`, and its flags.
    pub kind: i32,
    pub flags: i32,
}

/// Adds messages that add elements; those that are over at this time are left out. Returns how many messages, and which of the
/// elements, counted from 1, each one of theirs is.
pub fn add(
    messages: &mut Messages,
    about: About<'_>,
    set: &Set,
    elements: &Elements,
    now: Time,
) -> Result<(usize, Vec<usize>), CommitError> {
    let mut writer = Writer::new(messages, about);
    for (number, (key, element)) in (1..).zip(elements) {
        let timeout = match element.closes_at.map(|closes_at| timeout_ms(closes_at, now)) {
            Some(None) => continue,
            Some(some) => some,
            None => None,
        };
        let ends = Ends::of(set, key, element.last.as_ref());
        let verdict = element.verdict.as_ref().map(verdict_parts).transpose()?;
        let chain = verdict.as_ref().and_then(|(_, chain)| chain.as_deref());
        let code = verdict.as_ref().map(|(code, _)| *code);
        writer.element(number, |bytes| {
            if let Some(timeout) = timeout {
                put(bytes, attribute::TIMEOUT, &timeout.to_be_bytes());
            }
            put_keys(bytes, &ends);
            if let Some(code) = code {
                put_verdict(bytes, code, chain.map(std::ffi::CStr::to_bytes_with_nul));
            }
            put_user_data(bytes, element, &ends);
        });
        writer.end_of(number, &ends);
    }
    Ok(writer.finish())
}

/// The same that deletes elements.
pub fn delete(
    messages: &mut Messages,
    about: About<'_>,
    set: &Set,
    keys: &[(Key, Option<Key>)],
) -> (usize, Vec<usize>) {
    let mut writer = Writer::new(messages, about);
    for (number, (key, last)) in (1..).zip(keys) {
        let ends = Ends::of(set, key, last.as_ref());
        writer.element(number, |bytes| put_keys(bytes, &ends));
        writer.end_of(number, &ends);
    }
    writer.finish()
}

struct Writer<'a> {
    messages: &'a mut Messages,
    about: About<'a>,
    /// The elements of the message under construction, without the head of their list.
    list: Vec<u8>,
    one: Vec<u8>,
    added: usize,
    numbers: Vec<usize>,
}

impl<'a> Writer<'a> {
    fn new(messages: &'a mut Messages, about: About<'a>) -> Self {
        Self { messages, about, list: Vec::new(), one: Vec::new(), added: 0, numbers: Vec::new() }
    }

    fn element(&mut self, number: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut one = std::mem::take(&mut self.one);
        one.clear();
        nest(&mut one, attribute::LIST_ELEM, fill);
        if 4 + self.list.len() + one.len() > MOST {
            self.message();
        }
        self.list.extend_from_slice(&one);
        self.one = one;
        self.numbers.push(number);
    }

    /// The element that ends a range: it takes neither timeout nor verdict nor comment.
    fn end_of(&mut self, number: usize, ends: &Ends) {
        let Ends::Tree { behind: Some(end), .. } = ends else { return };
        self.element(number, |bytes| {
            put(bytes, attribute::FLAGS, &(libc::NFT_SET_ELEM_INTERVAL_END as u32).to_be_bytes());
            put_key(bytes, attribute::KEY, end);
        });
    }

    fn message(&mut self) {
        let (about, list) = (self.about, std::mem::take(&mut self.list));
        self.messages.add_written(|bytes, sequence| {
            let begin = bytes.len();
            let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | about.kind as u16;
            let flags = about.flags as u16 | libc::NLM_F_REQUEST as u16;
            bytes.extend([0; 4]);
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(flags.to_ne_bytes());
            bytes.extend(sequence.to_ne_bytes());
            bytes.resize(begin + HEADER, 0);
            // struct nfgenmsg: family, version, resource id.
            bytes.push(libc::NFPROTO_INET as u8);
            bytes.resize(begin + PREAMBLE, 0);
            put_text(bytes, attribute::LIST_TABLE, about.table);
            put_text(bytes, attribute::LIST_SET, about.set);
            put(bytes, LIST_ELEMENTS | NESTED, &list);
            let length = (bytes.len() - begin) as u32;
            if let Some(head) = bytes.get_mut(begin..begin + 4) {
                head.copy_from_slice(&length.to_ne_bytes());
            }
        });
        self.added += 1;
        self.list = list;
        self.list.clear();
    }

    fn finish(mut self) -> (usize, Vec<usize>) {
        if !self.list.is_empty() {
            self.message();
        }
        (self.added, self.numbers)
    }
}

fn put_keys(bytes: &mut Vec<u8>, ends: &Ends) {
    match ends {
        Ends::Single(first) | Ends::Tree { first, .. } => put_key(bytes, attribute::KEY, first),
        Ends::Range { first, last } => {
            put_key(bytes, attribute::KEY, first);
            put_key(bytes, attribute::KEY_END, last);
        }
    }
}

fn put_key(bytes: &mut Vec<u8>, kind: u16, key: &Key) {
    nest(bytes, kind, |bytes| put(bytes, attribute::DATA_VALUE, key.bytes()));
}

/// `chain`: with its closing NUL.
fn put_verdict(bytes: &mut Vec<u8>, code: i32, chain: Option<&[u8]>) {
    nest(bytes, attribute::DATA, |bytes| {
        nest(bytes, attribute::DATA_VERDICT, |bytes| {
            put(bytes, attribute::VERDICT_CODE, &code.to_be_bytes());
            if let Some(chain) = chain {
                put(bytes, attribute::VERDICT_CHAIN, chain);
            }
        });
    });
}

fn put_user_data(bytes: &mut Vec<u8>, element: &Element, ends: &Ends) {
    if let Some(data) = userdata::of_element(element.comment.as_deref(), ends.open()) {
        put(bytes, attribute::USERDATA, &data);
    }
}

fn put_text(bytes: &mut Vec<u8>, kind: u16, text: &str) {
    bytes.extend((text.len() as u16 + 5).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    pad(bytes);
}

fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    pad(bytes);
}

/// Adds an attribute that holds what `fill` adds.
fn nest(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let begin = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend((kind | NESTED).to_ne_bytes());
    fill(bytes);
    let length = (bytes.len() - begin) as u16;
    if let Some(head) = bytes.get_mut(begin..begin + 2) {
        head.copy_from_slice(&length.to_ne_bytes());
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
