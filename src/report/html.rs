//! One self-contained page: no script, nothing loaded from anywhere, for a screen, a phone and paper.
//!
//! The page is built by maud's macros, which escape every text: a name of a provider cannot become markup. A content
//! policy that allows the page's own style sheet only, by its hash, holds even if one did.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::chart::{self, chart};
use super::words::{self, brief, counted, number, spoken};
use super::{Attempt, Report, Series, Teardown};
use crate::escape::plain;

const STYLE: &str = include_str!("style.css");

/// How many sources stand beside the chart; where there are more, all of them are at the end.
const FIRST: usize = 20;

/// The report as one HTML document.
pub fn render(report: &Report) -> String {
    let title = format!("Decommission report: {}", plain(&report.service));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="referrer" content="no-referrer";
                meta name="generator" content={ "picoseg " (plain(&report.picoseg_version)) };
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (head(report))
                    (figures(report))
                    (decision(report))
                    @if report.decommissioned_at.is_some() {
                        (cut(report))
                        (attempts(report))
                    }
                    (glossary())
                    (ledger(report))
                    (foot(report))
                    (appendices(report))
                }
            }
        }
    };
    page.into_string()
}

fn policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'")
}

fn foreign(text: &str) -> String {
    plain(text).into_owned()
}

fn head(report: &Report) -> Markup {
    let proven = report.teardown.as_ref().is_some_and(|teardown| teardown.residue.is_empty());
    let closed = report.decommissioned_at.is_some() && !report.is_observed();
    let label = match (closed, proven) {
        (true, true) => "Access ended",
        (true, false) => "Access ended, not proven",
        (false, _) => "Access has not ended",
    };
    html! {
        header {
            p { "Decommission report" }
            h1 { (foreign(&report.provider)) }
            p { "Service " b { (foreign(&report.service)) } " on host " (foreign(&report.host)) ", as of " (spoken(report.generated_at)) }
        }
        p.verdict.open[!(closed && proven)] { strong { (label) } (words::summary(report, foreign)) }
    }
}

fn figures(report: &Report) -> Markup {
    let Some(ended) = report.decommissioned_at else { return html! {} };
    html! {
        ul.figures {
            li { b { (ended.format("%-d %b %Y")) } span { "ended at " (ended.format("%H:%M:%S")) " UTC" } }
            @if let Some(teardown) = &report.teardown {
                li { b { (number(teardown.sockets_closed)) } span { "connections cut" } }
                li { b { (number(teardown.residue.len() as u64)) } span { "left connected" } }
            }
            li { b { (number(report.attempts_total)) } span { "attempts since" } }
        }
    }
}

fn decision(report: &Report) -> Markup {
    let compliance = report.compliance.join(", ");
    html! {
        section {
            h2 { "Who decided, and why" }
            dl {
                @if report.decommissioned_at.is_some() { (fact("Because", words::cause(report))) }
                @if let Some(order) = &report.order {
                    (fact("Ordered by", &order.by))
                    (fact("Reason given", &order.reason))
                }
                @if let Some(applied) = &report.applied {
                    (fact("Files loaded by", &words::applied(applied, foreign)))
                }
                @if let Some(ended) = report.decommissioned_at {
                    (fact("Access ended", &spoken(ended)))
                    (fact("Stays refused and watched", &words::watched(report)))
                }
                (fact("Access began", &spoken(report.commissioned_at)))
                (fact("Planned end", &spoken(report.planned_end)))
                (fact("State now", &report.state))
                @if report.is_observed() { (fact("Mode", "observe: nothing is closed or refused, only recorded")) }
                (fact("Purpose", report.description.as_deref().unwrap_or("-")))
                (fact("Owner on our side", &report.owner))
                (fact("Ticket", report.ticket.as_deref().unwrap_or("-")))
                @if !compliance.is_empty() { (fact("Compliance", &compliance)) }
                @if !report.recorded { (fact("Note", "something waits for the store and is not in the ledger yet")) }
            }
        }
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { dt { (name) } dd { (foreign(value)) } }
}

fn cut(report: &Report) -> Markup {
    html! {
        section {
            h2 { "What was cut, and the proof that nothing was left" }
            @match &report.teardown {
                Some(teardown) => (proof(report, teardown)),
                None => p { "Nothing is on record about connections at the end." },
            }
        }
    }
}

fn proof(report: &Report, teardown: &Teardown) -> Markup {
    html! {
        dl {
            (fact("Connections cut", &number(teardown.sockets_closed)))
            (fact("Tracked flows removed", &number(teardown.flows_removed)))
            (fact("Looked again, and done", &words::proven(report, teardown)))
            dt { "Left connected" }
            dd {
                @if teardown.residue.is_empty() { "nothing" } @else {
                    @for left in &teardown.residue { div { (foreign(left)) } }
                }
            }
            (fact("In flight in the first two seconds", &words::at_close(teardown)))
        }
    }
}

fn attempts(report: &Report) -> Markup {
    let is_long = report.attempts.len() > FIRST;
    html! {
        section {
            div.figure {
                h2 { "Attempts since" }
                p {
                    (counted(report.attempts_total, "packet was", "packets were")) " refused since the end of access ("
                    (counted(report.sources_total, "address", "addresses")) "), apart from what was in flight."
                }
                @if let Some(series) = &report.series { (chart(report, series)) }
            }
            @if report.attempts_total > 0 && report.series.is_some() {
                p.note { a href="#numbers" { "The chart as a table" } " is at the end." }
            }
            @if !report.attempts.is_empty() {
                (sources(report.attempts.iter().take(FIRST), if is_long { "The largest sources" } else { "By source" }))
            }
            @if is_long { p.note { a href="#sources" { "All " (number(report.attempts.len() as u64)) " rows" } " are at the end." } }
        }
    }
}

fn sources<'a>(attempts: impl Iterator<Item = &'a Attempt>, caption: &str) -> Markup {
    html! {
        div.scroll {
            table {
                caption { (caption) ". Times are UTC." }
                thead { tr {
                    th scope="col" { "Remote address" }
                    th scope="col" { "Direction" }
                    th.n scope="col" { "Packets" }
                    th scope="col" { "First" }
                    th scope="col" { "Last" }
                } }
                tbody {
                    @for attempt in attempts { tr {
                        th scope="row" { (foreign(&words::remote(attempt))) }
                        td.t { (foreign(words::direction(&attempt.direction))) }
                        td.n { (number(attempt.count)) }
                        td.t { (brief(attempt.first_seen)) }
                        td.t { (brief(attempt.last_seen)) }
                    } }
                }
            }
        }
    }
}

