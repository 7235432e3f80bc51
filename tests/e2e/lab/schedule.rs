//! Schedules as text, the way an operator writes them.

use std::fmt::Display;

use super::Unit;
use super::clock::{Time, in_ms, rfc3339};

const HOUR: i64 = 3_600_000;

/// `[commission, decommission)`.
#[derive(Clone, Copy)]
pub struct Lifetime(pub Time, pub Time);

impl Lifetime {
    /// From an hour ago until in an hour.
    pub fn open() -> Self {
        Self(in_ms(-HOUR), in_ms(HOUR))
    }

    /// From an hour ago until `end`.
    pub fn until(end: Time) -> Self {
        Self(in_ms(-HOUR), end)
    }

    /// Over since a minute.
    pub fn over() -> Self {
        Self(in_ms(-HOUR), in_ms(-60_000))
    }

    /// Begins in an hour.
    pub fn ahead() -> Self {
        Self(in_ms(HOUR), in_ms(2 * HOUR))
    }
}

/// A whole schedule file: `tables` are windows, exceptions and policies.
pub fn schedule(lifetime: Lifetime, tables: &[String]) -> String {
    schedule_with("", lifetime, tables)
}

/// The same with more keys at the top, for example `state = "suspended"`.
pub fn schedule_with(head: &str, Lifetime(commission, decommission): Lifetime, tables: &[String]) -> String {
    format!(
        r#"provider = "Example Provider Ltd"
owner = "owner@example.com"
{head}
[lifetime]
commission = {}
decommission = {}

{}"#,
        rfc3339(commission),
        rfc3339(decommission),
        tables.concat()
    )
}

/// An absolute window.
pub fn window(open: Time, close: Time) -> String {
    format!("[[window]]\nopen = {}\nclose = {}\n\n", rfc3339(open), rfc3339(close))
}

/// An exception.
pub fn except(open: Time, close: Time) -> String {
    format!("[[except]]\nopen = {}\nclose = {}\n\n", rfc3339(open), rfc3339(close))
}

/// The unit connects to the provider.
pub fn egress(unit: &Unit, to: impl Display, port: &str) -> String {
    policy("egress", &subject(unit), &to.to_string(), port)
}

/// The provider connects to the unit.
pub fn ingress(unit: &Unit, from: impl Display, port: &str) -> String {
    policy("ingress", &subject(unit), &from.to_string(), port)
}

/// A policy with the subject as written.
pub fn policy(direction: &str, subject: &str, remote: &str, port: &str) -> String {
    let side = if direction == "egress" { "to" } else { "from" };
    format!("[[{direction}]]\nsubject = {{ {subject} }}\n{side} = [\"{remote}\"]\nports = [\"{port}\"]\n\n")
}

fn subject(unit: &Unit) -> String {
    format!("unit = \"{}\"", unit.name())
}
