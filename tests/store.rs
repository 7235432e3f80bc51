//! The store against a real SQLite in temporary directories: what it keeps, and how it fails.
//!
//! These tests may run as root, who ignores file modes: what must not be writable is a directory in place of the file, or a
//! file system of its own in a private mount namespace.

#[path = "store/attempts.rs"]
mod attempts;
#[path = "store/broken.rs"]
mod broken;
#[path = "store/keeper.rs"]
mod keeper;
#[path = "store/keeps.rs"]
mod keeps;
#[path = "store/mounts.rs"]
mod mounts;
#[path = "store/news.rs"]
mod news;
#[path = "store/signed.rs"]
mod signed;
#[path = "store/stalls.rs"]
mod stalls;
#[path = "store/tamper.rs"]
mod tamper;

use chrono::{TimeDelta, TimeZone, Utc};
use picoseg::model::{
    Cause, Decommissioned, Extended, Order, OrderKind, Record, ServiceName, Suspended, Time,
};
use picoseg::store::{Entry, LedgerKind, Store};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

fn at(second: i64) -> Time {
    Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap() + TimeDelta::seconds(second)
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn entry(second: i64, service: Option<&str>) -> Entry {
    Entry {
        at: at(second),
        kind: LedgerKind::WindowOpened,
        service: service.map(name),
        actor: "picosegd".to_owned(),
        detail: json!({"second": second}),
    }
}

fn decommissioned(second: i64) -> Record {
    Record {
        suspended: Some(Suspended {
            at: at(second - 1),
            by: "ann (uid 1000)".to_owned(),
            reason: "audit".to_owned(),
        }),
        decommissioned: Some(Decommissioned {
            at: at(second),
            covers: at(second),
            cause: Cause::Order,
            by: Some("root (uid 0)".to_owned()),
            reason: Some("contract ended".to_owned()),
        }),
        extended: Some(Extended {
            at: at(second),
            until: at(second + 1),
            by: "eve (uid 1001)".to_owned(),
            reason: "release".to_owned(),
        }),
    }
}

fn order(service: &str) -> Order {
    Order {
        service: name(service),
        kind: OrderKind::Decommission,
        at: at(5),
        by: "root (uid 0)".to_owned(),
        reason: "contract ended".to_owned(),
    }
}

/// Another program's connection to the same file.
async fn outsider(store: &Store) -> SqliteConnection {
    SqliteConnectOptions::new().filename(store.path()).disable_statement_logging().connect().await.unwrap()
}

/// Does to a closed database what no call of the store would.
async fn tamper(store: &Store, sql: &str) {
    store.close().await;
    let mut connection = outsider(store).await;
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
