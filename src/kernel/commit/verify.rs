//! Compares what a changeset should have left behind with what the kernel holds.

use std::collections::BTreeMap;
use std::fmt;

use super::error::CommitError;
use super::read::{Found, ms_until};
use super::set::MARGIN_MS;
use super::set::{Ends, flags, key_length};
use super::{Table, rule};
use crate::kernel::ffi;
use crate::model::Time;
use crate::plan::{Changeset, Step};
use crate::ruleset::{Element, Hook, Key, Rule, Set, SetKind};

/// Elements of each set that are looked at, and counters, evenly spread: some milliseconds.
const SAMPLE: usize = 2048;
/// How much earlier than its close an element may be gone: some ticks of the kernel's clock.
const EARLY_MS: u64 = 100;
/// How much later, beside what the commit itself took: its margin, a tick and the rounding to milliseconds.
pub(super) const LATE_MS: u64 = MARGIN_MS + 11;

/// Something that is not as it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `rule 3 of chain "svc-stripe"`.
    pub object: String,
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object, self.found)
    }
}

/// What the steps of a changeset add up to.
#[derive(Default)]
struct Expected<'a> {
    counters: BTreeMap<&'a str, bool>,
    sets: BTreeMap<&'a str, Option<&'a Set>>,
    chains: BTreeMap<&'a str, Option<Option<(Hook, i32)>>>,
    /// The last rules of a chain, and whether they are all it has.
    rules: BTreeMap<&'a str, (Vec<&'a Rule>, bool)>,
    elements: BTreeMap<&'a str, Elements<'a>>,
}

/// `None`: deleted. Keyed by both ends, which are equal in a set without ranges.
type ByEnds<'a> = BTreeMap<(&'a Key, &'a Key), Option<&'a Element>>;

struct Elements<'a> {
    set: &'a Set,
    /// What one step adds, as long as no other is about the set: a whole set needs no list of its own.
    added: Option<&'a crate::ruleset::Elements>,
    by_ends: ByEnds<'a>,
}

impl<'a> Elements<'a> {
    fn spread_out(&mut self) -> &mut ByEnds<'a> {
        if let Some(added) = self.added.take() {
            self.by_ends.extend(wanted(self.set, added));
        }
        &mut self.by_ends
    }

    /// Evenly spread ones, at most so many as a look takes.
    fn sample(&self) -> Vec<Sampled<'a>> {
        let all = self.added.map_or(self.by_ends.len(), crate::ruleset::Elements::len);
        let step = all.div_ceil(SAMPLE).max(1);
        let added = self.added.into_iter().flat_map(|added| wanted(self.set, added));
        added.chain(self.by_ends.iter().map(|(ends, element)| (*ends, *element))).step_by(step).collect()
    }
}

fn wanted<'a>(
    set: &'a Set,
    elements: &'a crate::ruleset::Elements,
) -> impl Iterator<Item = Sampled<'a>> + use<'a> {
    elements.iter().map(|(key, element)| (both_ends(set, key, element.last.as_ref()), Some(element)))
}

impl<'a> Expected<'a> {
    fn of(steps: &'a [Step]) -> Self {
        let mut expected = Self::default();
        for step in steps {
            expected.step(step);
        }
        expected
    }

    fn step(&mut self, step: &'a Step) {
        match step {
            Step::AddCounter(name) => drop(self.counters.insert(name, true)),
            Step::DeleteCounter(name) => drop(self.counters.insert(name, false)),
            Step::AddSet(name, set) => drop(self.sets.insert(name, Some(set))),
            Step::DeleteSet(name) => {
                self.sets.insert(name, None);
                self.elements.remove(name.as_str());
            }
            // What is not ours is looked for by name when it is heard of again.
            Step::DeleteStranger(..) => {}
            Step::AddChain(name, base) => {
                self.chains.insert(name, Some(*base));
            }
            Step::DeleteChain(name) => {
                self.chains.insert(name, None);
                self.rules.remove(name.as_str());
            }
            Step::FlushChain(name) => drop(self.rules.insert(name, (Vec::new(), true))),
            Step::AddRule(chain, rule) => {
                // A chain that this changeset creates has no other rules.
                let new = self.chains.contains_key(chain.as_str());
                let rules = self.rules.entry(chain).or_insert_with(|| (Vec::new(), new));
                rules.0.push(rule);
            }
            // Packets change them.
            Step::AddElements(_, set, _) | Step::DeleteElements(_, set, _)
                if matches!(set.kind, SetKind::Dynamic { .. }) => {}
            Step::AddElements(name, set, elements) => {
                if self.elements.contains_key(name.as_str()) {
                    self.elements_of(name, set).extend(wanted(set, elements));
                } else {
                    let added = Some(elements);
                    self.elements.insert(name, Elements { set, added, by_ends: ByEnds::new() });
                }
            }
            Step::DeleteElements(name, set, keys) => {
                let known = self.elements_of(name, set);
                known.extend(keys.iter().map(|(key, last)| (both_ends(set, key, last.as_ref()), None)));
            }
        }
    }

