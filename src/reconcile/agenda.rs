//! What time will bring: for each service its state now and when to look at it again.
//!
//! Asking all of 10,000 services for their next change costs a tenth of a second, and the loop asks whenever it
//! wakes. So each is asked once, when it was settled, and again only when that instant has come.

use std::collections::BTreeSet;

use imbl::{OrdMap, OrdSet};

use crate::compile::Standing;
use crate::model::{ServiceName, ServiceState, Span, Time};
use crate::schedule;

/// How far beyond the horizon a service's next opening is looked for; it is looked at again after that time.
const LOOK: chrono::TimeDelta = chrono::TimeDelta::hours(24);

/// The services by when they are due. A clone shares everything.
#[derive(Debug, Clone, Default)]
pub struct Agenda {
    entries: OrdMap<ServiceName, Entry>,
    by_time: OrdSet<(Time, ServiceName)>,
    /// When the state of each changes next.
    transitions: OrdSet<(Time, ServiceName)>,
}

/// A service as it was when last looked at.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub state: ServiceState,
    /// When it was looked at.
    pub seen: Time,
    /// The next change of the state.
    pub transition: Option<(Time, ServiceState)>,
    /// When to look again; `None`: time changes nothing any more.
    pub due: Option<Time>,
    /// False once its watch is over.
    pub governs: bool,
}

impl Entry {
    /// Looks at a service. It is due when its state changes, a window or the end of its lifetime comes within `arm_ahead`, or its
    /// watch ends.
    pub fn new(standing: &Standing<'_>, now: Time, arm_ahead: std::time::Duration) -> Self {
        let Standing { service, record, approved } = *standing;
        let horizon = now + arm_ahead;
        let governs = standing.governs(now);
        let transition = schedule::next_transition(service, record, approved, now);
        let arming = next_arming(standing, horizon, horizon + LOOK).map(|opens_at| opens_at - arm_ahead);
        let watch = schedule::decommissioned_at(service, record, now)
            .and_then(|at| schedule::watched_until(service, at));
        // The grace behind the end comes within the horizon.
        let ending = Some(service.lifetime.closes_at() - arm_ahead);
        let instants = [transition.map(|(at, _)| at), arming, ending, watch, Some(now + LOOK)];
        let due = instants.into_iter().flatten().filter(|at| *at > now).min();
        let state = schedule::state(service, record, approved, now);
        Self {
            state,
            seen: now,
            transition: transition.filter(|_| governs),
            due: due.filter(|_| governs),
            governs,
        }
    }
}

impl Agenda {
    pub fn entry(&self, name: &ServiceName) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub fn state(&self, name: &ServiceName) -> Option<ServiceState> {
        self.entries.get(name).map(|entry| entry.state)
    }

    /// True unless its watch is known to be over.
    pub fn governs(&self, name: &ServiceName) -> bool {
        self.entries.get(name).is_none_or(|entry| entry.governs)
    }

    /// Says what a service has become meanwhile; when to look at it stays.
    pub fn set_state(&mut self, name: &ServiceName, state: ServiceState) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.state = state;
        }
    }

    pub fn note(&mut self, name: &ServiceName, entry: Entry) {
        let old = self.entries.insert(name.clone(), entry);
        self.strike(name, old);
        self.by_time.extend(entry.due.map(|due| (due, name.clone())));
        self.transitions.extend(entry.transition.map(|(at, _)| (at, name.clone())));
    }

    pub fn forget(&mut self, name: &ServiceName) {
        let old = self.entries.remove(name);
        self.strike(name, old);
    }

    fn strike(&mut self, name: &ServiceName, old: Option<Entry>) {
        let Some(Entry { due, transition, .. }) = old else { return };
        if let Some(due) = due {
            self.by_time.remove(&(due, name.clone()));
        }
        if let Some((at, _)) = transition {
            self.transitions.remove(&(at, name.clone()));
        }
    }

    /// The services that have to be looked at now.
    pub fn due(&self, now: Time) -> BTreeSet<ServiceName> {
        self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, name)| name.clone()).collect()
    }

    /// When the first service is due.
    pub fn first(&self) -> Option<Time> {
        self.by_time.get_min().map(|(at, _)| *at)
    }

    /// The next change of any service's state.
    pub fn next_transition(&self) -> Option<(Time, ServiceName, ServiceState)> {
        let (_, name) = self.transitions.get_min()?;
        let (at, to) = self.entries.get(name)?.transition?;
        Some((at, name.clone(), to))
    }
}

/// The first opening of any window set of the service after the horizon, and of its windows whatever its lifetime is.
fn next_arming(standing: &Standing<'_>, horizon: Time, end: Time) -> Option<Time> {
    let service = standing.service;
    let own = service.policies.iter().filter_map(|policy| policy.windows.as_deref()).map(Some);
    // Where the lifetime cuts nothing off they are the same.
    let is_cut = horizon < service.lifetime.opens_at() || service.lifetime.closes_at() < end;
    let whenever = if is_cut { schedule::timetable(service, horizon, end) } else { vec![] };
    let sets: BTreeSet<Option<&[usize]>> = own.chain([None]).collect();
    sets.into_iter()
        .flat_map(|which| schedule::openings(service, which, horizon, end))
        .chain(whenever)
        .map(Span::opens_at)
        .filter(|opens_at| *opens_at > horizon)
        .min()
}
