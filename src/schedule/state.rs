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
///
/// The work is bounded. In one case the price is an instant that comes too early, with the state that holds already:
/// windows that take turns without a pause some ten thousand times.
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
    (service.lifetime.opens_at() <= decommissioned.covers).then_some(decommissioned.at)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono_tz::UTC;

    use super::super::fixture::{absolute, at, minutes, recurring, service, span};
    use super::*;
    use crate::model::{Cause, Decommissioned, Suspended};

    /// Open every day of 2026 from 09:00 to 10:00.
    fn mornings() -> Service {
        service(vec![recurring("0 0 9 * * *", minutes(60), UTC)])
    }

    fn decommissioned(text: &str) -> Record {
        let mut record = Record::default();
        record.decommission(Decommissioned {
            at: at(text),
            covers: at(text),
            cause: Cause::Order,
            by: None,
            reason: None,
        });
        record
    }

    fn suspended() -> Record {
        let suspended = Suspended {
            at: at("2026-06-01T00:00:00Z"),
            by: "root (uid 0)".to_owned(),
            reason: "an incident".to_owned(),
        };
        Record { suspended: Some(suspended), ..Record::default() }
    }

    fn state_at(service: &Service, record: &Record, text: &str) -> ServiceState {
        state(service, record, true, at(text))
    }

    fn next_at(service: &Service, record: &Record, text: &str) -> Option<(Time, ServiceState)> {
        next_transition(service, record, true, at(text))
    }

    #[test]
    fn a_life_goes_from_pending_over_open_and_closed_to_decommissioned() {
        let (service, none) = (mornings(), Record::default());
        let states = [
            ("2025-12-31T09:30:00Z", ServiceState::Pending),
            ("2026-01-01T00:00:00Z", ServiceState::Closed),
            ("2026-01-01T09:00:00Z", ServiceState::Open),
            ("2026-01-01T09:59:59.999999999Z", ServiceState::Open),
            ("2026-01-01T10:00:00Z", ServiceState::Closed),
            ("2026-12-31T23:59:59.999999999Z", ServiceState::Closed),
            ("2027-01-01T00:00:00Z", ServiceState::Decommissioned),
        ];
        for (instant, expected) in states {
            assert_eq!(state_at(&service, &none, instant), expected, "{instant}");
        }
    }

    #[test]
    fn transitions_lead_through_the_whole_life() {
        let mut service = service(vec![absolute("2025-06-01T00:00:00Z", "2026-03-01T00:00:00Z")]);
        service.exceptions = vec![span("2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z")];
        let life = [
            ("2026-01-01T00:00:00Z", ServiceState::Open),
            ("2026-02-01T00:00:00Z", ServiceState::Closed),
            ("2026-02-02T00:00:00Z", ServiceState::Open),
            ("2026-03-01T00:00:00Z", ServiceState::Closed),
            ("2027-01-01T00:00:00Z", ServiceState::Decommissioned),
        ];
        let mut instant = at("2025-01-01T00:00:00Z");
        for (changes_at, to) in life {
            let next = next_transition(&service, &Record::default(), true, instant);
            assert_eq!(next, Some((at(changes_at), to)));
            instant = at(changes_at);
        }
        assert_eq!(next_transition(&service, &Record::default(), true, instant), None);
    }

    #[test]
    fn of_several_states_the_most_final_counts() {
        let pending = "2025-06-01T00:00:00Z";
        let of = |service: &Service, record: &Record, approved| state(service, record, approved, at(pending));
        assert_eq!(of(&mornings(), &Record::default(), true), ServiceState::Pending);
        assert_eq!(of(&mornings(), &Record::default(), false), ServiceState::Unapproved);
        assert_eq!(of(&mornings(), &suspended(), false), ServiceState::Suspended);
        let service = Service { state: FileState::Decommissioned, ..mornings() };
        assert_eq!(of(&service, &suspended(), false), ServiceState::Decommissioned);
    }

    #[test]
    fn a_suspended_or_unapproved_service_only_ever_ends() {
        let end = Some((at("2027-01-01T00:00:00Z"), ServiceState::Decommissioned));
        let instant = "2025-06-01T00:00:00Z";
        assert_eq!(next_at(&mornings(), &suspended(), instant), end);
        assert_eq!(next_transition(&mornings(), &Record::default(), false, at(instant)), end);
        let by_file = Service { state: FileState::Suspended, ..mornings() };
        assert_eq!(next_at(&by_file, &Record::default(), instant), end);
        assert_eq!(next_opening(&by_file, &Record::default(), true, at(instant)), None);
        assert_eq!(next_opening(&mornings(), &Record::default(), false, at(instant)), None);
    }

    #[test]
    fn a_suspension_holds_before_its_own_instant() {
        let before_the_order = "2026-05-01T09:30:00Z";
        assert_eq!(state_at(&mornings(), &suspended(), before_the_order), ServiceState::Suspended);
    }

    #[test]
    fn a_recorded_decommission_is_final_for_a_lifetime_that_had_begun() {
        let record = decommissioned("2026-06-01T09:30:00Z");
        let service = mornings();
        assert_eq!(state_at(&service, &record, "2026-06-01T09:29:59Z"), ServiceState::Open);
        assert_eq!(state_at(&service, &record, "2026-06-01T09:30:00Z"), ServiceState::Decommissioned);
        assert_eq!(next_at(&service, &record, "2026-06-01T09:30:00Z"), None);
        let prolonged = Service { lifetime: span("2026-06-01T09:30:00Z", "2099-01-01T00:00:00Z"), ..service };
        assert_eq!(state_at(&prolonged, &record, "2026-07-01T09:30:00Z"), ServiceState::Decommissioned);
    }

    #[test]
    fn a_recorded_decommission_cuts_the_opening_that_it_ends() {
        let record = decommissioned("2026-06-01T09:30:00Z");
        let instant = at("2026-06-01T09:00:00Z");
        let current = current_opening(&mornings(), &record, true, instant);
        assert_eq!(current, Some(span("2026-06-01T09:00:00Z", "2026-06-01T09:30:00Z")));
        assert_eq!(next_opening(&mornings(), &record, true, instant), None);
        let end = (at("2026-06-01T09:30:00Z"), ServiceState::Decommissioned);
        assert_eq!(next_transition(&mornings(), &record, true, instant), Some(end));
    }

    #[test]
    fn a_later_commission_begins_a_new_lifetime() {
        let record = decommissioned("2026-06-01T00:00:00Z");
        let renewed =
            Service { lifetime: span("2026-06-01T00:00:01Z", "2027-01-01T00:00:00Z"), ..mornings() };
        assert_eq!(decommissioned_at(&renewed, &record, at("2026-07-01T00:00:00Z")), None);
        assert_eq!(state_at(&renewed, &record, "2026-06-01T00:00:00Z"), ServiceState::Pending);
        assert_eq!(state_at(&renewed, &record, "2026-07-01T09:00:00Z"), ServiceState::Open);
    }

    #[test]
    fn a_decommission_happened_when_the_record_says_else_at_the_end_else_when_the_file_is_seen() {
        let (none, recorded) = (Record::default(), decommissioned("2026-06-01T00:00:00Z"));
        let by_file = Service { state: FileState::Decommissioned, ..mornings() };
        let (during, later) = (at("2026-07-01T00:00:00Z"), at("2028-01-01T00:00:00Z"));
        let end = Some(by_file.lifetime.closes_at());
        assert_eq!(decommissioned_at(&by_file, &recorded, later), Some(at("2026-06-01T00:00:00Z")));
        assert_eq!(decommissioned_at(&by_file, &none, later), end);
        assert_eq!(decommissioned_at(&by_file, &none, during), Some(during));
        assert_eq!(decommissioned_at(&mornings(), &none, later), end);
        assert_eq!(decommissioned_at(&mornings(), &none, during), None);
    }

    #[test]
    fn the_next_opening_comes_after_the_one_in_force() {
        let (service, none) = (mornings(), Record::default());
        let opens = at("2026-06-01T09:00:00Z");
        let current = current_opening(&service, &none, true, opens);
        assert_eq!(current, Some(span("2026-06-01T09:00:00Z", "2026-06-01T10:00:00Z")));
        let next = next_opening(&service, &none, true, opens);
        assert_eq!(next, Some(span("2026-06-02T09:00:00Z", "2026-06-02T10:00:00Z")));
        let first = next_opening(&service, &none, true, at("2025-01-01T00:00:00Z"));
        assert_eq!(first, Some(span("2026-01-01T09:00:00Z", "2026-01-01T10:00:00Z")));
        assert_eq!(next_opening(&service, &none, true, at("2026-12-31T09:00:00Z")), None);
    }

    #[test]
    fn a_decommissioned_provider_is_watched_as_long_as_the_file_says() {
        let decommissioned_at = at("2027-01-01T00:00:00Z");
        let watched = |watch| watched_until(&Service { watch, ..mornings() }, decommissioned_at);
        assert_eq!(watched(Watch::Forever), None);
        let year = Duration::from_secs(365 * 86_400);
        assert_eq!(watched(Watch::For(year)), Some(at("2028-01-01T00:00:00Z")));
        assert_eq!(watched(Watch::For(Duration::MAX)), None);
    }
}