    fn elements_of(&mut self, name: &'a str, set: &'a Set) -> &mut ByEnds<'a> {
        let new = || Elements { set, added: None, by_ends: ByEnds::new() };
        self.elements.entry(name).or_insert_with(new).spread_out()
    }
}

fn both_ends<'a>(set: &Set, key: &'a Key, last: Option<&'a Key>) -> (&'a Key, &'a Key) {
    (key, last.filter(|_| set.interval).unwrap_or(key))
}

impl Table {
    /// Reads back what a changeset touched and returns what is not as it should be: chains, all their rules, sets, of the
    /// counters, and of each set, at most 2,048 of the elements that were added or deleted. Elements that `clock` lets expire
    /// may be gone.
    pub fn verify(
        &mut self,
        changeset: &Changeset,
        clock: &dyn Fn() -> Time,
    ) -> Result<Vec<Difference>, CommitError> {
        let expected = Expected::of(&changeset.steps);
        let mut differences = Vec::new();
        self.verify_counters(&expected, &mut differences)?;
        self.verify_sets(&expected, &mut differences)?;
        self.verify_chains(&expected, &mut differences)?;
        for (chain, (rules, all)) in &expected.rules {
            self.verify_rules(chain, rules, *all, &mut differences)?;
        }
        for (name, elements) in &expected.elements {
            self.verify_elements(name, elements, clock, &mut differences)?;
        }
        Ok(differences)
    }

    fn verify_counters(
        &mut self,
        expected: &Expected,
        differences: &mut Vec<Difference>,
    ) -> Result<(), CommitError> {
        if expected.counters.is_empty() {
            return Ok(());
        }
        let step = expected.counters.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<_> = expected.counters.iter().step_by(step).collect();
        let names: Vec<String> = sample.iter().map(|(name, _)| (**name).to_owned()).collect();
        let found = self.counters_named(&names)?;
        for (name, wanted) in sample {
            let object = format!("counter \"{name}\"");
            presence(object, *wanted, found.contains_key(*name), differences);
        }
        Ok(())
    }

    fn verify_sets(
        &mut self,
        expected: &Expected,
        differences: &mut Vec<Difference>,
    ) -> Result<(), CommitError> {
        if expected.sets.is_empty() {
            return Ok(());
        }
        let found = self.sets()?;
        for (name, wanted) in &expected.sets {
            let object = format!("set \"{name}\"");
            let found = found.get(*name);
            presence(object.clone(), wanted.is_some(), found.is_some(), differences);
            let (Some(wanted), Some(found)) = (wanted, found) else {
                continue;
            };
            if (flags(wanted), key_length(&wanted.fields) as u32) != (found.flags, found.key_length) {
                let found = format!("has flags {:#x} and keys of {} bytes", found.flags, found.key_length);
                differences.push(Difference { object, found });
            }
        }
        Ok(())
    }

    fn verify_chains(
        &mut self,
        expected: &Expected,
        differences: &mut Vec<Difference>,
    ) -> Result<(), CommitError> {
        if expected.chains.is_empty() {
            return Ok(());
        }
        let found = self.chains()?;
        for (name, wanted) in &expected.chains {
            let object = format!("chain \"{name}\"");
            let found = found.get(*name);
            presence(object.clone(), wanted.is_some(), found.is_some(), differences);
            if let (Some(wanted), Some(found)) = (wanted, found)
                && wanted != found
            {
                let found = format!("hangs at {found:?}");
                differences.push(Difference { object, found });
            }
        }
        Ok(())
    }

    fn verify_rules(
        &mut self,
        chain: &str,
        wanted: &[&Rule],
        all: bool,
        differences: &mut Vec<Difference>,
    ) -> Result<(), CommitError> {
        let found = self.rules(chain)?;
        if found.len() < wanted.len() || all && found.len() > wanted.len() {
            differences.push(Difference {
                object: format!("chain \"{chain}\""),
                found: format!("has {} rules instead of {}", found.len(), wanted.len()),
            });
            return Ok(());
        }
        let skipped = found.len() - wanted.len();
        for (index, (wanted, found)) in wanted.iter().zip(&found[skipped..]).enumerate() {
            if texts(wanted)? != comparable(found) {
                differences.push(Difference {
                    object: format!("rule {} of chain \"{chain}\"", skipped + index + 1),
                    found: format!("reads [{}]", found.join("] [")),
                });
            }
        }
        Ok(())
    }

