//! From a packet's socket to what encloses it: the chains of segments.
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

use super::shared::{Rule, accept, chain, dispatch, goto, jump};
use super::{Input, Place, names, segments};
use crate::model::{Direction, Segment, Subject};
use crate::ruleset::{Element, Field, Key, Load, Part, Ruleset, Set, Statement, Verdict};

/// What the names of all that follows the places of subjects begin with: maps and their chains, and the chains of what
/// several enclose.
const SUBJECTS: &str = "subjects-";
const NEST: &str = "nest-";

/// True when anything is judged by its socket.
fn is_needed(input: &Input<'_>) -> bool {
    !input.segments.is_empty()
}

/// Adds the way from the base chains to the maps, and what follows the places of subjects.
pub fn add(input: &Input<'_>, ruleset: &mut Ruleset) {
    if is_needed(input) {
        hook(input, ruleset);
        add_places(input, ruleset);
    }
}

/// Returns all that follows the places of subjects; what is in force and not among it goes.
pub fn add_part(input: &Input<'_>, in_force: &Ruleset, part: &mut Part) {
    if !is_needed(input) {
        return;
    }
    add_places(input, &mut part.wanted);
    let wanted = &part.wanted;
    let sets = in_force.sets.keys().filter(|name| name.starts_with(SUBJECTS));
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
        if strict && !base.rules.is_empty() {
            // Behind the fail-safe, which stays first: in front of the two gates.
            base.rules.remove(0);
            let at = base.rules.len().saturating_sub(2);
            let loopback = || match way {
                Direction::Egress => Statement::LeavesByLoopback,
                Direction::Ingress => Statement::ArrivesByLoopback,
            };
            base.rules.insert(at, vec![loopback(), accept()].into());
            base.rules.insert(at, vec![loopback(), jump(subjects_chain(way))].into());
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

fn add_places(input: &Input<'_>, ruleset: &mut Ruleset) {
    let enclosed = enclosed(input);
    let levels: BTreeSet<u32> = enclosed.values().map(|one| one.level).collect();
    for way in Direction::ALL {
        let map = |level| format!("{SUBJECTS}{}-l{level}", names::way(way));
        for level in &levels {
            ruleset.sets.insert(map(*level), Set::verdicts(&[Field::Cgroup]));
        }
        for (id, one) in &enclosed {
            let target = target(input, &one.subjects, way, ruleset);
            let element = Element {
                verdict: Some(Verdict::Goto(target.into())),
                comment: Some(one.path.to_owned()),
                ..Element::default()
            };
            if let Some(set) = ruleset.sets.get_mut(&map(one.level)) {
                set.elements.insert(Key::builder().cgroup(*id).build(), element);
            }
        }
        let rules =
            levels.iter().rev().map(|level| vec![dispatch(&[Load::Cgroup { level: *level }], map(*level))]);
        chain(ruleset, subjects_chain(way), rules.collect());
    }
}

/// The cgroups of all subjects that are asked for, by id, each with the subjects of the cgroups above it.
fn enclosed<'a>(input: &Input<'a>) -> BTreeMap<u64, Enclosed<'a>> {
    let mut by_path: BTreeMap<&str, BTreeSet<&Subject>> = BTreeMap::new();
    let mut enclosed = BTreeMap::new();
    for subject in input.segments.values().map(|segment| &segment.subject) {
        for place in input.resolution.get(subject).into_iter().flatten() {
            if let Place::Cgroup(place) = place
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

/// The chain for what belongs to all these subjects.
fn target(input: &Input<'_>, subjects: &BTreeSet<&Subject>, way: Direction, ruleset: &mut Ruleset) -> String {
    let segments: Vec<&Segment> =
        input.segments.values().filter(|segment| subjects.contains(&segment.subject)).collect();
    if let [only] = segments.as_slice() {
        return segments::chain_of(&only.name, way);
    }
    let members: Vec<String> = subjects.iter().map(ToString::to_string).collect();
    let digest = names::digest("nest", members.iter().map(String::as_str));
    let name = format!("{digest}-{}", names::way(way));
    if !ruleset.chains.contains_key(&name) {
        let rules: Vec<Rule> =
            segments.iter().map(|segment| vec![jump(segments::chain_of(&segment.name, way))]).collect();
        chain(ruleset, name.clone(), rules);
    }
    name
}
