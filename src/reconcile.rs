//! The state machine: files, orders, processes and time come in; the wanted table, happenings and one next deadline
//! come out. It performs nothing and reads no clock.
//!
//! ```text
//!            apply(files)  order(order)  resolve(subject)  tick(now)
//!                  \            |              |            /
//!                   v           v              v           v
//!                 World: services, records, resolution, latest time seen
//!                   |                 |                      |
//!                   v                 v                      v
//!            compile: Ruleset   Happenings, records    next_deadline
//! ```
//!
//! A `World` is a cheap clone: a change is tried on a copy, committed to the kernel, and only then kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::compile::{self, Input, Openings, Place, Resolution, Standing, Unresolved};
use crate::model::{
    Cause, Decommissioned, FileState, Order, OrderKind, Record, Service, ServiceName, ServiceState, Settings,
    Span, Subject, Time,
};
use crate::ruleset::Ruleset;
use crate::schedule;

/// Everything that decides what may pass.
#[derive(Debug, Clone)]
pub struct World {
    settings: Arc<Settings>,
    services: BTreeMap<ServiceName, Known>,
    resolution: Resolution,
    /// The latest time ever seen: turning the clock back does not turn this back.
    latest: Time,
    openings: Openings,
    cut_at: Option<Time>,
    states: BTreeMap<ServiceName, ServiceState>,
}

/// A service with what is remembered of it.
#[derive(Debug, Clone)]
struct Known {
    service: Arc<Service>,
    record: Record,
    /// Its file is gone; it stays for its watch.
    departed: bool,
}

/// Something that happened to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    pub service: ServiceName,
    pub at: Time,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Commissioned,
    Opened { closes_at: Option<Time> },
    Closed,
    Suspended,
    Resumed,
    Decommissioned(Decommissioned),
}

/// What a change brings about beside the table. Keep the records and write the happenings down after the commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    pub happenings: Vec<Happening>,
    pub records: Vec<(ServiceName, Record)>,
}

impl Outcome {
    /// The services whose grants may have ended: their connections have to be looked at.
    pub fn closing(&self) -> BTreeSet<&ServiceName> {
        let closes = |what: &What| match what {
            What::Closed | What::Suspended | What::Decommissioned(_) => true,
            What::Commissioned | What::Opened { .. } | What::Resumed => false,
        };
        self.happenings.iter().filter(|h| closes(&h.what)).map(|h| &h.service).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("there is no service {0:?}")]
    Unknown(String),
    #[error(
        "service {0} is decommissioned, which is final for its lifetime: commission it anew with a later `commission`"
    )]
    Final(ServiceName),
    #[error("service {0} is not suspended by order; if its file says so, change the file")]
    NotSuspended(ServiceName),
}

impl World {
    /// A world without services. `latest` is the latest time that is remembered.
    pub fn new(settings: Settings, latest: Time) -> Self {
        Self {
            settings: Arc::new(settings),
            services: BTreeMap::new(),
            resolution: Resolution::new(),
            latest,
            openings: Openings::Armed,
            cut_at: None,
            states: BTreeMap::new(),
        }
    }

    /// Puts a service in as it is remembered, without happenings: what a former daemon knew.
    pub fn remember(&mut self, service: Arc<Service>, record: Record, departed: bool) {
        let name = service.name.clone();
        self.services.insert(name.clone(), Known { service, record, departed });
        if let Some(standing) = self.standing(&name) {
            let state = state(&standing, self.latest);
            self.states.insert(name, state);
        }
    }

    /// Takes over files that were accepted. What is no longer among them is decommissioned and stays watched.
    pub fn apply(&mut self, settings: Settings, files: BTreeMap<ServiceName, Service>, now: Time) -> Outcome {
        self.see(now);
        let same = *self.settings == settings && self.holds(&files);
        self.settings = Arc::new(settings);
        let gone: Vec<_> = self.services.keys().filter(|name| !files.contains_key(*name)).cloned().collect();
        for name in gone {
            self.depart(&name);
        }
        for (name, service) in files {
            let record = self.services.remove(&name).map(|known| known.record).unwrap_or_default();
            self.services.insert(name, Known { service: Arc::new(service), record, departed: false });
        }
        if !same {
            self.cut_at = Some(self.latest);
        }
        self.settle()
    }

