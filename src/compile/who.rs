//! Notes whose socket a refused packet of ours left: the cgroup, by flow.
//!
//! A socket that is refused with a reset is gone before anybody could ask for it, and a log record has no cgroup. So the
//! kernel writes down the cgroup of the socket beside the flow, in a set that is read when the record has come: by the
//! flow, and not by the remote address, so that a hundred processes that try the same provider at once are told apart.
//! Rejected: a counter for each cgroup and target, which asks up to eight levels for every packet of a flood, where this
//! asks for those that are logged; and `meta mark` in the record, which nft's language cannot say.
//!
//! It stands where only the output hook comes: a chain that asks for sockets cannot be reached from forward. A full set
//! breaks off its own rule, and the packet goes on to its refusal without a note.

use std::time::Duration;

use super::names::digit;
use super::shared::{Rule, back, chain, jump, not_in, update};
use super::{Input, shared};
use crate::model::{Direction, Family};
use crate::ruleset::{Field, Load, Ruleset, Set, Side, Statement, protocol};

/// The most flows that are noted at once.
const SIZE: u32 = 8_192;

/// How long a note stays: some rounds of reading.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How deep cgroups are told apart; what lies deeper stands for its ancestor there. A unit of a user's manager has 5, a
/// container of Kubernetes 4.
const DEEPEST: u32 = 8;

/// The set of notes of a family.
pub fn notes(family: Family) -> String {
    format!("who-out{}", digit(family))
}

/// The declaration of the set of notes: cgroup, remote address, protocol, local port.
///
/// Without the remote port: a cgroup counts as two fields, and nft cannot read a set of more than five. nft 1.0.6 aborts
/// when it lists one that has elements.
pub fn declaration(family: Family) -> Set {
    let fields = [Field::Cgroup, Field::Address(family), Field::Protocol, Field::Port];
    Set::dynamic(&fields, SIZE, Some(TIMEOUT), false)
}

pub fn add(family: Family, ruleset: &mut Ruleset) {
    ruleset.sets.insert(notes(family), declaration(family));
    let address = [Field::Address(family)];
    ruleset.sets.insert(limits(family), Set::dynamic(&address, SIZE, Some(shared::DETAILS_TIMEOUT), false));
    // The deepest first: a socket that is less deep breaks the rule off.
    let note = |level| {
        let remote = Load::Address(family, Side::Destination);
        let key = [Load::Cgroup { level }, remote, Load::Protocol, Load::Port(Side::Source)];
        vec![update(notes(family), &key), back()]
    };
    chain(ruleset, notes(family), (1..=DEEPEST).rev().map(note).collect());
}

/// The rules that lead packets there: at the rate of detailed records, and not those of an observed flow that is counted
/// already.
pub fn rules(input: &Input<'_>, family: Family) -> Vec<Rule> {
    let remote = [Load::Address(family, Side::Destination)];
    let limit = || Statement::Update {
        set: limits(family).into(),
        key: remote.to_vec(),
        limit: Some(input.settings.attempts.log_rate),
    };
    let (ports, hosts) = shared::flow_keys(family, Direction::Egress);
    let rule = |number, key: &[Load], known: String| {
        vec![Statement::Protocol(number), not_in(key, known), limit(), jump(notes(family))]
    };
    let observed = |name: &str| format!("{name}{}", digit(family));
    vec![
        rule(protocol::TCP, &ports, observed("observed")),
        rule(protocol::UDP, &ports, observed("observed")),
        rule(shared::icmp_of(family), &hosts, observed("observed-other")),
    ]
}

fn limits(family: Family) -> String {
    format!("who-rate-out{}", digit(family))
}
