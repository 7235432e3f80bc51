//! Reading the ledger back: pages of it, and the entries that tell what was in force at an instant.
//!
//! Deliberately absent: what they mean, which [`history`](crate::history) knows.

use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::error::Fault;
use super::ledger::{LedgerRow, ledger_row};
use super::{Store, StoreError, text};
use crate::model::{ServiceName, Time};

/// Entries that are read at once.
const BATCH: usize = 128;

/// The most bytes of detail in one page: a page ends before the entry that would be beyond, but has one entry at least.
const PAGE: usize = 16 << 20;

const DEFINING: &str = "kind IN ('config.applied', 'daemon.started')";

const TELLING: &str = "kind IN ('service.commissioned', 'service.suspended', 'service.resumed', 'service.decommissioned', \
                       'window.opened', 'window.closed', 'watch.ended')";

/// Which entries to show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageFilter {
    /// At this time or later.
    pub since: Option<Time>,
    /// Those about this service, and those about files that name it.
    pub service: Option<ServiceName>,
    /// The first ones above this number; `None`: the last ones.
    pub after: Option<u64>,
    /// None above this number.
    pub through: Option<u64>,
    /// How many at most.
    pub limit: u32,
}

/// Some entries in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    pub rows: Vec<LedgerRow>,
    /// There are more, behind the last one where the first ones were asked for, else before the first one.
    pub more: bool,
}

impl Store {
    /// Returns a page of the ledger.
    pub async fn page(&self, filter: &PageFilter) -> Result<Page, StoreError> {
        self.in_bulk("read the ledger", async {
            let mut connection = self.reader().await?;
            page(&mut connection, filter).await
        })
        .await
    }

    /// Hands on, in the order of their numbers, the entries that tell what was in force at an instant, or is at the end; returns
    /// the number of the last entry that counts then. An entry counts from the latest time that stands in it or in any
    /// entry before it.
    pub async fn past(&self, at: Option<Time>, each: impl FnMut(&LedgerRow)) -> Result<u64, StoreError> {
        self.in_bulk("read what was in force", async {
            let mut snapshot = self.snapshot().await?;
            past(&mut snapshot, at, each).await
        })
        .await
    }
}

/// See [`Store::past`].
pub(super) async fn past(
    connection: &mut SqliteConnection,
    at: Option<Time>,
    mut each: impl FnMut(&LedgerRow),
) -> Result<u64, Fault> {
    let through = last(connection, at).await?;
    for batch in telling(connection, through).await?.chunks(BATCH) {
        rows(connection, batch).await?.iter().for_each(&mut each);
    }
    Ok(through)
}

async fn last(connection: &mut SqliteConnection, at: Option<Time>) -> Result<u64, Fault> {
    let row = sqlx::query(
        "SELECT coalesce((SELECT min(seq) - 1 FROM ledger WHERE at > ?1), (SELECT max(seq) FROM ledger), 0) AS seq",
    )
    // Without an instant nothing is later.
    .bind(at.map(text::from_time))
    .fetch_one(connection)
    .await?;
    text::to_count(row.try_get("seq")?)
}

/// The numbers of all entries about files, of the last one about each service and of the last one with a digest:
/// those about files all have one.
async fn telling(connection: &mut SqliteConnection, through: u64) -> Result<Vec<u64>, Fault> {
    let query = format!(
        "SELECT seq FROM ledger WHERE {DEFINING} AND seq <= ?1
         UNION SELECT max(seq) FROM ledger WHERE {TELLING} AND seq <= ?1 GROUP BY service
         UNION SELECT max(seq) FROM ledger WHERE seq <= ?1 AND instr(detail, '\"ruleset_digest\":') > 0
           AND seq > coalesce((SELECT max(seq) FROM ledger WHERE {DEFINING} AND seq <= ?1), 0)
         ORDER BY 1"
    );
    let found = sqlx::query(&query).bind(text::from_count(through)).fetch_all(connection).await?;
    let seqs = found.iter().filter_map(|row| row.try_get::<Option<i64>, _>(0).transpose());
    seqs.map(|seq| text::to_count(seq?)).collect()
}

async fn rows(connection: &mut SqliteConnection, seqs: &[u64]) -> Result<Vec<LedgerRow>, Fault> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM ledger WHERE seq IN (");
    let mut numbers = query.separated(", ");
    for seq in seqs {
        numbers.push_bind(text::from_count(*seq));
    }
    query.push(") ORDER BY seq");
    query.build().fetch_all(connection).await?.iter().map(ledger_row).collect()
}

/// See [`Store::page`].
pub(super) async fn page(connection: &mut SqliteConnection, filter: &PageFilter) -> Result<Page, Fault> {
    let backwards = filter.after.is_none();
    let mut page = Page::default();
    let (mut bytes, mut place) = (0, filter.after.unwrap_or(u64::MAX));
    loop {
        let found = step(connection, filter, place).await?;
        let ended = found.is_empty();
        for row in found {
            bytes += row.detail.as_str().len();
            page.more = page.rows.len() >= filter.limit as usize || (bytes > PAGE && !page.rows.is_empty());
            if page.more {
                break;
            }
            place = row.seq;
            page.rows.push(row);
        }
        if ended || page.more {
            break;
        }
    }
    if backwards {
        page.rows.reverse();
    }
    Ok(page)
}

/// The next entries from a place on, in either direction.
async fn step(
    connection: &mut SqliteConnection,
    filter: &PageFilter,
    place: u64,
) -> Result<Vec<LedgerRow>, Fault> {
    let (than, order) = if filter.after.is_some() { (">", "ASC") } else { ("<", "DESC") };
    let names = filter.service.as_ref().map(|name| format!("\"name\":\"{name}\""));
    let query = format!(
        "SELECT * FROM ledger
         WHERE seq {than} ?1 AND (?2 IS NULL OR at >= ?2) AND (?3 IS NULL OR seq <= ?3)
           AND (?4 IS NULL OR service = ?4 OR ({DEFINING} AND instr(detail, ?5) > 0))
         ORDER BY seq {order} LIMIT ?6"
    );
    let rows = sqlx::query(&query)
        .bind(text::from_count(place))
        .bind(filter.since.map(text::from_time))
        .bind(filter.through.map(text::from_count))
        .bind(filter.service.as_ref().map(ServiceName::as_str))
        .bind(names)
        .bind(text::from_count(BATCH as u64))
        .fetch_all(connection)
        .await?;
    rows.iter().map(ledger_row).collect()
}

#[cfg(test)]
#[path = "past_tests.rs"]
mod tests;
