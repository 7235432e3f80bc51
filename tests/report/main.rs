//! The decommission report in its four formats, from bodies as the API gives them.
//!
//! Golden files in `tests/golden/reports`; `UPDATE_GOLDEN=1` writes them anew. `REPORT_SAMPLES=DIR` writes every sample in
//! every format to a directory, to be looked at in a browser.

mod page;
mod samples;

use std::fs;
use std::path::Path;

use picoseg::report::{Report, html, markdown, text};
use samples::{few, hostile, many, none, observed, open, unproven};
use serde_json::Value;

type Render = fn(&Report) -> String;

const FORMATS: [(&str, Render); 3] =
    [("html", html::render), ("md", markdown::render), ("txt", text::render)];

fn samples() -> [(&'static str, Report); 7] {
    [
        ("none", none()),
        ("few", few()),
        ("many", many()),
        ("hostile", hostile()),
        ("open", open()),
        ("observed", observed()),
        ("unproven", unproven()),
    ]
}

#[test]
fn the_reports_are_as_they_were_looked_at() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/reports");
    for (name, report) in [("few", few()), ("open", open())] {
        for (ending, render) in FORMATS {
            let (path, rendered) = (golden.join(format!("{name}.{ending}")), render(&report));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                fs::write(&path, &rendered).unwrap();
            }
            let expected = fs::read_to_string(&path).unwrap_or_default();
            let differs = rendered.lines().zip(expected.lines()).find(|(is, was)| is != was);
            assert!(rendered == expected, "{} differs: {differs:?}", path.display());
        }
    }
    if let Some(directory) = std::env::var_os("REPORT_SAMPLES") {
        for (name, report) in samples() {
            for (ending, render) in FORMATS {
                fs::write(Path::new(&directory).join(format!("{name}.{ending}")), render(&report)).unwrap();
            }
        }
    }
}

#[test]
fn the_body_reads_back_as_it_was_written() {
    for (name, report) in samples() {
        let body = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&body).unwrap(), report, "{name}");
    }
}

#[test]
fn the_page_is_well_formed_and_loads_nothing() {
    for (name, report) in samples() {
        let page =
            page::Page::parse(&html::render(&report)).unwrap_or_else(|error| panic!("{name}: {error}"));
        page.is_self_contained().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(page.count("h1"), 1, "{name}");
        assert_eq!(page.count("script") + page.count("img") + page.count("iframe"), 0, "{name}");
        assert_eq!(
            page.count("title"),
            if report.series.is_some() { 2 } else { 1 },
            "{name}: page and chart"
        );
        page.tables_have_headers().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// The numbers of a body that every format has to show, as they are printed.
fn numbers(report: &Report) -> Vec<String> {
    let teardown = report.teardown.iter();
    let cut = teardown.flat_map(|t| [Some(t.sockets_closed), Some(t.flows_removed), t.at_close]).flatten();
    let counts = report.attempts.iter().map(|attempt| attempt.count);
    let all =
        cut.chain(counts).chain([report.attempts_total, report.sources_total, report.ledger.entries_total]);
    all.map(|number| grouped(&number.to_string())).collect()
}

fn grouped(digits: &str) -> String {
    match digits.len() {
        0..=3 => digits.to_owned(),
        length => format!("{},{}", grouped(&digits[..length - 3]), &digits[length - 3..]),
    }
}

#[test]
fn every_format_says_every_number_and_fact_of_the_body() {
    for (name, report) in [("none", none()), ("few", few()), ("many", many()), ("unproven", unproven())] {
        for (ending, render) in FORMATS {
            let rendered = render(&report);
            let shown = match ending {
                "html" => page::Page::parse(&rendered).unwrap().text,
                _ => rendered.replace('\\', ""),
            };
            let mut wanted = numbers(&report);
            wanted.push(report.service.clone());
            wanted.push(report.ledger.head_seq.to_string());
            if ending != "txt" {
                wanted
                    .extend(report.attempts.iter().filter(|a| a.remote != "other").map(|a| a.remote.clone()));
                wanted.extend(report.ledger.entries.iter().map(|entry| entry.hash.clone()));
                wanted.push(report.ledger.head_hash.clone());
            } else if name == "many" {
                // A terminal shows the largest only.
                wanted.truncate(3 + 20);
            }
            let squeezed: String = shown.split_whitespace().collect();
            for wanted in wanted {
                let fits = squeezed.contains(&wanted.split_whitespace().collect::<String>());
                assert!(fits, "{name}.{ending} lacks {wanted:?}\n{shown}");
            }
        }
    }
}

#[test]
fn the_bars_of_the_chart_are_in_the_page_as_numbers() {
    let report = many();
    let shown = page::Page::parse(&html::render(&report)).unwrap().text;
    let series = report.series.unwrap();
    let counts = series.buckets.iter().flat_map(|bucket| &bucket.counts).filter(|count| **count > 0);
    assert!(counts.clone().count() > 50);
    for count in counts {
        assert!(shown.contains(&grouped(&count.to_string())), "{count}");
    }
}

#[test]
fn hostile_text_stays_text() {
    let report = hostile();
    let rendered = html::render(&report);
    let page = page::Page::parse(&rendered).unwrap();
    assert!(page.text.contains("<script>alert(1)</script>"), "shown as it was written");
    assert!(!rendered.contains("<script") && !rendered.contains("<img"), "and not as markup");
    let markdown = markdown::render(&report);
    for markup in ["<script", "<img", "](http", "\n# owned", "**bold**", "www.evil", "https://", "@security"]
    {
        assert!(!markdown.contains(markup), "{markup}:\n{markdown}");
    }
    // Each row of a table has the columns of its header, whatever its cells say.
    for table in markdown.split("\n\n").filter(|part| part.starts_with('|')) {
        let bars = |line: &str| line.replace("\\|", "").matches('|').count();
        let widths: Vec<_> = table.lines().map(bars).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    }
    for (ending, render) in FORMATS {
        let rendered = render(&report);
        let unseen = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!rendered.contains(unseen), "{ending} has control characters");
    }
}

#[test]
fn text_fits_a_terminal_of_80_columns() {
    for (name, report) in samples() {
        for line in text::render(&report).lines() {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
    }
}

#[test]
fn a_service_that_was_not_decommissioned_is_said_to_be_open() {
    let report = open();
    for (ending, render) in FORMATS {
        let rendered = render(&report).replace('\n', " ");
        assert!(rendered.contains("has not ended"), "{ending}: {rendered}");
        assert!(!rendered.contains("nothing was left connected"), "{ending}");
    }
}

#[test]
fn what_was_not_closed_or_not_proven_is_not_said_to_be() {
    for report in [observed(), unproven()] {
        for (ending, render) in FORMATS {
            let rendered = render(&report);
            assert!(!rendered.contains("nothing was left connected"), "{ending}: {rendered}");
        }
    }
}

#[test]
fn absent_facts_are_null() {
    let body = serde_json::to_value(open()).unwrap();
    for key in ["decommissioned_at", "cause", "order", "applied", "teardown", "series", "checkpoint"] {
        assert_eq!(body.get(key), Some(&Value::Null), "{key}");
    }
    assert_eq!(body["attempts"], Value::Array(vec![]));
}
