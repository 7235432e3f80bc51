//! Compares the kernel's table with the one in force: the objects that somebody else touched, or all of them.
//!
//! What can be read is compared. What can be sent again at no packet's cost is not even read: a chain whose rules somebody
//! touched, an element of a hash that somebody touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::attributes::{Attribute, Attributes};
use super::batch::hook_from;
use super::error::CommitError;
use super::expression::OBJECT_COUNTER;
use super::news::{News, Touched};
use super::read::{Found, Held, assembled, attribute, object_of, texts_in};
use super::set::{flags, key_length};
use super::verify::{LATE_MS, Times, comparable, compare, texts};
use super::{Standing, Table, userdata};
use crate::model::Time;
use crate::plan::repair::{ChainDamage, CounterDamage, Damage, SetDamage, Stranger, leading_to};
use crate::ruleset::{Chain, Element, Hook, Key, Ruleset, Set, SetKind};

/// How much later than its close an element of a former daemon may end: what its commit took is not known.
const SLACK: Duration = Duration::from_secs(2);
/// NFT_MSG_GETFLOWTABLE, nf_tables.h.
const GET_FLOWTABLE: u16 = 23;
/// NFTA_FLOWTABLE_TABLE and NFTA_FLOWTABLE_NAME.
const FLOWTABLE_TABLE: u16 = 1;
const FLOWTABLE_NAME: u16 = 2;

/// A chain as the kernel describes it.
struct Hung {
    /// The hook, if it has one, and `None` in it for one that we do not use.
    base: Option<(Option<Hook>, i32)>,
    accepts: bool,
    filters: bool,
}

impl Hung {
    fn judge(&self, wanted: &Chain) -> Option<ChainDamage> {
        let same_place = match (self.base, wanted.base) {
            (None, None) => true,
            (Some((Some(hook), priority)), Some(wanted)) => (hook, priority) == wanted && self.filters,
            (Some(_) | None, Some(_) | None) => false,
        };
        match same_place {
            false => Some(ChainDamage::Moved),
            true => (!self.accepts).then_some(ChainDamage::Changed),
        }
    }
}

impl Table {
    /// Finds where the table differs from the one in force, as far as `news` tell; `None`: it is gone, or has to be replaced as a
    /// whole.
    pub fn damage(
        &mut self,
        news: &News,
        wanted: &Ruleset,
        clock: &dyn Fn() -> Time,
    ) -> Result<Option<Damage>, CommitError> {
        let flags = match self.standing()? {
            Standing::Absent | Standing::Unprotected => {
                // The next commit makes it anew, and says nothing of it.
                self.seen = false;
                return Ok(None);
            }
            Standing::Orphaned | Standing::Asleep(_) => true,
            // The kernel refuses everybody else.
            Standing::Ours if self.protects() && !news.suspected => return Ok(Some(Damage::default())),
            Standing::Ours => false,
        };
        let mut damage = Damage { flags, ..Damage::default() };
        self.damaged_chains(news, wanted, &mut damage)?;
        self.damaged_sets(news, wanted, &mut damage)?;
        self.damaged_elements(news, wanted, clock, &mut damage)?;
        self.damaged_counters(news, wanted, &mut damage)?;
        self.strangers(news, &mut damage)?;
        Ok(Some(damage))
    }

    fn damaged_chains(
        &mut self,
        news: &News,
        wanted: &Ruleset,
        damage: &mut Damage,
    ) -> Result<(), CommitError> {
        let unknown = |name: &String| !wanted.chains.contains_key(name);
        if news.is_about_everything() || news.chains_listed || news.chains.iter().any(unknown) {
            let found = self.hung()?;
            for (name, chain) in &found {
                let judged = match wanted.chains.get(name) {
                    Some(wanted) => chain.judge(wanted),
                    None => Some(ChainDamage::Foreign),
                };
                damage.chains.extend(judged.map(|judged| (name.clone(), judged)));
            }
            let missing = wanted.chains.keys().filter(|name| !found.contains_key(*name));
            damage.chains.extend(missing.map(|name| (name.clone(), ChainDamage::Missing)));
        }
        for name in news.chains.iter().filter(|name| wanted.chains.contains_key(*name)) {
            damage.chains.entry(name.clone()).or_insert(ChainDamage::Changed);
        }
        if news.is_about_everything() {
            let found = self.all_rules()?;
            for (name, chain) in &wanted.chains {
                let known = damage.chains.contains_key(name);
                if !known && !same_rules(chain, found.get(name).map_or(&[], Vec::as_slice))? {
                    damage.chains.insert(name.clone(), ChainDamage::Changed);
                }
            }
        }
        Ok(())
    }