    /// True when these are the services that are here already.
    fn holds(&self, files: &BTreeMap<ServiceName, Service>) -> bool {
        let present = self.services.iter().filter(|(_, known)| !known.departed);
        present.map(|(name, known)| (name, &*known.service)).eq(files)
    }

    fn depart(&mut self, name: &ServiceName) {
        let latest = self.latest;
        let Some(known) = self.services.get_mut(name) else { return };
        known.departed = true;
        let standing = Standing { service: &known.service, record: &known.record, approved: true };
        if schedule::decommissioned_at(standing.service, standing.record, latest).is_none() {
            known.record.decommission(Decommissioned {
                at: latest,
                cause: Cause::Removed,
                by: None,
                reason: None,
            });
        }
    }

    /// Carries an operator's order out.
    pub fn order(&mut self, order: &Order) -> Result<Outcome, OrderError> {
        self.see(order.at);
        let name = &order.service;
        let latest = self.latest;
        let known =
            self.services.get_mut(name).ok_or_else(|| OrderError::Unknown(name.as_str().to_owned()))?;
        let ended = schedule::decommissioned_at(&known.service, &known.record, latest).is_some();
        match order.kind {
            OrderKind::Suspend | OrderKind::Resume if ended => return Err(OrderError::Final(name.clone())),
            OrderKind::Resume if known.record.suspended.is_none() => {
                return Err(OrderError::NotSuspended(name.clone()));
            }
            OrderKind::Suspend | OrderKind::Resume | OrderKind::Decommission => {}
        }
        let before = known.record.clone();
        if !ended {
            known.record = before.clone().after(&Order { at: latest, ..order.clone() });
        }
        let changed = (known.record != before).then(|| (name.clone(), known.record.clone()));
        self.cut_at = Some(latest);
        let mut outcome = self.settle();
        outcome.records.extend(changed.filter(|(name, _)| !outcome.records.iter().any(|(n, _)| n == name)));
        Ok(outcome)
    }

    /// Lets time pass; returns what happened meanwhile.
    pub fn tick(&mut self, now: Time) -> Outcome {
        self.see(now);
        self.settle()
    }

    /// Takes over where subjects are right now.
    pub fn resolve(&mut self, subject: Subject, places: Vec<Place>) {
        self.resolution.insert(subject, places);
    }

    /// Forgets subjects that no policy names any more.
    pub fn forget_unused_subjects(&mut self) {
        let used: BTreeSet<Subject> = self.subjects().into_iter().cloned().collect();
        self.resolution.retain(|subject, _| used.contains(subject));
    }

    /// Says whether windows may be armed: not while the ledger does not work.
    pub fn set_openings(&mut self, openings: Openings) {
        self.openings = openings;
    }

    pub fn openings(&self) -> Openings {
        self.openings
    }

    fn see(&mut self, now: Time) {
        self.latest = self.latest.max(now);
    }

