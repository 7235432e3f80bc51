//! Words for the tests of this module.

use std::time::Duration;

use chrono_tz::Tz;

use crate::model::{
    CronExpression, FileState, Mode, Opening, Service, ServiceName, Span, Time, Until, Watch, Window,
};

pub fn at(text: &str) -> Time {
    text.parse().unwrap()
}

pub fn span(opens_at: &str, closes_at: &str) -> Span {
    Span::new(at(opens_at), at(closes_at)).unwrap()
}

pub fn minutes(minutes: u64) -> Until {
    Until::Elapsed(Duration::from_secs(60 * minutes))
}

pub fn until(text: &str) -> Until {
    Until::LocalTime(text.parse().unwrap())
}

/// Six fields, seconds first.
pub fn cron(text: &str) -> CronExpression {
    CronExpression::new(text, text).unwrap()
}

pub fn recurring(text: &str, until: Until, timezone: Tz) -> Window {
    let cron = cron(text);
    let opening = Opening::Recurring { cron, until, timezone };
    Window { name: None, opening }
}

pub fn absolute(opens_at: &str, closes_at: &str) -> Window {
    let opening = Opening::Absolute(span(opens_at, closes_at));
    Window { name: None, opening }
}

/// A service for the year 2026.
pub fn service(windows: Vec<Window>) -> Service {
    Service {
        name: ServiceName::new("stripe").unwrap(),
        provider: "Stripe, Inc.".to_owned(),
        owner: "payments@example.com".to_owned(),
        description: None,
        ticket: None,
        compliance: Vec::new(),
        mode: Mode::Enforce,
        state: FileState::Commissioned,
        lifetime: span("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        windows,
        exceptions: Vec::new(),
        policies: Vec::new(),
        watched: Vec::new(),
        watch: Watch::Forever,
    }
}
