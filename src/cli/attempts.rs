//! `attempts`.

use std::collections::HashMap;
use std::time::Duration;

use super::arguments;
use super::console::Console;
use super::daemon::{Daemon, service_name, understand};
use super::stop::Stop;
use super::table::{Cell, Table};
use super::when;
use crate::api::body::{Attempt, Attempts, SCHEMA};
use crate::model::{ServiceName, Time};

/// Between two looks of `--follow`.
const PAUSE: Duration = Duration::from_secs(1);

/// How far `--follow` looks back each time: rows reach the store some seconds after their packets.
const MARGIN: chrono::TimeDelta = chrono::TimeDelta::seconds(60);

pub async fn run(
    daemon: &Daemon,
    wanted: &arguments::Attempts,
    now: Time,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let service = wanted.service.as_deref().map(service_name).transpose()?;
    let since = wanted.since.map(|since| since.at(now));
    if wanted.follow {
        return follow(daemon, service, since, console).await;
    }
    let body = daemon.get(&path(service.as_ref(), since)).await?;
    if console.json {
        return console.print(body);
    }
    let Attempts { attempts, .. } = understand(&body)?;
    let mut table = header();
    attempts.iter().for_each(|attempt| table.push(row(attempt)));
    console.print(table.take(console.colour))
}

/// Prints rows as they appear or grow, until a signal ends the process.
async fn follow(
    daemon: &Daemon,
    service: Option<ServiceName>,
    mut since: Option<Time>,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let mut seen = Seen::default();
    let mut table = header();
    loop {
        let Attempts { attempts, .. } = understand(&daemon.get(&path(service.as_ref(), since)).await?)?;
        let latest = attempts.iter().map(|attempt| attempt.last_seen - MARGIN).max();
        since = since.max(latest);
        print_news(seen.news(attempts), &mut table, console)?;
        tokio::time::sleep(PAUSE).await;
    }
}

fn print_news(news: Vec<Attempt>, table: &mut Table<11>, console: &mut Console<'_>) -> Result<(), Stop> {
    if console.json {
        if news.is_empty() {
            return Ok(());
        }
        let body = Attempts { schema: SCHEMA, attempts: news };
        console.print(serde_json::to_string(&body).map_err(|error| Stop::Failed(error.to_string()))?)?;
        return console.flush();
    }
    news.iter().for_each(|attempt| table.push(row(attempt)));
    let lines = table.take(console.colour);
    if !lines.is_empty() {
        console.print(lines)?;
    }
    console.flush()
}

/// The counts that were printed last.
#[derive(Debug, Default)]
struct Seen(HashMap<String, u64>);

impl Seen {
    /// Returns the rows that are new or have counted further.
    fn news(&mut self, attempts: Vec<Attempt>) -> Vec<Attempt> {
        let is_news =
            |attempt: &Attempt| self.0.insert(identity(attempt), attempt.count) != Some(attempt.count);
        attempts.into_iter().filter(is_news).collect()
    }
}

/// What makes a row that row: all that does not grow.
fn identity(attempt: &Attempt) -> String {
    let still =
        Attempt { count: 0, first_seen: Time::UNIX_EPOCH, last_seen: Time::UNIX_EPOCH, ..attempt.clone() };
    format!("{still:?}")
}

fn path(service: Option<&ServiceName>, since: Option<Time>) -> String {
    let service = service.map(|name| format!("service={name}"));
    // Printed in UTC: no plus that a query would turn into a blank.
    let since = since.map(|since| format!("since={}", when::print(since)));
    let query: Vec<String> = service.into_iter().chain(since).collect();
    match query.is_empty() {
        true => "/v1/attempts".to_owned(),
        false => format!("/v1/attempts?{}", query.join("&")),
    }
}

fn header() -> Table<11> {
    Table::new([
        "SERVICE",
        "DIRECTION",
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

fn row(attempt: &Attempt) -> [Cell; 11] {
    let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    // The port that the service is known by; the other one is ephemeral.
    let port = match attempt.direction.as_str() {
        "ingress" => attempt.local_port,
        _ => attempt.remote_port,
    };
    [
        attempt.service.as_deref().or(attempt.policy.as_deref()).unwrap_or("-").into(),
        (&attempt.direction).into(),
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
    use super::*;

    fn attempt(remote: &str, count: u64) -> Attempt {
        let body = serde_json::json!({
            "service": "stripe", "provider": "P", "policy": null, "direction": "egress", "reason": "closed",
            "verdict": "refused", "protocol": "tcp", "remote": remote, "remote_port": 443, "local": null,
            "local_port": null, "subject": null, "uid": 0, "pid": null, "exe": null, "also": [], "count": count,
            "first_seen": "2026-01-01T00:00:00Z", "last_seen": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn news_are_rows_that_are_new_or_have_counted_further() {
        let mut seen = Seen::default();
        let mut news = |rows: &[(&str, u64)]| {
            let rows = rows.iter().map(|(remote, count)| attempt(remote, *count)).collect();
            let news = seen.news(rows);
            news.iter().map(|row| (row.remote.to_string(), row.count)).collect::<Vec<_>>()
        };
        assert_eq!(news(&[("192.0.2.1", 1)]), [("192.0.2.1".to_owned(), 1)]);
        assert_eq!(news(&[("192.0.2.1", 1)]), []);
        assert_eq!(
            news(&[("192.0.2.1", 2), ("192.0.2.2", 1)]),
            [("192.0.2.1".to_owned(), 2), ("192.0.2.2".to_owned(), 1)]
        );
    }

    #[test]
    fn a_query_names_what_was_asked_for() {
        let name = ServiceName::new("stripe").unwrap();
        assert_eq!(path(None, None), "/v1/attempts");
        let since = Time::UNIX_EPOCH;
        assert_eq!(path(Some(&name), Some(since)), "/v1/attempts?service=stripe&since=1970-01-01T00:00:00Z");
    }
}
