//! Reports as a daemon makes them.

use chrono::TimeDelta;
use picoseg::api::body::SCHEMA;
use picoseg::model::Time;
use picoseg::report::series::{Hour, series};
use picoseg::report::{
    Applied, Attempt, Checkpoint, Ledger, Order, Reference, Report, Series, Stream, Teardown,
    distinct_sources,
};

fn at(text: &str) -> Time {
    text.parse().unwrap()
}

fn ended() -> Time {
    at("2026-03-04T17:00:00.000812Z")
}

fn hash(number: u64) -> String {
    (0..64).map(|digit| char::from_digit(((number * 7 + digit * 11) % 16) as u32, 16).unwrap()).collect()
}

fn reference(seq: u64, at: &str, kind: &str, actor: &str) -> Reference {
    Reference { seq, at: at.to_owned(), kind: kind.to_owned(), actor: actor.to_owned(), hash: hash(seq) }
}

/// Decommissioned by order an hour and a half ago; nobody came back.
pub fn none() -> Report {
    let entries = vec![
        reference(3, "2026-01-05T08:00:00.102938475Z", "service.commissioned", "picosegd"),
        reference(4, "2026-01-05T08:00:00.102938475Z", "window.opened", "picosegd"),
        reference(91, "2026-02-11T10:12:13.000000001Z", "service.suspended", "mara (uid 1002)"),
        reference(92, "2026-02-11T10:12:13.000000001Z", "teardown.completed", "picosegd"),
        reference(97, "2026-02-11T13:40:00.000000001Z", "service.resumed", "mara (uid 1002)"),
        reference(98, "2026-02-11T13:40:00.000000001Z", "window.opened", "picosegd"),
        reference(203, "2026-03-04T17:00:00.000812000Z", "service.decommissioned", "mara (uid 1002)"),
        reference(204, "2026-03-04T17:00:00.000812000Z", "teardown.completed", "picosegd"),
    ];
    let now = at("2026-03-04T18:31:07.5Z");
    Report {
        schema: SCHEMA,
        service: "stripe".to_owned(),
        provider: "Stripe, Inc.".to_owned(),
        owner: "payments@example.com".to_owned(),
        description: Some("Card payments".to_owned()),
        ticket: Some("SEC-1423".to_owned()),
        compliance: vec!["PCI-DSS".to_owned()],
        state: "decommissioned".to_owned(),
        mode: "enforce".to_owned(),
        commissioned_at: at("2026-01-05T08:00:00Z"),
        decommissioned_at: Some(ended()),
        planned_end: at("2026-12-31T00:00:00Z"),
        cause: Some("order".to_owned()),
        order: Some(Order {
            by: "mara (uid 1002)".to_owned(),
            reason: "The contract ended, see SEC-1423".to_owned(),
        }),
        applied: None,
        teardown: Some(Teardown {
            sockets_closed: 3,
            flows_removed: 2,
            residue: vec![],
            completed_at: at("2026-03-04T17:00:00.041203Z"),
            at_close: Some(14),
        }),
        watched_until: None,
        attempts: vec![],
        attempts_total: 0,
        sources_total: 0,
        series: Some(series(vec![], &[], ended(), now)),
        ledger: Ledger {
            first_seq: Some(3),
            last_seq: Some(204),
            head_seq: 207,
            head_hash: hash(207),
            entries_total: entries.len() as u64,
            entries,
        },
        checkpoint: Some(Checkpoint {
            seq: 206,
            at: "2026-03-04T18:00:00.000000000Z".to_owned(),
            hash: hash(206),
            key: "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=".to_owned(),
            signature: format!("{}==", &hash(1).repeat(2)[..86]),
        }),
        recorded: true,
        ruleset_digest: hash(5),
        host: "pay-07.example.com".to_owned(),
        picoseg_version: "0.1.0".to_owned(),
        generated_at: now,
    }
}

/// Three sources over ten days, one of them ours.
pub fn few() -> Report {
    let now = ended() + TimeDelta::days(10);
    let rows = [
        ("203.0.113.9", "ingress", 1_204, 2, 239),
        ("2001:db8:4:5::10", "ingress", 87, 30, 41),
        ("198.51.100.20", "egress", 12, 1, 100),
    ];
    with(
        Report { generated_at: now, ..none() },
        rows.into_iter().map(|(remote, direction, count, first, last)| {
            (remote.to_owned(), direction, count, first, last)
        }),
        None,
    )
}

