//! Window sets: the only part of the table that follows the time.

use super::{Input, Openings, Standing, names};
use crate::model::{Service, ServiceState, Span, Time};
use crate::ruleset::{Element, Field, Key, Ruleset, Set};
use crate::schedule;

/// How long after a close outgoing segments of existing connections are dropped without a reset, so that the
/// teardown can tell both ends: our own reset would end the local socket before anyone told the provider.
pub const CUT_GRACE: chrono::TimeDelta = chrono::TimeDelta::seconds(2);

/// The set of instants at which something has just closed.
pub const CLOSING: &str = "closing";

pub fn add(input: &Input<'_>, ruleset: &mut Ruleset) {
    let mut closes: Vec<Time> = input.cut_at.into_iter().collect();
    for standing in input.services.iter().filter(|standing| standing.governs(input.now)) {
        let service = standing.service;
        let own = service.policies.iter().filter_map(|policy| policy.windows.as_deref()).map(Some);
        for which in own.chain([None]) {
            let name = names::open(service, which);
            if may_open(standing, input.now) && !ruleset.sets.contains_key(&name) {
                let spans = armed(input, service, which);
                closes.extend(spans.iter().map(|span| span.closes_at()));
                ruleset.sets.insert(name, window_set(&spans));
            }
        }
    }
    ruleset.sets.insert(CLOSING.into(), closing_set(closes, input.now));
}

/// The openings that belong into the kernel now.
fn armed(input: &Input<'_>, service: &Service, which: Option<&[usize]>) -> Vec<Span> {
    let horizon = input.now + input.settings.enforcement.arm_ahead;
    let spans = live_openings(service, which, input.now, horizon);
    match input.openings {
        Openings::Armed => spans,
        Openings::Since(instant) => spans.into_iter().filter(|span| span.opens_at() <= instant).collect(),
        Openings::Never => Vec::new(),
    }
}

/// False when a file, an order, missing approvals or the end keep the service shut whatever its windows say.
pub fn may_open(standing: &Standing<'_>, now: Time) -> bool {
    match schedule::state(standing.service, standing.record, standing.approved, now) {
        ServiceState::Open | ServiceState::Closed | ServiceState::Pending => true,
        ServiceState::Decommissioned | ServiceState::Suspended | ServiceState::Unapproved => false,
    }
}

fn live_openings(service: &Service, which: Option<&[usize]>, now: Time, horizon: Time) -> Vec<Span> {
    // The instant at the horizon itself belongs to it.
    let end = horizon + chrono::TimeDelta::nanoseconds(1);
    schedule::openings(service, which, now, end).into_iter().filter(|span| span.closes_at() > now).collect()
}

fn window_set(spans: &[Span]) -> Set {
    let mut set = Set::plain(&[Field::Time]).with_intervals().with_expiry();
    set.elements.extend(spans.iter().map(|span| window(span.opens_at(), span.closes_at())));
    set
}

fn closing_set(mut closes: Vec<Time>, now: Time) -> Set {
    closes.retain(|close| *close + CUT_GRACE > now);
    closes.sort_unstable();
    let mut merged: Vec<(Time, Time)> = Vec::new();
    for close in closes {
        match merged.last_mut() {
            Some((_, end)) if close <= *end => *end = close + CUT_GRACE,
            Some(_) | None => merged.push((close, close + CUT_GRACE)),
        }
    }
    let mut set = Set::plain(&[Field::Time]).with_intervals().with_expiry();
    set.elements.extend(merged.into_iter().map(|(from, to)| window(from, to)));
    set
}

/// `[from, to)` as a closed range of nanoseconds that also ends by elapsed time.
fn window(from: Time, to: Time) -> (Key, Element) {
    let element = Element {
        last: Some(Key::builder().time_before(to).build()),
        closes_at: Some(to),
        ..Element::default()
    };
    (Key::builder().time(from).build(), element)
}
