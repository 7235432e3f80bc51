//! New sources: which they are, and what waits to be told.

use picoseg::model::{Direction, Reason, Source};
use picoseg::store::{AttemptKey, Change, MOST_NEWS, Process, Verdict};

use super::*;

fn from(number: u32, reason: Reason) -> AttemptKey {
    AttemptKey {
        service: Some(name("stripe")),
        provider: None,
        policy: None,
        direction: Direction::Ingress,
        reason,
        verdict: Verdict::Refused,
        protocol: "tcp".to_owned(),
        remote: Source::Address(std::net::Ipv4Addr::from_bits(number).into()),
        remote_port: None,
        local: None,
        local_port: Some(443),
        subject: None,
        uid: None,
        also: vec![],
    }
}

fn one() -> Change {
    Change { count: 1, ..Change::default() }
}

async fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).await.unwrap();
    store.set_telling(true);
    (directory, store)
}

#[tokio::test]
async fn a_source_is_new_once_for_each_service_direction_and_reason() {
    let (_directory, store) = open().await;
    let detailed =
        AttemptKey { subject: Some("unit:a.service".into()), uid: Some(3), ..from(1, Reason::Closed) };
    let process = Process { pid: Some(7), exe: None };
    let changes = [
        (from(1, Reason::Closed), Change { count: 4, ..one() }),
        (detailed.clone(), Change { count: 2, process: process.clone(), ..one() }),
        (from(2, Reason::Closed), Change { count: -1, ..one() }),
    ];
    let new = store.add_counts(&changes, &[], at(1)).await.unwrap();
    assert_eq!(new, [(detailed.clone(), Change { count: 6, process, ..one() })]);
    assert!(store.add_counts(&changes, &[], at(2)).await.unwrap().is_empty());
    let others = [
        from(1, Reason::Expired),
        AttemptKey { direction: Direction::Egress, ..from(1, Reason::Closed) },
        AttemptKey { service: Some(name("adyen")), ..from(1, Reason::Closed) },
        AttemptKey { service: None, ..from(1, Reason::Closed) },
        from(3, Reason::Closed),
    ];
    let changes = others.map(|key| (key, one()));
    assert_eq!(store.add_counts(&changes, &[], at(3)).await.unwrap().len(), 5);
    assert!(store.add_counts(&changes, &[], at(4)).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_to_be_told_waits_until_it_was_told_and_outlives_a_restart() {
    let (directory, store) = open().await;
    let changes = [(from(1, Reason::Expired), one()), (from(2, Reason::Closed), one())];
    store.add_counts(&changes, &[], at(1)).await.unwrap();
    store.close().await;
    let store = Store::open(directory.path()).await.unwrap();
    let detailed = AttemptKey { uid: Some(3), ..from(1, Reason::Expired) };
    store.set_telling(true);
    store.add_counts(&[(detailed.clone(), one())], &[], at(2)).await.unwrap();
    let news = store.news(10).await.unwrap();
    // Late records made its row more exact.
    assert_eq!(news.attempts.iter().map(|row| &row.key).collect::<Vec<_>>(), [&detailed]);
    assert_eq!(news.skipped, 0);
    store.told(news.last, 0).await.unwrap();
    assert_eq!(store.news(10).await.unwrap(), Default::default());
    store.add_counts(&[(detailed, one())], &[], at(3)).await.unwrap();
    assert_eq!(store.news(10).await.unwrap(), Default::default());
}

#[tokio::test]
async fn no_more_wait_than_there_is_room_for_and_the_rest_is_counted() {
    let (_directory, store) = open().await;
    let expired = |range: std::ops::Range<u32>| -> Vec<_> {
        range.map(|number| (from(number, Reason::Expired), one())).collect()
    };
    store.add_counts(&expired(0..900), &[], at(1)).await.unwrap();
    store.add_counts(&expired(500..1500), &[], at(2)).await.unwrap();
    let news = store.news(10_000).await.unwrap();
    assert_eq!((news.attempts.len(), news.skipped), (MOST_NEWS, 500));
    let some = store.news(3).await.unwrap();
    store.told(some.last, 500).await.unwrap();
    let news = store.news(10_000).await.unwrap();
    assert_eq!((news.attempts.len(), news.skipped), (MOST_NEWS - 3, 0));
    // Nobody is told: nothing waits.
    store.told(i64::MAX, u64::MAX).await.unwrap();
    store.set_telling(false);
    store.add_counts(&expired(2000..2010), &[], at(3)).await.unwrap();
    assert_eq!(store.news(10).await.unwrap(), Default::default());
}
