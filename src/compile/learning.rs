//! What subjects with names in their policies or segments ask name servers, and what these answer: the answers go to the daemon.
//!
//! A question is noted by name server, local port and identifier when it leaves a socket of such a subject; only an
//! answer that fits one is logged. So no other process of this host, and nobody in the network who cannot guess
//! port and identifier, teaches the daemon addresses. Only there while some policy or segment has names.
//!
//! Rejected: asking the answer's socket for its cgroup. Whoever may forge the name server's address would only have
//! to hit an open port; and the owner of a socket is not known in the input hook.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::shared::{Rule, chain, goto, jump, lookup};
use super::{Governing, Input, Place, fresh, names};
use crate::model::{Family, PortRange, Service, Subject};
use crate::ruleset::{Account, Element, Field, Key, Load, Part, Ruleset, Set, Side, Statement, protocol};

/// What log records of answers begin with.
pub const PREFIX: &str = "dns ";

/// Cgroups deeper than this are not looked for: a chain asks each depth once, whatever the subjects are.
pub const DEEPEST: u32 = 8;

/// The most questions under way.
const QUESTIONS: u32 = 65_536;

/// How long an answer may take: resolvers ask again after 5 seconds (resolv.conf(5), `timeout`).
const PATIENCE: Duration = Duration::from_secs(5);

pub fn add(input: &Input<'_>, services: &[Governing<'_>], ruleset: &mut Ruleset) {
    let subjects = all_naming(input, services);
    if subjects.is_empty() {
        return;
    }
    for level in 1..=DEEPEST {
        ruleset.sets.insert(naming_set(level), Set::plain(&[Field::Cgroup]));
    }
    for (set, elements) in cgroups(subjects.iter().flat_map(|subject| places(input, subject))) {
        if let Some(set) = ruleset.sets.get_mut(&set) {
            set.elements.extend(elements);
        }
    }
    add_asking_of(input, &subjects, ruleset);
    add_questions(input, ruleset);
    add_hooks(ruleset);
}

/// The change of the sets when subjects that name hosts move: where none of them is any more, and where those that
/// moved are now. Elements that are `None` go.
pub fn moved<'a>(left: BTreeSet<&'a Place>, now: impl Iterator<Item = &'a Place>, part: &mut Part) {
    for (set, elements) in cgroups(left.into_iter()) {
        part.elements.entry(set).or_default().extend(elements.into_keys().map(|key| (key, None)));
    }
    for (set, elements) in cgroups(now) {
        let new = elements.into_iter().map(|(key, element)| (key, Some(element)));
        part.elements.entry(set).or_default().extend(new);
    }
}

/// True when where the subject is stands in sets alone: a rule tells users and groups.
pub fn is_in_sets(places: &[Place]) -> bool {
    places.iter().all(|place| match place {
        Place::Cgroup(_) | Place::Former(_) | Place::Address(_) => true,
        Place::User(_) | Place::Group(_) => false,
    })
}

/// The subjects of the policies that have names.
pub fn naming(service: &Service) -> impl Iterator<Item = &Subject> {
    service.policies.iter().filter(|policy| !policy.names.is_empty()).map(|policy| &policy.subject)
}

fn all_naming<'a>(input: &Input<'a>, services: &'a [Governing<'_>]) -> BTreeSet<&'a Subject> {
    let segments = input.segments.values().filter(|segment| segment.names().next().is_some());
    let policies = services.iter().flat_map(|governing| naming(governing.standing.service));
    policies.chain(segments.map(|segment| &segment.subject)).collect()
}

fn places<'a>(input: &Input<'a>, subject: &Subject) -> &'a [Place] {
    input.resolution.get(subject).map_or(&[], |places| places)
}

pub fn naming_set(level: u32) -> String {
    format!("naming-l{level}")
}

fn cgroups<'a>(places: impl Iterator<Item = &'a Place>) -> BTreeMap<String, BTreeMap<Key, Element>> {
    let mut sets: BTreeMap<String, BTreeMap<Key, Element>> = BTreeMap::new();
    for place in places {
        if let Some(place) = place.enclosed()
            && (1..=DEEPEST).contains(&place.level)
        {
            let element = Element { comment: Some(place.path.as_str().into()), ..Element::default() };
            sets.entry(naming_set(place.level))
                .or_default()
                .insert(Key::builder().cgroup(place.id).build(), element);
        }
    }
    sets
}

/// Adds the chain that tells whose questions are noted.
pub fn add_asking(input: &Input<'_>, services: &[Governing<'_>], ruleset: &mut Ruleset) {
    add_asking_of(input, &all_naming(input, services), ruleset);
}

fn add_asking_of(input: &Input<'_>, subjects: &BTreeSet<&Subject>, ruleset: &mut Ruleset) {
    let noted = || goto("dns-asked");
    let mut out: Vec<Rule> = Vec::new();
    if subjects.iter().any(|subject| subject.is_any_process()) {
        out.push(vec![noted()]);
    } else {
        out.extend(
            (1..=DEEPEST).map(|level| vec![lookup(&[Load::Cgroup { level }], naming_set(level)), noted()]),
        );
        out.extend(accounts(input, subjects).into_iter().map(|owner| vec![owner, noted()]));
    }
    chain(ruleset, "dns-out", out);
}

fn add_questions(input: &Input<'_>, ruleset: &mut Ruleset) {
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    for family in Family::ALL {
        let questions = format!("dns-asked{}", names::digit(family));
        let fields = [Field::Address(family), Field::Port, Field::EchoId(family)];
        ruleset.sets.insert(questions.clone(), Set::dynamic(&fields, QUESTIONS, Some(PATIENCE), false));
        let key = |server, local| [Load::Address(family, server), Load::Port(local), Load::DnsId];
        asked.push(vec![Statement::Update {
            set: questions.clone().into(),
            key: key(Side::Destination, Side::Source).to_vec(),
            limit: None,
        }]);
        answered.push(vec![lookup(&key(Side::Source, Side::Destination), questions), goto("dns-answered")]);
    }
    chain(ruleset, "dns-asked", asked);
    chain(ruleset, "dns-in", answered);
    let group = input.settings.attempts.answers_group();
    let mut learned = vec![vec![Statement::LogWhole { prefix: PREFIX.to_owned(), group }]];
    learned.extend(fresh::note());
    chain(ruleset, "dns-answered", learned);
    fresh::add(ruleset);
}

/// A rule for each user and group: only questions to name servers come here.
fn accounts(input: &Input<'_>, subjects: &BTreeSet<&Subject>) -> Vec<Statement> {
    let all: BTreeSet<&Place> = subjects.iter().flat_map(|subject| places(input, subject)).collect();
    let owner = |place: &Place| match place {
        Place::User(uid) => Some(Statement::Owner(Account::User(*uid))),
        Place::Group(gid) => Some(Statement::Owner(Account::Group(*gid))),
        Place::Cgroup(_) | Place::Former(_) | Place::Address(_) => None,
    };
    all.into_iter().filter_map(owner).collect()
}

/// Ahead of loopback, on which many hosts have their resolver.
fn add_hooks(ruleset: &mut Ruleset) {
    /// RFC 1035, section 4.2.1
    const DOMAIN: u16 = 53;
    for (base, side, to) in [("output", Side::Destination, "dns-out"), ("input", Side::Source, "dns-in")] {
        if let Some(base) = ruleset.chains.get_mut(base) {
            let port = Statement::Port {
                protocol: protocol::UDP,
                side,
                range: PortRange::from_zero(DOMAIN, DOMAIN),
            };
            base.rules.insert(0, vec![port, jump(to)].into());
        }
    }
}
