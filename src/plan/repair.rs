//! From what others did to the table back to the table in force.
//!
//! Only what was touched is sent again. Rules have no names: a chain that somebody else edited is sent whole, which no packet
//! notices, because the transaction switches from one list to the other. Deliberately absent: how damage is found.

use std::collections::{BTreeMap, BTreeSet};

use super::{Changeset, Draft, Step};
use crate::ruleset::{Element, Elements, Key, Name, Ruleset, Set, SetKind, Statement, Verdict};

/// Where the kernel's table differs from the one in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Damage {
    /// Flags of the table that are not ours.
    pub flags: bool,
    pub chains: BTreeMap<String, ChainDamage>,
    pub sets: BTreeMap<String, SetDamage>,
    pub counters: BTreeMap<String, CounterDamage>,
    /// Objects of kinds that we do not have, by kind and name.
    pub strangers: BTreeSet<(Stranger, String)>,
}

/// Kinds of objects that are never ours. The number is that of nf_tables.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stranger {
    Object(u32),
    Flowtable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainDamage {
    Missing,
    Foreign,
    /// It hangs somewhere else.
    Moved,
    /// Its rules or its policy.
    Changed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetDamage {
    Missing,
    Foreign,
    /// Of another shape, or one that somebody else made under the name.
    Another,
    /// What it is declared with and can be changed in place: size and timeout.
    Limits,
    Elements {
        /// To be deleted: foreign ones, and ours that are not as they were.
        wrong: Vec<(Key, Option<Key>)>,
        /// To be added from the table in force.
        missing: BTreeSet<Key>,
    },
    /// Of a set that only packets fill.
    Filled {
        /// Somebody else put them in.
        wrong: Vec<(Key, Option<Key>)>,
        /// Somebody else took them out.
        lost: Vec<(Key, Element)>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CounterDamage {
    Missing,
    Foreign,
}

impl Damage {
    pub fn is_empty(&self) -> bool {
        !self.flags
            && self.chains.is_empty()
            && self.sets.is_empty()
            && self.counters.is_empty()
            && self.strangers.is_empty()
    }

    /// What is damaged, for people: `chain "out4"`.
    pub fn objects(&self) -> Vec<String> {
        let flags = self.flags.then(|| "the flags of the table".to_owned());
        let chains = self.chains.iter().map(|(name, damage)| format!("chain {name:?} {}", damage.as_str()));
        let sets = self.sets.iter().map(|(name, damage)| format!("set {name:?} {}", damage.text()));
        let counters =
            self.counters.iter().map(|(name, damage)| format!("counter {name:?} {}", damage.as_str()));
        let strangers =
            self.strangers.iter().map(|(kind, name)| format!("{} {name:?} foreign", kind.as_str()));
        flags.into_iter().chain(chains).chain(sets).chain(counters).chain(strangers).collect()
    }

    /// Elements that others took out of sets that count.
    pub fn lost_elements(&self) -> impl Iterator<Item = (&String, Vec<Key>)> {
        self.sets.iter().filter_map(|(name, damage)| match damage {
            SetDamage::Filled { lost, .. } => Some((name, lost.iter().map(|(key, _)| key.clone()).collect())),
            _ => None,
        })
    }

    /// The counters and the sets that the packet path fills, and of which counts were lost.
    pub fn lost_counts<'a>(&'a self, wanted: &'a Ruleset) -> impl Iterator<Item = &'a String> {
        let gone = |damage: &CounterDamage| *damage == CounterDamage::Missing;
        let counters = self.counters.iter().filter(move |(_, damage)| gone(damage)).map(|(name, _)| name);
        let sets = self.sets.iter().filter(|(name, damage)| {
            matches!(damage, SetDamage::Missing | SetDamage::Another)
                && wanted.sets.get(*name).is_some_and(super::is_dynamic)
        });
        counters.chain(sets.map(|(name, _)| name))
    }
}

impl ChainDamage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Foreign => "foreign",
            Self::Moved => "moved",
            Self::Changed => "changed",
        }
    }
}

