//! The step from the table in force to the wanted one.
//!
//! Only what differs is touched: a change of one service among thousands is a handful of messages. Chains are
//! changed whole (flush, then all rules), because a rule has no name; sets element by element. Knows
//! [`crate::ruleset`] only.

pub mod repair;

use std::collections::{BTreeMap, BTreeSet};

use crate::ruleset::{Chain, Element, Elements, Hook, Key, Part, Rule, Ruleset, Set, SetKind};
use repair::Stranger;

/// What one transaction does, in an order that the kernel accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changeset {
    pub table: String,
    pub steps: Vec<Step>,
}

impl Changeset {
    /// True when it changes more than what comes and goes with the time: elements that expire, and the rules of chains of
    /// which `follows_time` says so.
    pub fn outlasts_time(&self, follows_time: &dyn Fn(&str) -> bool) -> bool {
        self.steps.iter().any(|step| match step {
            Step::FlushChain(chain) | Step::AddRule(chain, _) => !follows_time(chain),
            Step::AddElements(_, set, _) | Step::DeleteElements(_, set, _) => !set.expires,
            Step::AddCounter(_)
            | Step::AddSet(..)
            | Step::AddChain(..)
            | Step::DeleteChain(_)
            | Step::DeleteSet(_)
            | Step::DeleteStranger(..)
            | Step::DeleteCounter(_) => true,
        })
    }

    /// Splits off what has to be in the kernel before the rest refers to it: new sets of ranges. They are empty for
    /// a moment after their own transaction (measured on Linux 6.18: 290 of 2.3 million packets missed in 120 swaps),
    /// and a packet that then asks them is refused though it is admitted. Alone they change no packet's fate, so the
    /// rest is still the whole change.
    pub fn phases(self) -> impl Iterator<Item = Self> {
        let early: BTreeSet<String> = self.steps.iter().filter_map(new_ranges).cloned().collect();
        let table = self.table;
        let (first, rest): (Vec<_>, Vec<_>) = self.steps.into_iter().partition(|step| match step {
            Step::AddSet(name, _) | Step::AddElements(name, ..) => early.contains(name),
            Step::AddCounter(_)
            | Step::AddChain(..)
            | Step::DeleteElements(..)
            | Step::FlushChain(_)
            | Step::AddRule(..)
            | Step::DeleteChain(_)
            | Step::DeleteSet(_)
            | Step::DeleteStranger(..)
            | Step::DeleteCounter(_) => false,
        });
        let phases = [first, rest].into_iter().filter(|steps| !steps.is_empty());
        phases.map(move |steps| Self { table: table.clone(), steps })
    }
}

/// The name of a set of ranges that a step makes. Those with verdicts lead to chains of the same transaction and are
/// made once, with the table.
fn new_ranges(step: &Step) -> Option<&String> {
    match step {
        Step::AddSet(name, set) if set.interval && set.kind == SetKind::Plain => Some(name),
        Step::AddSet(..)
        | Step::AddCounter(_)
        | Step::AddChain(..)
        | Step::DeleteElements(..)
        | Step::FlushChain(_)
        | Step::AddRule(..)
        | Step::AddElements(..)
        | Step::DeleteChain(_)
        | Step::DeleteSet(_)
        | Step::DeleteStranger(..)
        | Step::DeleteCounter(_) => None,
    }
}

/// One object of a transaction. Steps on elements carry the declaration of their set: how an element is encoded
/// depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    AddCounter(String),
    AddSet(String, Set),
    AddChain(String, Option<(Hook, i32)>),
    DeleteElements(String, Set, Vec<(Key, Option<Key>)>),
    /// Removes all rules of a chain.
    FlushChain(String),
    AddRule(String, Rule),
    AddElements(String, Set, Elements),
    DeleteChain(String),
    DeleteSet(String),
    DeleteCounter(String),
    DeleteStranger(Stranger, String),
}

/// Names and shapes found in the kernel's table, without elements and rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    pub counters: Vec<String>,
    /// The name, and whether the packet path fills it.
    pub sets: Vec<(String, bool)>,
    pub chains: Vec<(String, Option<(Hook, i32)>)>,
}