fn glossary() -> Markup {
    html! {
        section {
            h2 { "What the words mean" }
            dl.words { @for (word, meaning) in words::GLOSSARY { dt { (word) } dd { (meaning) } } }
        }
    }
}

fn ledger(report: &Report) -> Markup {
    let ledger = &report.ledger;
    let left_out = ledger.entries_total.saturating_sub(ledger.entries.len() as u64);
    html! {
        section {
            h2 { "On record, and how to check it" }
            ol.steps {
                @for (command, says) in words::verification(report) { li { code { (command) } " " (foreign(&says)) } }
            }
            p.note { (words::LIMITS) }
            dl {
                @if let (Some(first), Some(last)) = (ledger.first_seq, ledger.last_seq) {
                    (fact("Entries about the service", &format!("{}, from {first} to {last}", number(ledger.entries_total))))
                }
                dt { "Head of the ledger" } dd { (ledger.head_seq) " " span.hash { (foreign(&ledger.head_hash)) } }
                @if let Some(checkpoint) = &report.checkpoint {
                    dt { "Signed" } dd { "up to entry " (checkpoint.seq) ", " (words::to_the_second(&checkpoint.at)) }
                    dt { "Signed hash" } dd.hash { (foreign(&checkpoint.hash)) }
                    dt { "Key" } dd.hash { (foreign(&checkpoint.key)) }
                    dt { "Signature" } dd.hash { (foreign(&checkpoint.signature)) }
                }
                dt { "Rules in force" } dd.hash { (foreign(&report.ruleset_digest)) }
            }
            (references(report))
            @if left_out > 0 { p.note { (counted(left_out, "earlier entry", "earlier entries")) " about the service: " code { "picoseg audit show" } } }
        }
    }
}

fn references(report: &Report) -> Markup {
    html! {
        div.scroll {
            table {
                caption { "Entries about the service. Times are UTC." }
                thead { tr {
                    th.n scope="col" { "Entry" }
                    th scope="col" { "Time" }
                    th scope="col" { "What, and by whom" }
                    th scope="col" { "Hash" }
                } }
                tbody {
                    @for entry in &report.ledger.entries { tr {
                        th.n scope="row" { (entry.seq) }
                        td.t { (words::to_the_second(&entry.at)) }
                        td { (words::kind(&entry.kind)) " " span.kind { "(" (foreign(&entry.kind)) ")" } br; (foreign(&entry.actor)) }
                        td.hash { (foreign(&entry.hash)) }
                    } }
                }
            }
        }
    }
}

fn appendices(report: &Report) -> Markup {
    html! {
        @if report.attempts_total > 0 && let Some(series) = &report.series { (numbers(series)) }
        @if report.attempts.len() > FIRST {
            section.appendix id="sources" {
                h2 { "All sources" }
                (sources(report.attempts.iter(), "The largest first"))
            }
        }
    }
}

/// The numbers of the chart.
fn numbers(series: &Series) -> Markup {
    let filled = series.buckets.iter().filter(|bucket| chart::sum(bucket) > 0);
    let step = words::step(series.step_seconds);
    html! {
        section.appendix id="numbers" {
            h2 { "The chart as a table" }
            div.scroll {
                table {
                    caption { "Refused packets per " (step) ". Lines without attempts are left out. Times are UTC." }
                    thead { tr {
                        th scope="col" { "Beginning" }
                        @for stream in &series.sources {
                            th.n scope="col" { (foreign(&stream.remote)) br; span.kind { (foreign(words::direction(&stream.direction))) } }
                        }
                        th.n scope="col" { "All others" }
                        th.n scope="col" { "Sum" }
                    } }
                    tbody {
                        @for bucket in filled { tr {
                            th.t scope="row" { (brief(bucket.at)) }
                            @for count in &bucket.counts { td.n { (number(*count)) } }
                            td.n { (number(chart::sum(bucket))) }
                        } }
                    }
                }
            }
        }
    }
}

fn foot(report: &Report) -> Markup {
    html! {
        footer {
            "Made by picoseg " (foreign(&report.picoseg_version)) " on " (foreign(&report.host)) " at " (words::exact(report.generated_at))
            ". All times are UTC. The same report as JSON: " code { "picoseg report " (foreign(&report.service)) " --format json" }
        }
    }
}
