//! Holds the first segment of a connection to an address that its process learned a moment ago.
//!
//! An answer of a name server and the connection that follows are a tenth of a millisecond apart; the daemon takes longer
//! to put the address into the table. Where nobody lists the address, the connection passes meanwhile as ungoverned. Where
//! another service's prefix covers it, or an enclosure of the process, it would be refused and fail. So a SYN that
//! would be refused, from a cgroup that received an answer within the last second, is dropped once: TCP sends it
//! again after a second (RFC 6298, section 2.1), and then it is judged. Each flow is held once; a full set holds
//! nothing.
//!
//! Rejected: `queue` to the daemon. It is user space in the packets' path, not every kernel has it, and a dead daemon would
//! stop what is admitted. A held segment is no attempt, nor refused for good: what comes after it is counted. `held`
//! counts them.

use std::time::Duration;

use super::learning::{DEEPEST, naming_set};
use super::names;
use super::shared::{Rule, back, chain, first_segment, goto, jump, lookup, update};
use crate::model::{Direction, Family};
use crate::ruleset::{Field, Load, Ruleset, Set, Side, Statement, Verdict};

/// Where a SYN goes that no grant admits, in the output hook.
const CHAIN: &str = "fresh-out";

/// Where a SYN goes that a segment refuses, or a policy for any address: packets that this host sends.
const HOLD: &str = "hold-out";

/// Where a SYN goes that the owner of its address refuses.
pub const LISTED: &str = "hold-listed";

/// Counts what was held.
const COUNTER: &str = "held";

/// How long after an answer a connection may be held: the daemon is faster by two orders of magnitude.
const FRESH: Duration = Duration::from_secs(1);

/// How long a flow is known as one that was held: as long as a SYN is sent again (tcp_syn_retries, 6: 127 seconds).
const HELD: Duration = Duration::from_secs(130);

const SIZE: u32 = 65_536;

/// Adds the chains and the rules that lead through them.
///
/// Whether a SYN is refused shows only where the owner of its address is known, which the forward hook reaches as well and
/// which therefore must not ask for sockets. So its flow is noted before that, and what is noted is held there. What
/// segments and policies for any address refuse is never forwarded, and not always in a governed network: it is noted
/// and held in one place ([`holding`]).
pub fn add(ruleset: &mut Ruleset) {
    ruleset.counters.insert(COUNTER.to_owned());
    let mut asked = Vec::new();
    for level in 1..=DEEPEST {
        ruleset.sets.insert(answered(level), Set::dynamic(&[Field::Cgroup], SIZE, Some(FRESH), false));
        asked.push(vec![lookup(&[Load::Cgroup { level }], answered(level)), goto("fresh-mark")]);
    }
    chain(ruleset, CHAIN, asked);
    let mut mark = Vec::new();
    for family in Family::ALL {
        let address = Field::Address(family);
        let fields = [address, Field::Port, address, Field::Port];
        for (set, timeout) in [(held(family), HELD), (fresh(family), FRESH)] {
            ruleset.sets.insert(set, Set::dynamic(&fields, SIZE, Some(timeout), false));
        }
        mark.push(vec![lookup(&flow(family), held(family)), back()]);
        mark.push(vec![update(fresh(family), &flow(family))]);
        let refusal = ruleset.chains.get_mut(&format!("refuse-out{}", names::digit(family)));
        if let Some(refusal) = refusal {
            let owned = super::exact::address_set(family);
            let dispatches = |rule: &crate::ruleset::Rule| matches!(rule.first(), Some(Statement::Lookup { set, .. }) if **set == *owned);
            let place = refusal.rules.iter().position(dispatches).unwrap_or(refusal.rules.len());
            refusal.rules.insert(place, vec![first_segment(), jump(CHAIN)].into());
        }
    }
    chain(ruleset, "fresh-mark", mark);
    let mut refused = vec![vec![jump(CHAIN)]];
    refused.extend(Family::ALL.map(hold));
    chain(ruleset, HOLD, refused);
    chain(ruleset, LISTED, Family::ALL.map(hold).into());
}

/// True when the table holds anything: some policy has names.
pub fn is_in(ruleset: &Ruleset) -> bool {
    ruleset.chains.contains_key(HOLD)
}

/// The rules that refuse by sockets, behind the one that holds where the table `holds`: only what this host sends.
pub fn holding(mut refusing: Vec<Rule>, way: Direction, holds: bool) -> Vec<Rule> {
    if holds && way == Direction::Egress {
        refusing.insert(0, vec![first_segment(), jump(HOLD)]);
    }
    refusing
}

/// Drops what is noted, once. One rule: where the set is full, nothing is held and the segment is refused.
fn hold(family: Family) -> Rule {
    let key = flow(family).to_vec();
    vec![
        first_segment(),
        lookup(&key, fresh(family)),
        Statement::Delete { set: fresh(family).into(), key: key.clone() },
        update(held(family), &key),
        Statement::Count(COUNTER.to_owned()),
        Statement::Verdict(Verdict::Drop),
    ]
}

fn held(family: Family) -> String {
    format!("held{}", names::digit(family))
}

fn fresh(family: Family) -> String {
    format!("fresh{}", names::digit(family))
}

fn flow(family: Family) -> [Load; 4] {
    [
        Load::Address(family, Side::Source),
        Load::Port(Side::Source),
        Load::Address(family, Side::Destination),
        Load::Port(Side::Destination),
    ]
}

/// The rules that note who was answered: behind the check that it was an answer to a question.
pub fn note() -> Vec<Rule> {
    let note = |level| {
        let cgroup = [Load::Cgroup { level }];
        vec![lookup(&cgroup, naming_set(level)), update(answered(level), &cgroup)]
    };
    (1..=DEEPEST).map(note).collect()
}

fn answered(level: u32) -> String {
    format!("answered-l{level}")
}
