//! The tables of the page. Each is short whatever there is, and says how much more there would be.

use std::fmt::{self, Write};

use chrono::TimeDelta;

use super::html::{Count, Text, When};
use crate::metrics::facts::{Facts, Service};
use crate::model::{Direction, Reason, ServiceState, Time};
use crate::store::LatestAttempt;

/// Rows of a table.
const ROWS: usize = 20;

/// From what may pass to what is over.
const ORDER: [ServiceState; ServiceState::ALL.len()] = [
    ServiceState::Open,
    ServiceState::Closed,
    ServiceState::Pending,
    ServiceState::Unapproved,
    ServiceState::Suspended,
    ServiceState::Decommissioned,
];

/// What ends this soon is listed.
const SOON: TimeDelta = TimeDelta::days(7);

pub fn write(page: &mut String, facts: &Facts) -> fmt::Result {
    states(page, facts)?;
    ending(page, facts)?;
    next(page, facts)?;
    late(page, facts)?;
    refused(page, facts)
}

fn states(page: &mut String, facts: &Facts) -> fmt::Result {
    begin(page, "services", "Services")?;
    let counts = ORDER.map(|state| (state, facts.count(state)));
    bar(page, &counts, facts.services.len())?;
    page.push_str("<dl class=\"states\">\n");
    for (state, count) in counts {
        let count = Count(count as u64);
        writeln!(page, "<div><dt><span class=\"dot {state}\"></span>{state}</dt><dd>{count}</dd></div>")?;
    }
    page.push_str("</dl>\n");
    end(page)
}

/// The states as shares of one line; the numbers stand below.
fn bar(page: &mut String, counts: &[(ServiceState, usize)], all: usize) -> fmt::Result {
    if all == 0 {
        page.push_str("<p>There are no services.</p>\n");
        return Ok(());
    }
    page.push_str(
        "<svg class=\"bar\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">",
    );
    let mut from = 0;
    for (state, count) in counts {
        let (left, right) = (from * 1000 / all, (from + count) * 1000 / all);
        from += count;
        if right > left {
            let width = right - left;
            write!(page, "<rect class=\"{state}\" x=\"{left}\" width=\"{width}\" height=\"10\"/>")?;
        }
    }
    page.push_str("</svg>\n");
    Ok(())
}

fn ending(page: &mut String, facts: &Facts) -> fmt::Result {
    begin(page, "ending", "To be decommissioned within 7 days")?;
    let soon = |service: &&Service| {
        service.state != ServiceState::Decommissioned && service.decommission <= facts.now + SOON
    };
    let mut ending: Vec<&Service> = facts.services.iter().filter(soon).collect();
    ending.sort_by_key(|service| service.decommission);
    let cells = |service: &&Service| {
        let at = When { at: service.decommission, now: facts.now };
        [at.to_string(), name(service), provider(service), service.state.to_string()]
    };
    table(page, ["When", "Service", "Provider", "Now"], &ending, cells, "Nothing ends within 7 days.")?;
    end(page)
}

fn next(page: &mut String, facts: &Facts) -> fmt::Result {
    begin(page, "next", "Next transitions")?;
    let all = facts.services.iter().filter_map(|service| Some((coming(service)?, service)));
    let mut coming: Vec<((Time, ServiceState), &Service)> = all.collect();
    coming.sort_by_key(|((at, _), _)| *at);
    let cells = |((at, to), service): &((Time, ServiceState), &Service)| {
        let at = When { at: *at, now: facts.now };
        [at.to_string(), name(service), provider(service), format!("{} → {to}", service.state)]
    };
    let none = "Time changes no service's state.";
    table(page, ["When", "Service", "Provider", "Change"], &coming, cells, none)?;
    end(page)
}

