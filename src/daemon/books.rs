//! What of the kernel's counters is on record: in memory as it is in the store.
//!
//! An element that is silent for [`COUNT_TIMEOUT`] leaves its set, and counts from zero when it comes back. The kernel tells
//! how much longer it stays, so that is known without looking for what is missing in a dump, which is no proof: a set that
//! grows while it is dumped shows some elements twice and others not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use crate::compile::COUNT_TIMEOUT;
use crate::ruleset::Key;
use crate::store::Baseline;

/// A key of a count set: an address, a protocol and a port, in whole registers. A hundred thousand of them are kept.
pub type Packed = [u8; 24];

/// Seconds that an element may be known longer than it stays.
const GRACE: u32 = 60;

/// The most that is forgotten at once.
const AT_ONCE: usize = 2_048;

/// One element of a count set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Of its packets, so many are on record.
    pub booked: u64,
    /// When it leaves the set unless packets come, in seconds by [`Books::now`].
    pub gone_at: u32,
}

/// What is on record of one counter or element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Counter(String, u64),
    Element(String, u8, Packed, Entry),
}

#[derive(Debug)]
pub struct Books {
    opened: Instant,
    sets: HashMap<String, Set>,
    /// Of each named counter, how many of its packets are on record.
    counters: BTreeMap<String, u64>,
    /// In the store, and no more in the table.
    gone: BTreeSet<(String, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Set {
    /// The bytes of each key that are its own.
    length: u8,
    entries: HashMap<Packed, Entry>,
}

impl Books {
    /// Goes on from what was stored, as far as the table still has these sets and counters.
    pub fn new(baselines: Vec<Baseline>, found: &BTreeSet<String>) -> Self {
        let mut books = Self {
            opened: Instant::now(),
            sets: HashMap::new(),
            counters: BTreeMap::new(),
            gone: BTreeSet::new(),
        };
        let gone_at = seconds(COUNT_TIMEOUT.as_secs());
        for old in baselines {
            if !found.contains(&old.set) {
                books.gone.insert((old.set, old.key));
            } else if old.key.is_empty() {
                books.counters.insert(old.set, old.packets);
            } else {
                let (key, length) = pack(&old.key);
                let entry = Entry { booked: old.packets, gone_at };
                books.set(&old.set, length).entries.insert(key, entry);
            }
        }
        books
    }

    /// Whole seconds since the books were opened: elapsed time, as the kernel's timeouts.
    pub fn now(&self) -> u32 {
        seconds(self.opened.elapsed().as_secs())
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// True when anything of a set is on record.
    pub fn knows(&self, set: &str) -> bool {
        self.sets.get(set).is_some_and(|set| !set.entries.is_empty())
    }

    fn set(&mut self, name: &str, length: u8) -> &mut Set {
        if !self.sets.contains_key(name) {
            self.sets.insert(name.to_owned(), Set { length, entries: HashMap::new() });
        }
        self.sets.entry(name.to_owned()).or_default()
    }

    /// Takes note of an element as the kernel has it, and returns how many of its packets are not on record. `quiet_at`: when
    /// it was last known that nothing new had come.
    pub fn see(&mut self, set: &str, key: &Packed, packets: u64, gone_at: u32, quiet_at: u32) -> u64 {
        let Some(entry) = self.sets.get_mut(set).and_then(|set| set.entries.get_mut(key)) else {
            return packets;
        };
        if packets < entry.booked || entry.gone_at < quiet_at {
            // It left its set, and came back.
            entry.booked = 0;
        }
        entry.gone_at = gone_at;
        packets - entry.booked
    }

    /// Takes over what is in the store now.
    pub fn note(&mut self, lines: Vec<Line>) {
        for line in lines {
            if !self.gone.is_empty() {
                let Baseline { set, key, .. } = line.baseline();
                self.gone.remove(&(set, key));
            }
            match line {
                Line::Counter(name, booked) => drop(self.counters.insert(name, booked)),
                Line::Element(name, length, key, entry) => {
                    self.set(&name, length).entries.insert(key, entry);
                }
            }
        }
    }

    /// What the store can forget, a part of it at a time: elements that have left their sets. Tell [`Books::forgotten`].
    pub fn gone(&self) -> Vec<Baseline> {
        let now = self.now();
        let old =
            |(set, key): &(String, Vec<u8>)| Baseline { set: set.clone(), key: key.clone(), packets: 0 };
        let mut gone: Vec<Baseline> = self.gone.iter().take(AT_ONCE).map(old).collect();
        for (name, set) in &self.sets {
            let left = set.entries.iter().filter(|(_, entry)| entry.gone_at.saturating_add(GRACE) < now);
            let old = left.map(|(key, _)| baseline(name, set.length, key, 0));
            gone.extend(old.take(AT_ONCE.saturating_sub(gone.len())));
        }
        gone
    }

    pub fn forgotten(&mut self, gone: &[Baseline]) {
        for old in gone {
            self.gone.remove(&(old.set.clone(), old.key.clone()));
            if let Some(set) = self.sets.get_mut(&old.set) {
                set.entries.remove(&pack(&old.key).0);
            }
        }
        self.sets.retain(|_, set| {
            if set.entries.len() < set.entries.capacity() / 4 {
                set.entries.shrink_to_fit();
            }
            !set.entries.is_empty()
        });
    }

    /// All sets and counters are gone.
    pub fn drop_everything(&mut self) {
        let names: Vec<String> = self.sets.keys().chain(self.counters.keys()).cloned().collect();
        self.drop_all(&names);
    }

    /// These elements left their set: should they come back, they count from zero.
    pub fn drop_keys(&mut self, name: &str, keys: &[Key]) {
        let Some(set) = self.sets.get_mut(name) else { return };
        for key in keys {
            if set.entries.remove(&pack(key.bytes()).0).is_some() {
                self.gone.insert((name.to_owned(), key.bytes().to_vec()));
            }
        }
    }

    /// The sets and counters of these names are gone: should they come back, they count from zero.
    pub fn drop_all(&mut self, names: &[String]) {
        for name in names {
            if let Some(set) = self.sets.remove(name) {
                let keys =
                    set.entries.keys().map(|key| (name.clone(), unpack(key, set.length).bytes().to_vec()));
                self.gone.extend(keys);
            }
            if self.counters.remove(name).is_some() {
                self.gone.insert((name.clone(), Vec::new()));
            }
        }
    }
}

impl Line {
    pub fn baseline(&self) -> Baseline {
        match self {
            Self::Counter(name, booked) => Baseline { set: name.clone(), key: Vec::new(), packets: *booked },
            Self::Element(name, length, key, entry) => baseline(name, *length, key, entry.booked),
        }
    }
}

fn baseline(set: &str, length: u8, key: &Packed, packets: u64) -> Baseline {
    let key = key.get(..usize::from(length)).unwrap_or(key).to_vec();
    Baseline { set: set.to_owned(), key, packets }
}

/// A key and its length in bytes.
pub fn pack(key: &[u8]) -> (Packed, u8) {
    let mut packed = [0; 24];
    let length = key.len().min(packed.len());
    packed[..length].copy_from_slice(&key[..length]);
    (packed, length as u8)
}

pub fn unpack(key: &Packed, length: u8) -> Key {
    Key::from_bytes(key.get(..usize::from(length)).unwrap_or(key))
}

pub fn seconds(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(entries: &[(u64, u32)]) -> (Books, Vec<Packed>) {
        let mut books = Books::new(Vec::new(), &BTreeSet::new());
        let keys: Vec<_> = (0..entries.len()).map(|number| pack(&[number as u8; 8]).0).collect();
        let line = |(key, (booked, gone_at)): (&Packed, &(u64, u32))| {
            Line::Element("s".into(), 8, *key, Entry { booked: *booked, gone_at: *gone_at })
        };
        books.note(keys.iter().zip(entries).map(line).collect());
        (books, keys)
    }

    #[test]
    fn an_element_counts_on_until_it_has_left_its_set() {
        let (mut books, keys) = books(&[(10, 100), (10, 100), (10, 100)]);
        assert_eq!(books.see("s", &keys[0], 15, 200, 90), 5, "it was there all the time");
        assert_eq!(books.see("s", &keys[1], 15, 200, 110), 15, "it left before anything came");
        assert_eq!(books.see("s", &keys[2], 9, 200, 90), 9, "it has less than before");
        assert_eq!(books.see("s", &pack(b"other").0, 3, 200, 90), 3, "nobody knew it");
    }

    #[test]
    fn what_was_stored_goes_on_and_what_left_the_table_is_forgotten() {
        let old = |set: &str, key: &[u8], packets| Baseline { set: set.into(), key: key.to_vec(), packets };
        let stored =
            vec![old("s", b"12345678", 4), old("t", b"12345678", 5), old("c", b"", 6), old("d", b"", 7)];
        let mut books = Books::new(stored, &["s".to_owned(), "c".to_owned()].into());
        assert_eq!(books.see("s", &pack(b"12345678").0, 9, 50, 0), 5);
        assert_eq!((books.counter("c"), books.counter("d")), (6, 0));
        let gone = books.gone();
        assert_eq!(gone, [old("d", b"", 0), old("t", b"12345678", 0)]);
        books.forgotten(&gone);
        assert!(books.gone().is_empty() && books.knows("s"));
        books.drop_keys("s", &[Key::from_bytes(b"somebody"), Key::from_bytes(b"12345678")]);
        assert_eq!(books.see("s", &pack(b"12345678").0, 9, 50, 0), 9, "it counts from zero");
        let line = Line::Element("s".into(), 8, pack(b"12345678").0, Entry { booked: 9, gone_at: 100 });
        books.note(vec![line]);
        books.drop_all(&["s".to_owned(), "c".to_owned()]);
        assert_eq!(books.gone(), [old("c", b"", 0), old("s", b"12345678", 0)]);
        assert_eq!(books.counter("c"), 0);
        books.note(vec![Line::Counter("c".into(), 1)]);
        assert_eq!(books.gone(), [old("s", b"12345678", 0)], "it is back");
    }
}
