//! Subjects that are users or groups: who owned the file of a socket when it was made.
//!
//! Only what a process sends as it runs can be asked for that: a socket that was closed has no file any more, though its
//! last segments are still to come, and what arrives has no socket yet when it is judged. So a connection is asked at
//! its first segment, and is known from then on; of datagrams each one that leaves is asked, and what answers one
//! is known by it.

use std::time::Duration;

use super::flows::{Flows, flow};
use super::shared::{
    Rule, accept, back, chain, echo_request, first_segment, goto, lookup, opening_and_answering,
};
use super::{Governing, Input, Place, names, subjects, tls};
use crate::model::{Direction, Family, Policy, Protocol, Subject};
use crate::ruleset::{self, Field, Load, Ruleset, Set, Side, Statement, protocol};

/// How long an answer to a datagram may take.
const ANSWER: Duration = Duration::from_secs(120);
/// The most flows of datagrams of all users, or of all groups.
const DATAGRAMS: u32 = 65_536;

/// A user or a group that exists.
#[derive(Debug, Clone, Copy)]
struct Account<'a> {
    subject: &'a Subject,
    owner: ruleset::Account,
}

pub fn is_account(subject: &Subject) -> bool {
    matches!(subject, Subject::User(_) | Subject::Group(_))
}

/// Adds the sets in which flows of users, and of groups, are known.
pub fn add_sets(services: &[Governing<'_>], ruleset: &mut Ruleset) {
    let policies = || services.iter().flat_map(|governing| &governing.standing.service.policies);
    let any = |is: fn(&Subject) -> bool| policies().any(|policy| is(&policy.subject));
    let user = any(|subject| matches!(subject, Subject::User(_))).then_some(ruleset::Account::User(0));
    let group = any(|subject| matches!(subject, Subject::Group(_))).then_some(ruleset::Account::Group(0));
    for owner in user.into_iter().chain(group) {
        flows(owner).add_sets(ruleset);
        for family in Family::ALL {
            let address = Field::Address(family);
            let key = [Field::Number, address, Field::Port, address, Field::Port];
            let set = Set::dynamic(&key, DATAGRAMS, Some(ANSWER), false);
            ruleset.sets.insert(datagrams(owner, family), set);
        }
    }
}

fn kind(owner: ruleset::Account) -> (&'static str, u32) {
    match owner {
        ruleset::Account::User(id) => ("user", id),
        ruleset::Account::Group(id) => ("group", id),
    }
}

fn flows(owner: ruleset::Account) -> Flows {
    let (kind, id) = kind(owner);
    Flows { kind, tag: Some(id) }
}

fn datagrams(owner: ruleset::Account, family: Family) -> String {
    format!("{}-udp{}", kind(owner).0, names::digit(family))
}

/// The rules of a policy about a user or group, and the chains that all policies about it share.
pub fn add_rules(input: &Input<'_>, policy: &Policy, protocol: Protocol, ruleset: &mut Ruleset) -> Vec<Rule> {
    // What arrives for a process tells nothing of its user.
    if policy.id.direction == Direction::Ingress {
        return Vec::new();
    }
    let account = |place: &Place| match place {
        Place::User(id) => Some(ruleset::Account::User(*id)),
        Place::Group(id) => Some(ruleset::Account::Group(*id)),
        Place::Cgroup(_) | Place::Former(_) | Place::Address(_) => None,
    };
    let mut owners = subjects::places(input, &policy.subject).iter().filter_map(account);
    let Some(owner) = owners.next() else { return Vec::new() };
    let account = Account { subject: &policy.subject, owner };
    match protocol {
        Protocol::Tcp if tls::applies(policy, protocol) => {
            account.add_segments("tls", &goto(tls::CHAIN), ruleset)
        }
        Protocol::Tcp => account.add_segments("tcp", &accept(), ruleset),
        Protocol::Udp => account.add_datagrams(ruleset),
        Protocol::Icmp => account.echo(),
    }
}

impl Account<'_> {
    /// The name of a chain: those of accounts have characters that nft does not take.
    fn chain(self, what: &str) -> String {
        let (kind, _) = kind(self.owner);
        format!("{}-{what}", names::digest(kind, [self.subject.value()]))
    }

    fn is_owner(self) -> Statement {
        Statement::Owner(self.owner)
    }

    fn add_segments(self, what: &str, verdict: &Statement, ruleset: &mut Ruleset) -> Vec<Rule> {
        let flows = flows(self.owner);
        let (main, begin, arriving) =
            (self.chain(what), self.chain(&format!("{what}-begin")), self.chain(&format!("{what}-in")));
        let mut rules = vec![
            vec![Statement::Arriving, goto(arriving.as_str())],
            vec![first_segment(), goto(begin.as_str())],
        ];
        rules.extend(flows.leaving(verdict));
        chain(ruleset, main.as_str(), rules);
        chain(ruleset, begin, flows.begin(&[self.is_owner()], verdict));
        chain(ruleset, arriving, flows.arriving(verdict));
        vec![vec![goto(main)]]
    }

    fn add_datagrams(self, ruleset: &mut Ruleset) -> Vec<Rule> {
        let (_, id) = kind(self.owner);
        let key = |family, way| {
            let flow = flow(family, Side::remote(way));
            [Load::Number(id)].into_iter().chain(flow).collect::<Vec<_>>()
        };
        // First: the numbers at the place of ports are none.
        let mut rules: Vec<Rule> =
            [protocol::ICMP, protocol::ICMPV6].map(|number| vec![Statement::Protocol(number), back()]).into();
        rules.extend(Family::ALL.map(|family| {
            let (set, key) = (datagrams(self.owner, family).into(), key(family, Direction::Egress));
            vec![Statement::Leaving, self.is_owner(), Statement::Update { set, key, limit: None }]
        }));
        rules.push(vec![Statement::Leaving, self.is_owner(), accept()]);
        rules.push(vec![Statement::Leaving, back()]);
        rules.extend(Family::ALL.map(|family| {
            let set = datagrams(self.owner, family);
            vec![lookup(&key(family, Direction::Ingress), set), accept()]
        }));
        let name = self.chain("udp");
        chain(ruleset, name.as_str(), rules);
        vec![vec![goto(name)]]
    }

    /// As for any other subject: no socket tells whose replies are.
    fn echo(self) -> Vec<Rule> {
        let (opens, answers) = opening_and_answering(Direction::Egress);
        let shared = || goto("echo-egress");
        let mut rules: Vec<Rule> = Family::ALL
            .map(|family| vec![opens.clone(), echo_request(family), self.is_owner(), shared()])
            .into();
        rules.push(vec![answers, shared()]);
        rules
    }
}