/// When and into what time will change the state of a service.
fn coming(service: &Service) -> Option<(Time, ServiceState)> {
    if service.state == ServiceState::Decommissioned {
        return None;
    }
    let opens = service.opens_at.map(|at| (at, ServiceState::Open));
    let closes = service.closes_at.map(|at| (at, ServiceState::Closed));
    let ends = (service.decommission, ServiceState::Decommissioned);
    // The decommission first: it wins where the opening ends with the lifetime.
    [Some(ends), opens, closes].into_iter().flatten().min_by_key(|(at, _)| *at)
}

fn late(page: &mut String, facts: &Facts) -> fmt::Result {
    begin(page, "late", "Latest attempts after decommission")?;
    match &facts.late {
        None => page.push_str("<p>The store cannot be asked.</p>\n"),
        Some(late) => {
            let cells = |late: &LatestAttempt| {
                let at = When { at: late.last_seen, now: facts.now }.to_string();
                let provider = Text(late.provider.as_deref().unwrap_or_default()).to_string();
                let (service, remote) = (code(late.service.as_str()), code(&late.remote.to_string()));
                [at, service, provider, remote, word(late.direction).to_owned(), number(late.count)]
            };
            let columns = ["Last seen", "Service", "Provider", "Address", "Direction", "Packets"];
            table(page, columns, late, cells, "Nobody came back after a decommission.")?;
        }
    }
    end(page)
}

fn refused(page: &mut String, facts: &Facts) -> fmt::Result {
    begin(page, "refused", "Refused packets by reason")?;
    match facts.attempts {
        None => page.push_str("<p>The store cannot be asked.</p>\n"),
        Some(_) => {
            let count = |direction, reason| facts.refused(direction, reason).unwrap_or(0);
            let any = |reason: &Reason| Direction::ALL.iter().any(|direction| count(*direction, *reason) > 0);
            let reasons: Vec<Reason> = Reason::ALL.into_iter().filter(any).collect();
            let cells = |reason: &Reason| {
                let [out, inside] =
                    [Direction::Egress, Direction::Ingress].map(|d| number(count(d, *reason)));
                [reason.to_string(), out, inside]
            };
            table(page, ["Reason", "Outbound", "Inbound"], &reasons, cells, "Nothing was refused yet.")?;
        }
    }
    let [lost, overrun] = [facts.lost_details, facts.details_overrun].map(Count);
    writeln!(
        page,
        "<p class=\"fine\">Counts are exact. Since the start {lost} packets had no detailed record; {overrun} records were lost on their way.</p>"
    )?;
    end(page)
}

fn begin(page: &mut String, id: &str, title: &str) -> fmt::Result {
    writeln!(page, "<section id=\"{id}\" aria-labelledby=\"h-{id}\">\n<h2 id=\"h-{id}\">{title}</h2>")
}

fn end(page: &mut String) -> fmt::Result {
    page.push_str("</section>\n");
    Ok(())
}

fn name(service: &Service) -> String {
    code(service.name.as_str())
}

fn provider(service: &Service) -> String {
    Text(&service.provider).to_string()
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", Text(text))
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "outbound",
        Direction::Ingress => "inbound",
    }
}

fn number(count: u64) -> String {
    format!("<span class=\"number\">{}</span>", Count(count))
}

/// The first rows of what there is, each by its cells, which are HTML.
fn table<T, const N: usize>(
    page: &mut String,
    columns: [&str; N],
    all: &[T],
    cells: impl Fn(&T) -> [String; N],
    none: &str,
) -> fmt::Result {
    if all.is_empty() {
        return writeln!(page, "<p>{none}</p>");
    }
    page.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    for column in columns {
        write!(page, "<th scope=\"col\">{column}</th>")?;
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in all.iter().take(ROWS) {
        page.push_str("<tr>");
        for cell in cells(row) {
            write!(page, "<td>{cell}</td>")?;
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
    match all.len().checked_sub(ROWS) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(page, "<p class=\"fine\">{} more</p>", Count(more as u64)),
    }
}
