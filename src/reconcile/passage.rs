//! What time alone brought to services since they were last looked at, each transition at its own instant.
//!
//! Windows that are armed open and close by the kernel's clock, whether a daemon runs or not; whoever looks later tells
//! when it was.

use std::collections::{BTreeMap, BTreeSet};

use super::{Happening, World};
use crate::model::{ServiceName, ServiceState, Time};
use crate::schedule;

/// The most transitions of one look. Beyond it a service goes to the state that it has now in one step: ten thousand services
/// with a window a minute pass twenty-nine million transitions a day.
const MOST: usize = 20_000;

impl World {
    /// Lets services that are due go from the states in which they were last seen to those that time brought since, as far as
    /// the kernel had that in it. A decommission is left to the caller: another file may have moved it.
    pub(super) fn pass(&mut self, due: &BTreeSet<ServiceName>) -> Vec<Happening> {
        let mut passed = Vec::new();
        for name in due {
            if passed.len() >= MOST {
                break;
            }
            self.pass_service(name, &mut passed);
        }
        passed
    }

    fn pass_service(&mut self, name: &ServiceName, passed: &mut Vec<Happening>) {
        let (Some(entry), Some(standing)) = (self.agenda.entry(name), self.standing(name)) else { return };
        let armed = entry.seen + self.settings.enforcement.arm_ahead;
        let (mut state, mut at, mut found) = (entry.state, entry.seen, Vec::new());
        let next = |at| schedule::next_transition(standing.service, standing.record, standing.approved, at);
        while let Some((instant, after)) = next(at).filter(|(instant, _)| *instant <= self.latest) {
            let unarmed = after == ServiceState::Open && instant > armed;
            let full = passed.len() + found.len() >= MOST;
            if after == ServiceState::Decommissioned || unarmed || full {
                break;
            }
            found.extend(self.transition(name, Some(state), after, instant));
            (at, state) = (instant, after);
        }
        passed.extend(found);
        self.agenda.set_state(name, state);
    }
}

/// Puts happenings in the order in which they came about: those of time by their instants, each service's as they are; then those
/// of files and orders.
pub(super) fn in_order(happenings: &mut Vec<Happening>) {
    let mut latest: BTreeMap<ServiceName, Time> = BTreeMap::new();
    let mut keyed: Vec<_> = std::mem::take(happenings)
        .into_iter()
        .map(|happening| {
            let at = latest.entry(happening.service.clone()).or_insert(happening.at);
            *at = happening.at.max(*at);
            (*at, happening)
        })
        .collect();
    keyed.sort_by_key(|(at, happening)| (!happening.by_time, *at));
    happenings.extend(keyed.into_iter().map(|(_, happening)| happening));
}
