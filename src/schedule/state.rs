//! The state of a service at an instant, and when it changes.
//!
//! ```text
//!                        commission        firings        decommission, or an order
//! unapproved / pending ------------> open <-------> closed ------------------------> decommissioned
//! ```
//! Of several that hold the first counts: decommissioned, suspended, unapproved, pending, then open or closed.
//! Only time is looked ahead at: what people may yet order, approve or write is no transition.

use super::openings::Windows;
use crate::model::{FileState, Record, Service, ServiceState, Span, Time, Watch};

/// The state at an instant, from the file, what is remembered, whether the approvals suffice, and the time alone.
///
/// A suspension that stands holds at every instant, also before it was ordered: a clock that was turned back does
/// not lift it.
pub fn state(service: &Service, record: &Record, approved: bool, at: Time) -> ServiceState {
    if let Some(shut) = shut(service, record, approved, at) {
        shut
    } else if at < service.lifetime.opens_at() {
        ServiceState::Pending
    } else if Windows::of(service, None).cover(at) {
        ServiceState::Open
    } else {
        ServiceState::Closed
    }
}

/// The state of a service that a file, an order, missing approvals or its end keep shut whatever its windows say.
/// Asks no calendar, so it costs nothing beside [`state`].
pub fn shut(service: &Service, record: &Record, approved: bool, at: Time) -> Option<ServiceState> {
    if decommissioned_at(service, record, at).is_some() {
        Some(ServiceState::Decommissioned)
    } else if is_suspended(service, record) {
        Some(ServiceState::Suspended)
    } else {
        (!approved).then_some(ServiceState::Unapproved)
    }
}

/// The first instant strictly after `at` with another state, and that state; `None` when time changes nothing any more.
pub fn next_transition(
    service: &Service,
    record: &Record,
    approved: bool,
    at: Time,
) -> Option<(Time, ServiceState)> {
    let end = ends_at(service, record);
    let next = match state(service, record, approved, at) {
        ServiceState::Decommissioned => None,
        ServiceState::Suspended | ServiceState::Unapproved => Some(end),
        ServiceState::Pending => Some(service.lifetime.opens_at()),
        ServiceState::Open => current_opening(service, record, approved, at).map(Span::closes_at),
        ServiceState::Closed => {
            let opening = next_opening(service, record, approved, at);
            Some(opening.map_or(end, Span::opens_at))
        }
    }?;
    Some((next, state(service, record, approved, next)))
}

/// The opening in force at an instant: `None` unless the service is open.
pub fn current_opening(service: &Service, record: &Record, approved: bool, at: Time) -> Option<Span> {
    match state(service, record, approved, at) {
        ServiceState::Open => first_opening(service, record, at, |opening| opening.contains(at)),
        ServiceState::Decommissioned
        | ServiceState::Suspended
        | ServiceState::Unapproved
        | ServiceState::Pending
        | ServiceState::Closed => None,
    }
}

/// The first opening that begins strictly after an instant: `None` where time alone will not open the service, because it
/// is suspended, unapproved or decommissioned, or because no window is left.
pub fn next_opening(service: &Service, record: &Record, approved: bool, at: Time) -> Option<Span> {
    match state(service, record, approved, at) {
        ServiceState::Pending | ServiceState::Open | ServiceState::Closed => {
            first_opening(service, record, at, |opening| opening.opens_at() > at)
        }
        ServiceState::Decommissioned | ServiceState::Suspended | ServiceState::Unapproved => None,
    }
}

/// When the decommission that holds at an instant happened, if one does.
///
/// What is on record comes first: it is final for every lifetime with a `commission` at or before it. Then the end of the
/// lifetime. A file that says so, and nothing on record yet, counts from `at`, the instant at which that is noticed.
pub fn decommissioned_at(service: &Service, record: &Record, at: Time) -> Option<Time> {
    let recorded = recorded(service, record).filter(|recorded| *recorded <= at);
    let by_time = Some(service.lifetime.closes_at()).filter(|end| *end <= at);
    let by_file = match service.state {
        FileState::Decommissioned => Some(at),
        FileState::Commissioned | FileState::Suspended => None,
    };
    recorded.or(by_time).or(by_file)
}

/// Until when the provider of a service that was decommissioned then stays refused and watched; `None`: for ever.
/// From that instant on the service governs nothing.
pub fn watched_until(service: &Service, decommissioned_at: Time) -> Option<Time> {
    match service.watch {
        Watch::Forever => None,
        Watch::For(duration) => {
            let duration = chrono::TimeDelta::from_std(duration).ok()?;
            decommissioned_at.checked_add_signed(duration)
        }
    }
}

fn first_opening(
    service: &Service,
    record: &Record,
    at: Time,
    wanted: impl Fn(&Span) -> bool,
) -> Option<Span> {
    let bounds = Span::new(service.lifetime.opens_at(), ends_at(service, record)).ok()?;
    Windows::of(service, None).openings(at).find(wanted)?.clip(bounds)
}

fn is_suspended(service: &Service, record: &Record) -> bool {
    let by_file = match service.state {
        FileState::Suspended => true,
        FileState::Commissioned | FileState::Decommissioned => false,
    };
    by_file || record.suspended.is_some()
}

/// When the lifetime ends: by what is on record or by time, whichever comes first.
fn ends_at(service: &Service, record: &Record) -> Time {
    let by_time = service.lifetime.closes_at();
    recorded(service, record).map_or(by_time, |recorded| recorded.min(by_time))
}

/// The decommission on record, unless this lifetime began after it.
fn recorded(service: &Service, record: &Record) -> Option<Time> {
    let decommissioned = record.decommissioned.as_ref()?;
    (service.lifetime.opens_at() <= decommissioned.at).then_some(decommissioned.at)
}
