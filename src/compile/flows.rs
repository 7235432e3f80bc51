//! Flows of TCP that are known by how they began, where their later segments cannot be asked: no conntrack is needed.
//!
//! A flow is remembered until what we send ends it, and then as long as remnants may travel. What comes from outside
//! ends nothing for good, because its sender can be forged.

use std::time::Duration;

use super::names;
use super::shared::{Rule, flags, lookup, other};
use crate::model::{Direction, Family};
use crate::ruleset::{Field, Load, Ruleset, Set, Side, Statement, tcp};

/// The most flows of a kind and family: as many as conntrack takes by default on machines with 4 GiB.
const SIZE: u32 = 262_144;

/// How long a flow that says nothing is remembered; as conntrack does (nf_conntrack_tcp_timeout_established).
const SILENT: Duration = Duration::from_secs(5 * 24 * 3600);

/// How long the remnants of a flow travel, and how long one takes to begin (nf_conntrack_tcp_timeout_max_retrans).
const REMNANTS: Duration = Duration::from_secs(300);

/// Flows of one kind, which begin at our side.
#[derive(Debug, Clone, Copy)]
pub struct Flows {
    /// What the names of its sets begin with.
    pub kind: &'static str,
    /// Tells apart the flows of several owners in the same sets.
    pub tag: Option<u32>,
}

impl Flows {
    /// Adds the sets of this kind; with or without a tag.
    pub fn add_sets(self, ruleset: &mut Ruleset) {
        for family in Family::ALL {
            let address = Field::Address(family);
            let flow = [address, Field::Port, address, Field::Port];
            let key: Vec<_> = self.tag.map(|_| Field::Number).into_iter().chain(flow).collect();
            for (set, timeout) in [(self.live(family), SILENT), (self.ended(family), REMNANTS)] {
                ruleset.sets.insert(set, Set::dynamic(&key, SIZE, Some(timeout), false));
            }
        }
    }

    fn live(self, family: Family) -> String {
        format!("{}-flows{}", self.kind, names::digit(family))
    }

    fn ended(self, family: Family) -> String {
        format!("{}-ended{}", self.kind, names::digit(family))
    }

    /// The key of a packet that travels this way.
    fn key(self, family: Family, way: Direction) -> Vec<Load> {
        let remote = Side::remote(way);
        let tag = self.tag.map(Load::Number);
        tag.into_iter().chain(flow(family, remote)).collect()
    }

    /// A segment that leaves and passes these tests begins the flow anew, whatever its ports were before. It goes on to
    /// the verdict only if that worked: a full set breaks its rule off.
    pub fn begin(self, tests: &[Statement], verdict: &Statement) -> Vec<Rule> {
        let mut rules = Vec::new();
        for family in Family::ALL {
            let key = self.key(family, Direction::Egress);
            let (live, ended) = (self.live(family), self.ended(family));
            let over = Statement::Delete { set: ended.into(), key: key.clone() };
            let begun =
                Statement::UpdateFor { set: live.as_str().into(), key: key.clone(), timeout: REMNANTS };
            rules.push([tests, &[over]].concat());
            rules.push([tests, &[begun]].concat());
            rules.push([tests, &[lookup(&key, live), verdict.clone()]].concat());
        }
        rules
    }

    /// A segment that leaves is of no flow that was there before.
    pub fn forget(self) -> Vec<Rule> {
        let steps = |family| {
            let key = self.key(family, Direction::Egress);
            [self.ended(family), self.live(family)]
                .map(|set| Statement::Delete { set: set.into(), key: key.clone() })
        };
        Family::ALL.into_iter().flat_map(steps).map(|step| vec![step]).collect()
    }

    /// Remembers the flow of a segment that leaves and goes on to the verdict only if that worked: a full set breaks
    /// its rule off.
    pub fn remember(self, test: &Statement, verdict: &Statement) -> Vec<Rule> {
        let mut rules = Vec::new();
        for family in Family::ALL {
            let key = self.key(family, Direction::Egress);
            let set = self.live(family);
            rules.push(vec![test.clone(), Statement::Update { set: set.into(), key, limit: None }]);
        }
        rules.extend(Family::ALL.map(|family| {
            let key = self.key(family, Direction::Egress);
            vec![lookup(&key, self.live(family)), verdict.clone()]
        }));
        rules
    }

    /// A segment that leaves and is of a known flow.
    pub fn leaving(self, verdict: &Statement) -> Vec<Rule> {
        let mut rules = Vec::new();
        let ends = Statement::TcpFlags { mask: tcp::FIN | tcp::RST, value: 0, negated: true };
        for family in Family::ALL {
            let key = self.key(family, Direction::Egress);
            let (live, ended) = (self.live(family), self.ended(family));
            let known = || lookup(&key, live.clone());
            let update = |set: &str| Statement::Update { set: set.into(), key: key.clone(), limit: None };
            let over = Statement::Delete { set: live.as_str().into(), key: key.clone() };
            rules.push(vec![ends.clone(), known(), update(&ended), over, verdict.clone()]);
            rules.push(vec![known(), update(&live), verdict.clone()]);
            rules.push(vec![lookup(&key, ended.clone()), update(&ended), verdict.clone()]);
        }
        rules
    }

    /// A segment that arrives and is of a known flow. A reset that is true is the last; after one that is not, what
    /// we answer has the flow remembered as before.
    pub fn arriving(self, verdict: &Statement) -> Vec<Rule> {
        let mut rules = self.reset_by_peer();
        for family in Family::ALL {
            let key = self.key(family, Direction::Ingress);
            let (live, ended) = (self.live(family), self.ended(family));
            rules.push(vec![lookup(&key, live), verdict.clone()]);
            let update = Statement::Update { set: ended.as_str().into(), key: key.clone(), limit: None };
            rules.push(vec![lookup(&key, ended), update, verdict.clone()]);
        }
        rules
    }

    pub fn reset_by_peer(self) -> Vec<Rule> {
        let rule = |family| {
            let key = self.key(family, Direction::Ingress);
            let live = self.live(family);
            let shorten =
                Statement::UpdateFor { set: live.as_str().into(), key: key.clone(), timeout: REMNANTS };
            vec![flags(tcp::RST, tcp::RST), lookup(&key, live), shorten]
        };
        Family::ALL.map(rule).into()
    }
}

/// The remote and the local end of a packet whose remote end stands on this side.
pub fn flow(family: Family, remote: Side) -> [Load; 4] {
    let local = other(remote);
    [Load::Address(family, remote), Load::Port(remote), Load::Address(family, local), Load::Port(local)]
}
