//! Markdown as GitHub shows it.

use super::words::{self, brief, counted, number, spoken};
use super::{Report, Series};
use crate::escape::markdown as escape;

/// The report as Markdown, with a line break at its end.
pub fn render(report: &Report) -> String {
    let mut parts = vec![
        format!("# Decommission report: {}", escape(&report.service)),
        format!("**{}**", words::summary(report, escape)),
        format!("## Who decided, and why\n\n{}", facts(report)),
    ];
    if report.decommissioned_at.is_some() {
        parts.push(format!("## What was cut\n\n{}", cut(report)));
        parts.push(format!("## Attempts since\n\n{}", attempts(report)));
        parts.extend(report.series.as_ref().and_then(|series| over_time(report, series)));
    }
    parts.push(format!("## What the words mean\n\n{}", glossary()));
    parts.push(format!("## On record\n\n{}", ledger(report)));
    parts.push(format!("## How to check it\n\n{}\n\n{}", checking(report), words::LIMITS));
    parts.push(foot(report));
    parts.join("\n\n") + "\n"
}

fn facts(report: &Report) -> String {
    let mut rows = vec![
        ("Provider", escape(&report.provider)),
        ("Owner on our side", escape(&report.owner)),
        ("Purpose", or_dash(report.description.as_deref())),
        ("Ticket", or_dash(report.ticket.as_deref())),
        ("Compliance", or_dash(Some(report.compliance.join(", ").as_str()).filter(|text| !text.is_empty()))),
        ("State now", escape(&report.state)),
        ("Mode", escape(&report.mode)),
        ("Access began", spoken(report.commissioned_at)),
        ("Planned end", spoken(report.planned_end)),
    ];
    if let Some(ended) = report.decommissioned_at {
        rows.push(("Access ended", spoken(ended)));
        rows.push(("Because", words::cause(report).to_owned()));
        rows.push(("Stays refused and watched", words::watched(report)));
    }
    if let Some(order) = &report.order {
        rows.push(("Ordered by", escape(&order.by)));
        rows.push(("Reason given", escape(&order.reason)));
    }
    if let Some(applied) = &report.applied {
        rows.push(("Files loaded by", words::applied(applied, escape)));
    }
    if !report.recorded {
        rows.push(("Note", "Something waits for the store and is not in the ledger yet.".to_owned()));
    }
    two_columns(rows)
}

/// A hash in fixed width; escaped where it is none, since nothing is escaped inside of code.
fn code(hash: &str) -> String {
    match hash.chars().all(|c| c.is_ascii_hexdigit()) {
        true => format!("`{hash}`"),
        false => escape(hash),
    }
}

fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), escape)
}

fn two_columns(rows: Vec<(&str, String)>) -> String {
    let rows = rows.into_iter().map(|(key, value)| format!("| {key} | {value} |"));
    ["| | |".to_owned(), "|---|---|".to_owned()].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

fn cut(report: &Report) -> String {
    let Some(teardown) = &report.teardown else { return "Nothing is on record.".to_owned() };
    let left: Vec<_> = teardown.residue.iter().map(|left| escape(left)).collect();
    two_columns(vec![
        ("Connections cut", number(teardown.sockets_closed)),
        ("Tracked flows removed", number(teardown.flows_removed)),
        ("Left connected", if left.is_empty() { "nothing".to_owned() } else { left.join("<br>") }),
        ("Proven", words::proven(report, teardown)),
        ("In flight in the first two seconds", words::at_close(teardown)),
    ])
}

fn attempts(report: &Report) -> String {
    let total = counted(report.attempts_total, "packet was", "packets were");
    let total = format!("{total} refused ({}).", counted(report.sources_total, "address", "addresses"));
    if report.attempts.is_empty() {
        return total;
    }
    let mut lines = vec![
        total,
        String::new(),
        "| Remote address | Direction | Packets | First (UTC) | Last (UTC) |".to_owned(),
        "|---|---|---:|---|---|".to_owned(),
    ];
    lines.extend(report.attempts.iter().map(|attempt| {
        format!(
            "| {} | {} | {} | {} | {} |",
            escape(&words::remote(attempt)),
            escape(words::direction(&attempt.direction)),
            number(attempt.count),
            brief(attempt.first_seen),
            brief(attempt.last_seen)
        )
    }));
    lines.join("\n")
}

/// `None` where no bar has anything.
fn over_time(report: &Report, series: &Series) -> Option<String> {
    let filled = series.buckets.iter().filter(|bucket| bucket.counts.iter().any(|count| *count > 0));
    let rows: Vec<_> = filled
        .map(|bucket| {
            let counts: Vec<_> = bucket.counts.iter().map(|count| number(*count)).collect();
            format!("| {} | {} |", brief(bucket.at), counts.join(" | "))
        })
        .collect();
    if rows.is_empty() || report.attempts_total == 0 {
        return None;
    }
    let names: Vec<_> = series
        .sources
        .iter()
        .map(|stream| format!("{}, {}", escape(&stream.remote), escape(words::direction(&stream.direction))))
        .chain(["all others".to_owned()])
        .collect();
    Some(format!(
        "### By {}\n\nLines without attempts are left out.\n\n| Beginning (UTC) | {} |\n|---|{}\n{}",
        words::step(series.step_seconds),
        names.join(" | "),
        "---:|".repeat(names.len()),
        rows.join("\n")
    ))
}

fn glossary() -> String {
    let lines = words::GLOSSARY.iter().map(|(word, meaning)| format!("- **{word}**: {meaning}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn ledger(report: &Report) -> String {
    let ledger = &report.ledger;
    let number_or_dash = |seq: Option<u64>| seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
    let mut head = vec![
        ("Entries about the service", number(ledger.entries_total)),
        ("First", number_or_dash(ledger.first_seq)),
        ("Last", number_or_dash(ledger.last_seq)),
        ("Head of the ledger", format!("{} {}", ledger.head_seq, code(&ledger.head_hash))),
        ("Ruleset in force", code(&report.ruleset_digest)),
    ];
    if let Some(checkpoint) = &report.checkpoint {
        head.push((
            "Signed up to entry",
            format!("{}, {}", checkpoint.seq, words::to_the_second(&checkpoint.at)),
        ));
        head.push(("Signed hash", code(&checkpoint.hash)));
        head.push(("Key", escape(&checkpoint.key)));
        head.push(("Signature", escape(&checkpoint.signature)));
    }
    let mut lines = vec![
        two_columns(head),
        String::new(),
        "| Entry | Time (UTC) | What | By | Hash |".to_owned(),
        "|---:|---|---|---|---|".to_owned(),
    ];
    lines.extend(ledger.entries.iter().map(|entry| {
        let (at, kind) = (words::to_the_second(&entry.at), escape(&entry.kind));
        let (what, by) = (words::kind(&entry.kind), escape(&entry.actor));
        format!("| {} | {at} | {what} ({kind}) | {by} | {} |", entry.seq, code(&entry.hash))
    }));
    lines.join("\n")
}

fn checking(report: &Report) -> String {
    let steps = words::verification(report);
    let lines = steps.iter().map(|(command, says)| format!("1. `{command}` {}", escape(says)));
    lines.collect::<Vec<_>>().join("\n")
}

fn foot(report: &Report) -> String {
    format!(
        "Host {}, picoseg {}, {}. All times are UTC.",
        escape(&report.host),
        escape(&report.picoseg_version),
        spoken(report.generated_at)
    )
}