/// Returns the step from a table that we put in force ourselves to the wanted one; `None` when they are equal.
///
/// `rearm` names sets whose expiring elements are put in force anew even though they are equal: their timeouts
/// count elapsed time and are wrong after a step of the wall clock.
pub fn plan(in_force: &Ruleset, wanted: &Ruleset, rearm: &BTreeSet<String>) -> Option<Changeset> {
    let mut draft = Draft::default();
    draft.counters(&in_force.counters, &wanted.counters);
    draft.sets(in_force, wanted, rearm);
    draft.chains(in_force, wanted);
    draft.finish(&wanted.table)
}

/// Returns the step that puts a part in place of what is in force; all else stays.
pub fn plan_part(in_force: &Ruleset, part: &Part) -> Option<Changeset> {
    let mut draft = Draft::default();
    let counters = part.wanted.counters.difference(&in_force.counters);
    draft.add_objects.extend(counters.cloned().map(Step::AddCounter));
    for (name, set) in &part.wanted.sets {
        draft.set(name, in_force.sets.get(name), set, &BTreeSet::new());
    }
    for (name, chain) in &part.wanted.chains {
        draft.chain(name, in_force.chains.get(name), chain);
    }
    for (name, elements) in &part.elements {
        if let Some(set) = in_force.sets.get(name) {
            draft.some_elements(name, set, elements);
        }
    }
    for name in part.gone_chains.iter().filter(|name| in_force.chains.contains_key(*name)) {
        draft.rules.push(Step::FlushChain(name.clone()));
        draft.delete_objects.push(Step::DeleteChain(name.clone()));
    }
    let gone = part.gone.iter().filter(|name| in_force.sets.contains_key(*name));
    draft.delete_objects.extend(gone.cloned().map(Step::DeleteSet));
    let gone = part.gone_counters.iter().filter(|name| in_force.counters.contains(*name));
    draft.delete_objects.extend(gone.cloned().map(Step::DeleteCounter));
    draft.finish(&in_force.table)
}

/// Returns the step from a table about which only names are known: what a former daemon left.
///
/// All rules are sent anew. Counters and dynamic sets stay, so that neither counts nor the flows of UDP are lost,
/// and of the sets in `held`, which were read back, only the elements that differ change.
pub fn replace(found: &Inventory, held: &BTreeMap<String, Set>, wanted: &Ruleset) -> Option<Changeset> {
    let mut draft = Draft::default();
    let known: BTreeSet<_> = found.counters.iter().cloned().collect();
    draft.counters(&known, &wanted.counters);
    let filled: BTreeSet<&String> =
        found.sets.iter().filter(|(_, dynamic)| *dynamic).map(|(name, _)| name).collect();
    let stays =
        |name: &String, set: &Set| held.contains_key(name) || (is_dynamic(set) && filled.contains(name));
    for (name, _) in &found.sets {
        if !wanted.sets.get(name).is_some_and(|set| stays(name, set)) {
            draft.delete_sets_first.push(Step::DeleteSet(name.clone()));
        }
    }
    for (name, set) in &wanted.sets {
        match held.get(name) {
            Some(old) => draft.elements(name, &aged(old, set), set, false),
            None if stays(name, set) => {}
            None => draft.add_set(name, set),
        }
    }
    draft.replace_chains(&found.chains, wanted);
    draft.finish(&wanted.table)
}

/// The kernel tells how much longer an element lives, not when it closes. The key of a window does: an element that
/// has the same ends closes at the same time. Other elements that expire are put in anew.
fn aged(held: &Set, wanted: &Set) -> Set {
    let aged = |(key, element): (&Key, &Element)| {
        let same = wanted.elements.get(key).filter(|wanted| held.interval && wanted.last == element.last);
        let closes_at = same.and_then(|wanted| wanted.closes_at);
        (key.clone(), Element { closes_at, ..element.clone() })
    };
    Set { elements: held.elements.iter().map(aged).collect(), ..held.declaration() }
}

fn is_dynamic(set: &Set) -> bool {
    matches!(set.kind, SetKind::Dynamic { .. })
}