impl CounterDamage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Foreign => "foreign",
        }
    }
}

impl Stranger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Object(_) => "object",
            Self::Flowtable => "flowtable",
        }
    }
}

impl SetDamage {
    fn text(&self) -> String {
        match self {
            Self::Missing => "missing".to_owned(),
            Self::Foreign => "foreign".to_owned(),
            Self::Another => "made anew".to_owned(),
            Self::Limits => "declared anew".to_owned(),
            Self::Elements { wrong, missing } => {
                format!("with {} wrong and {} missing elements", wrong.len(), missing.len())
            }
            Self::Filled { wrong, lost } => {
                format!("with {} foreign and {} missing elements", wrong.len(), lost.len())
            }
        }
    }
}

/// Returns the transaction that brings the damaged objects back; it has no steps where only flags of the table differ.
pub fn repair(damage: &Damage, wanted: &Ruleset) -> Changeset {
    let mut draft = Draft::default();
    draft.add_objects.extend(damage.counters.iter().filter_map(|(name, damage)| match damage {
        CounterDamage::Missing => Some(Step::AddCounter(name.clone())),
        CounterDamage::Foreign => None,
    }));
    for (name, set) in &damage.sets {
        draft.repair_set(name, set, wanted.sets.get(name));
    }
    draft.repair_chains(damage, wanted);
    draft.remove_strangers(damage);
    Changeset { table: wanted.table.clone(), steps: draft.steps() }
}

impl Draft {
    fn repair_set(&mut self, name: &str, damage: &SetDamage, wanted: Option<&Set>) {
        match (damage, wanted) {
            (SetDamage::Foreign, _) | (_, None) => {
                self.delete_sets_first.push(Step::DeleteSet(name.to_owned()));
            }
            (SetDamage::Missing, Some(set)) => self.add_set(name, set),
            (SetDamage::Another, Some(set)) => {
                self.delete_sets_first.push(Step::DeleteSet(name.to_owned()));
                self.add_set(name, set);
            }
            (SetDamage::Limits, Some(set)) => {
                self.add_objects.push(Step::AddSet(name.to_owned(), set.declaration()));
            }
            (SetDamage::Filled { wrong, lost }, Some(set)) => {
                self.delete_wrong(name, set, wrong);
                if !lost.is_empty() {
                    self.add_elements.push(Step::AddElements(
                        name.to_owned(),
                        set.declaration(),
                        lost.clone().into(),
                    ));
                }
            }
            (SetDamage::Elements { wrong, missing }, Some(set)) => {
                self.delete_wrong(name, set, wrong);
                let elements = set.elements.iter().filter(|(key, _)| missing.contains(*key));
                let elements: Elements =
                    elements.map(|(key, element)| (key.clone(), element.clone())).collect();
                if !elements.is_empty() {
                    self.add_elements.push(Step::AddElements(name.to_owned(), set.declaration(), elements));
                }
            }
        }
    }

    /// Before sets and chains go to which foreign elements lead. Some may be gone by themselves.
    fn delete_wrong(&mut self, name: &str, set: &Set, wrong: &[(Key, Option<Key>)]) {
        if !wrong.is_empty() {
            let may_be_gone = Set { expires: set.expires || super::is_dynamic(set), ..set.declaration() };
            self.flush_before.push(Step::DeleteElements(name.to_owned(), may_be_gone, wrong.to_vec()));
        }
    }

    fn repair_chains(&mut self, damage: &Damage, wanted: &Ruleset) {
        let again = sent_again(damage, wanted);
        let foreign = |damage: &ChainDamage| *damage == ChainDamage::Foreign;
        let foreign = damage.chains.iter().filter(|(_, damage)| foreign(damage)).map(|(name, _)| name);
        let there =
            again.iter().copied().filter(|name| damage.chains.get(*name) != Some(&ChainDamage::Missing));
        for name in foreign.clone().chain(there) {
            self.flush_before.insert(0, Step::FlushChain(name.clone()));
        }
        let moved = |name: &&&String| damage.chains.get(**name) == Some(&ChainDamage::Moved);
        let gone = foreign.chain(again.iter().filter(moved).copied());
        self.delete_chains_first.extend(gone.cloned().map(Step::DeleteChain));
        for name in again {
            let Some(chain) = wanted.chains.get(name) else { continue };
            // Also of one that is there: its policy.
            if damage.chains.contains_key(name) {
                self.add_objects.push(Step::AddChain(name.clone(), chain.base));
            }
            self.add_rules(name, chain);
        }
    }

