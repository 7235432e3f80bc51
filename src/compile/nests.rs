//! From a packet's socket to what is judged by it: policies for any address, and segments.
//!
//! At the end of `output` and `input` the cgroups of the socket are looked up, the deepest level first, in one map for each
//! level in use (`subjects-out-l2`). What is found leads to a chain with everything that encloses this cgroup, also
//! through the cgroups above it; so one lookup a level is all, however many segments there are. The nesting is known
//! here because the places of subjects are. Rejected: a lookup at every level and a chain for each: the order of reasons
//! among nested subjects could not be kept.
//!
//! The elements carry verdicts and change when a unit restarts, which makes the kernel look at all chains again. Rejected:
//! sets of ids, which change for less, with rules that ask for each subject behind them: their number would grow.

use std::collections::{BTreeMap, BTreeSet};

use super::anywhere::{self, Anywhere, Road};
use super::shared::{Rule, accept, chain, dispatch, goto, jump, loopback, unjudged};
use super::{Governing, Input, behind, fresh, names, segments};
use crate::model::{Direction, Segment, Subject};
use crate::ruleset::{Element, Field, Key, Load, Part, Ruleset, Set, Statement, Verdict};

/// What the names of all that follows the places of subjects begin with: maps and their chains, and the chains of what
/// several enclose.
pub const SUBJECTS: &str = "subjects-";
pub const NEST: &str = "nest-";

/// What is judged by sockets.
pub struct Judged<'a> {
    pub input: &'a Input<'a>,
    pub policies: Vec<Anywhere<'a>>,
}

impl<'a> Judged<'a> {
    /// `None` when there is nothing of the kind.
    fn of(input: &'a Input<'a>, services: &'a [Governing<'a>]) -> Option<Self> {
        let policies = anywhere::policies(input, services);
        (!policies.is_empty() || !input.segments.is_empty()).then_some(Self { input, policies })
    }

    pub fn policies_of(&self, is: impl Fn(&Anywhere<'_>) -> bool) -> Vec<&Anywhere<'a>> {
        self.policies.iter().filter(|one| is(one)).collect()
    }
}

/// Adds the way from the base chains to the maps, and what follows the places of subjects.
pub fn add(input: &Input<'_>, services: &[Governing<'_>], ruleset: &mut Ruleset) {
    if let Some(judged) = Judged::of(input, services) {
        hook(input, ruleset);
        behind::hook(&judged, ruleset);
        anywhere::add_refusals(input, services, fresh::is_in(ruleset), ruleset);
        add_places(&judged, ruleset);
    }
}

/// Returns all that follows the places of subjects and the states of services; what is in force and not among it goes.
pub fn add_part(input: &Input<'_>, services: &[Governing<'_>], in_force: &Ruleset, part: &mut Part) {
    let Some(judged) = Judged::of(input, services) else { return };
    // The services that have names are not all here; whether there are any is the same as in force.
    anywhere::add_refusals(input, services, fresh::is_in(in_force), &mut part.wanted);
    add_places(&judged, &mut part.wanted);
    let wanted = &part.wanted;
    let sets = in_force.sets.range(SUBJECTS.to_owned()..).map(|(name, _)| name);
    let sets = sets.take_while(|name| name.starts_with(SUBJECTS));
    part.gone.extend(sets.filter(|name| !wanted.sets.contains_key(*name)).cloned());
    let nests = in_force.chains.range(NEST.to_owned()..).map(|(name, _)| name);
    let nests = nests.take_while(|name| name.starts_with(NEST));
    part.gone_chains.extend(nests.filter(|name| !wanted.chains.contains_key(*name)).cloned());
}

fn subjects_chain(way: Direction) -> String {
    format!("{SUBJECTS}{}", names::way(way))
}

