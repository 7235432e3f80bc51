//! The rules by which packets come to the elements: what is open now first, then the long way.

use std::collections::{BTreeMap, BTreeSet};

use super::super::names;
use super::super::shared::{Rule, accept, chain, flags_other_than_first, judging, jump, lookup};
use crate::model::{Direction, Family, Settings, Time};
use crate::ruleset::{Load, Ruleset, Side, Statement, protocol};

/// A set of cgroup, remote address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Open at this moment: each element expires when its opening ends.
    Now,
    /// Whatever the time is: the class asks for it.
    Armed,
}

impl Kind {
    /// What the names of the sets begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Now => "now-",
            Self::Armed => "grant-",
        }
    }
}

const ENDPOINT: &str = "endpoint-";

/// True for sets that are there as long as anything is in them.
pub fn is_of_grants(set: &str) -> bool {
    [Kind::Now.prefix(), Kind::Armed.prefix(), ENDPOINT].iter().any(|prefix| set.starts_with(prefix))
}

/// The set of the addresses of all services that are told by elements.
pub fn address_set(family: Family) -> String {
    format!("exact{}", names::digit(family))
}

pub fn grant_set(kind: Kind, direction: Direction, family: Family, level: u32) -> String {
    format!("{}{direction}{}-l{level}", kind.prefix(), names::digit(family))
}

/// The set of a direction's remote addresses and ports, whoever may use them.
pub fn endpoint_set(direction: Direction, family: Family) -> String {
    format!("{ENDPOINT}{direction}{}", names::digit(family))
}

/// The chain that leads from an address to the chain of its class.
pub fn entry(purpose: &str, way: &str, family: Family) -> String {
    format!("exact-{purpose}-{way}{}", names::digit(family))
}

/// The chain that asks for processes, inside of the windows.
pub fn grants_chain(way: &str) -> String {
    format!("exact-{way}")
}

/// True for the chains whose rules follow the time as well as files, orders and processes.
pub fn follows_time(chain: &str) -> bool {
    ["out4", "in4", "out6", "in6"].contains(&chain)
}

/// At which depths cgroups are asked for, by what is asked; the deepest first.
pub type Shape = BTreeMap<(Direction, Family), BTreeSet<std::cmp::Reverse<u32>>>;

/// Reads the shape from the names of sets.
pub fn shape<'a>(kind: Kind, sets: impl Iterator<Item = &'a String>) -> Shape {
    let mut shape = Shape::new();
    for name in sets.filter_map(|name| name.strip_prefix(kind.prefix())) {
        for direction in Direction::ALL {
            for family in Family::ALL {
                let prefix = format!("{direction}{}-l", names::digit(family));
                if let Some(level) = name.strip_prefix(&prefix).and_then(|level| level.parse().ok()) {
                    shape.entry((direction, family)).or_default().insert(std::cmp::Reverse(level));
                }
            }
        }
    }
    shape
}

/// A question for one direction's processes: what must be true of the segment, and where the remote port stands.
struct Question {
    direction: Direction,
    is: Statement,
    port: Side,
}

/// The first segment of a connection is judged by the policies of its own direction alone: see [`super::super::shared::add_lookups`].
fn questions(way: Direction) -> [Question; 2] {
    let answered = match way {
        Direction::Egress => Direction::Ingress,
        Direction::Ingress => Direction::Egress,
    };
    [
        Question { direction: way, is: Statement::Protocol(protocol::TCP), port: Side::Destination },
        Question { direction: answered, is: flags_other_than_first(), port: Side::Source },
    ]
}

/// Adds the rules of the hooks and of the long way. `within`: how long all that is open now stays as it is.
pub fn add(
    settings: &Settings,
    [now, armed]: &[Shape; 2],
    within: Option<(Time, Time)>,
    ruleset: &mut Ruleset,
) {
    for way in Direction::ALL {
        let name = names::way(way);
        let mut long = Vec::new();
        for family in Family::ALL {
            let mut rules = Vec::new();
            for question in questions(way) {
                let levels = |shape: &Shape| {
                    let levels = shape.get(&(question.direction, family)).cloned().unwrap_or_default();
                    levels.into_iter().map(|level| level.0)
                };
                if let Some((from, to)) = within {
                    rules.extend(levels(now).map(|level| {
                        let mut rule = asking(Kind::Now, &question, way, family, level);
                        rule.extend([Statement::Within { from, to }, accept()]);
                        rule
                    }));
                }
                long.extend(levels(armed).map(|level| {
                    let mut rule = asking(Kind::Armed, &question, way, family, level);
                    rule.push(accept());
                    rule
                }));
                if armed.contains_key(&(question.direction, family)) {
                    let key = [Load::Address(family, Side::remote(way)), Load::Port(question.port)];
                    let known = lookup(&key, endpoint_set(question.direction, family));
                    long.push(vec![question.is, known, jump(format!("remnant-{}", question.direction))]);
                }
            }
            rules.extend(judging(settings, way, family));
            chain(ruleset, format!("{name}{}", names::digit(family)), rules);
        }
        chain(ruleset, grants_chain(name), long);
    }
}

fn asking(kind: Kind, question: &Question, way: Direction, family: Family, level: u32) -> Rule {
    let key = [Load::Cgroup { level }, Load::Address(family, Side::remote(way)), Load::Port(question.port)];
    vec![question.is.clone(), lookup(&key, grant_set(kind, question.direction, family, level))]
}
