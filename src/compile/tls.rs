//! `tls = "required"`: nothing that our side says passes before a TLS ClientHello has.
//!
//! The first payload of a flow is looked at; a flow that begins with a ClientHello is remembered and not looked at
//! again. What this does not prove: that what follows is encrypted, or with whom. A hello whose first six bytes come in
//! several segments is refused, and so is what goes on in a flow that began before the policy asked for TLS. With TCP
//! Fast Open the hello may come with the SYN; if that is answered but the answer is lost, and the SYN is sent again
//! without it, the flow is refused too.
//!
//! The reason is found where all refused packets go, which the forward hook can reach as well and which therefore
//! must not ask for sockets. So the flow of a refused segment is left there in a set, and taken out again.

use std::time::Duration;

use super::flows::{Flows, flow};
use super::shared::{Rule, accept, chain, first_segment, goto, jump, lookup};
use super::{Governing, names};
use crate::model::{Direction, Family, Policy, Protocol, Service};
use crate::ruleset::{Field, Ruleset, Set, Side, Statement};

/// Where the segments of a policy's process go instead of being accepted.
pub const CHAIN: &str = "tls-egress";
/// Where forwarded segments of a policy go, on their way to the server and from it.
pub const THROUGH: &str = "tls-through";
pub const ARRIVING: &str = "tls-arriving";
const BEGIN: &str = "tls-begin";
const FIRST: &str = "tls-first";

const FLOWS: Flows = Flows { kind: "tls", tag: None };

/// Segments that wait for their refusal, all processors together.
const REFUSED_SIZE: u32 = 65_536;
/// A segment that another policy admits leaves its flow there for so long.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(10);

/// True when the policy's segments are asked for their first payload.
pub fn applies(policy: &Policy, protocol: Protocol) -> bool {
    policy.tls && policy.id.direction == Direction::Egress && protocol == Protocol::Tcp
}

pub fn is_asked_for(service: &Service) -> bool {
    service.policies.iter().any(|policy| policy.tls)
}

/// Adds what policies with `tls` share.
pub fn add(services: &[Governing<'_>], ruleset: &mut Ruleset) {
    if !services.iter().any(|governing| is_asked_for(governing.standing.service)) {
        return;
    }
    FLOWS.add_sets(ruleset);
    for family in Family::ALL {
        let address = Field::Address(family);
        let flow = [address, Field::Port, address, Field::Port];
        let set = Set::dynamic(&flow, REFUSED_SIZE, Some(REFUSED_TIMEOUT), false);
        ruleset.sets.insert(refused(family), set);
    }
    chain(ruleset, CHAIN, [vec![vec![Statement::Arriving, goto(ARRIVING)]], leaving()].concat());
    // The server's side is not judged.
    chain(ruleset, ARRIVING, [FLOWS.reset_by_peer(), vec![vec![accept()]]].concat());
    chain(ruleset, BEGIN, FLOWS.forget());
    let mut rules = FLOWS.remember(&Statement::ClientHello, &accept());
    rules.extend(Family::ALL.map(|family| {
        let key = flow(family, Side::Destination).into();
        vec![Statement::Update { set: refused(family).into(), key, limit: None }]
    }));
    chain(ruleset, FIRST, rules);
}

/// What our side says.
fn leaving() -> Vec<Rule> {
    // The ports may have been those of another connection before.
    let mut rules = vec![vec![first_segment(), jump(BEGIN)]];
    rules.extend(FLOWS.leaving(&accept()));
    rules.push(vec![Statement::HasPayload, goto(FIRST)]);
    rules.push(vec![accept()]);
    rules
}

/// Adds the chain for what is forwarded to a server: both ways have an interface to arrive by.
pub fn add_through(ruleset: &mut Ruleset) {
    chain(ruleset, THROUGH, leaving());
}

/// The rules that do this with what was refused because it is no TLS. They ask for no socket.
pub fn plaintext(then: &[Statement]) -> Vec<Rule> {
    let rule = |family| {
        let key = flow(family, Side::Destination);
        let done = Statement::Delete { set: refused(family).into(), key: key.into() };
        [&[Statement::HasPayload, lookup(&key, refused(family)), done], then].concat()
    };
    Family::ALL.map(rule).into()
}

fn refused(family: Family) -> String {
    format!("plaintext{}", names::digit(family))
}