    fn damaged_sets(
        &mut self,
        news: &News,
        wanted: &Ruleset,
        damage: &mut Damage,
    ) -> Result<(), CommitError> {
        let unknown = |name: &String| !wanted.sets.contains_key(name);
        if !news.is_about_everything() && news.sets.is_empty() && !news.elements.keys().any(unknown) {
            return Ok(());
        }
        let found = self.sets()?;
        for (name, set) in &found {
            let judged = match wanted.sets.get(name) {
                None if set.flags & libc::NFT_SET_ANONYMOUS as u32 != 0 => None,
                None => Some(SetDamage::Foreign),
                Some(_) if news.sets_deleted.contains(name) => Some(SetDamage::Another),
                Some(wanted)
                    if (set.flags, set.key_length) != (flags(wanted), key_length(&wanted.fields) as u32) =>
                {
                    Some(SetDamage::Another)
                }
                Some(wanted) => (set.limits != limits(wanted)).then_some(SetDamage::Limits),
            };
            damage.sets.extend(judged.map(|judged| (name.clone(), judged)));
        }
        let missing = wanted.sets.keys().filter(|name| !found.contains_key(*name));
        damage.sets.extend(missing.map(|name| (name.clone(), SetDamage::Missing)));
        Ok(())
    }

    fn damaged_elements(
        &mut self,
        news: &News,
        wanted: &Ruleset,
        clock: &dyn Fn() -> Time,
        damage: &mut Damage,
    ) -> Result<(), CommitError> {
        let lost: BTreeSet<String> = damage
            .chains
            .iter()
            .filter(|(_, damage)| matches!(damage, ChainDamage::Missing | ChainDamage::Moved))
            .map(|(name, _)| name.clone())
            .collect();
        let mut names: BTreeSet<&String> = match news.is_about_everything() {
            true => wanted.sets.keys().collect(),
            false => news.elements.keys().collect(),
        };
        names.extend(leading_to(wanted, &lost));
        let none = BTreeMap::new();
        for name in names {
            let Some(set) = wanted.sets.get(name).filter(|_| !is_made_anew(damage.sets.get(name))) else {
                continue;
            };
            let touched = news.elements.get(name).unwrap_or(&none);
            let judged = match set.kind {
                SetKind::Dynamic { .. } => interfered(touched, clock()),
                SetKind::Plain | SetKind::Verdicts => {
                    self.compare_elements(name, set, touched, news.is_about_everything(), clock)?
                }
            };
            damage.sets.extend(judged.map(|judged| (name.clone(), judged)));
        }
        Ok(())
    }

    fn compare_elements(
        &mut self,
        name: &str,
        set: &Set,
        touched: &BTreeMap<Key, Touched>,
        all: bool,
        clock: &dyn Fn() -> Time,
    ) -> Result<Option<SetDamage>, CommitError> {
        let before = clock();
        let found = assembled(set, self.dump_elements(name)?);
        let slack = self.longest_slack.max(SLACK).as_millis() as u64 + LATE_MS;
        let times = Times { before, after: clock(), slack_ms: slack };
        let (mut wrong, mut missing) = (Vec::new(), BTreeSet::new());
        for (key, found) in &found {
            let wanted = set.elements.get(key);
            let again = !set.interval && touched.contains_key(key);
            let same = !again && wanted.is_some_and(|wanted| is_same(key, wanted, found, all, &times));
            if !same {
                wrong.push((key.clone(), found.last.clone()));
                missing.extend(wanted.map(|_| key.clone()));
            }
        }
        for (key, wanted) in set.elements.iter().filter(|(key, _)| !found.contains_key(*key)) {
            if compare(Some(wanted), None, &times).is_some() {
                missing.insert(key.clone());
            }
        }
        let differs = !wrong.is_empty() || !missing.is_empty();
        Ok(differs.then_some(SetDamage::Elements { wrong, missing }))
    }

    fn damaged_counters(
        &mut self,
        news: &News,
        wanted: &Ruleset,
        damage: &mut Damage,
    ) -> Result<(), CommitError> {
        let (found, asked): (BTreeSet<String>, &BTreeSet<String>) = match news.is_about_everything() {
            true => (self.counters()?.into_keys().collect(), &wanted.counters),
            false if news.counters.is_empty() => return Ok(()),
            false => (self.counters_named(&news.counters)?.into_keys().collect(), &news.counters),
        };
        let missing = asked.iter().filter(|name| wanted.counters.contains(*name) && !found.contains(*name));
        damage.counters.extend(missing.map(|name| (name.clone(), CounterDamage::Missing)));
        let foreign = found.iter().filter(|name| !wanted.counters.contains(*name));
        damage.counters.extend(foreign.map(|name| (name.clone(), CounterDamage::Foreign)));
        Ok(())
    }

    /// Objects of other kinds than ours.
    fn strangers(&mut self, news: &News, damage: &mut Damage) -> Result<(), CommitError> {
        if !news.is_about_everything() && news.strangers.is_empty() {
            return Ok(());
        }
        let table = self.name.clone();
        let objects = self.reader.dump("the objects", libc::NFT_MSG_GETOBJ as u16, |request| {
            request.text(attribute::OBJECT_TABLE, &table)
        })?;
        let others = objects.iter().filter_map(|message| object_of(message, &table));
        let others = others.filter(|(kind, _)| *kind != OBJECT_COUNTER);
        damage.strangers.extend(others.map(|(kind, name)| (Stranger::Object(kind), name)));
        let flowtables = self
            .reader
            .dump("the flowtables", GET_FLOWTABLE, |request| request.text(FLOWTABLE_TABLE, &table))?;
        let name = |message: &Vec<u8>| {
            let found = Attributes::of_message(message);
            let ours = found.clone().find_kind(FLOWTABLE_TABLE)?.text() == table;
            ours.then(|| found.clone().find_kind(FLOWTABLE_NAME).map(Attribute::text)).flatten()
        };
        damage.strangers.extend(flowtables.iter().filter_map(name).map(|name| (Stranger::Flowtable, name)));
        Ok(())
    }

