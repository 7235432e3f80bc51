//! Numbers, times and sentences: the same in every format. What is not ours is escaped by whoever renders.

use std::fmt::Display;

use chrono::SecondsFormat;

use super::{Applied, Attempt, Report, Teardown};
use crate::model::Time;

/// How a format shows text that is not ours.
pub type Escape = fn(&str) -> String;

/// `1,234,567`.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 address`, `2,000 addresses`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// `4 March 2026 at 05:06:07 UTC`, for sentences.
pub fn spoken(at: Time) -> String {
    at.format("%-d %B %Y at %H:%M:%S UTC").to_string()
}

/// `2026-03-04 05:06:07`, for tables that say UTC.
pub fn brief(at: Time) -> impl Display {
    at.format("%Y-%m-%d %H:%M:%S")
}

/// To the last digit.
pub fn exact(at: Time) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The one sentence of the whole report.
pub fn summary(report: &Report, escape: Escape) -> String {
    let provider = escape(&report.provider);
    let Some(ended) = report.decommissioned_at else {
        return format!(
            "Access of {provider} has not ended. The service is {}; its access is planned to end on {}.",
            report.state,
            spoken(report.planned_end)
        );
    };
    if report.is_observed() {
        return format!(
            "Access of {provider} was to end on {}, but the service is only observed: nothing was closed or refused. \
             {} since would have been refused.",
            spoken(ended),
            counted(report.attempts_total, "packet", "packets")
        );
    }
    format!("Access of {provider} ended on {}; {}; {}", spoken(ended), left(report), since(report))
}

fn left(report: &Report) -> String {
    match &report.teardown {
        None => "what was connected then is not on record".to_owned(),
        Some(teardown) if teardown.residue.is_empty() => "nothing was left connected".to_owned(),
        Some(teardown) => {
            let count = teardown.residue.len() as u64;
            format!("it is not proven that nothing was left ({})", counted(count, "finding", "findings"))
        }
    }
}

fn since(report: &Report) -> String {
    let sentence = match (report.sum("ingress"), report.sum("egress")) {
        (None, None) => return "since then nobody has tried to use it again.".to_owned(),
        (Some(them), None) => them_since(&them),
        (Some(them), Some(us)) => format!("{}. {}", them_since(&them), us_since(&us)),
        (None, Some(us)) => format!("since then the provider has not tried to come back. {}", us_since(&us)),
    };
    format!("{sentence}.")
}

fn them_since(them: &Attempt) -> String {
    let (times, last) = (counted(them.count, "time", "times"), spoken(them.last_seen));
    format!("since then the provider tried {times} from {}, last on {last}", addresses(them))
}

fn us_since(us: &Attempt) -> String {
    let (times, last) = (counted(us.count, "time", "times"), spoken(us.last_seen));
    format!("Programs of this host tried to reach it {times} at {}, last on {last}", addresses(us))
}

fn addresses(sum: &Attempt) -> String {
    match sum.sources {
        0 => "several addresses".to_owned(),
        count => counted(count, "address", "addresses"),
    }
}

/// A time of the ledger as a table has it.
pub fn to_the_second(at: &str) -> String {
    at.parse::<Time>().map_or_else(|_| "?".to_owned(), |at| brief(at).to_string())
}

/// When it was seen that nothing was left, or what was.
pub fn proven(report: &Report, teardown: &Teardown) -> String {
    let after = report.decommissioned_at.map(|ended| (teardown.completed_at - ended).num_milliseconds());
    match after {
        Some(after @ 0..60_000) => {
            format!(
                "{}, {}.{:03} seconds after the end",
                spoken(teardown.completed_at),
                after / 1_000,
                after % 1_000
            )
        }
        Some(_) | None => spoken(teardown.completed_at),
    }
}

/// Who had the files loaded.
pub fn applied(applied: &Applied, escape: Escape) -> String {
    let when = match applied.kind.as_str() {
        "daemon.started" => "at the start of picoseg, on",
        _ => "on",
    };
    format!("{}, {when} {} (ledger entry {})", escape(&applied.by), spoken(applied.at), applied.seq)
}

/// What decided on the end.
pub fn cause(report: &Report) -> &'static str {
    match report.cause.as_deref() {
        Some("order") => "A person ordered it.",
        Some("time") => "The agreed time was over: the schedule had this end from the beginning.",
        Some("file") => "The schedule file was changed to say so.",
        Some("removed") => "The schedule file was removed.",
        Some(_) | None => "Access has not ended.",
    }
}

