//! `attempts`.

use std::time::Duration;

use super::arguments;
use super::console::Console;
use super::daemon::{Daemon, service_name, understand};
use super::stop::Stop;
use super::table::{Cell, Table, plain};
use super::when;
use crate::api::body::{Attempt, Attempts};
use crate::api::client::{ClientError, escaped};
use crate::model::Time;
use crate::store::MOST_ROWS;

/// Between two looks of `--follow`.
const PAUSE: Duration = Duration::from_secs(1);

pub async fn run(
    daemon: &Daemon,
    wanted: &arguments::Attempts,
    now: Time,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let narrowed = query(wanted, now)?;
    let body = daemon.get(&path(&narrowed, limit(wanted, console.json))).await?;
    let attempts: Attempts = understand(&body)?;
    let mut table = header();
    match console.json {
        true => console.print(body)?,
        false => {
            attempts.attempts.iter().for_each(|attempt| table.push(row(attempt)));
            console.print(table.take(console.colour))?;
        }
    }
    if attempts.truncated {
        console.note(format_args!(
            "picoseg: these are the latest {} rows; there are more: narrow them, for example by --since, or raise --limit",
            attempts.attempts.len()
        ));
    }
    match wanted.follow {
        true => follow(daemon, &narrowed, attempts.next, table, console).await,
        false => Ok(()),
    }
}

/// Prints rows as they appear or grow, until a signal ends the process. The store numbers what changes: nothing is
/// missed or told twice, however much changes between two looks.
async fn follow(
    daemon: &Daemon,
    narrowed: &[(&'static str, String)],
    mut after: u64,
    mut table: Table<12>,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let mut waits = false;
    loop {
        console.flush()?;
        match daemon.get(&path(narrowed, Some(("after", after)))).await {
            Ok(body) => {
                waits = false;
                let news: Attempts = understand(&body)?;
                let is_all = !news.truncated;
                // Smaller: another store, whose numbers begin anew.
                after = if news.next < after { 0 } else { news.next };
                print_news(&body, &news.attempts, &mut table, console)?;
                if is_all {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Err(error) => {
                if !waits {
                    note_wait(&error, console);
                }
                waits = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn note_wait(error: &ClientError, console: &mut Console<'_>) {
    console.note(format_args!("picoseg: {}; waiting", plain(&error.to_string())));
}

fn print_news(
    body: &str,
    news: &[Attempt],
    table: &mut Table<12>,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    if news.is_empty() {
        return Ok(());
    }
    if console.json {
        return console.print(body);
    }
    news.iter().for_each(|attempt| table.push(row(attempt)));
    console.print(table.take(console.colour))
}

/// A program adds rows up: it gets as many as there can be.
fn limit(wanted: &arguments::Attempts, json: bool) -> Option<(&'static str, u64)> {
    let limit = wanted.limit.or(json.then_some(MOST_ROWS));
    limit.map(|limit| ("limit", limit.into()))
}

/// What the rows have to be, as keys and values of a query.
fn query(wanted: &arguments::Attempts, now: Time) -> Result<Vec<(&'static str, String)>, Stop> {
    let service = wanted.service.as_deref().map(service_name).transpose()?;
    // Printed in UTC: no plus that a query would turn into a blank.
    let time = |at: Option<when::When>| at.map(|at| when::print(at.at(now)));
    let narrowed = [
        ("service", service.map(|name| name.to_string())),
        ("provider", wanted.provider.clone()),
        ("source", wanted.source.map(|source| source.to_string())),
        ("reason", wanted.reason.map(|reason| reason.to_string())),
        ("direction", wanted.direction.map(|direction| direction.to_string())),
        ("verdict", wanted.verdict.map(|verdict| verdict.as_str().to_owned())),
        ("since", time(wanted.since)),
        ("until", time(wanted.until)),
    ];
    Ok(narrowed.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

fn path(narrowed: &[(&'static str, String)], number: Option<(&'static str, u64)>) -> String {
    let narrowed = narrowed.iter().map(|(key, value)| format!("{key}={}", escaped(value)));
    let number = number.map(|(key, value)| format!("{key}={value}"));
    let query: Vec<String> = narrowed.chain(number).collect();
    match query.is_empty() {
        true => "/v1/attempts".to_owned(),
        false => format!("/v1/attempts?{}", query.join("&")),
    }
}

fn header() -> Table<12> {
    Table::new([
        "SERVICE",
        "DIRECTION",
        "VERDICT",
        "REASON",
        "REMOTE",
        "PORT",
        "PROTO",
        "UID",
        "COUNT",
        "FIRST",
        "LAST",
        "PROVIDER",
    ])
}

fn row(attempt: &Attempt) -> [Cell; 12] {
    let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    // The port that the service is known by; the other one is ephemeral.
    let port = match attempt.direction.as_str() {
        "ingress" => attempt.local_port,
        _ => attempt.remote_port,
    };
    [
        attempt.service.as_deref().or(attempt.policy.as_deref()).unwrap_or("-").into(),
        (&attempt.direction).into(),
        (&attempt.verdict).into(),
        (&attempt.reason).into(),
        (&attempt.remote).into(),
        number(port.map(u32::from)).into(),
        (&attempt.protocol).into(),
        number(attempt.uid).into(),
        attempt.count.into(),
        when::print(attempt.first_seen).into(),
        when::print(attempt.last_seen).into(),
        attempt.provider.as_deref().unwrap_or("-").into(),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::arguments::{Arguments, Command, Online};

    fn path_of(line: &[&str]) -> String {
        let arguments = Arguments::try_parse_from(["picoseg", "attempts"].iter().chain(line)).unwrap();
        let Command::Online(Online::Attempts(wanted)) = arguments.command else { panic!("attempts") };
        path(&query(&wanted, Time::UNIX_EPOCH).unwrap(), limit(&wanted, arguments.json))
    }

    #[test]
    fn a_query_names_what_was_asked_for() {
        assert_eq!(path_of(&[]), "/v1/attempts");
        assert_eq!(path_of(&["--json"]), "/v1/attempts?limit=10000");
        assert_eq!(
            path_of(&["--service", "stripe", "--since", "now", "--limit", "5"]),
            "/v1/attempts?service=stripe&since=1970-01-01T00:00:00Z&limit=5"
        );
        assert_eq!(
            path_of(&["--provider", "A & B", "--source", "192.0.2.9/24", "--reason", "expired"]),
            "/v1/attempts?provider=A%20%26%20B&source=192.0.2.0/24&reason=expired"
        );
    }

    #[test]
    fn a_wrong_word_is_a_usage_error() {
        for line in
            [["--reason", "gone"], ["--source", "stripe.com"], ["--limit", "0"], ["--direction", "in"]]
        {
            let parsed = Arguments::try_parse_from(["picoseg", "attempts"].iter().chain(&line));
            assert!(parsed.is_err(), "{line:?}");
        }
    }
}
