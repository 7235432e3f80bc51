//! Who came last after a decommission, over all services: for the dashboard.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::error::Fault;
use super::{Store, StoreError, attempt_row, text};
use crate::model::{Direction, Reason, ServiceName, Source, Time};

/// How many of the latest rows are looked at: a flood of sources makes the list shorter, not the look longer.
const LOOK: u32 = 20_000;

/// One source of a decommissioned service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatestAttempt {
    pub service: ServiceName,
    pub provider: Option<String>,
    pub remote: Source,
    pub direction: Direction,
    /// Of the rows looked at, without what was still in flight at the close.
    pub count: u64,
    pub last_seen: Time,
}

impl Store {
    /// The latest sources with reason `expired`, so many at most, the latest first.
    pub async fn latest_after_decommission(&self, most: u32) -> Result<Vec<LatestAttempt>, StoreError> {
        self.in_bulk("read the latest attempts after decommissions", async {
            let mut connection = self.reader().await?;
            let rows = sqlx::query(LATEST)
                .bind(LOOK)
                .bind(Reason::Expired.as_str())
                .bind(most)
                .fetch_all(&mut *connection)
                .await?;
            rows.iter().map(read).collect()
        })
        .await
    }
}

const LATEST: &str = "SELECT service, max(provider) AS provider, remote, direction,
        sum(count - at_close) AS count,
        max(last_seen) AS last_seen
    FROM (SELECT * FROM attempts ORDER BY last_seen DESC LIMIT ?1)
    WHERE reason = ?2 AND service IS NOT NULL AND count > at_close
    GROUP BY service, remote, direction ORDER BY last_seen DESC, service, remote, direction LIMIT ?3";

fn read(row: &SqliteRow) -> Result<LatestAttempt, Fault> {
    Ok(LatestAttempt {
        service: text::to_service(&row.try_get::<String, _>("service")?)?,
        provider: row.try_get("provider")?,
        remote: attempt_row::remote(row)?,
        direction: attempt_row::direction(row)?,
        count: text::to_count(row.try_get("count")?)?,
        last_seen: text::to_time(&row.try_get::<String, _>("last_seen")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{AttemptKey, Change, Verdict};

    fn key(service: Option<&str>, remote: &str, reason: Reason, port: u16) -> AttemptKey {
        AttemptKey {
            service: service.map(|name| ServiceName::new(name).unwrap()),
            provider: service.map(|name| format!("Provider of {name}")),
            policy: None,
            direction: Direction::Ingress,
            reason,
            verdict: Verdict::Refused,
            protocol: "tcp".to_owned(),
            remote: remote.parse().unwrap(),
            remote_port: None,
            local: None,
            local_port: Some(port),
            subject: None,
            uid: None,
            also: vec![],
        }
    }

    #[tokio::test]
    async fn the_latest_sources_come_first_without_what_was_in_flight() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap();
        let at = |minute: u32| format!("2026-03-01T00:{minute:02}:00Z").parse::<Time>().unwrap();
        let rows = [
            (key(Some("old-crm"), "192.0.2.1", Reason::Expired, 443), 5, 0, 1),
            (key(Some("old-crm"), "192.0.2.1", Reason::Expired, 80), 2, 1, 3),
            (key(Some("old-erp"), "other", Reason::Expired, 443), 9, 0, 2),
            (key(Some("old-erp"), "192.0.2.2", Reason::Expired, 443), 4, 4, 4),
            (key(Some("stripe"), "192.0.2.3", Reason::Closed, 443), 7, 0, 5),
            (key(None, "192.0.2.4", Reason::Isolated, 443), 7, 0, 6),
        ];
        for (key, count, at_close, minute) in rows {
            let change = Change { count, at_close, ..Change::default() };
            store.add_counts(&[(key, change)], &[], at(minute)).await.unwrap();
        }
        let latest = store.latest_after_decommission(20).await.unwrap();
        let told: Vec<_> = latest
            .iter()
            .map(|late| (late.service.as_str(), late.remote.to_string(), late.count, late.last_seen))
            .collect();
        let expected =
            [("old-crm", "192.0.2.1".to_owned(), 6, at(3)), ("old-erp", "other".to_owned(), 9, at(2))];
        assert_eq!(told, expected);
        assert_eq!(latest[0].provider.as_deref(), Some("Provider of old-crm"));
        assert_eq!(store.latest_after_decommission(1).await.unwrap().len(), 1);
    }
}