/// Lets the base chains go on behind the governed networks, and judges loopback where a segment does.
fn hook(input: &Input<'_>, ruleset: &mut Ruleset) {
    let strict = input.segments.values().any(|segment| !segment.loopback);
    for (name, way) in [("output", Direction::Egress), ("input", Direction::Ingress)] {
        let Some(base) = ruleset.chains.get_mut(name) else { continue };
        for rule in &mut base.rules {
            let mut returning = rule.to_vec();
            if let Some(Statement::Verdict(verdict)) = returning.last_mut()
                && let Verdict::Goto(chain) = verdict
            {
                *verdict = Verdict::Jump(chain.clone());
                *rule = returning.into();
            }
        }
        let unjudged = unjudged(input.settings, way);
        if strict {
            // Behind the fail-safe, which stays first.
            let first = unjudged.into_iter().skip(1);
            let judged = [vec![loopback(way), jump(subjects_chain(way))], vec![loopback(way), accept()]];
            base.rules.splice(0..0, first.chain(judged).map(Into::into));
        } else {
            base.rules.extend(unjudged.into_iter().map(Into::into));
        }
        base.rules.push(vec![goto(subjects_chain(way))].into());
    }
}

/// A cgroup that something encloses: its depth, its path, and the subjects that it belongs to.
struct Enclosed<'a> {
    level: u32,
    path: &'a str,
    subjects: BTreeSet<&'a Subject>,
}

fn add_places(judged: &Judged<'_>, ruleset: &mut Ruleset) {
    let enclosed = enclosed(judged);
    if !judged.policies.is_empty() {
        anywhere::add_rest(&judged.policies, ruleset);
    }
    for way in Direction::ALL {
        let mut last = Vec::new();
        if !judged.policies.is_empty() {
            let everywhere = judged.policies_of(|one| one.is_everywhere());
            if !everywhere.is_empty() {
                last.push(vec![jump(anywhere::rest_chain(way))]);
                last.extend(anywhere::refuse(judged.input, &everywhere, way, Road::Own, ruleset));
            }
            let rest = vec![vec![goto(anywhere::rest_chain(way))]];
            let target = |subjects: &BTreeSet<&Subject>, ruleset: &mut Ruleset| {
                grants_of(judged, subjects, way, ruleset)
            };
            let map = |level| format!("{SUBJECTS}grants-{}-l{level}", names::way(way));
            add_maps(&enclosed, &map, anywhere::grants_chain(way), rest, &target, ruleset);
        }
        let target =
            |subjects: &BTreeSet<&Subject>, ruleset: &mut Ruleset| target(judged, subjects, way, ruleset);
        let map = |level| format!("{SUBJECTS}{}-l{level}", names::way(way));
        add_maps(&enclosed, &map, subjects_chain(way), last, &target, ruleset);
    }
    behind::add_places(judged, ruleset);
}

/// Adds a map for each level, filled, and the chain that asks them, with what it does when none of them knows.
fn add_maps(
    enclosed: &BTreeMap<u64, Enclosed<'_>>,
    map: &dyn Fn(u32) -> String,
    asking: String,
    last: Vec<Rule>,
    target: &dyn Fn(&BTreeSet<&Subject>, &mut Ruleset) -> String,
    ruleset: &mut Ruleset,
) {
    let levels: BTreeSet<u32> = enclosed.values().map(|one| one.level).collect();
    for level in &levels {
        ruleset.sets.insert(map(*level), Set::verdicts(&[Field::Cgroup]));
    }
    for (id, one) in enclosed {
        let element = Element {
            verdict: Some(Verdict::Goto(target(&one.subjects, ruleset).into())),
            comment: Some(one.path.into()),
            ..Element::default()
        };
        if let Some(set) = ruleset.sets.get_mut(&map(one.level)) {
            set.elements.insert(Key::builder().cgroup(*id).build(), element);
        }
    }
    let asks =
        levels.iter().rev().map(|level| vec![dispatch(&[Load::Cgroup { level: *level }], map(*level))]);
    chain(ruleset, asking, asks.chain(last).collect());
}