    fn remove_strangers(&mut self, damage: &Damage) {
        let foreign = |damage: &CounterDamage| *damage == CounterDamage::Foreign;
        let counters = damage.counters.iter().filter(|(_, damage)| foreign(damage)).map(|(name, _)| name);
        self.delete_objects.extend(counters.cloned().map(Step::DeleteCounter));
        let strangers = damage.strangers.iter();
        self.delete_objects.extend(strangers.map(|(kind, name)| Step::DeleteStranger(*kind, name.clone())));
    }
}

/// Our chains whose rules are sent: damaged ones, and those that lead to what is made anew.
fn sent_again<'a>(damage: &'a Damage, wanted: &'a Ruleset) -> BTreeSet<&'a String> {
    let anew = |damage: &ChainDamage| matches!(damage, ChainDamage::Missing | ChainDamage::Moved);
    let chains = damage.chains.iter().filter(|(_, damage)| anew(damage)).map(|(name, _)| name.as_str());
    let anew = |damage: &SetDamage| matches!(damage, SetDamage::Missing | SetDamage::Another);
    let sets = damage.sets.iter().filter(|(_, damage)| anew(damage)).map(|(name, _)| name.as_str());
    let (chains, sets): (BTreeSet<&str>, BTreeSet<&str>) = (chains.collect(), sets.collect());
    let leads = |statement: &Statement| match reference(statement) {
        Some(Reference::Chain(name)) => chains.contains(&**name),
        Some(Reference::Set(name)) => sets.contains(&**name),
        None => false,
    };
    let is_meant = |name: &String| damage.chains.contains_key(name);
    let any = !chains.is_empty() || !sets.is_empty();
    let all = wanted.chains.iter();
    all.filter(|(name, chain)| is_meant(name) || any && chain.rules.iter().any(|rule| rule.iter().any(leads)))
        .map(|(name, _)| name)
        .collect()
}

enum Reference<'a> {
    Chain(&'a Name),
    Set(&'a Name),
}

/// What a statement refers to by name.
fn reference(statement: &Statement) -> Option<Reference<'_>> {
    match statement {
        Statement::Lookup { set, .. }
        | Statement::Update { set, .. }
        | Statement::UpdateFor { set, .. }
        | Statement::Delete { set, .. } => Some(Reference::Set(set)),
        Statement::Dispatch { map, .. } => Some(Reference::Set(map)),
        Statement::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => Some(Reference::Chain(chain)),
        _ => None,
    }
}

