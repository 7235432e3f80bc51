//! Which rows of attempts to read. Reads are bounded: by a number of rows, page by page, and in time.

use std::fmt::Write as _;

use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::attempts::{Attempt, Verdict};
use super::error::Fault;
use super::{Store, StoreError, attempt_row, text};
use crate::model::{Direction, Reason, ServiceName, Sources, Time};

/// How many rows are read where nothing is said: some megabytes.
pub const ROWS: u32 = 10_000;

/// Which attempts to read; the default is the latest of all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttemptFilter {
    pub service: Option<ServiceName>,
    /// Upper and lower case are the same.
    pub provider: Option<String>,
    pub sources: Option<Sources>,
    pub direction: Option<Direction>,
    pub reason: Option<Reason>,
    pub verdict: Option<Verdict>,
    /// Last seen at this time or later.
    pub since: Option<Time>,
    /// First seen before this time.
    pub until: Option<Time>,
    /// What counted further behind this place, see [`Attempts::next`]; in the order in which it did.
    pub after: Option<u64>,
    /// How many rows at most; [`ROWS`] where it is left out.
    pub limit: Option<u32>,
}

/// Rows, and whether there are more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempts {
    /// The latest first; with [`AttemptFilter::after`] the earliest first.
    pub rows: Vec<Attempt>,
    /// There are more rows that fit.
    pub truncated: bool,
    /// Whatever counts further later stands behind this place.
    pub next: u64,
}

/// Rows of one turn through the database.
const PAGE: usize = 2_000;

impl Store {
    /// The rows that fit, as they are at one instant.
    pub async fn attempts(&self, filter: &AttemptFilter) -> Result<Attempts, StoreError> {
        self.in_query("read the attempts", async {
            let mut snapshot = self.snapshot_for(super::QUERY).await?;
            select(&mut snapshot, filter).await
        })
        .await
    }
}

async fn select(connection: &mut SqliteConnection, filter: &AttemptFilter) -> Result<Attempts, Fault> {
    let providers = providers(connection, filter).await?;
    let limit = usize::try_from(filter.limit.unwrap_or(ROWS)).unwrap_or(usize::MAX);
    let mut place = Place::beginning(filter);
    let mut rows = Vec::new();
    loop {
        let wanted = PAGE.min(limit.saturating_sub(rows.len()) + 1);
        let page = page(connection, filter, providers.as_deref(), &place, wanted).await?;
        for row in &page {
            let fits = filter
                .sources
                .is_none_or(|sources| attempt_row::remote(row).is_ok_and(|remote| sources.contains(remote)));
            if fits && rows.len() == limit {
                return Ok(Attempts { rows, truncated: true, next: place.next(connection, filter).await? });
            }
            place = Place::of(row, filter)?;
            if fits {
                rows.push(attempt_row::read(row)?);
            }
        }
        if page.len() < wanted {
            return Ok(Attempts { rows, truncated: false, next: latest(connection).await? });
        }
    }
}

/// Up to which row was read.
enum Place {
    Beginning,
    /// The order is that of changes.
    Changed(i64),
    /// The order is that of the latest times.
    Seen {
        last_seen: String,
        identity: Vec<u8>,
    },
}

impl Place {
    fn beginning(filter: &AttemptFilter) -> Self {
        match filter.after {
            Some(after) => Self::Changed(text::from_count(after)),
            None => Self::Beginning,
        }
    }

    fn of(row: &SqliteRow, filter: &AttemptFilter) -> Result<Self, Fault> {
        Ok(match filter.after {
            Some(_) => Self::Changed(row.try_get("changed")?),
            None => Self::Seen { last_seen: row.try_get("last_seen")?, identity: row.try_get("identity")? },
        })
    }

    /// Where to go on: behind the rows that were read, or behind all of them where the rest is not wanted.
    async fn next(&self, connection: &mut SqliteConnection, filter: &AttemptFilter) -> Result<u64, Fault> {
        match self {
            Self::Changed(changed) if filter.after.is_some() => text::to_count(*changed),
            Self::Beginning | Self::Changed(_) | Self::Seen { .. } => latest(connection).await,
        }
    }
}

