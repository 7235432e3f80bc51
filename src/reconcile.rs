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
//! A `World` is a clone that costs nothing, and a change of it costs as much as what changes: its maps share what is
//! equal. A change is tried on a copy, committed to the kernel, and only then kept. Rejected: plain maps behind `Arc`,
//! each copied at its first change (7 to 16 ms for one of 10,000 services).

mod agenda;
mod asked;
mod enclosures;
mod extension;
mod files;
mod index;
mod names;
mod passage;
mod recall;
#[cfg(test)]
mod tests;
mod undo;
mod wanted;

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use crate::compile::{self, Classes, Levels, Openings, Place, Resolution, Standing};
use crate::model::{
    Cause, Decommissioned, FileState, Order, OrderKind, Record, Service, ServiceName, ServiceState, Services,
    Settings, Span, Subject, Time,
};
use crate::names::Names;

use crate::schedule;
use agenda::{Agenda, Entry};
use enclosures::Enclosures;
pub use extension::ExtendError;
use index::Index;

/// Everything that decides what may pass.
#[derive(Debug, Clone)]
pub struct World {
    settings: Arc<Settings>,
    /// The files that are there.
    files: Services,
    services: OrdMap<ServiceName, Arc<Known>>,
    index: Index,
    enclosures: Arc<Enclosures>,
    resolution: Resolution,
    /// At which depths subjects were that are elsewhere now, or nowhere.
    left: Levels,
    /// When the places of each subject last changed.
    since: OrdMap<Arc<Subject>, Time>,
    names: Names,
    /// The latest time ever seen: turning the clock back does not turn this back.
    latest: Time,
    openings: Openings,
    classes: Arc<Classes>,
    cut_at: Option<Time>,
    agenda: Agenda,
    /// Of services that are not there any more.
    forgotten: OrdMap<ServiceName, Record>,
    /// Services that were gone already when they came in: to be looked at with the next files.
    returned: OrdSet<ServiceName>,
}

/// A service with what is remembered of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    /// As its file says it.
    file: Arc<Service>,
    /// With the window that an order added; the same as `file` where none did.
    scheduled: Arc<Service>,
    /// With the addresses that its names have as well; the same as `scheduled` where it names none.
    service: Arc<Service>,
    record: Record,
    /// Its file is gone; it stays for its watch.
    departed: bool,
}

/// Something that happened to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    pub service: ServiceName,
    /// When it was by the schedule, which is earlier than it was noticed.
    pub at: Time,
    pub what: What,
    /// What the service is from then on.
    pub state: ServiceState,
    /// Time alone brought it; else a file or an order did, just now, whatever `at` says.
    pub by_time: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Commissioned,
    Opened {
        closes_at: Option<Time>,
    },
    Closed,
    Suspended,
    Resumed,
    Decommissioned(Decommissioned),
    /// It is not refused and watched any more: it governs nothing.
    WatchEnded,
}

/// What a change brings about beside the table. Keep the records and write the happenings down after the commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    pub happenings: Vec<Happening>,
    pub records: Vec<(ServiceName, Record)>,
    /// The services that were looked at: nothing of any other one changed.
    pub touched: BTreeSet<ServiceName>,
    /// The settings changed, and with them whatever follows from them.
    pub everywhere: bool,
}

impl Outcome {
    /// The services whose grants may have ended: their connections have to be looked at.
    pub fn closing(&self) -> BTreeSet<&ServiceName> {
        let closes = |what: &What| match what {
            What::Closed | What::Suspended | What::Decommissioned(_) => true,
            What::Commissioned | What::Opened { .. } | What::Resumed | What::WatchEnded => false,
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
            files: Services::new(),
            services: OrdMap::new(),
            index: Index::default(),
            enclosures: Arc::default(),
            resolution: Resolution::new(),
            left: Levels::new(),
            since: OrdMap::new(),
            names: Names::default(),
            latest,
            openings: Openings::Armed,
            classes: Arc::default(),
            cut_at: None,
            agenda: Agenda::default(),
            forgotten: OrdMap::new(),
            returned: OrdSet::new(),
        }
    }

    /// Puts a service in as it is remembered, without happenings: what a former daemon knew.
    pub fn remember(&mut self, service: Arc<Service>, record: Record, departed: bool) {
        let name = service.name.clone();
        match departed {
            true => drop(self.returned.insert(name.clone())),
            false => drop(self.files.insert(name.clone(), Arc::clone(&service))),
        }
        self.put(Known::new(service, record.current(self.latest), departed));
        self.refresh(&name);
        if let Some(entry) = self.entry(&name) {
            // Due at once: what happened since is told when files are applied.
            let entry = Entry { due: Some(self.latest), ..entry };
            self.agenda.note(&name, entry);
        }
    }