/// Sets whose elements lead to one of these chains.
pub fn leading_to<'a>(wanted: &'a Ruleset, chains: &'a BTreeSet<String>) -> impl Iterator<Item = &'a String> {
    let leads = |set: &Set| {
        set.kind == SetKind::Verdicts
            && set.elements.values().any(|element| match &element.verdict {
                Some(Verdict::Jump(chain) | Verdict::Goto(chain)) => chains.contains(&**chain),
                Some(Verdict::Accept | Verdict::Drop | Verdict::Return) | None => false,
            })
    };
    wanted.sets.iter().filter(move |(_, set)| leads(set)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Chain, Field, Hook, Load, Side};

    fn ruleset() -> Ruleset {
        let mut ruleset = Ruleset::new("t");
        let key = |port| Key::builder().port(port).build();
        let mut set = Set::plain(&[Field::Port]);
        set.elements = [(key(1), Element::default()), (key(2), Element::default())].into();
        ruleset.sets.insert("s".into(), set);
        ruleset.counters.insert("n".into());
        let look = Statement::Lookup { key: vec![Load::Port(Side::Source)], set: "s".into(), negated: false };
        let rule = |statements: Vec<Statement>| statements.into();
        let asks = Chain { base: None, rules: vec![rule(vec![look, Statement::Verdict(Verdict::Drop)])] };
        let jump = Statement::Verdict(Verdict::Jump("asks".into()));
        let hook = Chain { base: Some((Hook::Input, 0)), rules: vec![rule(vec![jump])] };
        ruleset.chains = [("asks".to_owned(), asks), ("hook".to_owned(), hook)].into();
        ruleset
    }

    #[test]
    fn a_chain_that_was_edited_is_sent_whole_and_alone() {
        let chains = [("asks".to_owned(), ChainDamage::Changed)].into();
        let steps = repair(&Damage { chains, ..Damage::default() }, &ruleset()).steps;
        assert!(matches!(&steps[..], [Step::FlushChain(a), Step::AddChain(b, None), Step::AddRule(c, _)]
            if [a, b, c].iter().all(|name| *name == "asks")));
    }

    #[test]
    fn what_leads_to_a_set_that_is_made_anew_lets_go_of_it_first() {
        let sets = [("s".to_owned(), SetDamage::Another)].into();
        let steps = repair(&Damage { sets, ..Damage::default() }, &ruleset()).steps;
        let position = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
        let flush = position(&|step| matches!(step, Step::FlushChain(name) if name == "asks"));
        let delete = position(&|step| matches!(step, Step::DeleteSet(_)));
        let add = position(&|step| matches!(step, Step::AddSet(..)));
        let rule = position(&|step| matches!(step, Step::AddRule(..)));
        let elements = position(&|step| matches!(step, Step::AddElements(_, _, all) if all.len() == 2));
        assert!(flush < delete && delete < add && add < rule && rule < elements);
        assert!(!steps.iter().any(|step| matches!(step, Step::FlushChain(name) if name == "hook")));
    }

    #[test]
    fn foreign_objects_go_when_nothing_leads_to_them_any_more() {
        let damage = Damage {
            chains: [("evil".to_owned(), ChainDamage::Foreign), ("hook".to_owned(), ChainDamage::Changed)]
                .into(),
            sets: [
                ("evil-set".to_owned(), SetDamage::Foreign),
                (
                    "s".to_owned(),
                    SetDamage::Elements {
                        wrong: vec![(Key::builder().port(9).build(), None)],
                        missing: [Key::builder().port(2).build()].into(),
                    },
                ),
            ]
            .into(),
            counters: [("evil-n".to_owned(), CounterDamage::Foreign)].into(),
            ..Damage::default()
        };
        let steps = repair(&damage, &ruleset()).steps;
        let position = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
        let last_flush = steps.iter().rposition(|step| matches!(step, Step::FlushChain(_))).unwrap();
        let delete_chain = position(&|step| matches!(step, Step::DeleteChain(name) if name == "evil"));
        let delete_set = position(&|step| matches!(step, Step::DeleteSet(name) if name == "evil-set"));
        let counter = position(&|step| matches!(step, Step::DeleteCounter(_)));
        assert!(last_flush < delete_set && delete_set < delete_chain && delete_chain < counter);
        let added = steps.iter().find_map(|step| match step {
            Step::AddElements(_, _, elements) => Some(elements.len()),
            _ => None,
        });
        assert_eq!(added, Some(1));
    }

    #[test]
    fn counts_are_lost_with_their_counter_and_not_with_an_element() {
        let mut wanted = ruleset();
        wanted.sets.insert("hosts".into(), Set::dynamic(&[Field::Port], 8, None, true));
        let damage = Damage {
            sets: [("hosts".to_owned(), SetDamage::Missing), ("s".to_owned(), SetDamage::Missing)].into(),
            counters: [("n".to_owned(), CounterDamage::Missing)].into(),
            ..Damage::default()
        };
        assert_eq!(damage.lost_counts(&wanted).collect::<Vec<_>>(), ["n", "hosts"]);
    }
}
