//! What is remembered of services beside their files, and the orders that operators gave.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::error::Fault;
use super::{Store, StoreError, text};
use crate::model::{Cause, Decommissioned, Extended, Order, OrderKind, Record, ServiceName, Suspended};

impl Store {
    /// Every service of which anything is remembered.
    pub async fn load_records(&self) -> Result<BTreeMap<ServiceName, Record>, StoreError> {
        self.promptly("read the records of services", async {
            let mut connection = self.reader().await?;
            let rows = sqlx::query("SELECT * FROM records").fetch_all(&mut *connection).await?;
            rows.iter().map(record).collect()
        })
        .await
    }

    /// Remembers this of a service, in place of what was remembered.
    pub async fn put_record(&self, service: &ServiceName, record: &Record) -> Result<(), StoreError> {
        self.promptly("write the record of a service", async {
            let mut transaction = self.begin().await?;
            put_record(&mut transaction, service, record).await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }

    /// Logs an order.
    pub async fn put_order(&self, order: &Order) -> Result<(), StoreError> {
        self.promptly("log an order", async {
            let mut transaction = self.begin().await?;
            put_order(&mut transaction, order).await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }

    /// The orders that were given, of one service or of all, in the order in which they were logged.
    pub async fn orders(&self, service: Option<&ServiceName>) -> Result<Vec<Order>, StoreError> {
        self.in_bulk("read the orders", async {
            let mut connection = self.reader().await?;
            let rows = sqlx::query("SELECT * FROM orders WHERE ?1 IS NULL OR service = ?1 ORDER BY number")
                .bind(service.map(ServiceName::as_str))
                .fetch_all(&mut *connection)
                .await?;
            rows.iter().map(order).collect()
        })
        .await
    }
}

pub(super) async fn put_record(
    connection: &mut SqliteConnection,
    service: &ServiceName,
    record: &Record,
) -> Result<(), Fault> {
    let Record { suspended, decommissioned, extended } = record;
    let (suspended, decommissioned) = (suspended.as_ref(), decommissioned.as_ref());
    let extended = extended.as_ref();
    sqlx::query(
        "INSERT OR REPLACE INTO records
         (service, suspended_at, suspended_by, suspended_reason,
          decommissioned_at, decommissioned_cause, decommissioned_by, decommissioned_reason, decommissioned_covers,
          extended_at, extended_until, extended_by, extended_reason)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(service.as_str())
    .bind(suspended.map(|event| text::from_time(event.at)))
    .bind(suspended.map(|event| &event.by))
    .bind(suspended.map(|event| &event.reason))
    .bind(decommissioned.map(|event| text::from_time(event.at)))
    .bind(decommissioned.map(|event| event.cause.as_str()))
    .bind(decommissioned.and_then(|event| event.by.as_ref()))
    .bind(decommissioned.and_then(|event| event.reason.as_ref()))
    .bind(decommissioned.map(|event| text::from_time(event.covers)))
    .bind(extended.map(|order| text::from_time(order.at)))
    .bind(extended.map(|order| text::from_time(order.until)))
    .bind(extended.map(|order| &order.by))
    .bind(extended.map(|order| &order.reason))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn put_order(connection: &mut SqliteConnection, order: &Order) -> Result<(), Fault> {
    let Order { service, kind, at, by, reason } = order;
    sqlx::query("INSERT INTO orders (service, kind, at, by, reason) VALUES (?, ?, ?, ?, ?)")
        .bind(service.as_str())
        .bind(kind.as_str())
        .bind(text::from_time(*at))
        .bind(by)
        .bind(reason)
        .execute(connection)
        .await?;
    Ok(())
}

fn record(row: &SqliteRow) -> Result<(ServiceName, Record), Fault> {
    let service: String = row.try_get("service")?;
    let record =
        Record { suspended: suspended(row)?, decommissioned: decommissioned(row)?, extended: extended(row)? };
    Ok((text::to_service(&service)?, record))
}

fn suspended(row: &SqliteRow) -> Result<Option<Suspended>, Fault> {
    let Some(at) = row.try_get::<Option<String>, _>("suspended_at")? else {
        return Ok(None);
    };
    Ok(Some(Suspended {
        at: text::to_time(&at)?,
        by: row.try_get("suspended_by")?,
        reason: row.try_get("suspended_reason")?,
    }))
}

fn decommissioned(row: &SqliteRow) -> Result<Option<Decommissioned>, Fault> {
    let Some(at) = row.try_get::<Option<String>, _>("decommissioned_at")? else {
        return Ok(None);
    };
    let at = text::to_time(&at)?;
    let covers = row.try_get::<Option<String>, _>("decommissioned_covers")?;
    Ok(Some(Decommissioned {
        at,
        covers: covers.map_or(Ok(at), |covers| text::to_time(&covers))?,
        cause: to_cause(&row.try_get::<String, _>("decommissioned_cause")?)?,
        by: row.try_get("decommissioned_by")?,
        reason: row.try_get("decommissioned_reason")?,
    }))
}

fn extended(row: &SqliteRow) -> Result<Option<Extended>, Fault> {
    let at = row.try_get::<Option<String>, _>("extended_at")?;
    let until = row.try_get::<Option<String>, _>("extended_until")?;
    let (Some(at), Some(until)) = (at, until) else { return Ok(None) };
    Ok(Some(Extended {
        at: text::to_time(&at)?,
        until: text::to_time(&until)?,
        by: row.try_get("extended_by")?,
        reason: row.try_get("extended_reason")?,
    }))
}

fn order(row: &SqliteRow) -> Result<Order, Fault> {
    Ok(Order {
        service: text::to_service(&row.try_get::<String, _>("service")?)?,
        kind: to_order_kind(row.try_get("kind")?)?,
        at: text::to_time(&row.try_get::<String, _>("at")?)?,
        by: row.try_get("by")?,
        reason: row.try_get("reason")?,
    })
}

fn to_cause(text: &str) -> Result<Cause, Fault> {
    Cause::parse(text).ok_or_else(|| Fault::Value(format!("{text:?} is not a cause of a decommission")))
}

fn to_order_kind(text: String) -> Result<OrderKind, Fault> {
    text::to_order_kind(&text).ok_or_else(|| Fault::Value(format!("{text:?} is not an order")))
}