    fn hung(&mut self) -> Result<BTreeMap<String, Hung>, CommitError> {
        let table = self.name.clone();
        let messages = self.reader.dump("the chains", libc::NFT_MSG_GETCHAIN as u16, |request| {
            request.text(attribute::CHAIN_TABLE, &table)
        })?;
        Ok(messages.iter().filter_map(|message| hung_in(message, &table)).collect())
    }

    /// All rules by chain, each as its expressions' texts.
    fn all_rules(&mut self) -> Result<BTreeMap<String, Vec<Vec<String>>>, CommitError> {
        let table = self.name.clone();
        let messages = self.reader.dump("the rules", libc::NFT_MSG_GETRULE as u16, |request| {
            request.text(attribute::RULE_TABLE, &table)
        })?;
        let mut found: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
        for message in &messages {
            let chain = Attributes::of_message(message).find_kind(attribute::RULE_CHAIN).map(Attribute::text);
            if let Some(chain) = chain {
                found.entry(chain).or_default().push(texts_in(message));
            }
        }
        Ok(found)
    }
}

fn hung_in(message: &[u8], table: &str) -> Option<(String, Hung)> {
    let chain = Attributes::of_message(message);
    let find = |kind| chain.clone().find_kind(kind);
    if find(attribute::CHAIN_TABLE)?.text() != table {
        return None;
    }
    let base = find(attribute::CHAIN_HOOK).map(|hook| {
        let number = hook.inside().find_kind(attribute::HOOK_NUMBER).and_then(Attribute::u32);
        let priority = hook.inside().find_kind(attribute::HOOK_PRIORITY).and_then(Attribute::u32);
        (number.and_then(hook_from), priority.unwrap_or(0).cast_signed())
    });
    let policy = find(attribute::CHAIN_POLICY).and_then(Attribute::u32);
    let kind = find(attribute::CHAIN_TYPE).map(Attribute::text);
    let hung = Hung {
        base,
        accepts: policy.is_none_or(|policy| policy == libc::NF_ACCEPT as u32),
        filters: kind.is_none_or(|kind| kind == "filter"),
    };
    Some((find(attribute::CHAIN_NAME)?.text(), hung))
}

fn same_rules(chain: &Chain, found: &[Vec<String>]) -> Result<bool, CommitError> {
    if chain.rules.len() != found.len() {
        return Ok(false);
    }
    for (wanted, found) in chain.rules.iter().zip(found) {
        if texts(wanted)? != comparable(found) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `roughly`: comments may be older than those in force.
fn is_same(key: &Key, wanted: &Element, found: &Held, roughly: bool, times: &Times) -> bool {
    let last = wanted.last.as_ref().unwrap_or(key) == found.last.as_ref().unwrap_or(key);
    let as_found = Found {
        key: Key::from_bytes(&[]),
        last: None,
        verdict: found.verdict.clone(),
        expires_ms: found.expires_ms,
        packets: None,
        user_data: None,
        is_end: false,
    };
    let comment = || {
        roughly
            || userdata::comment_of(found.user_data.as_deref()) == userdata::kept(wanted.comment.as_deref())
    };
    last && compare(Some(wanted), Some(&as_found), times).is_none() && comment()
}

fn is_made_anew(damage: Option<&SetDamage>) -> bool {
    matches!(damage, Some(SetDamage::Missing | SetDamage::Another | SetDamage::Foreign))
}

/// Elements that somebody put into a set that only packets fill, or took out of it.
fn interfered(touched: &BTreeMap<Key, Touched>, now: Time) -> Option<SetDamage> {
    let (mut wrong, mut lost) = (Vec::new(), Vec::new());
    for (key, touched) in touched {
        match touched {
            Touched::Added => wrong.push((key.clone(), None)),
            Touched::Removed { expires_ms } => {
                let left = |ms: u64| chrono::TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(0));
                let closes_at = expires_ms.map(|ms| now + left(ms));
                lost.push((key.clone(), Element { closes_at, ..Element::default() }));
            }
        }
    }
    (!touched.is_empty()).then_some(SetDamage::Filled { wrong, lost })
}

/// The size and the timeout, in milliseconds, that a set is declared with.
fn limits(set: &Set) -> (Option<u32>, Option<u64>) {
    match set.kind {
        SetKind::Plain | SetKind::Verdicts => (None, None),
        SetKind::Dynamic { size, timeout, .. } => {
            (Some(size), timeout.map(|timeout| timeout.as_millis() as u64))
        }
    }
}