    fn verify_elements(
        &mut self,
        name: &str,
        elements: &Elements,
        clock: &dyn Fn() -> Time,
        differences: &mut Vec<Difference>,
    ) -> Result<(), CommitError> {
        let sample = elements.sample();
        let ends: Vec<_> =
            sample.iter().map(|((key, last), _)| Ends::of(elements.set, key, Some(last))).collect();
        let before = clock();
        let found = self.find_elements(name, &ends)?;
        let times = Times { before, after: clock(), slack_ms: self.slack.as_millis() as u64 + LATE_MS };
        for (((key, last), wanted), found) in sample.into_iter().zip(found) {
            if let Some(problem) = compare(wanted, found.as_ref(), &times) {
                let object = format!("element {} of \"{name}\"", describe(elements.set, key, last, wanted));
                differences.push(Difference { object, found: problem });
            }
        }
        Ok(())
    }
}

fn presence(object: String, wanted: bool, found: bool, differences: &mut Vec<Difference>) {
    let found = match (wanted, found) {
        (true, false) => "is missing",
        (false, true) => "is still there",
        (true, true) | (false, false) => return,
    };
    differences.push(Difference { object, found: found.to_owned() });
}

/// The expressions of a wanted rule as text.
pub(super) fn texts(rule: &Rule) -> Result<Vec<String>, CommitError> {
    let encoded = rule::encode(c"", rule, &mut 0)?;
    let rule = encoded.expressions.into_iter().fold(ffi::Rule::new(), ffi::Rule::expression);
    Ok(comparable(&rule.texts()))
}

/// Expressions without what the kernel adds: numbers of sets without a name, and attributes that are 0 by default.
pub(super) fn comparable(texts: &[String]) -> Vec<String> {
    let plain = |text: &String| match text.split_once("set __set") {
        Some((head, _)) => format!("{head}set __set"),
        None => {
            let text = text.strip_suffix(" 0x0").filter(|text| text.starts_with("lookup ")).unwrap_or(text);
            text.replace(" timeout 0ms", "")
        }
    };
    texts.iter().map(plain).collect()
}

type Sampled<'a> = ((&'a Key, &'a Key), Option<&'a Element>);

/// The times around a reading, and how late the timeouts of the commit may have begun.
pub(super) struct Times {
    pub before: Time,
    pub after: Time,
    pub slack_ms: u64,
}

pub(super) fn compare(wanted: Option<&Element>, found: Option<&Found>, times: &Times) -> Option<String> {
    match (wanted, found) {
        (None, None) => None,
        (None, Some(_)) => Some("is still there".to_owned()),
        (Some(wanted), None) => {
            let over = wanted.closes_at.is_some_and(|at| ms_until(at, times.after) <= EARLY_MS);
            (!over).then(|| "is missing".to_owned())
        }
        (Some(wanted), Some(found)) if wanted.verdict != found.verdict => {
            Some(format!("has the verdict {:?}", found.verdict))
        }
        (Some(wanted), Some(found)) => compare_expiry(wanted.closes_at, found.expires_ms, times),
    }
}

fn compare_expiry(closes_at: Option<Time>, expires_ms: Option<u64>, times: &Times) -> Option<String> {
    match (closes_at, expires_ms) {
        (None, None) => None,
        (None, Some(left)) => Some(format!("expires in {left} ms")),
        (Some(_), None) => Some("never expires".to_owned()),
        (Some(at), Some(left)) if left > ms_until(at, times.before) + times.slack_ms => {
            Some(format!("expires in {left} ms, which is after its close"))
        }
        (Some(at), Some(left)) if left + EARLY_MS < ms_until(at, times.after) => {
            Some(format!("expires in {left} ms, which is before its close"))
        }
        (Some(_), Some(_)) => None,
    }
}

/// The element's comment, or its key.
fn describe(set: &Set, key: &Key, last: &Key, element: Option<&Element>) -> String {
    if let Some(comment) = element.and_then(|element| element.comment.as_ref()) {
        return format!("{comment:?}");
    }
    let print = |key: &Key| match key.decode(&set.fields) {
        Some(values) => format!("{values:?}"),
        None => format!("{:02x?}", key.bytes()),
    };
    match key == last {
        true => print(key),
        false => format!("{}-{}", print(key), print(last)),
    }
}