/// Steps by phase. Something is added before anything refers to it and deleted after nothing refers to it any more.
#[derive(Default)]
struct Draft {
    flush_before: Vec<Step>,
    delete_chains_first: Vec<Step>,
    delete_sets_first: Vec<Step>,
    add_objects: Vec<Step>,
    delete_elements: Vec<Step>,
    rules: Vec<Step>,
    add_elements: Vec<Step>,
    delete_objects: Vec<Step>,
}

impl Draft {
    fn finish(self, table: &str) -> Option<Changeset> {
        let steps = self.steps();
        (!steps.is_empty()).then(|| Changeset { table: table.to_owned(), steps })
    }

    fn steps(self) -> Vec<Step> {
        [
            self.flush_before,
            self.delete_sets_first,
            self.delete_chains_first,
            self.add_objects,
            self.delete_elements,
            self.rules,
            self.add_elements,
            self.delete_objects,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn counters(&mut self, in_force: &BTreeSet<String>, wanted: &BTreeSet<String>) {
        let missing = wanted.difference(in_force).cloned();
        self.add_objects.extend(missing.map(Step::AddCounter));
        let surplus = in_force.difference(wanted).cloned();
        self.delete_objects.extend(surplus.map(Step::DeleteCounter));
    }

    fn sets(&mut self, in_force: &Ruleset, wanted: &Ruleset, rearm: &BTreeSet<String>) {
        for (name, set) in &wanted.sets {
            self.set(name, in_force.sets.get(name), set, rearm);
        }
        for name in in_force.sets.keys().filter(|name| !wanted.sets.contains_key(*name)) {
            self.delete_objects.push(Step::DeleteSet(name.clone()));
        }
    }

    fn set(&mut self, name: &str, old: Option<&Set>, set: &Set, rearm: &BTreeSet<String>) {
        match old {
            Some(old) if old.same_declaration(set) => self.elements(name, old, set, rearm.contains(name)),
            Some(_) => {
                self.delete_sets_first.push(Step::DeleteSet(name.to_owned()));
                self.add_set(name, set);
            }
            None => self.add_set(name, set),
        }
    }

    fn add_set(&mut self, name: &str, set: &Set) {
        let declaration = set.declaration();
        self.add_objects.push(Step::AddSet(name.to_owned(), declaration.clone()));
        if !set.elements.is_empty() {
            self.add_elements.push(Step::AddElements(name.to_owned(), declaration, set.elements.clone()));
        }
    }

    fn elements(&mut self, name: &str, old: &Set, new: &Set, rearm: bool) {
        let stale = |key: &Key, element: &Element| {
            let same = new.elements.get(key).is_some_and(|wanted| same_element(element, wanted));
            !same || (rearm && element.closes_at.is_some())
        };
        let gone: Vec<_> = old
            .elements
            .iter()
            .filter(|(key, element)| stale(key, element))
            .map(|(key, element)| (key.clone(), element.last.clone()))
            .collect();
        let removed: BTreeSet<_> = gone.iter().map(|(key, _)| key).collect();
        let added: Elements = new
            .elements
            .iter()
            .filter(|(key, _)| !old.elements.contains_key(key) || removed.contains(key))
            .map(|(key, element)| (key.clone(), element.clone()))
            .collect();
        let declaration = || new.declaration();
        if !added.is_empty() {
            self.add_elements.push(Step::AddElements(name.to_owned(), declaration(), added));
        }
        if !gone.is_empty() {
            self.delete_elements.push(Step::DeleteElements(name.to_owned(), declaration(), gone));
        }
    }

    fn some_elements(&mut self, name: &str, set: &Set, elements: &BTreeMap<Key, Option<Element>>) {
        let (mut added, mut gone) = (Elements::default(), Vec::new());
        for (key, wanted) in elements {
            let held = set.elements.get(key);
            if let (Some(held), Some(wanted)) = (held, wanted)
                && same_element(held, wanted)
            {
                continue;
            }
            gone.extend(held.map(|held| (key.clone(), held.last.clone())));
            added.extend(wanted.as_ref().map(|wanted| (key.clone(), wanted.clone())));
        }
        if !added.is_empty() {
            self.add_elements.push(Step::AddElements(name.to_owned(), set.declaration(), added));
        }
        if !gone.is_empty() {
            self.delete_elements.push(Step::DeleteElements(name.to_owned(), set.declaration(), gone));
        }
    }

    fn chains(&mut self, in_force: &Ruleset, wanted: &Ruleset) {
        for (name, chain) in &wanted.chains {
            self.chain(name, in_force.chains.get(name), chain);
        }
        for name in in_force.chains.keys().filter(|name| !wanted.chains.contains_key(*name)) {
            self.rules.push(Step::FlushChain(name.clone()));
            self.delete_objects.push(Step::DeleteChain(name.clone()));
        }
    }

    fn chain(&mut self, name: &str, old: Option<&Chain>, chain: &Chain) {
        match old {
            Some(old) if old == chain => {}
            Some(old) if old.base == chain.base => {
                self.rules.push(Step::FlushChain(name.to_owned()));
                self.add_rules(name, chain);
            }
            Some(_) => {
                self.flush_before.push(Step::FlushChain(name.to_owned()));
                self.delete_chains_first.push(Step::DeleteChain(name.to_owned()));
                self.add_chain(name, chain);
            }
            None => self.add_chain(name, chain),
        }
    }

    fn replace_chains(&mut self, found: &[(String, Option<(Hook, i32)>)], wanted: &Ruleset) {
        let fits = |name: &String, base: &Option<(Hook, i32)>| {
            wanted.chains.get(name).is_some_and(|chain| chain.base == *base)
        };
        for (name, base) in found {
            self.flush_before.push(Step::FlushChain(name.clone()));
            match wanted.chains.contains_key(name) {
                true if fits(name, base) => {}
                true => self.delete_chains_first.push(Step::DeleteChain(name.clone())),
                // Elements that still lead to it go first.
                false => self.delete_objects.push(Step::DeleteChain(name.clone())),
            }
        }
        let kept: BTreeMap<_, _> = found.iter().filter(|(name, base)| fits(name, base)).cloned().collect();
        for (name, chain) in &wanted.chains {
            match kept.contains_key(name) {
                true => self.add_rules(name, chain),
                false => self.add_chain(name, chain),
            }
        }
    }

    fn add_chain(&mut self, name: &str, chain: &Chain) {
        self.add_objects.push(Step::AddChain(name.to_owned(), chain.base));
        self.add_rules(name, chain);
    }

    fn add_rules(&mut self, name: &str, chain: &Chain) {
        let rules = chain.rules.iter().cloned();
        self.rules.extend(rules.map(|rule| Step::AddRule(name.to_owned(), rule)));
    }
}

/// Comments are for people and are not worth a transaction; nothing else may differ.
fn same_element(old: &Element, new: &Element) -> bool {
    old.last == new.last && old.verdict == new.verdict && old.closes_at == new.closes_at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::ruleset::{Field, Verdict};

    fn key(number: u128) -> Key {
        Key::builder().address(Family::V4, number).build()
    }

    fn table(addresses: &[u128], verdict: Verdict) -> Ruleset {
        let mut ruleset = Ruleset::new("t");
        let mut set = Set::verdicts(&[Field::Address(Family::V4)]);
        for address in addresses {
            let element = Element { verdict: Some(verdict.clone()), ..Element::default() };
            set.elements.insert(key(*address), element);
        }
        ruleset.sets.insert("m".into(), set);
        ruleset.chains.insert("c".into(), Chain::default());
        ruleset
    }

    #[test]
    fn equal_tables_need_no_changeset() {
        let ruleset = table(&[1, 2], Verdict::Drop);
        assert_eq!(plan(&ruleset, &ruleset, &BTreeSet::new()), None);
    }

    #[test]
    fn only_the_element_that_differs_is_touched() {
        let changes = plan(&table(&[1, 2], Verdict::Drop), &table(&[2, 3], Verdict::Drop), &BTreeSet::new());
        let steps = changes.unwrap().steps;
        assert_eq!(steps.len(), 2);
        assert!(matches!(&steps[0], Step::DeleteElements(_, _, gone) if gone == &[(key(1), None)]));
        assert!(matches!(&steps[1], Step::AddElements(_, _, new) if new.keys().eq([&key(3)])));
    }

    #[test]
    fn a_changed_verdict_deletes_and_adds_in_one_transaction() {
        let steps =
            plan(&table(&[1], Verdict::Drop), &table(&[1], Verdict::Accept), &BTreeSet::new()).unwrap().steps;
        assert!(matches!(&steps[0], Step::DeleteElements(..)));
        assert!(matches!(&steps[1], Step::AddElements(..)));
    }

    #[test]
    fn a_removed_chain_is_flushed_before_it_is_deleted() {
        let mut wanted = table(&[], Verdict::Drop);
        wanted.chains.clear();
        let steps = plan(&table(&[1], Verdict::Jump("c".into())), &wanted, &BTreeSet::new()).unwrap().steps;
        let position = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
        let elements = position(&|s| matches!(s, Step::DeleteElements(..)));
        let flush = position(&|s| matches!(s, Step::FlushChain(_)));
        let delete = position(&|s| matches!(s, Step::DeleteChain(_)));
        assert!(elements < flush && flush < delete);
    }

    #[test]
    fn a_found_table_keeps_its_counters_and_dynamic_sets() {
        let mut wanted = table(&[1], Verdict::Drop);
        let dynamic = Set::dynamic(&[Field::Address(Family::V4)], 8, None, true);
        wanted.sets.insert("counts".into(), dynamic);
        wanted.counters.insert("n".into());
        let found = Inventory {
            counters: vec!["n".into()],
            sets: vec![("counts".into(), true), ("old".into(), false)],
            chains: vec![("c".into(), None), ("gone".into(), None)],
        };
        let steps = replace(&found, &BTreeMap::new(), &wanted).unwrap().steps;
        assert!(!steps.iter().any(|s| matches!(s, Step::AddSet(name, _) if name == "counts")));
        assert!(!steps.iter().any(|s| matches!(s, Step::AddCounter(_))));
        assert!(steps.contains(&Step::DeleteSet("old".into())));
        assert!(steps.contains(&Step::DeleteChain("gone".into())));
        assert!(steps.contains(&Step::FlushChain("c".into())));
    }

    #[test]
    fn a_held_set_stays_and_only_its_differences_are_sent() {
        let wanted = table(&[1, 2], Verdict::Jump("c".into()));
        let held = table(&[2, 3], Verdict::Jump("c".into())).sets;
        let found =
            Inventory { counters: vec![], sets: vec![("m".into(), false)], chains: vec![("c".into(), None)] };
        let steps = replace(&found, &held, &wanted).unwrap().steps;
        assert!(!steps.iter().any(|s| matches!(s, Step::DeleteSet(_) | Step::AddSet(..))), "{steps:?}");
        assert!(!steps.iter().any(|s| matches!(s, Step::DeleteChain(_) | Step::AddChain(..))), "{steps:?}");
        assert!(steps.iter().any(|s| matches!(s, Step::DeleteElements(_, _, k) if k == &[(key(3), None)])));
    }

    #[test]
    fn a_new_set_of_ranges_is_there_before_rules_ask_for_it() {
        let mut wanted = table(&[1], Verdict::Drop);
        wanted.sets.insert("w".into(), Set::plain(&[Field::Time]).with_intervals());
        let phases: Vec<_> = plan(&Ruleset::new("t"), &wanted, &BTreeSet::new()).unwrap().phases().collect();
        assert_eq!(phases.len(), 2);
        assert!(matches!(&phases[0].steps[..], [Step::AddSet(name, _)] if name == "w"));
        let alone: Vec<_> =
            plan(&wanted, &table(&[1], Verdict::Drop), &BTreeSet::new()).unwrap().phases().collect();
        assert_eq!(alone.len(), 1);
    }

    #[test]
    fn a_window_that_is_over_is_no_change_that_lasts() {
        let windows = |elements: &[u128]| {
            let mut ruleset = table(elements, Verdict::Drop);
            ruleset.sets.values_mut().for_each(|set| set.expires = true);
            ruleset
        };
        let over = plan(&windows(&[1]), &windows(&[]), &BTreeSet::new()).unwrap();
        assert!(!over.outlasts_time(&|_| false));
        assert!(
            plan(&table(&[1], Verdict::Drop), &table(&[], Verdict::Drop), &BTreeSet::new())
                .unwrap()
                .outlasts_time(&|_| false)
        );
    }
}
