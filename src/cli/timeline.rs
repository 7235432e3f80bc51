//! `timeline`: the openings in a span of time, from the files.

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::arguments::{self, Arguments};
use super::console::Console;
use super::daemon::service_name;
use super::stop::Stop;
use super::table::Table;
use super::when::{self, When};
use crate::api::body::{Opening, SCHEMA, Timeline};
use crate::config::Loaded;
use crate::files::{self, SettingsFile};
use crate::model::{FileState, Service, Span, Time};
use crate::schedule;

/// How long the span is unless somebody says otherwise.
const SPAN: chrono::TimeDelta = chrono::TimeDelta::days(7);

/// The schedule is asked for so much at once, so that a window of seconds in a span of decades does not fill the memory
/// before it is noticed.
const STEP: chrono::TimeDelta = chrono::TimeDelta::days(31);

/// The most openings that are printed.
const MAX_OPENINGS: usize = 1_000_000;

pub fn run(
    settings: &SettingsFile,
    wanted: &arguments::Timeline,
    now: Time,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let span = span(wanted, now)?;
    let loaded = files::load(settings).map_err(Stop::Invalid)?;
    console.warn(&loaded.warnings);
    let services = chosen(&loaded, wanted.name.as_deref())?;
    remarks(&loaded, &services, console);
    print(timeline(&services, span)?, console)
}

/// `[from, to)` as wanted.
fn span(wanted: &arguments::Timeline, now: Time) -> Result<Span, Stop> {
    let from = wanted.from.at(now);
    let seven_days_later = from.checked_add_signed(SPAN).unwrap_or(Time::MAX_UTC);
    let to = wanted.to.map_or(seven_days_later, |to: When| to.at(now));
    Span::new(from, to).map_err(|_| {
        let text = format!("--to ({}) is not after --from ({})", when::print(to), when::print(from));
        Stop::Usage(Arguments::command().error(ErrorKind::ValueValidation, text))
    })
}

fn chosen<'l>(loaded: &'l Loaded, name: Option<&str>) -> Result<Vec<&'l Service>, Stop> {
    let Some(name) = name else { return Ok(loaded.services.values().map(|service| &**service).collect()) };
    let unknown = || Stop::Failed(format!("no file describes a service {name:?}"));
    let service = loaded.services.get(&service_name(name)?).ok_or_else(unknown)?;
    Ok(vec![service])
}

/// Says why a service that has windows opens never.
fn remarks(loaded: &Loaded, services: &[&Service], console: &mut Console<'_>) {
    if !loaded.settings.approval.required.is_empty() {
        console
            .note("picoseg: approvals are required: nothing opens without them, whatever the schedules say");
    }
    for service in services {
        let state = match service.state {
            FileState::Commissioned => continue,
            FileState::Suspended => "suspended",
            FileState::Decommissioned => "decommissioned",
        };
        console.note(format_args!("picoseg: {} is {state} by its file: it does not open", service.name));
    }
}

fn timeline(services: &[&Service], span: Span) -> Result<Vec<Opening>, Stop> {
    let mut openings = Vec::new();
    for service in services {
        let name = service.name.to_string();
        let spans = openings_of(service, span)?;
        let opening = |one: Span| Opening {
            service: name.clone(),
            opens_at: one.opens_at(),
            closes_at: one.closes_at(),
        };
        openings.extend(spans.into_iter().map(opening));
        if openings.len() > MAX_OPENINGS {
            return Err(too_many());
        }
    }
    openings.sort_by(|a, b| (a.opens_at, &a.service).cmp(&(b.opens_at, &b.service)));
    Ok(openings)
}

/// The openings of a service in a span, cut off at its ends.
fn openings_of(service: &Service, span: Span) -> Result<Vec<Span>, Stop> {
    let mut found: Vec<Span> = Vec::new();
    let Some(bounds) = span.clip(service.lifetime).filter(|_| opens_at_all(service)) else {
        return Ok(found);
    };
    let mut from = bounds.opens_at();
    while from < bounds.closes_at() {
        let to = from.checked_add_signed(STEP).map_or(bounds.closes_at(), |to| to.min(bounds.closes_at()));
        let next = schedule::openings(service, None, from, to);
        let reached = next.last().map_or(to, |last| last.closes_at().max(to));
        found.extend(next.into_iter().filter_map(|opening| opening.clip(bounds)));
        if found.len() > MAX_OPENINGS {
            return Err(too_many());
        }
        from = reached;
    }
    Ok(found)
}

fn opens_at_all(service: &Service) -> bool {
    match service.state {
        FileState::Commissioned => true,
        FileState::Suspended | FileState::Decommissioned => false,
    }
}

fn too_many() -> Stop {
    Stop::Failed(format!(
        "there are more than {MAX_OPENINGS} openings: ask for a shorter span or for one service"
    ))
}

fn print(openings: Vec<Opening>, console: &mut Console<'_>) -> Result<(), Stop> {
    if console.json {
        let body = Timeline { schema: SCHEMA, openings };
        return console.print(serde_json::to_string(&body).map_err(|error| Stop::Failed(error.to_string()))?);
    }
    let mut table = Table::new(["SERVICE", "OPENS", "CLOSES"]);
    for opening in openings {
        table.push([
            opening.service.into(),
            when::print(opening.opens_at).into(),
            when::print(opening.closes_at).into(),
        ]);
    }
    console.print(table.take(console.colour))
}