async fn latest(connection: &mut SqliteConnection) -> Result<u64, Fault> {
    let latest: i64 =
        sqlx::query_scalar("SELECT latest FROM attempt_changes WHERE id = 1").fetch_one(connection).await?;
    text::to_count(latest)
}

/// The ways in which rows write the provider that is asked for.
async fn providers(
    connection: &mut SqliteConnection,
    filter: &AttemptFilter,
) -> Result<Option<String>, Fault> {
    let Some(wanted) = &filter.provider else { return Ok(None) };
    let wanted = wanted.to_lowercase();
    let sql =
        "SELECT DISTINCT provider FROM attempts WHERE provider IS NOT NULL AND (?1 IS NULL OR service = ?1)";
    let service = filter.service.as_ref().map(ServiceName::as_str);
    let known: Vec<String> = sqlx::query_scalar(sql).bind(service).fetch_all(connection).await?;
    let same: Vec<_> = known.into_iter().filter(|known| known.to_lowercase() == wanted).collect();
    Ok(Some(json!(same).to_string()))
}

async fn page(
    connection: &mut SqliteConnection,
    filter: &AttemptFilter,
    providers: Option<&str>,
    place: &Place,
    limit: usize,
) -> Result<Vec<SqliteRow>, Fault> {
    let (changed, last_seen, identity) = match place {
        Place::Beginning => (None, None, None),
        Place::Changed(changed) => (Some(*changed), None, None),
        Place::Seen { last_seen, identity } => (None, Some(last_seen.as_str()), Some(identity.as_slice())),
    };
    let sql = sql(filter, place);
    let rows = sqlx::query(&sql)
        .bind(filter.service.as_ref().map(ServiceName::as_str))
        .bind(providers)
        .bind(remote(filter))
        .bind(filter.direction.map(Direction::as_str))
        .bind(filter.reason.map(Reason::as_str))
        .bind(filter.verdict.map(Verdict::as_str))
        .bind(filter.since.map(text::from_time))
        .bind(filter.until.map(text::from_time))
        .bind(changed)
        .bind(last_seen)
        .bind(identity)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

/// Which remote to look up: a single one. Prefixes are looked at row by row, since SQLite knows no addresses.
fn remote(filter: &AttemptFilter) -> Option<String> {
    match filter.sources? {
        sources @ Sources::Other => Some(sources.to_string()),
        sources @ Sources::Within(_) => sources.single().map(|address| address.to_string()),
    }
}

/// Only what is asked for stands in the statement, and the index is named: without statistics SQLite would guess.
fn sql(filter: &AttemptFilter, place: &Place) -> String {
    let remote = remote(filter).is_some();
    let (index, order) = match (filter.after.is_some(), remote, filter.service.is_some()) {
        (true, _, _) => ("attempts_changed", "changed"),
        (false, true, _) => ("attempts_remote", "last_seen DESC, identity DESC"),
        (false, false, true) => ("attempts_service", "last_seen DESC, identity DESC"),
        (false, false, false) => ("attempts_last_seen", "last_seen DESC, identity DESC"),
    };
    let conditions = [
        (filter.service.is_some(), "service = ?1"),
        (filter.provider.is_some(), "provider IN (SELECT value FROM json_each(?2))"),
        (remote, "remote = ?3"),
        (filter.direction.is_some(), "direction = ?4"),
        (filter.reason.is_some(), "reason = ?5"),
        (filter.verdict.is_some(), "verdict = ?6"),
        (filter.since.is_some(), "last_seen >= ?7"),
        (filter.until.is_some(), "first_seen < ?8"),
        (matches!(place, Place::Changed(_)), "changed > 0 AND changed > ?9"),
        (matches!(place, Place::Seen { .. }), "(last_seen, identity) < (?10, ?11)"),
    ];
    let mut sql = format!("SELECT * FROM attempts INDEXED BY {index} WHERE true");
    for (_, condition) in conditions.iter().filter(|(wanted, _)| *wanted) {
        // Writing to a String does not fail.
        let _ = write!(sql, " AND {condition}");
    }
    let _ = write!(sql, " ORDER BY {order} LIMIT ?12");
    sql
}
