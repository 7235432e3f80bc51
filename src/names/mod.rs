//! What host names stand for: the addresses that each has and had, and what of them a service governs and a
//! segment allows.
//!
//! ```text
//!               answer, or learned                  no longer in the answer, its time is over
//!   (unknown) ----------------------> the name has it --------------------------------------> it left
//!                                            ^                                                  |
//!                                            +------------------- answered again ---------------+
//! ```
//!
//! An address that left is admitted for [`GRACE`] while the window in which it left is open, and as long as somebody
//! is connected to it; at the close it is not admitted any more, but still refused for the rest of that time. Every
//! address that a name ever had is kept: a decommissioned service governs them all.
//!
//! Knows [`crate::model`] only. Deliberately absent: who resolves, and when.

mod public;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use chrono::TimeDelta;

pub use public::is_public;

use crate::model::{Family, HostName, Prefix, Segment, Service, Time};

/// How long an address stays after it left a name.
pub const GRACE: TimeDelta = TimeDelta::minutes(10);

/// The most addresses that are kept of a name; those that left longest ago go first.
pub const MOST: usize = 4096;

/// Every name with what it has. A clone shares everything.
pub type Names = imbl::OrdMap<HostName, Arc<Name>>;

/// What one name has and had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Name {
    pub addresses: BTreeMap<IpAddr, Held>,
    /// Why the last try to resolve it failed, and when it was; an answer clears it.
    pub failure: Option<(Time, String)>,
    /// When a resolver last answered.
    pub answered_at: Option<Time>,
}

/// One address of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Since when the name has it, or had it when it left.
    pub since: Time,
    /// It stands in the resolver's last answer.
    pub resolved: bool,
    /// A process received it in an answer that holds until then.
    pub learned_until: Option<Time>,
    pub left: Option<Left>,
}

/// That a name has an address no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub at: Time,
    /// The end of its grace: later than [`GRACE`] when somebody was connected then. `None`: it is over.
    pub kept_until: Option<Time>,
}

/// What happened to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The resolver's whole answer. What the name has of an `unanswered` family stays.
    Resolved { addresses: BTreeSet<IpAddr>, unanswered: Option<Family> },
    /// A process received this address in an answer that holds until then.
    Learned { address: IpAddr, until: Time },
    /// There is no answer: what the name has stays.
    Failed(String),
}

/// What of a name's addresses counts for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Open since this instant: what left in this opening still passes.
    Open(Time),
    /// Nothing passes; what left a short while ago is refused as well.
    Shut,
    /// Decommissioned: everything it ever had is refused.
    Ever,
}

impl Name {
    /// Takes news in; true when the addresses that it has or had changed.
    pub fn take(&mut self, news: &News, now: Time) -> bool {
        match news {
            News::Resolved { addresses, unanswered } => self.resolve(addresses, *unanswered, now),
            News::Learned { address, until } => self.learn(*address, *until, now),
            News::Failed(error) => {
                self.failure = Some((now, error.clone()));
                false
            }
        }
    }

    fn resolve(&mut self, addresses: &BTreeSet<IpAddr>, unanswered: Option<Family>, now: Time) -> bool {
        self.failure = None;
        self.answered_at = Some(now);
        let mut changed = false;
        for (address, held) in &mut self.addresses {
            let answered = Some(Prefix::single(*address).family()) != unanswered;
            if answered && held.resolved && !addresses.contains(address) {
                held.resolved = false;
                changed |= held.leave(now);
            }
        }
        for address in addresses {
            let held = self.addresses.entry(*address).or_insert(Held::new(now));
            changed |= held.enter(now);
            held.resolved = true;
        }
        self.bound();
        changed
    }

    fn learn(&mut self, address: IpAddr, until: Time, now: Time) -> bool {
        let held = self.addresses.entry(address).or_insert(Held::new(now));
        let changed = held.enter(now);
        held.learned_until = held.learned_until.max(Some(until));
        self.bound();
        changed
    }

    /// Lets time pass. An address whose grace is over stays while it is `in_use`. True when anything changed.
    pub fn pass(&mut self, now: Time, in_use: &BTreeSet<IpAddr>) -> bool {
        let mut changed = false;
        for (address, held) in &mut self.addresses {
            changed |= held.leave(now);
            if let Some(left) = &mut held.left
                && left.kept_until.is_some_and(|until| until <= now)
            {
                left.kept_until = in_use.contains(address).then(|| now + GRACE);
                changed = true;
            }
        }
        changed
    }

    /// True when [`Name::pass`] changes something.
    pub fn is_due(&self, now: Time) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// When [`Name::pass`] next changes something.
    pub fn due(&self) -> Option<Time> {
        let due = |held: &Held| match held.left {
            Some(left) => left.kept_until,
            None if held.resolved => None,
            None => Some(held.learned_until.unwrap_or(Time::MIN_UTC)),
        };
        self.addresses.values().filter_map(due).min()
    }

