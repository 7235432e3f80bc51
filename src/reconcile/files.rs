//! What a few files among thousands change in the table: chains of their services, and elements of exact maps.
//!
//! Ranges, names, host-wide policies and whatever else reaches beyond its own service take the whole table, which is
//! compiled and compared as ever.

use std::collections::BTreeSet;

use imbl::ordmap::DiffItem;

use super::World;
use crate::compile::{self, Standing, Whereabouts};
use crate::model::{Policy, Prefix, Service, ServiceName, Subject};
use crate::owners::Owners;
use crate::ruleset::{Part, Ruleset, Statement, Verdict};

impl World {
    /// Returns only what follows these services, of which some came, went or have other files than in the world `before`,
    /// whose table is in force. `owners`: of this world. `None` when everything has to be compiled.
    pub fn compile_files(
        &self,
        names: &BTreeSet<ServiceName>,
        before: &Self,
        owners: &Owners,
        in_force: &Ruleset,
    ) -> Option<Part> {
        if let Some(part) = self.compile_exact(names, before, owners, in_force) {
            return Some(part);
        }
        let (mut singles, mut subjects) = (BTreeSet::new(), BTreeSet::new());
        for name in names.iter().filter(|name| !self.governs_as(before, name)) {
            for service in [before.governing(name), self.governing(name)].into_iter().flatten() {
                // Others may be told by elements alone now, or not any more.
                if compile::is_exact(service) || !is_plain(service) || !self.keeps_openings(before, service) {
                    return None;
                }
                singles.extend(service.prefixes());
                subjects.extend(service.policies.iter().map(|policy| &policy.subject));
            }
        }
        let mut part = self.compile_services(names, owners.ties(names), in_force);
        if !subjects.into_iter().all(|subject| self.follow_places(subject, before, in_force, &mut part)) {
            return None;
        }
        let listing = |single| owners.listing(single).cloned().collect();
        let governed = |first, last| owners.is_any_between(first, last);
        self.add_singles(singles, names, before, (&listing, &governed), &mut part)?;
        let former = before.compile_services(names, [], in_force).wanted.chains;
        let gone = former.into_keys().filter(|name| !part.wanted.chains.contains_key(name));
        let gone: Vec<_> = gone.filter(|chain| !is_led_to(chain, in_force)).collect();
        part.gone_chains.extend(gone);
        Some(part)
    }

    /// The same where all of them are told by elements alone, before and now.
    fn compile_exact(
        &self,
        names: &BTreeSet<ServiceName>,
        before: &Self,
        owners: &Owners,
        in_force: &Ruleset,
    ) -> Option<Part> {
        let former = before.standings_of(names);
        let now = self.standings_of(names);
        let is_alone =
            |service: &Service| service.prefixes().all(|prefix| owners.listing(prefix).nth(1).is_none());
        let places = |subject: &Subject| before.places(subject);
        let governed = |first, last| owners.is_any_between(first, last);
        let changed =
            compile::Changed { before: &former, places: &places, is_alone: &is_alone, governed: &governed };
        let askers = |set: &str, is: &dyn Fn(&Standing<'_>) -> bool| self.any_asks_for(set, is);
        compile::files_part(&self.input(&now), &changed, &askers, in_force)
    }

    /// True when a subject that others than these services name, or a segment, is somewhere else than in the world before.
    pub fn moves_others(&self, before: &Self, names: &BTreeSet<ServiceName>) -> bool {
        let mut moved = before.resolution.diff(&self.resolution).map(|item| match item {
            DiffItem::Add(subject, _) | DiffItem::Remove(subject, _) => subject,
            DiffItem::Update { new: (subject, _), .. } => subject,
        });
        moved.any(|subject| {
            self.enclosures.names(subject)
                || self.index.with_subject(subject).any(|service| !names.contains(service))
        })
    }

    /// Adds where this subject is, if a policy asks for it in the shared sets. False when everything has to be compiled.
    fn follow_places(&self, subject: &Subject, before: &Self, in_force: &Ruleset, part: &mut Part) -> bool {
        let standings = self.standings_of(self.index.with_subject(subject));
        let named = standings.iter().any(|standing| !compile::is_in_elements(in_force, standing.service));
        compile::follow_places(&self.input(&[]), &before.whereabouts(subject), named, in_force, part)
    }

    /// A subject as it is in this world, for one in which it is elsewhere.
    pub(super) fn whereabouts<'a>(&'a self, subject: &'a Subject) -> Whereabouts<'a> {
        let levels = compile::levels(&self.resolution, &self.left, subject);
        Whereabouts { subject, places: self.places(subject), levels }
    }

    /// True when a service governs what it governed in the world before, by the same file.
    fn governs_as(&self, before: &Self, name: &ServiceName) -> bool {
        match (before.governing(name), self.governing(name)) {
            (Some(before), Some(now)) => std::ptr::eq(before, now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    fn governing(&self, name: &ServiceName) -> Option<&Service> {
        self.standing(name).filter(|standing| standing.governs(self.latest)).map(|standing| standing.service)
    }

    /// True when no set of openings goes that the service asked for.
    fn keeps_openings(&self, before: &Self, service: &Service) -> bool {
        let mut sets = compile::opening_sets(service).into_iter();
        sets.all(|set| self.may_open_by(&set) || !before.may_open_by(&set))
    }
}

/// True when all that follows from a service in the table is its own, or stands at single addresses.
fn is_plain(service: &Service) -> bool {
    let is_local = |subject: &Subject| match subject {
        Subject::Unit(_) | Subject::Cgroup(_) | Subject::Exe { .. } => true,
        Subject::User(_) | Subject::Group(_) | Subject::Container(_) => false,
    };
    let is_plain = |policy: &Policy| {
        !policy.is_any() && !policy.tls && policy.names.is_empty() && is_local(&policy.subject)
    };
    service.policies.iter().all(is_plain)
        && service.prefixes().all(|prefix: Prefix| prefix.address().is_some())
}

/// True when a chain of several services or policies in force leads to this one. Such chains stay until everything is
/// compiled.
fn is_led_to(chain: &str, in_force: &Ruleset) -> bool {
    let several = ["both-", "tie-"].into_iter().flat_map(|prefix| {
        let begin = in_force.chains.range(prefix.to_owned()..);
        begin.take_while(move |(name, _)| name.starts_with(prefix))
    });
    let mut statements = several.flat_map(|(_, chain)| chain.rules.iter().flat_map(|rule| rule.iter()));
    statements.any(|statement| match statement {
        Statement::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => **to == *chain,
        _ => false,
    })
}
