//! `status`.

use super::console::Console;
use super::daemon::{Daemon, understand};
use super::stop::Stop;
use super::table::plain;
use super::when;
use crate::api::body::{Drift, Health, NextTransition, Status, Waiting};

pub async fn run(daemon: &Daemon, console: &mut Console<'_>) -> Result<(), Stop> {
    let body = daemon.get("/v1/status").await?;
    if console.json {
        return console.print(body);
    }
    console.print(text(&understand(&body)?))
}

fn text(status: &Status) -> String {
    let mut lines = vec![
        ("version", status.version.clone()),
        ("now", when::print(status.now)),
        ("mode", status.mode.clone()),
        ("ruleset", status.ruleset_digest.clone()),
        ("in force since", when::print_or_dash(status.in_force_since)),
        ("services", states(status)),
        ("next", status.next_transition.as_ref().map_or_else(|| "-".to_owned(), transition)),
        ("attempts", status.attempts_total.to_string()),
        ("lost details", status.lost_details.to_string()),
        ("drift", drift(&status.drift)),
        ("configuration", health(&status.config)),
        ("store", health(&status.store)),
    ];
    lines.extend(status.confirmation.as_ref().map(|waiting| ("unconfirmed", self::waiting(waiting))));
    lines.extend(status.weaker.iter().map(|sentence| ("weaker", sentence.clone())));
    let lines = lines.iter().map(|(key, value)| format!("{key:16}{}", plain(value)));
    lines.collect::<Vec<_>>().join("\n")
}

fn states(status: &Status) -> String {
    let counted: Vec<_> = status.services.iter().map(|(state, count)| format!("{count} {state}")).collect();
    counted.join(", ")
}

fn transition(next: &NextTransition) -> String {
    format!("{} {} becomes {}", when::print(next.at), next.service, next.to)
}

fn waiting(waiting: &Waiting) -> String {
    let Waiting { until, by, at } = waiting;
    let (until, at) = (when::print(*until), when::print(*at));
    format!("falls back at {until} unless `picoseg confirm` follows (applied by {by} at {at})")
}

fn drift(drift: &Drift) -> String {
    match drift.last_at {
        Some(last) => format!("{} repairs, the last at {}", drift.count, when::print(last)),
        None => "none".to_owned(),
    }
}

fn health(health: &Health) -> String {
    match (health.ok, &health.error) {
        (true, _) => "ok".to_owned(),
        (false, Some(error)) => format!("not ok: {error}"),
        (false, None) => "not ok".to_owned(),
    }
}