/// What `at_close` says.
pub fn at_close(teardown: &Teardown) -> String {
    match teardown.at_close {
        Some(count) => {
            format!("{}. They are in no other number here", counted(count, "packet", "packets"))
        }
        None => "Not told apart, since picoseg did not run at that moment or was held up: what was in flight counts as \
                 attempts"
            .to_owned(),
    }
}

/// How long the provider stays refused.
pub fn watched(report: &Report) -> String {
    match report.watched_until {
        Some(until) => format!("until {}", spoken(until)),
        None => "for ever, as the schedule says".to_owned(),
    }
}

/// From whom to whom.
pub fn direction(direction: &str) -> &str {
    match direction {
        "ingress" => "provider to host",
        "egress" => "host to provider",
        other => other,
    }
}

/// The remote side of a row.
pub fn remote(attempt: &Attempt) -> String {
    match (attempt.remote.as_str(), attempt.sources) {
        ("other", 0) => "others, not told apart".to_owned(),
        ("other", count) => counted(count, "other", "others"),
        (remote, _) => remote.to_owned(),
    }
}

/// A kind of ledger entry in plain words.
pub fn kind(kind: &str) -> &str {
    match kind {
        "service.commissioned" => "access was commissioned",
        "service.suspended" => "access was suspended",
        "service.resumed" => "access was resumed",
        "service.decommissioned" => "access was ended for good",
        "window.opened" => "a time window opened",
        "window.closed" => "a time window closed",
        "teardown.completed" => "connections were cut and looked for",
        "approval.accepted" => "an approval was accepted",
        "approval.rejected" => "an approval was rejected",
        "attempts.sealed" => "counts of attempts were sealed",
        _ => "recorded",
    }
}

/// What one bar of the chart stands for.
pub fn step(seconds: u64) -> String {
    match seconds {
        3_600 => "hour".to_owned(),
        86_400 => "day".to_owned(),
        604_800 => "week".to_owned(),
        _ if seconds.is_multiple_of(604_800) => format!("{} weeks", seconds / 604_800),
        _ => format!("{} hours", seconds / 3_600),
    }
}

/// The words of this report and what they mean, for somebody who manages vendors.
pub const GLOSSARY: [(&str, &str); 7] = [
    (
        "Access",
        "Network connections between programs of this host and the provider's addresses, as the schedule allowed them.",
    ),
    (
        "Ended",
        "From that moment the operating system of this host refuses every packet to and from the provider's addresses, whoever sends it.",
    ),
    (
        "Cut",
        "Connections that were open at the end were closed at both ends; picoseg then looked again until it found none. A busy connection may be ended by the operating system before picoseg gets to it; then it is not in the number.",
    ),
    (
        "Attempt",
        "One packet that was refused after the end. A program that keeps trying to connect sends several.",
    ),
    ("In flight", "Packets of the first two seconds after the end: who sent them could not know of it yet."),
    (
        "Source",
        "The provider's address of an attempt. It shows where a packet came from by its own account, which can be forged.",
    ),
    (
        "Ledger",
        "The record of all decisions on this host. Each entry is sealed with the one before it, so that a later change shows.",
    ),
];

/// What the ledger cannot do.
pub const LIMITS: &str = "A change of any entry shows when the ledger is verified. Whoever holds all rights on this host could rewrite the \
whole ledger; a signed head that was copied elsewhere exposes that, and so does this report.";

/// How to check the report, step by step: what to run, and what it must say.
pub fn verification(report: &Report) -> Vec<(String, String)> {
    let ledger = &report.ledger;
    vec![
        (
            "picoseg audit verify".to_owned(),
            format!(
                "must say that the ledger is unbroken{}. It works without the daemon, also on a copy or an export.",
                signed(report).unwrap_or_default()
            ),
        ),
        (
            "picoseg --json audit show".to_owned(),
            format!(
                "must show entry {} with the hash {}, and the entries below with theirs.",
                ledger.head_seq, ledger.head_hash
            ),
        ),
    ]
}

fn signed(report: &Report) -> Option<String> {
    let checkpoint = report.checkpoint.as_ref()?;
    let later = report.ledger.last_seq.is_some_and(|last| last > checkpoint.seq);
    let later = if later { "; later entries wait for the next signature" } else { "" };
    Some(format!(" and signed up to entry {}{later}", checkpoint.seq))
}