/// A year of 1,200 sources.
pub fn many() -> Report {
    let now = ended() + TimeDelta::days(330);
    let rows = (1..=1_000_i64).map(|n| {
        let remote = format!("203.0.{}.{}", 100 + n / 250, n % 250 + 1);
        (
            remote,
            "ingress",
            2_000_000 / (n.unsigned_abs() * n.unsigned_abs()) + 1_500 - n.unsigned_abs(),
            n * 2,
            7_000 - n,
        )
    });
    let rest = Attempt {
        remote: "other".to_owned(),
        direction: "ingress".to_owned(),
        count: 98_765,
        sources: 200,
        first_seen: ended() + TimeDelta::hours(500),
        last_seen: ended() + TimeDelta::hours(7_900),
    };
    with(Report { generated_at: now, ..none() }, rows, Some(rest))
}

type Row = (String, &'static str, u64, i64, i64);

/// Adds rows that last from one hour after the end to another.
fn with(report: Report, rows: impl Iterator<Item = Row>, rest: Option<Attempt>) -> Report {
    let attempts: Vec<_> = rows
        .map(|(remote, direction, count, first, last)| Attempt {
            remote,
            direction: direction.to_owned(),
            count,
            sources: 1,
            first_seen: ended() + TimeDelta::hours(first),
            last_seen: ended() + TimeDelta::hours(last),
        })
        .chain(rest)
        .collect();
    let series = over_time(&attempts, report.generated_at);
    Report {
        attempts_total: attempts.iter().map(|attempt| attempt.count).sum(),
        sources_total: distinct_sources(&attempts),
        series: Some(series),
        attempts,
        ..report
    }
}

/// Each source in up to forty hours, more and less.
fn over_time(attempts: &[Attempt], now: Time) -> Series {
    let hours = attempts.iter().flat_map(|attempt| {
        let span = (attempt.last_seen - attempt.first_seen).num_hours().max(1);
        let parts = span.clamp(1, 40).unsigned_abs();
        (0..parts).map(move |part| {
            let share = attempt.count / parts;
            let wave = share * (part % 5) / 5;
            let next = share * ((parts - 1 - part) % 5) / 5;
            let rest = if part == 0 { attempt.count - share * parts } else { 0 };
            Hour {
                at: attempt.first_seen
                    + TimeDelta::hours(span * i64::try_from(part).unwrap() / i64::try_from(parts).unwrap()),
                stream: Stream { remote: attempt.remote.clone(), direction: attempt.direction.clone() },
                count: (share + wave).saturating_sub(next) + rest,
            }
        })
    });
    series(hours.collect(), &[], ended(), now)
}

/// Every text is an attack.
pub fn hostile() -> Report {
    let evil =
        "<script>alert(1)</script> **bold** [x](http://y) | ` @security \u{202e}txt.exe\u{1b}[2J\n# owned";
    let report = few();
    let mut attempts = report.attempts.clone();
    attempts[0].remote = "<img src=x onerror=alert(1)>".to_owned();
    Report {
        provider: evil.to_owned(),
        owner: "\"><script>alert(1)</script>@security".to_owned(),
        description: Some("www.evil.example https://evil.example $x$ | a | b".to_owned()),
        ticket: Some("&lt;b&gt; #1 <!-- x".to_owned()),
        compliance: vec!["</td></tr></table>".to_owned()],
        order: Some(Order { by: evil.to_owned(), reason: "x".repeat(300) }),
        teardown: report.teardown.map(|teardown| Teardown { residue: vec![evil.to_owned()], ..teardown }),
        attempts,
        host: evil.to_owned(),
        ledger: Ledger {
            entries: vec![Reference { hash: evil.to_owned(), ..reference(1, evil, evil, evil) }],
            ..report.ledger
        },
        ..report
    }
}

/// Still in use.
pub fn open() -> Report {
    let report = none();
    let entries: Vec<_> = report.ledger.entries.iter().take(6).cloned().collect();
    Report {
        state: "open".to_owned(),
        decommissioned_at: None,
        cause: None,
        order: None,
        teardown: None,
        series: None,
        checkpoint: None,
        ledger: Ledger { last_seq: Some(98), entries_total: 6, entries, ..report.ledger },
        generated_at: at("2026-03-04T16:00:00Z"),
        ..report
    }
}

/// Its file was removed, and it was only ever observed.
pub fn observed() -> Report {
    Report {
        mode: "observe".to_owned(),
        cause: Some("removed".to_owned()),
        order: None,
        applied: Some(Applied {
            by: "root (uid 0)".to_owned(),
            at: ended(),
            seq: 205,
            kind: "config.applied".to_owned(),
        }),
        ..few()
    }
}

/// Something was left, and nobody was there to tell what was in flight.
pub fn unproven() -> Report {
    let report = few();
    let residue = vec!["tcp 192.0.2.1:40122 > 198.51.100.20:443".to_owned()];
    Report {
        teardown: report.teardown.map(|teardown| Teardown { residue, at_close: None, ..teardown }),
        cause: Some("time".to_owned()),
        order: None,
        recorded: false,
        ..report
    }
}
