//! Segments and policies for any address whose subject is a container with a network of its own: from the container's
//! address to what judges it, where packets are forwarded.
//!
//! One map for each way and family (`subjects-through-out4`), asked at the end of `forward`, leads from an address to a
//! chain with everything that encloses it, as [`super::nests`] leads from a cgroup. Grants to any address are tried
//! through maps of their own before a listed address is refused, and first of all here. None of these chains asks for
//! sockets.
//!
//! Nothing of this is in the table while no segment and no policy for any address names a container.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::anywhere::{self, Anywhere, Road};
use super::nests::{Judged, NEST, SUBJECTS, name_of};
use super::shared::{Rule, chain, dispatch, jump};
use super::{names, segments, subjects};
use crate::model::{Direction, Family, Subject};
use crate::ruleset::{Element, Field, Key, Load, Ruleset, Set, Side, Verdict};

fn judging(way: Direction) -> String {
    format!("{SUBJECTS}through-{}", names::way(way))
}

fn granting(way: Direction) -> String {
    format!("{SUBJECTS}through-grants-{}", names::way(way))
}

fn containers<'a>(judged: &'a Judged<'_>) -> BTreeSet<&'a Subject> {
    let policies = judged.policies.iter().map(|one| &one.policy.subject);
    let all = judged.input.segments.values().map(|segment| &segment.subject).chain(policies);
    all.filter(|subject| matches!(subject, Subject::Container(_))).collect()
}

/// Adds the way from the base chain, and that from the governed networks.
pub fn hook(judged: &Judged<'_>, ruleset: &mut Ruleset) {
    if containers(judged).is_empty() {
        return;
    }
    if let Some(base) = ruleset.chains.get_mut("forward") {
        // Either end may be a container.
        base.rules.extend(Direction::ALL.map(|way| vec![jump(judging(way))].into()));
    }
    if !judged.policies.iter().any(is_about_container) {
        return;
    }
    for family in Family::ALL {
        for way in Direction::ALL {
            let refusing = format!("through-{}{}", names::way(way), names::digit(family));
            if let Some(refusing) = ruleset.chains.get_mut(&refusing) {
                let grants = Direction::ALL.map(|way| vec![jump(granting(way))].into());
                refusing.rules.splice(0..0, grants);
            }
        }
    }
}

fn is_about_container(one: &Anywhere<'_>) -> bool {
    matches!(one.policy.subject, Subject::Container(_))
}

/// Adds what follows the places of containers.
pub fn add_places(judged: &Judged<'_>, ruleset: &mut Ruleset) {
    let containers = containers(judged);
    if containers.is_empty() {
        return;
    }
    let mut behind: BTreeMap<IpAddr, BTreeSet<&Subject>> = BTreeMap::new();
    for subject in containers {
        for address in subjects::addresses(judged.input, subject) {
            behind.entry(address).or_default().insert(subject);
        }
    }
    let has_grants = judged.policies.iter().any(is_about_container);
    for way in Direction::ALL {
        add_maps(
            &behind,
            way,
            &judging(way),
            &|subjects, ruleset| judge(judged, subjects, way, ruleset),
            ruleset,
        );
        if has_grants {
            let target =
                |subjects: &BTreeSet<&Subject>, ruleset: &mut Ruleset| grants(judged, subjects, way, ruleset);
            add_maps(&behind, way, &granting(way), &target, ruleset);
        }
    }
}

/// Adds a map for each family, filled, and the chain that asks them.
fn add_maps(
    behind: &BTreeMap<IpAddr, BTreeSet<&Subject>>,
    way: Direction,
    asking: &str,
    target: &dyn Fn(&BTreeSet<&Subject>, &mut Ruleset) -> String,
    ruleset: &mut Ruleset,
) {
    let local = match Side::remote(way) {
        Side::Source => Side::Destination,
        Side::Destination => Side::Source,
    };
    for family in Family::ALL {
        let mut map = Set::verdicts(&[Field::Address(family)]);
        for (address, subjects) in behind {
            let (of, number) = match address {
                IpAddr::V4(address) => (Family::V4, u128::from(address.to_bits())),
                IpAddr::V6(address) => (Family::V6, address.to_bits()),
            };
            if of == family {
                let verdict = Some(Verdict::Goto(target(subjects, ruleset).into()));
                let key = Key::builder().address(family, number).build();
                map.elements.insert(key, Element { verdict, ..Element::default() });
            }
        }
        ruleset.sets.insert(format!("{asking}{}", names::digit(family)), map);
    }
    let ask =
        |family| vec![dispatch(&[Load::Address(family, local)], format!("{asking}{}", names::digit(family)))];
    chain(ruleset, asking, Family::ALL.map(ask).into());
}

fn policies_of<'j, 'a>(judged: &'j Judged<'a>, subjects: &BTreeSet<&Subject>) -> Vec<&'j Anywhere<'a>> {
    judged.policies_of(|one| subjects.contains(&one.policy.subject))
}

/// The chain that tries what is admitted to any address for all these subjects.
fn grants(
    judged: &Judged<'_>,
    subjects: &BTreeSet<&Subject>,
    way: Direction,
    ruleset: &mut Ruleset,
) -> String {
    let name = name_of(&format!("{NEST}through-grants"), subjects, way);
    if !ruleset.chains.contains_key(&name) {
        let rules = anywhere::try_grants(&policies_of(judged, subjects), way, Road::Forwarded);
        chain(ruleset, name.clone(), rules);
    }
    name
}

/// The chain for what belongs to all these subjects.
fn judge(
    judged: &Judged<'_>,
    subjects: &BTreeSet<&Subject>,
    way: Direction,
    ruleset: &mut Ruleset,
) -> String {
    let segments = judged.input.segments.values().filter(|segment| subjects.contains(&segment.subject));
    let segments: Vec<String> =
        segments.map(|segment| segments::through_chain_of(&segment.name, way)).collect();
    let policies = policies_of(judged, subjects);
    if let ([only], []) = (segments.as_slice(), policies.as_slice()) {
        return only.clone();
    }
    let name = name_of(&format!("{NEST}through"), subjects, way);
    if ruleset.chains.contains_key(&name) {
        return name;
    }
    let mut rules: Vec<Rule> = Vec::new();
    if !policies.is_empty() {
        rules.push(vec![jump(grants(judged, subjects, way, ruleset))]);
        rules.extend(anywhere::refuse(judged.input, &policies, way, Road::Forwarded, ruleset));
    }
    rules.extend(segments.into_iter().map(|segment| vec![jump(segment)]));
    chain(ruleset, name.clone(), rules);
    name
}
