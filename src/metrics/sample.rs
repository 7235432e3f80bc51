//! Facts for tests, with something of everything.

use std::time::Duration;

use super::facts::{Commits, Facts, LedgerHead, Service, Transition};
use crate::model::{Direction, Reason, ServiceName, ServiceState, Source, Time};
use crate::store::{AttemptTotal, LatestAttempt, Verdict};

pub fn at(text: &str) -> Time {
    text.parse().unwrap()
}

pub fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

pub fn facts() -> Facts {
    let mut commits = Commits { failed: 1, ..Commits::default() };
    commits.note(true, Duration::from_micros(700));
    commits.note(true, Duration::from_millis(30));
    Facts {
        now: at("2026-03-02T10:00:00Z"),
        host: "web-1".to_owned(),
        version: "0.1.0".to_owned(),
        started_at: at("2026-03-01T00:00:00Z"),
        enforcing: true,
        in_force_since: at("2026-03-02T09:00:00.5Z"),
        table_error: None,
        config_error: None,
        store_error: None,
        weaker: vec!["this kernel has no table flag `persist`".to_owned()],
        services: vec![
            service(
                "old-crm",
                "Old <b>CRM</b> & \"Sons\"",
                ServiceState::Decommissioned,
                "2026-03-01T00:00:00Z",
            ),
            service("paypal", "PayPal", ServiceState::Closed, "2026-12-31T00:00:00Z"),
            service("stripe", "Stripe, Inc.", ServiceState::Open, "2026-03-05T00:00:00Z"),
        ],
        segments: 2,
        next_transition: Some(Transition {
            at: at("2026-03-02T17:00:00Z"),
            service: name("stripe"),
            to: ServiceState::Closed,
        }),
        attempts: Some(vec![
            sum("old-crm", Direction::Ingress, Reason::Expired, 41),
            sum("stripe", Direction::Egress, Reason::Undeclared, 7),
            AttemptTotal { service: None, ..sum("stripe", Direction::Egress, Reason::Isolated, 3) },
        ]),
        lost_details: 5,
        details_overrun: 2,
        commits,
        drift: 1,
        drift_at: Some(at("2026-03-02T08:00:00Z")),
        clock_steps: 1,
        last_sync: Some(at("2026-03-02T09:59:30Z")),
        ledger: Some(LedgerHead { seq: 12, at: Some(at("2026-03-02T09:59:00Z")) }),
        unresolved_subjects: 1,
        unresolved_services: 1,
        host_names: 3,
        host_names_failing: 1,
        late: Some(vec![LatestAttempt {
            service: name("old-crm"),
            provider: Some("Old <b>CRM</b> & \"Sons\"".to_owned()),
            remote: Source::Address("203.0.113.7".parse().unwrap()),
            direction: Direction::Ingress,
            count: 41,
            last_seen: at("2026-03-02T09:58:00Z"),
        }]),
    }
}

pub fn service(text: &str, provider: &str, state: ServiceState, decommission: &str) -> Service {
    let open = state == ServiceState::Open;
    Service {
        name: name(text),
        provider: provider.to_owned(),
        enforcing: true,
        state,
        opens_at: (state == ServiceState::Closed).then(|| at("2026-03-03T09:00:00Z")),
        closes_at: open.then(|| at("2026-03-02T17:00:00Z")),
        decommission: at(decommission),
    }
}

fn sum(service: &str, direction: Direction, reason: Reason, count: u64) -> AttemptTotal {
    AttemptTotal { service: Some(name(service)), direction, reason, verdict: Verdict::Refused, count }
}