    /// The time that counts: the latest seen.
    pub fn now(&self) -> Time {
        self.latest
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Records decommissions that time or files brought and compares every service's state with the one before.
    fn settle(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let names: Vec<_> = self.services.keys().cloned().collect();
        for name in names {
            self.settle_service(&name, &mut outcome);
        }
        self.states.retain(|name, _| self.services.contains_key(name));
        outcome
    }

    fn settle_service(&mut self, name: &ServiceName, outcome: &mut Outcome) {
        let latest = self.latest;
        let Some(standing) = self.standing(name) else { return };
        let state = state(&standing, latest);
        let before = self.states.get(name).copied();
        if state == ServiceState::Decommissioned {
            let event = decommission_event(&standing, latest);
            if let Some(known) = self.services.get_mut(name) {
                let record = known.record.clone();
                if known.record.decommissioned.as_ref().is_none_or(|old| old.at < event.at) {
                    known.record.decommission(event);
                }
                if known.record != record || before != Some(state) {
                    outcome.records.push((name.clone(), known.record.clone()));
                }
            }
        }
        if before == Some(state) {
            return;
        }
        self.states.insert(name.clone(), state);
        let whats = self.transition(name, before, state);
        let happenings = whats.into_iter().map(|(at, what)| Happening { service: name.clone(), at, what });
        outcome.happenings.extend(happenings);
    }

    /// What a change of state is called, in order.
    fn transition(
        &self,
        name: &ServiceName,
        before: Option<ServiceState>,
        after: ServiceState,
    ) -> Vec<(Time, What)> {
        use ServiceState as S;
        let mut whats = Vec::new();
        let known = self.services.get(name);
        let new = matches!(before, None | Some(S::Pending | S::Decommissioned | S::Unapproved));
        match after {
            S::Open | S::Closed if new => whats.push((self.latest, What::Commissioned)),
            S::Open | S::Closed | S::Decommissioned | S::Suspended | S::Pending | S::Unapproved => {}
        }
        if before == Some(S::Suspended) && after != S::Decommissioned {
            whats.push((self.latest, What::Resumed));
        }
        match after {
            S::Open => {
                let closes_at = self.current_opening(name).map(Span::closes_at);
                whats.push((self.latest, What::Opened { closes_at }));
            }
            S::Closed | S::Pending | S::Unapproved if before == Some(S::Open) => {
                whats.push((self.latest, What::Closed));
            }
            S::Closed | S::Pending | S::Unapproved => {}
            S::Suspended => whats.push((self.latest, What::Suspended)),
            S::Decommissioned => {
                let event = known.and_then(|known| known.record.decommissioned.clone());
                whats.extend(event.map(|event| (event.at, What::Decommissioned(event))));
            }
        }
        whats
    }

    /// Returns the wanted table.
    pub fn compile(&self) -> Ruleset {
        let standings = self.standings();
        compile::compile(&self.input(&standings))
    }

    /// Returns only the sets that follow the time.
    pub fn compile_windows(&self) -> Ruleset {
        let standings = self.standings();
        compile::window_sets(&self.input(&standings))
    }

    /// Returns only the chains that follow where these subjects are.
    pub fn compile_subjects(&self, subjects: &BTreeSet<Subject>) -> Ruleset {
        let standings = self.standings();
        compile::subject_chains(&self.input(&standings), subjects)
    }

    /// Returns the table that follows from files and orders alone: the same on every host and at every restart.
    pub fn compile_lasting(&self) -> Ruleset {
        let standings = self.standings();
        let resolution = Resolution::new();
        let input = self.input(&standings);
        compile::compile(&Input { resolution: &resolution, openings: Openings::Never, cut_at: None, ..input })
    }

    fn input<'a>(&'a self, services: &'a [Standing<'a>]) -> Input<'a> {
        Input {
            settings: &self.settings,
            services,
            resolution: &self.resolution,
            now: self.latest,
            openings: self.openings,
            unresolved: Unresolved::Silent,
            cut_at: self.cut_at,
        }
    }

    /// The services sorted by name, those whose watch is over left out.
    pub fn standings(&self) -> Vec<Standing<'_>> {
        let all = self.services.values().map(|known| self.stand(known));
        all.filter(|standing| standing.governs(self.latest)).collect()
    }

    pub fn standing(&self, name: &ServiceName) -> Option<Standing<'_>> {
        self.services.get(name).map(|known| self.stand(known))
    }

    fn stand<'a>(&self, known: &'a Known) -> Standing<'a> {
        // Approvals cannot be given yet: where they are required nothing opens.
        let approved = self.settings.approval.required.is_empty();
        Standing { service: &known.service, record: &known.record, approved }
    }

    /// True when the service's file is gone.
    pub fn is_departed(&self, name: &ServiceName) -> bool {
        self.services.get(name).is_some_and(|known| known.departed)
    }

    pub fn state(&self, name: &ServiceName) -> Option<ServiceState> {
        self.standing(name).map(|standing| state(&standing, self.latest))
    }

    pub fn current_opening(&self, name: &ServiceName) -> Option<Span> {
        let s = self.standing(name)?;
        schedule::current_opening(s.service, s.record, s.approved, self.latest)
    }

    pub fn next_opening(&self, name: &ServiceName) -> Option<Span> {
        let s = self.standing(name)?;
        schedule::next_opening(s.service, s.record, s.approved, self.latest)
    }

    pub fn subjects(&self) -> BTreeSet<&Subject> {
        let policies = self.services.values().flat_map(|known| &known.service.policies);
        policies.map(|policy| &policy.subject).collect()
    }

    pub fn places(&self, subject: &Subject) -> &[Place] {
        self.resolution.get(subject).map_or(&[], Vec::as_slice)
    }

    /// The next change of any service's state.
    pub fn next_transition(&self) -> Option<(Time, ServiceName, ServiceState)> {
        let next = |standing: Standing<'_>| {
            let (at, to) =
                schedule::next_transition(standing.service, standing.record, standing.approved, self.latest)?;
            Some((at, standing.service.name.clone(), to))
        };
        self.standings().into_iter().filter_map(next).min_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)))
    }

    /// When to call [`World::tick`] next: a state changes, a window comes within `arm_ahead`, or a watch ends.
    pub fn next_deadline(&self) -> Time {
        let arm_ahead = self.settings.enforcement.arm_ahead;
        let horizon = self.latest + arm_ahead;
        let transition = self.next_transition().map(|(at, ..)| at);
        let standings = self.standings();
        let arming = standings.iter().filter_map(|s| next_arming(s, horizon, horizon + LOOK));
        let watches = standings.iter().filter_map(|s| {
            let at = schedule::decommissioned_at(s.service, s.record, self.latest)?;
            schedule::watched_until(s.service, at)
        });
        let armed = arming.map(|opens_at| opens_at - arm_ahead);
        let candidates = transition.into_iter().chain(armed).chain(watches).chain([self.latest + LOOK]);
        candidates.filter(|at| *at > self.latest).min().unwrap_or(self.latest + LOOK)
    }
}