    /// Takes over files that were accepted. What is no longer among them is decommissioned and stays watched. Files that are
    /// the very ones of before cost nothing.
    pub fn apply(&mut self, settings: Settings, files: Services, now: Time) -> Outcome {
        let (passed, mut due) = self.look(now);
        let mut decided = BTreeSet::new();
        let everywhere = *self.settings != settings;
        let mut changed = everywhere;
        if everywhere {
            self.settings = Arc::new(settings);
            decided.extend(self.services.keys().cloned());
        }
        let before = std::mem::replace(&mut self.files, files.clone());
        for name in std::mem::take(&mut self.returned) {
            if !files.contains_key(&name) {
                self.depart(&name);
                due.insert(name);
            }
        }
        for item in before.diff(&files) {
            changed = true;
            let name = match item {
                DiffItem::Add(name, service) | DiffItem::Update { new: (name, service), .. } => {
                    self.take_file(Arc::clone(service));
                    name
                }
                DiffItem::Remove(name, _) => {
                    self.depart(name);
                    name
                }
            };
            decided.insert(name.clone());
        }
        if changed {
            self.cut_at = Some(self.latest);
        }
        Outcome { everywhere, ..self.settle(passed, due, &decided) }
    }

    fn take_file(&mut self, service: Arc<Service>) {
        let known = self.services.get(&service.name);
        let record = known.map(|known| &known.record).or_else(|| self.forgotten.get(&service.name));
        let record = record.cloned().unwrap_or_default();
        self.put(Known::new(service, record.current(self.latest), false));
    }

    fn put(&mut self, known: Known) {
        let name = known.file.name.clone();
        if let Some(old) = self.services.get(&name) {
            self.index.remove(&old.scheduled);
        }
        self.index.add(&known.scheduled);
        self.services.insert(name, Arc::new(known));
    }

    fn known_mut(&mut self, name: &ServiceName) -> Option<&mut Known> {
        self.services.get_mut(name).map(Arc::make_mut)
    }

    fn depart(&mut self, name: &ServiceName) {
        let latest = self.latest;
        let Some(known) = self.known_mut(name) else { return };
        known.departed = true;
        let standing = Standing { service: &known.service, record: &known.record, approved: true };
        if schedule::decommissioned_at(standing.service, standing.record, latest).is_none() {
            known.record.decommission(Decommissioned {
                at: latest,
                covers: latest.max(known.service.lifetime.opens_at()),
                cause: Cause::Removed,
                by: None,
                reason: None,
            });
        }
    }

