//! What the count sets of one direction and reason have more than is on record, source by source.

use std::collections::HashMap;
use std::net::IpAddr;

use super::books::{Books, Entry, Line, Packed, pack, seconds, unpack};
use super::tally::Target;
use crate::compile::{CountSets, Half};
use crate::kernel::commit::{CommitError, Table};
use crate::ruleset::{Set, SetKind, Value};

/// One direction and reason of somebody: the count sets of both families, and their common counter.
#[derive(Debug, Clone)]
pub struct Pair {
    pub sets: Vec<CountSets>,
}

/// A source with packets that are not on record.
#[derive(Debug)]
pub struct Counted {
    pub remote: IpAddr,
    pub protocol: u8,
    /// The place of its sets in [`Pair::sets`].
    family: usize,
    element: Element,
    ports: Vec<(u16, Element)>,
}

#[derive(Debug, Clone, Copy)]
struct Element {
    key: Packed,
    length: u8,
    /// What the kernel has.
    packets: u64,
    /// What of it is not on record.
    left: u64,
    gone_at: u32,
}

/// What was read of a pair.
#[derive(Debug, Default)]
pub struct Read {
    pub sources: Vec<Counted>,
    /// A set is full, or nearly: others than these may have sent too.
    pub is_full: bool,
}

impl Pair {
    /// Hosts first: what is counted between the two reads is then in `ports` alone, and waits for the next round.
    /// `quiet_at`: when it was last known that nothing new had come.
    pub fn read(&self, table: &mut Table, books: &mut Books, quiet_at: u32) -> Result<Read, CommitError> {
        let mut read = Read::default();
        for (family, sets) in self.sets.iter().enumerate() {
            let hosts = elements(table, books, sets, Half::Hosts, quiet_at)?;
            read.is_full |= hosts.len() >= sets.size(Half::Hosts) as usize / 8 * 7;
            if hosts.values().all(|element| element.left == 0) {
                continue;
            }
            let fields = sets.fields(Half::Hosts);
            let mut by_key: HashMap<Packed, Counted> = HashMap::new();
            for (key, element) in hosts.into_iter().filter(|(_, element)| element.left > 0) {
                let values = unpack(&key, element.length).decode(&fields).unwrap_or_default();
                if let [Value::Address(remote), Value::Protocol(protocol)] = values[..] {
                    by_key.insert(key, Counted { remote, protocol, family, element, ports: Vec::new() });
                }
            }
            let fields = sets.fields(Half::Ports);
            for (key, element) in elements(table, books, sets, Half::Ports, quiet_at)? {
                let values = unpack(&key, element.length).decode(&fields).unwrap_or_default();
                // The port is the last register.
                let mut host = key;
                host[usize::from(element.length).saturating_sub(4)..].fill(0);
                if let (Some(counted), [_, _, Value::Port(port)]) = (by_key.get_mut(&host), &values[..])
                    && element.left > 0
                {
                    counted.ports.push((*port, element));
                }
            }
            read.sources.extend(by_key.into_values());
        }
        Ok(read)
    }

    pub fn name(&self) -> &str {
        self.sets.first().map_or("", |sets| sets.total.as_str())
    }
}

fn elements(
    table: &mut Table,
    books: &mut Books,
    sets: &CountSets,
    half: Half,
    quiet_at: u32,
) -> Result<HashMap<Packed, Element>, CommitError> {
    let kind = SetKind::Dynamic { size: 0, timeout: None, counted: true };
    let fields = sets.fields(half);
    let declaration = Set { fields, kind, interval: false, expires: false, elements: Default::default() };
    let set = match half {
        Half::Hosts => &sets.hosts,
        Half::Ports => &sets.ports,
    };
    let now = books.now();
    let mut elements: HashMap<Packed, Element> = HashMap::new();
    for found in table.set_counts(set, &declaration)? {
        let (key, length) = pack(found.key.bytes());
        let gone_at = found.expires_ms.map_or(u32::MAX, |ms| now.saturating_add(seconds(ms / 1000 + 1)));
        let packets = elements.get(&key).map_or(0, |known| known.packets).max(found.packets);
        let left = books.see(set, &key, packets, gone_at, quiet_at);
        elements.insert(key, Element { key, length, packets, left, gone_at });
    }
    Ok(elements)
}

impl Counted {
    /// Packets that are not on record.
    pub fn left(&self) -> u64 {
        self.element.left
    }

    /// Puts packets on record: by how much each of its targets counts further, and how its elements then stand.
    pub fn book(&mut self, pair: &Pair, packets: u64) -> (Vec<(Target, i64)>, Vec<Line>) {
        let (mut targets, mut lines) = (Vec::new(), Vec::new());
        let Some(sets) = pair.sets.get(self.family) else { return (targets, lines) };
        let target = |port| Target {
            charged: sets.charged.clone(),
            direction: sets.direction,
            reason: sets.reason,
            remote: self.remote,
            protocol: self.protocol,
            port,
        };
        let mut rest = packets;
        for (port, element) in &mut self.ports {
            let part = rest.min(element.left);
            if part > 0 {
                rest -= part;
                targets.push((target(Some(*port)), signed(part)));
                lines.push(element.book(&sets.ports, part));
            }
        }
        if rest > 0 {
            targets.push((target(None), signed(rest)));
        }
        lines.push(self.element.book(&sets.hosts, packets));
        (targets, lines)
    }

    /// Puts on record that the kernel's counters know no more packets of it.
    pub fn skip(&mut self, pair: &Pair) -> Option<Line> {
        let left = self.left();
        pair.sets.get(self.family).map(|sets| self.element.book(&sets.hosts, left))
    }
}

impl Element {
    fn book(&mut self, set: &str, packets: u64) -> Line {
        self.left = self.left.saturating_sub(packets);
        let entry = Entry { booked: self.packets - self.left, gone_at: self.gone_at };
        Line::Element(set.to_owned(), self.length, self.key, entry)
    }
}

pub fn signed(packets: u64) -> i64 {
    i64::try_from(packets).unwrap_or(i64::MAX)
}
