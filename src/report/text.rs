//! For a terminal: 80 columns.

use super::words::{self, brief, counted, number, spoken};
use super::{Attempt, Ledger, Report};
use crate::escape::plain;

/// How wide a line may be.
const WIDTH: usize = 80;

/// How many rows of a list are shown; the other formats have all.
const ROWS: usize = 20;

/// The report as text, with a line break at its end.
pub fn render(report: &Report) -> String {
    let mut page = Page::default();
    page.title(&format!("Decommission report: {}", report.service));
    page.paragraph(&words::summary(report, escape));
    facts(report, &mut page);
    if report.decommissioned_at.is_some() {
        cut(report, &mut page);
        attempts(report, &mut page);
    }
    ledger(&report.ledger, &mut page);
    checking(report, &mut page);
    page.blank();
    page.paragraph(&format!(
        "Host {}, picoseg {}, {} UTC. All times are UTC.",
        report.host,
        report.picoseg_version,
        brief(report.generated_at)
    ));
    page.text
}

fn escape(text: &str) -> String {
    plain(text).into_owned()
}

fn facts(report: &Report, page: &mut Page) {
    page.heading("Decision");
    page.fact("provider", &report.provider);
    page.fact("owner", &report.owner);
    page.fact("purpose", report.description.as_deref().unwrap_or("-"));
    page.fact("ticket", report.ticket.as_deref().unwrap_or("-"));
    page.fact("compliance", &none_as_dash(&report.compliance.join(", ")));
    page.fact("state now", &report.state);
    page.fact("mode", &report.mode);
    page.fact("began", &spoken(report.commissioned_at));
    page.fact("planned end", &spoken(report.planned_end));
    if let Some(ended) = report.decommissioned_at {
        page.fact("ended", &spoken(ended));
        page.fact("because", words::cause(report));
        page.fact("watched", &words::watched(report));
    }
    if let Some(order) = &report.order {
        page.fact("ordered by", &order.by);
        page.fact("reason", &order.reason);
    }
    if let Some(applied) = &report.applied {
        page.fact("loaded by", &words::applied(applied, escape));
    }
    if !report.recorded {
        page.fact("note", "something waits for the store and is not in the ledger yet");
    }
}

fn none_as_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn cut(report: &Report, page: &mut Page) {
    page.heading("What was cut");
    let Some(teardown) = &report.teardown else {
        return page.paragraph("Nothing is on record.");
    };
    page.fact("cut", &counted(teardown.sockets_closed, "connection", "connections"));
    page.fact("removed", &counted(teardown.flows_removed, "tracked flow", "tracked flows"));
    page.fact("proven", &words::proven(report, teardown));
    match teardown.residue.as_slice() {
        [] => page.fact("left", "nothing"),
        left => left.iter().for_each(|left| page.fact("left", left)),
    }
    page.fact("in flight", &words::at_close(teardown));
}

fn attempts(report: &Report, page: &mut Page) {
    page.heading("Attempts since");
    let total = counted(report.attempts_total, "packet", "packets");
    let sources = counted(report.sources_total, "address", "addresses");
    page.fact("total", &format!("{total}, {sources}"));
    if report.attempts.is_empty() {
        return;
    }
    page.blank();
    page.line(&format!("{:REMOTE$}{:16} {:>15}  LAST (UTC)", "REMOTE", "DIRECTION", "PACKETS"));
    for attempt in report.attempts.iter().take(ROWS) {
        row(attempt).iter().for_each(|line| page.line(line));
    }
    page.left_out(report.attempts.len());
}

/// How wide the addresses are.
const REMOTE: usize = 24;

/// One line; an address that is too long for its column has one of its own before it.
fn row(attempt: &Attempt) -> Vec<String> {
    let (direction, count) = (words::direction(&attempt.direction), number(attempt.count));
    let rest = format!("{direction:16} {count:>15}  {}", brief(attempt.last_seen));
    let remote = words::remote(attempt);
    match plain(&remote) {
        remote if remote.chars().count() < REMOTE => vec![format!("{remote:REMOTE$}{rest}")],
        remote => wrap(&remote, WIDTH).into_iter().chain([format!("{:REMOTE$}{rest}", "")]).collect(),
    }
}

fn ledger(ledger: &Ledger, page: &mut Page) {
    page.heading("On record");
    page.fact("entries", &number(ledger.entries_total));
    if let (Some(first), Some(last)) = (ledger.first_seq, ledger.last_seq) {
        page.fact("from, to", &format!("{first}, {last}"));
    }
    page.fact("head", &format!("{} {}", ledger.head_seq, ledger.head_hash));
    page.blank();
    let newest = ledger.entries.iter().rev().take(ROWS);
    for entry in newest.collect::<Vec<_>>().into_iter().rev() {
        let hash: String = entry.hash.chars().take(16).collect();
        let kind: String = plain(&entry.kind).chars().take(32).collect();
        page.line(&format!(
            "{:>6}  {}  {}  {kind}",
            entry.seq,
            words::to_the_second(&entry.at),
            plain(&hash)
        ));
    }
    page.left_out(ledger.entries.len());
}

fn checking(report: &Report, page: &mut Page) {
    page.heading("How to check it");
    for (command, says) in words::verification(report) {
        page.line(&format!("$ {command}"));
        page.indented(&says);
    }
    page.blank();
    page.paragraph(words::LIMITS);
}

/// Lines below each other.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(plain(line).trim_end());
        self.text.push('\n');
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }

    fn title(&mut self, title: &str) {
        self.line(title);
        self.line(&"=".repeat(title.chars().count().min(WIDTH)));
        self.blank();
    }

    fn heading(&mut self, heading: &str) {
        self.blank();
        self.line(heading);
        self.line(&"-".repeat(heading.chars().count()));
    }

    fn paragraph(&mut self, text: &str) {
        wrap(&plain(text), WIDTH).iter().for_each(|line| self.line(line));
    }

    fn indented(&mut self, text: &str) {
        wrap(&plain(text), WIDTH - 2).iter().for_each(|line| self.line(&format!("  {line}")));
    }

    fn fact(&mut self, key: &str, value: &str) {
        let mut key = key;
        for line in wrap(&plain(value), WIDTH - 14) {
            self.line(&format!("{key:14}{line}"));
            key = "";
        }
    }

    fn left_out(&mut self, rows: usize) {
        if rows > ROWS {
            self.line(&format!("({} more: --format json, markdown and html have them)", rows - ROWS));
        }
    }
}

/// Lines of at most `width` characters; a word that is longer is broken.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        while let Some(line) = lines.last_mut() {
            let used = line.chars().count();
            let gap = usize::from(used > 0);
            if used + gap + word.len() <= width {
                if gap > 0 {
                    line.push(' ');
                }
                line.extend(&word);
                break;
            }
            if used > 0 {
                lines.push(String::new());
            } else {
                line.extend(word.drain(..width));
                lines.push(String::new());
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_inside_those_that_are_too_long() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrap("", 4), [""]);
    }
}