/// How far beyond the horizon the next deadline looks for openings; it is looked at again after that time.
const LOOK: chrono::TimeDelta = chrono::TimeDelta::hours(24);

/// The first opening of any window set of the service after the horizon.
fn next_arming(standing: &Standing<'_>, horizon: Time, end: Time) -> Option<Time> {
    let service = standing.service;
    let own = service.policies.iter().filter_map(|policy| policy.windows.as_deref()).map(Some);
    let sets: BTreeSet<Option<&[usize]>> = own.chain([None]).collect();
    sets.into_iter()
        .flat_map(|which| schedule::openings(service, which, horizon, end))
        .map(Span::opens_at)
        .filter(|opens_at| *opens_at > horizon)
        .min()
}

fn state(standing: &Standing<'_>, at: Time) -> ServiceState {
    schedule::state(standing.service, standing.record, standing.approved, at)
}

/// The decommission of a service that is in that state, whatever brought it there.
fn decommission_event(standing: &Standing<'_>, now: Time) -> Decommissioned {
    let service = standing.service;
    let recorded = standing.record.decommissioned.clone();
    if let Some(event) = recorded.filter(|event| service.lifetime.opens_at() <= event.at) {
        return event;
    }
    let by_time = service.lifetime.closes_at() <= now;
    let (at, cause) = match service.state {
        FileState::Decommissioned if !by_time => (now, Cause::File),
        FileState::Commissioned | FileState::Suspended | FileState::Decommissioned => {
            (service.lifetime.closes_at(), Cause::Time)
        }
    };
    Decommissioned { at, cause, by: None, reason: None }
}
