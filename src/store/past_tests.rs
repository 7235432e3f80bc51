//! What is read back is what a fold over everything would need.

use serde_json::{Value, json};

use super::*;
use crate::api::audit::{self, Source};
use crate::history::{self, History};
use crate::store::offline::Ledger;
use crate::store::{Entry, LedgerFilter, LedgerKind};

#[test]
fn the_kinds_are_those_that_the_fold_reads() {
    let list = |kinds: &[&str]| {
        let quoted: Vec<_> = kinds.iter().map(|kind| format!("'{kind}'")).collect();
        format!("kind IN ({})", quoted.join(", "))
    };
    assert_eq!(
        (list(&history::DEFINING), list(&history::TELLING)),
        (DEFINING.to_owned(), TELLING.to_owned())
    );
    for kind in history::DEFINING.iter().chain(&history::TELLING) {
        assert!(LedgerKind::parse(kind).is_some(), "{kind}");
    }
}

fn second(second: i64) -> Time {
    Time::from_timestamp(1_790_000_000 + second, 0).unwrap()
}

/// Many entries about three services, some of them late, some with digests.
fn entries() -> Vec<Entry> {
    let mut number = 7_u64;
    let mut draw = |below: u64| {
        // Knuth's MMIX generator: the same at every run.
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) % below
    };
    let states = ["open", "closed", "suspended", "decommissioned"];
    (0..300_i64)
        .map(|index| {
            let kind = LedgerKind::ALL[usize::try_from(draw(LedgerKind::ALL.len() as u64)).unwrap()];
            let name = format!("s{}", draw(3));
            let (state, digest) = (states[usize::try_from(draw(4)).unwrap()], draw(4) == 0);
            let about_files = history::DEFINING.contains(&kind.as_str());
            let mut detail = match about_files {
                true => json!({ "states": [{ "name": name, "state": state }] }),
                false => json!({ "state": state, "reason": "\"ruleset_digest\":\"no\"" }),
            };
            if digest || about_files {
                detail["ruleset_digest"] = json!(format!("digest {index}"));
            }
            let late = i64::try_from(draw(6)).unwrap();
            let telling = history::TELLING.contains(&kind.as_str());
            let service = telling.then(|| ServiceName::new(&name).unwrap());
            Entry { at: second(2 * index - late), kind, service, actor: "x".into(), detail }
        })
        .collect()
}

#[tokio::test]
async fn what_is_read_back_for_an_instant_folds_to_what_everything_does() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).await.unwrap();
    store.append(&entries()).await.unwrap();
    let all = store.entries(&LedgerFilter::default()).await.unwrap();
    let details: Vec<Value> = all.iter().map(|row| row.detail.value()).collect();
    let told =
        |(row, detail): (&LedgerRow, &Value)| (row.seq, row.at.parse().unwrap(), row.clone(), detail.clone());
    let told: Vec<_> = all.iter().zip(&details).map(told).collect();
    let fold = |at| {
        let entries = told.iter().map(|(seq, time, row, detail)| history::Entry {
            seq: *seq,
            at: *time,
            kind: &row.kind,
            service: row.service.as_deref(),
            actor: &row.actor,
            detail,
        });
        History::of(entries, at)
    };
    // When a state began is told by the entry that began it: the last one about a service may repeat it.
    let states = |history: &History| -> Vec<_> {
        history.services().map(|(name, known)| (name.to_owned(), known.state)).collect()
    };
    for instant in (-10..620).map(second).map(Some).chain([None]) {
        let (read, whole) =
            (audit::history(&mut Source::Store(&store), instant).await.unwrap(), fold(instant));
        assert_eq!(
            (read.last_seq, &read.ruleset_digest),
            (whole.last_seq, &whole.ruleset_digest),
            "{instant:?}"
        );
        assert_eq!(states(&read), states(&whole), "{instant:?}");
    }
    store.close().await;
    let mut file = Ledger::open(store.path()).await.unwrap();
    assert_eq!(
        states(&audit::history(&mut Source::File(&mut file), None).await.unwrap()),
        states(&fold(None))
    );
}

#[tokio::test]
async fn pages_follow_each_other_and_the_last_one_is_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(Store::open(directory.path()).await.unwrap());
    store.append(&entries()).await.unwrap();
    let page = |after, limit| {
        let (store, filter) =
            (std::sync::Arc::clone(&store), PageFilter { after, limit, ..PageFilter::default() });
        async move { store.page(&filter).await.unwrap() }
    };
    let seqs = |page: &Page| page.rows.iter().map(|row| row.seq).collect::<Vec<_>>();
    let (last, first) = (page(None, 7).await, page(Some(0), 7).await);
    assert_eq!((seqs(&last), last.more), ((294..=300).collect(), true));
    assert_eq!((seqs(&first), first.more), ((1..=7).collect(), true));
    let (rest, whole) = (page(Some(290), 10).await, page(None, 300).await);
    assert_eq!((seqs(&rest), rest.more), ((291..=300).collect(), false));
    assert_eq!((seqs(&whole), whole.more), ((1..=300).collect(), false));

    let service = ServiceName::new("s1").unwrap();
    let filter = PageFilter {
        service: Some(service),
        since: Some(second(100)),
        through: Some(200),
        limit: 1_000,
        ..PageFilter::default()
    };
    let rows = store.page(&filter).await.unwrap().rows;
    assert!(rows.iter().any(|row| row.service.is_none()) && rows.iter().any(|row| row.service.is_some()));
    for row in rows {
        assert!(row.seq <= 200 && row.at.parse::<Time>().unwrap() >= second(100));
        assert!(
            row.service.as_deref() == Some("s1") || row.detail.as_str().contains("\"name\":\"s1\""),
            "{row:?}"
        );
    }
}

#[tokio::test]
async fn a_page_ends_before_it_is_too_large() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).await.unwrap();
    let big = Entry {
        at: second(0),
        kind: LedgerKind::ConfigApplied,
        service: None,
        actor: "x".into(),
        detail: json!({ "text": "x".repeat(PAGE / 8) }),
    };
    for _ in 0..9 {
        store.append(std::slice::from_ref(&big)).await.unwrap();
    }
    let filter = |after| PageFilter { after, limit: 10, ..PageFilter::default() };
    let seqs = |page: Page| (page.rows.iter().map(|row| row.seq).collect::<Vec<_>>(), page.more);
    assert_eq!(seqs(store.page(&filter(None)).await.unwrap()), ((3..=9).collect(), true));
    assert_eq!(seqs(store.page(&filter(Some(0))).await.unwrap()), ((1..=7).collect(), true));
    assert_eq!(seqs(store.page(&filter(Some(7))).await.unwrap()), (vec![8, 9], false));
}
