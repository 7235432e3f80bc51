//! `audit show`: entries of the ledger, or what was in force at an instant.

use super::super::arguments::{Arguments, AuditShow, ReviewFormat};
use super::super::console::Console;
use super::super::daemon::{Daemon, service_name, understand};
use super::super::stop::Stop;
use super::super::table::{Cell, Table};
use super::super::when;
use super::{review, words};
use crate::api::audit::{self, MOST, Question};
use crate::api::body::Audit;
use crate::api::client::ClientError;
use crate::files;
use crate::kernel::clock;
use crate::model::ServiceName;
use crate::store::FILE;
use crate::store::offline::Ledger;

/// Entries that are shown when nobody says how many.
const SHOWN: u32 = 1_000;

pub async fn run(wanted: &AuditShow, arguments: &Arguments, console: &mut Console<'_>) -> Result<(), Stop> {
    let now = clock::now();
    let question = Question {
        at: wanted.at.map(|at| at.at(now)),
        since: wanted.since.map(|since| since.at(now)),
        service: wanted.service.as_deref().map(service_name).transpose()?,
        // All since then, page by page, or the last ones.
        after: wanted.since.filter(|_| wanted.limit.is_none()).map(|_| 0),
        limit: wanted.limit.unwrap_or(SHOWN).min(MOST),
    };
    let audit = all(arguments, question, console).await?;
    if console.json {
        return console
            .print(serde_json::to_string(&audit).map_err(|error| Stop::Failed(error.to_string()))?);
    }
    match (&audit.services, wanted.format.unwrap_or(ReviewFormat::Text)) {
        (Some(services), ReviewFormat::Csv) => console.print(review::csv(services)?),
        (Some(_), ReviewFormat::Text) => console.print(review::text(&audit, console.colour)),
        (None, ReviewFormat::Text | ReviewFormat::Csv) => entries(&audit, console),
    }
}

fn entries(audit: &Audit, console: &mut Console<'_>) -> Result<(), Stop> {
    if audit.earlier {
        let shown = audit.entries.len();
        console.note(format_args!(
            "these are the last {shown}; --limit shows more, up to {MOST}, and `audit export` all"
        ));
    }
    let mut table = Table::new(["TIME", "KIND", "SERVICE", "ACTOR", "WHAT"]);
    for entry in &audit.entries {
        let what = words::of(entry);
        table.push([
            entry.at.parse().map_or_else(|_| Cell::from(&entry.at), |at| Cell::from(when::print_seconds(at))),
            Cell::from(&entry.kind),
            Cell::from(entry.service.as_deref().unwrap_or("-")),
            Cell::from(&entry.actor),
            Cell::from(what),
        ]);
    }
    console.print(table.take(console.colour))
}

/// Every page that the question is about, as one. Where no daemon answers its database does, which stderr says.
async fn all(
    arguments: &Arguments,
    mut question: Question,
    console: &mut Console<'_>,
) -> Result<Audit, Stop> {
    let mut source = Source::Daemon(Daemon::choose(arguments)?);
    let mut all = match source.page(&question).await {
        Err(absent @ Stop::Daemon(ClientError::Absent { .. })) => {
            let read = files::read_settings(&arguments.settings());
            let settings = files::settings_of(read.as_ref()).unwrap_or_default();
            let path = settings.paths.state.join(FILE);
            let Ok(ledger) = Ledger::open(&path).await else { return Err(absent) };
            console.note(format_args!("picoseg: no daemon answers; read from {}", path.display()));
            source = Source::File(ledger);
            source.page(&question).await?
        }
        answered => answered?,
    };
    while let Some(after) = all.next_after {
        question.after = Some(after);
        let page = source.page(&question).await?;
        all.next_after = page.next_after;
        all.entries.extend(page.entries);
    }
    Ok(all)
}

/// Whom to ask.
enum Source {
    Daemon(Daemon),
    /// No daemon answers: its database.
    File(Ledger),
}

impl Source {
    async fn page(&mut self, question: &Question) -> Result<Audit, Stop> {
        match self {
            Self::Daemon(daemon) => understand(&daemon.get(&path(question)).await?),
            Self::File(ledger) => {
                let answer = audit::answer(audit::Source::File(&mut *ledger), question).await;
                if ledger.was_disturbed() {
                    return Err(Stop::Failed(
                        "a daemon has opened the database meanwhile: ask again".to_owned(),
                    ));
                }
                answer.map_err(|error| Stop::Failed(error.to_string()))
            }
        }
    }
}

fn path(question: &Question) -> String {
    let Question { at, since, service, after, limit } = question;
    // Times are printed in UTC: no plus that a query would turn into a blank.
    let parts = [
        at.map(|at| format!("at={}", when::print(at))),
        since.map(|since| format!("since={}", when::print(since))),
        service.as_ref().map(|service: &ServiceName| format!("service={service}")),
        after.map(|after| format!("after={after}")),
        Some(format!("limit={limit}")),
    ];
    format!("/v1/audit?{}", parts.into_iter().flatten().collect::<Vec<_>>().join("&"))
}