    /// Carries an operator's order out.
    pub fn order(&mut self, order: &Order) -> Result<Outcome, OrderError> {
        let (passed, due) = self.look(order.at);
        let name = &order.service;
        let latest = self.latest;
        let known = self.known_mut(name).ok_or_else(|| OrderError::Unknown(name.as_str().to_owned()))?;
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
            known.record =
                before.clone().after(&Order { at: latest, ..order.clone() }, known.service.lifetime);
        }
        let is_shorter = known.record.extended != before.extended;
        let changed = (known.record != before).then(|| (name.clone(), known.record.clone()));
        if is_shorter {
            let known = known.clone().rescheduled();
            self.put(known);
            self.refresh(name);
        }
        self.cut_at = Some(latest);
        let mut outcome = self.settle(passed, due, &BTreeSet::from([name.clone()]));
        outcome.records.extend(changed.filter(|(name, _)| !outcome.records.iter().any(|(n, _)| n == name)));
        Ok(outcome)
    }

    /// Lets time pass; returns what happened meanwhile.
    pub fn tick(&mut self, now: Time) -> Outcome {
        let (passed, due) = self.look(now);
        self.settle(passed, due, &BTreeSet::new())
    }

    /// Takes over where a subject is right now, as of the latest time seen.
    pub fn resolve(&mut self, subject: Subject, places: Vec<Place>) {
        self.resolve_at(subject, places, self.latest);
    }

    /// Takes over where a subject is since an instant.
    pub fn resolve_at(&mut self, subject: Subject, places: Vec<Place>, at: Time) {
        if self.resolution.get(&subject).is_some_and(|known| **known == *places) {
            return;
        }
        let subject = Arc::new(subject);
        let levels = compile::levels(&self.resolution, &self.left, &subject);
        if !levels.is_empty() {
            self.left.insert(Arc::clone(&subject), levels);
        }
        self.since.insert(Arc::clone(&subject), at);
        self.resolution.insert(subject, places.into());
    }

    /// Forgets subjects that neither a policy nor a segment names any more.
    pub fn forget_unused_subjects(&mut self) {
        let unused: Vec<_> =
            self.resolution.keys().filter(|subject| !self.is_named(subject)).cloned().collect();
        for subject in unused {
            self.resolution.remove(&subject);
            self.left.remove(&subject);
            self.since.remove(&subject);
        }
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

    /// Returns what time brought, and the services that are due.
    fn look(&mut self, now: Time) -> (Vec<Happening>, BTreeSet<ServiceName>) {
        self.see(now);
        let due = self.agenda.due(self.latest);
        (self.pass(&due), due)
    }

    /// The time that counts: the latest seen.
    pub fn now(&self) -> Time {
        self.latest
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Records decommissions that time or files brought and compares the services' states with the ones before.
    /// `decided`: about these a file or an order decided.
    fn settle(
        &mut self,
        passed: Vec<Happening>,
        due: BTreeSet<ServiceName>,
        decided: &BTreeSet<ServiceName>,
    ) -> Outcome {
        let mut outcome = Outcome { happenings: passed, touched: due, ..Outcome::default() };
        outcome.touched.extend(decided.iter().cloned());
        for name in outcome.touched.clone() {
            let known = outcome.happenings.len();
            self.settle_service(&name, &mut outcome);
            let by_time = !decided.contains(&name);
            outcome.happenings.iter_mut().skip(known).for_each(|happening| happening.by_time = by_time);
            self.refresh(&name);
        }
        passage::in_order(&mut outcome.happenings);
        outcome
    }

    fn settle_service(&mut self, name: &ServiceName, outcome: &mut Outcome) {
        let latest = self.latest;
        let Some(standing) = self.standing(name) else { return };
        let state = state(&standing, latest);
        let before = self.agenda.state(name);
        if state == ServiceState::Decommissioned {
            let event = decommission_event(&standing, latest);
            let unknown = standing.record.decommissioned.as_ref().is_none_or(|old| old.covers < event.covers);
            if unknown && let Some(known) = self.known_mut(name) {
                known.record.decommission(event);
            }
            if unknown || before != Some(state) {
                outcome
                    .records
                    .extend(self.services.get(name).map(|known| (name.clone(), known.record.clone())));
            }
        }
        if before != Some(state) {
            outcome.happenings.extend(self.transition(name, before, state, latest));
        }
        let Some(entry) = self.entry(name) else { return };
        if self.agenda.governs(name) && !entry.governs {
            outcome.happenings.extend(self.watch_ended(name));
        }
        self.agenda.note(name, entry);
    }

    fn watch_ended(&self, name: &ServiceName) -> Option<Happening> {
        let Standing { service, record, .. } = self.standing(name)?;
        let ended = schedule::decommissioned_at(service, record, self.latest)?;
        let at = schedule::watched_until(service, ended)?;
        let state = ServiceState::Decommissioned;
        Some(Happening { service: name.clone(), at, what: What::WatchEnded, state, by_time: true })
    }

    fn entry(&self, name: &ServiceName) -> Option<Entry> {
        let standing = self.standing(name)?;
        Some(Entry::new(&standing, self.latest, self.settings.enforcement.arm_ahead))
    }

    /// What a change of state is called, in order.
    fn transition(
        &self,
        name: &ServiceName,
        before: Option<ServiceState>,
        after: ServiceState,
        at: Time,
    ) -> Vec<Happening> {
        use ServiceState as S;
        let mut whats = Vec::new();
        let known = self.services.get(name);
        let new = matches!(before, None | Some(S::Pending | S::Decommissioned | S::Unapproved));
        match after {
            S::Open | S::Closed if new => whats.push((at, What::Commissioned)),
            S::Open | S::Closed | S::Decommissioned | S::Suspended | S::Pending | S::Unapproved => {}
        }
        if before == Some(S::Suspended) && after != S::Decommissioned {
            whats.push((at, What::Resumed));
        }
        match after {
            S::Open => {
                let closes_at = self.opening_at(name, at).map(Span::closes_at);
                whats.push((at, What::Opened { closes_at }));
            }
            S::Closed | S::Pending | S::Unapproved if before == Some(S::Open) => {
                whats.push((at, What::Closed));
            }
            S::Closed | S::Pending | S::Unapproved => {}
            S::Suspended => whats.push((at, What::Suspended)),
            S::Decommissioned => {
                let event = known.and_then(|known| known.record.decommissioned.clone());
                whats.extend(event.map(|event| (event.at, What::Decommissioned(event))));
            }
        }
        let happening =
            |(at, what)| Happening { service: name.clone(), at, what, state: after, by_time: true };
        whats.into_iter().map(happening).collect()
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
}

/// When to look at the time again though nothing is due.
const LONG: chrono::TimeDelta = chrono::TimeDelta::hours(24);

fn state(standing: &Standing<'_>, at: Time) -> ServiceState {
    schedule::state(standing.service, standing.record, standing.approved, at)
}

/// The decommission of a service that is in that state, whatever brought it there.
fn decommission_event(standing: &Standing<'_>, now: Time) -> Decommissioned {
    let service = standing.service;
    let recorded = standing.record.decommissioned.clone();
    if let Some(event) = recorded.filter(|event| service.lifetime.opens_at() <= event.covers) {
        return event;
    }
    let by_time = service.lifetime.closes_at() <= now;
    let (at, cause) = match service.state {
        FileState::Decommissioned if !by_time => (now, Cause::File),
        FileState::Commissioned | FileState::Suspended | FileState::Decommissioned => {
            (service.lifetime.closes_at(), Cause::Time)
        }
    };
    Decommissioned { at, covers: at.max(service.lifetime.opens_at()), cause, by: None, reason: None }
}