/// The cgroups of all subjects that are asked for, by id, each with the subjects of the cgroups above it.
fn enclosed<'a>(judged: &'a Judged<'_>) -> BTreeMap<u64, Enclosed<'a>> {
    let input = judged.input;
    let policies = judged.policies.iter().map(|one| &one.policy.subject);
    let mut by_path: BTreeMap<&str, BTreeSet<&Subject>> = BTreeMap::new();
    let mut enclosed = BTreeMap::new();
    for subject in input.segments.values().map(|segment| &segment.subject).chain(policies) {
        for place in input.resolution.get(subject).into_iter().flat_map(|places| places.iter()) {
            if let Some(place) = place.enclosed()
                && place.level > 0
            {
                by_path.entry(&place.path).or_default().insert(subject);
                let one = Enclosed { level: place.level, path: &place.path, subjects: BTreeSet::new() };
                enclosed.insert(place.id, one);
            }
        }
    }
    for one in enclosed.values_mut() {
        let ends = one.path.match_indices('/').map(|(end, _)| end).chain([one.path.len()]);
        let above = ends.filter_map(|end| by_path.get(&one.path[..end]));
        one.subjects = above.flatten().copied().collect();
    }
    enclosed
}

/// The policies that are asked for in a cgroup of these subjects.
fn policies_in<'j, 'a>(judged: &'j Judged<'a>, subjects: &BTreeSet<&Subject>) -> Vec<&'j Anywhere<'a>> {
    judged.policies_of(|one| one.is_everywhere() || subjects.contains(&one.policy.subject))
}

pub fn name_of(kind: &str, subjects: &BTreeSet<&Subject>, way: Direction) -> String {
    let members: Vec<String> = subjects.iter().map(ToString::to_string).collect();
    let digest = names::digest(kind, members.iter().map(String::as_str));
    format!("{digest}-{}", names::way(way))
}

/// The chain that tries what is admitted to any address for all these subjects.
fn grants_of(
    judged: &Judged<'_>,
    subjects: &BTreeSet<&Subject>,
    way: Direction,
    ruleset: &mut Ruleset,
) -> String {
    let name = name_of("nest-grants", subjects, way);
    if !ruleset.chains.contains_key(&name) {
        let rules = anywhere::try_grants(&policies_in(judged, subjects), way, Road::Own);
        chain(ruleset, name.clone(), rules);
    }
    name
}

/// The chain for what belongs to all these subjects.
fn target(
    judged: &Judged<'_>,
    subjects: &BTreeSet<&Subject>,
    way: Direction,
    ruleset: &mut Ruleset,
) -> String {
    let segments = judged.input.segments.values().filter(|segment| subjects.contains(&segment.subject));
    let segments: Vec<&Segment> = segments.collect();
    let policies = policies_in(judged, subjects);
    if let ([only], []) = (segments.as_slice(), policies.as_slice()) {
        return segments::chain_of(&only.name, way);
    }
    let name = name_of("nest", subjects, way);
    if ruleset.chains.contains_key(&name) {
        return name;
    }
    let mut rules: Vec<Rule> = Vec::new();
    let enclosing = segments.iter().map(|segment| vec![jump(segments::chain_of(&segment.name, way))]);
    if !policies.is_empty() {
        // Over loopback only segments judge.
        let is_loopback = loopback(way);
        let only_segments = name_of("nest-segments", subjects, way);
        chain(ruleset, only_segments.clone(), enclosing.collect());
        rules.push(vec![is_loopback, goto(&*only_segments)]);
        rules.push(vec![jump(grants_of(judged, subjects, way, ruleset))]);
        rules.extend(anywhere::refuse(judged.input, &policies, way, Road::Own, ruleset));
        rules.push(vec![goto(&*only_segments)]);
    } else {
        rules.extend(enclosing);
    }
    chain(ruleset, name.clone(), rules);
    name
}