    /// Addresses whose grace is over, and that somebody may still be connected to.
    pub fn leaving(&self, now: Time) -> impl Iterator<Item = IpAddr> {
        let over = move |left: Left| left.kept_until.is_some_and(|until| until <= now);
        let leaving = self.addresses.iter().filter(move |(_, held)| held.left.is_some_and(over));
        leaving.map(|(address, _)| *address)
    }

    /// The addresses that pass in this scope while a window is open.
    fn admitted(&self, scope: Scope, now: Time) -> impl Iterator<Item = IpAddr> {
        let counts = move |held: &Held| match (held.left, scope) {
            (None, Scope::Open(_) | Scope::Shut) => true,
            (Some(left), Scope::Open(since)) => since <= left.at && left.is_kept(now),
            (Some(_), Scope::Shut) | (_, Scope::Ever) => false,
        };
        self.addresses.iter().filter(move |(_, held)| counts(held)).map(|(address, _)| *address)
    }

    /// The addresses that are governed in this scope and never pass.
    fn refused(&self, scope: Scope, now: Time) -> impl Iterator<Item = IpAddr> {
        let counts = move |held: &Held| match (held.left, scope) {
            (_, Scope::Ever) => true,
            (None, Scope::Open(_) | Scope::Shut) => false,
            (Some(left), Scope::Shut) => left.is_kept(now),
            (Some(left), Scope::Open(since)) => left.at < since && left.is_kept(now),
        };
        self.addresses.iter().filter(move |(_, held)| counts(held)).map(|(address, _)| *address)
    }

    /// Forgets what left longest ago, then what it has longest, when there is too much.
    fn bound(&mut self) {
        while self.addresses.len() > MOST {
            let age = |held: &Held| (held.left.is_none(), held.resolved, held.left.map(|l| l.at), held.since);
            let oldest = self.addresses.iter().min_by_key(|(_, held)| age(held)).map(|(address, _)| *address);
            let Some(oldest) = oldest else { return };
            self.addresses.remove(&oldest);
        }
    }
}

impl Left {
    fn is_kept(self, now: Time) -> bool {
        self.kept_until.is_some_and(|until| now < until)
    }
}

impl Held {
    fn new(now: Time) -> Self {
        let left = Some(Left { at: now, kept_until: None });
        Self { since: now, resolved: false, learned_until: None, left }
    }

    /// True when the name did not have it before.
    fn enter(&mut self, now: Time) -> bool {
        let new = self.left.take().is_some();
        if new {
            self.since = now;
        }
        new
    }

    /// True when nothing speaks for it any more and it leaves with this.
    fn leave(&mut self, now: Time) -> bool {
        let held = self.resolved || self.learned_until.is_some_and(|until| now < until);
        if held || self.left.is_some() {
            return false;
        }
        self.left = Some(Left { at: now, kept_until: Some(now + GRACE) });
        self.learned_until = None;
        true
    }
}

/// True when the address counts beside these prefixes of the same policy: it is public, or one of them lists it.
pub fn counts_for(listed: &[Prefix], address: IpAddr) -> bool {
    is_public(address) || listed.iter().any(|prefix| prefix.contains(address))
}

/// Returns the segment with the addresses that its names have, in their grace too: what it allows has no windows.
/// `None` when it names none.
pub fn allowed(file: &Segment, names: &Names, now: Time) -> Option<Segment> {
    file.names().next()?;
    let mut segment = file.clone();
    for allow in &mut segment.allow {
        let known = allow.names.iter().filter_map(|name| names.get(name));
        let admitted = known.flat_map(|name| name.admitted(Scope::Open(Time::MIN_UTC), now));
        let counts = |address: &IpAddr| counts_for(&allow.prefixes, *address);
        let admitted: Vec<_> = admitted.filter(counts).map(Prefix::single).collect();
        allow.prefixes.extend(admitted);
        allow.prefixes.sort_unstable();
        allow.prefixes.dedup();
    }
    Some(segment)
}

/// Returns the service with the addresses that its names have; `None` when it names none.
pub fn effective(file: &Service, names: &Names, scope: Scope, now: Time) -> Option<Service> {
    if file.policies.iter().all(|policy| policy.names.is_empty()) {
        return None;
    }
    let mut service = file.clone();
    let mut watched = BTreeSet::new();
    for policy in &mut service.policies {
        let known = || policy.names.iter().filter_map(|name| names.get(name));
        let admitted: Vec<_> = known().flat_map(|name| name.admitted(scope, now)).collect();
        let refused: Vec<_> = known().flat_map(|name| name.refused(scope, now)).collect();
        let counts = |address: &IpAddr| counts_for(&policy.prefixes, *address);
        let admitted: Vec<_> = admitted.into_iter().filter(counts).map(Prefix::single).collect();
        watched.extend(refused.into_iter().filter(counts).map(Prefix::single));
        policy.prefixes.extend(admitted);
        policy.prefixes.sort_unstable();
        policy.prefixes.dedup();
    }
    let listed = |prefix: &Prefix| service.policies.iter().any(|p| p.prefixes.binary_search(prefix).is_ok());
    watched.retain(|prefix| !listed(prefix));
    service.watched = watched.into_iter().collect();
    Some(service)
}

#[cfg(test)]
mod tests;
