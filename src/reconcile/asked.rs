//! What is asked of a world: states, openings, places, and when to look again.

use std::collections::BTreeSet;

use super::{LONG, World, state};
use crate::compile::Place;
use crate::model::{ServiceName, ServiceState, Span, Subject, Time};
use crate::schedule;

impl World {
    /// The number of services whose files are there.
    pub fn files_count(&self) -> usize {
        self.services.values().filter(|known| !known.departed).count()
    }

    /// True when the service's file is gone.
    pub fn is_departed(&self, name: &ServiceName) -> bool {
        self.services.get(name).is_some_and(|known| known.departed)
    }

    pub fn state(&self, name: &ServiceName) -> Option<ServiceState> {
        self.standing(name).map(|standing| state(&standing, self.latest))
    }

    pub fn current_opening(&self, name: &ServiceName) -> Option<Span> {
        self.opening_at(name, self.latest)
    }

    pub(super) fn opening_at(&self, name: &ServiceName, at: Time) -> Option<Span> {
        let s = self.standing(name)?;
        schedule::current_opening(s.service, s.record, s.approved, at)
    }

    /// The state that the service had when it was last looked at; `None` where it governs nothing.
    pub fn settled_state(&self, name: &ServiceName) -> Option<ServiceState> {
        self.agenda.state(name).filter(|_| self.agenda.governs(name))
    }

    /// Every service that was ever taken over, also those whose watch is over.
    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    pub fn next_opening(&self, name: &ServiceName) -> Option<Span> {
        let s = self.standing(name)?;
        schedule::next_opening(s.service, s.record, s.approved, self.latest)
    }

    pub fn subjects(&self) -> BTreeSet<&Subject> {
        self.index.subjects().chain(self.enclosures.subjects()).collect()
    }

    /// True when some policy or segment is about the subject.
    pub fn is_named(&self, subject: &Subject) -> bool {
        self.index.names(subject) || self.enclosures.names(subject)
    }

    pub fn places(&self, subject: &Subject) -> &[Place] {
        self.resolution.get(subject).map_or(&[], |places| places)
    }

    /// Since when the subject is where it is, or nowhere; `None` where nobody looked for it.
    pub fn since(&self, subject: &Subject) -> Option<Time> {
        self.since.get(subject).copied()
    }

    /// The state of a service as it was last settled, and its next change by time.
    pub fn outlook(&self, name: &ServiceName) -> Option<(ServiceState, Option<(Time, ServiceState)>)> {
        self.agenda.entry(name).map(|entry| (entry.state, entry.transition))
    }

    /// The next change of any service's state.
    pub fn next_transition(&self) -> Option<(Time, ServiceName, ServiceState)> {
        self.agenda.next_transition()
    }

    /// When the openings end that are in force at an instant.
    pub fn ends_of_openings(&self, at: Time) -> BTreeSet<Time> {
        self.services.keys().filter_map(|name| self.opening_at(name, at)).map(Span::closes_at).collect()
    }

    /// When to call [`World::tick`] next; without services in a long time.
    pub fn next_deadline(&self) -> Time {
        self.agenda.first().unwrap_or(self.latest + LONG)
    }
}
