use chrono::{TimeDelta, TimeZone, Utc};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::ServiceName;
use crate::store::{Detail, Entry, LedgerKind};

fn chain(length: usize) -> Vec<LedgerRow> {
    let start = Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap();
    let mut head = Head::default();
    (0..length)
        .map(|index| {
            let row = LedgerRow::following(
                &head,
                &Entry {
                    at: start + TimeDelta::nanoseconds(index as i64),
                    kind: LedgerKind::ALL[index % LedgerKind::ALL.len()],
                    service: (index % 2 == 0).then(|| ServiceName::new("stripe").unwrap()),
                    actor: "root (uid 0)".to_owned(),
                    detail: json!({"index": index, "why": "x"}),
                },
            );
            head = row.head();
            row
        })
        .collect()
}

fn first_bad(rows: &[LedgerRow]) -> (u64, Problem) {
    let bad = verify(rows).unwrap_err();
    (bad.seq, bad.problem)
}

#[test]
fn an_unbroken_chain_ends_in_its_head() {
    let rows = chain(5);
    assert_eq!(verify(&rows), Ok(rows[4].head()));
    assert_eq!(verify(&[]), Ok(Head::default()));
}

#[test]
fn the_hash_of_an_entry_never_changes_between_versions() {
    // Computed by another program from the description in the header: a change here breaks every ledger there is.
    assert_eq!(chain(1)[0].hash, "c7a45d73d8c594e47f679cf7fc5321d06db4315298c3516e1589194be5664d90");
}

#[test]
fn every_field_that_is_altered_is_noticed_at_its_entry() {
    let alterations: [fn(&mut LedgerRow); 9] = [
        |row| row.at = row.at.replace("2026", "2025"),
        |row| row.kind = "daemon.stopped".to_owned(),
        |row| row.service = None,
        |row| row.service = Some(String::new()),
        |row| row.actor.push(' '),
        |row| row.detail = Detail::from_stored("{}".to_owned()),
        |row| row.prev = GENESIS.to_owned(),
        |row| row.hash = GENESIS.to_owned(),
        |row| row.hash.make_ascii_uppercase(),
    ];
    for alter in alterations {
        let mut rows = chain(5);
        alter(&mut rows[2]);
        assert_eq!(first_bad(&rows), (3, Problem::Altered));
    }
}

#[test]
fn text_that_moves_between_fields_is_noticed() {
    let mut rows = chain(1);
    rows[0].kind = "daemon.started".to_owned() + "root";
    rows[0].actor = rows[0].actor["root".len()..].to_owned();
    assert_eq!(first_bad(&rows), (1, Problem::Altered));
}

#[test]
fn an_altered_entry_with_a_new_hash_breaks_the_next_one() {
    let mut rows = chain(5);
    rows[2].actor = "nobody".to_owned();
    rows[2].hash = hash(&rows[2]);
    assert_eq!(first_bad(&rows), (4, Problem::Disconnected));
}

#[test]
fn a_deleted_entry_is_named_by_its_number() {
    for index in 0..4 {
        let mut rows = chain(5);
        rows.remove(index);
        assert_eq!(first_bad(&rows), (index as u64 + 1, Problem::Missing));
    }
}

#[test]
fn an_end_that_was_cut_off_is_noticed_against_the_head() {
    let mut rows = chain(5);
    let head = rows[4].head();
    assert_eq!(verify_to(&rows, &head), Ok(head.clone()));
    rows.truncate(3);
    assert!(verify(&rows).is_ok());
    let bad = verify_to(&rows, &head).unwrap_err();
    assert_eq!((bad.seq, bad.problem), (4, Problem::Missing));
}

#[test]
fn a_head_of_another_chain_or_an_earlier_one_does_not_fit() {
    let rows = chain(5);
    let other = Head { seq: 5, hash: GENESIS.to_owned() };
    assert_eq!(verify_to(&rows, &other).unwrap_err().problem, Problem::WrongHead);
    let bad = verify_to(&rows, &rows[3].head()).unwrap_err();
    assert_eq!((bad.seq, bad.problem), (5, Problem::BeyondHead));
}

#[test]
fn swapped_entries_are_noticed() {
    let mut rows = chain(5);
    rows.swap(1, 2);
    assert_eq!(first_bad(&rows), (2, Problem::Missing));
    let mut rows = chain(5);
    let (second, third) = (rows[1].seq, rows[2].seq);
    rows.swap(1, 2);
    rows[1].seq = second;
    rows[2].seq = third;
    assert_eq!(first_bad(&rows), (2, Problem::Altered));
}

#[test]
fn an_inserted_entry_is_noticed() {
    let mut rows = chain(5);
    rows.insert(2, rows[1].clone());
    assert_eq!(first_bad(&rows), (2, Problem::OutOfOrder));
    let mut rows = chain(5);
    let forged = LedgerRow { seq: 6, prev: GENESIS.to_owned(), ..rows[4].clone() };
    rows.push(LedgerRow { hash: hash(&forged), ..forged });
    assert_eq!(first_bad(&rows), (6, Problem::Disconnected));
}

#[test]
fn an_exported_entry_reads_back_with_its_hash() {
    for row in chain(3) {
        let exported = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<LedgerRow>(&exported).unwrap(), row);
    }
}

/// What somebody with an editor can do to one entry.
#[derive(Debug, Clone)]
enum Mutation {
    Flip { entry: usize, field: usize, at: usize, to: char },
    Seq { entry: usize, to: u64 },
    Service { entry: usize, to: Option<String> },
    Delete { entry: usize },
    Repeat { entry: usize, at: usize },
    Swap { one: usize, other: usize },
}

const LENGTH: usize = 8;

fn mutation() -> impl Strategy<Value = Mutation> {
    let entry = || 0..LENGTH;
    prop_oneof![
        (entry(), 0..6_usize, any::<usize>(), any::<char>())
            .prop_map(|(entry, field, at, to)| Mutation::Flip { entry, field, at, to }),
        (entry(), any::<u64>()).prop_map(|(entry, to)| Mutation::Seq { entry, to }),
        (entry(), any::<Option<String>>()).prop_map(|(entry, to)| Mutation::Service { entry, to }),
        entry().prop_map(|entry| Mutation::Delete { entry }),
        (entry(), 0..=LENGTH).prop_map(|(entry, at)| Mutation::Repeat { entry, at }),
        (entry(), entry()).prop_map(|(one, other)| Mutation::Swap { one, other }),
    ]
}

fn mutate(rows: &mut Vec<LedgerRow>, mutation: Mutation) {
    match mutation {
        Mutation::Flip { entry, field, at, to } => flip(&mut rows[entry], field, at, to),
        Mutation::Seq { entry, to } => rows[entry].seq = to,
        Mutation::Service { entry, to } => rows[entry].service = to,
        Mutation::Delete { entry } => {
            rows.remove(entry);
        }
        Mutation::Repeat { entry, at } => rows.insert(at, rows[entry].clone()),
        Mutation::Swap { one, other } => rows.swap(one, other),
    }
}

fn flip(row: &mut LedgerRow, field: usize, at: usize, to: char) {
    let change = |text: &str| {
        let mut chars: Vec<_> = text.chars().collect();
        let at = at % chars.len();
        chars[at] = to;
        chars.into_iter().collect::<String>()
    };
    match field {
        0 => row.at = change(&row.at),
        1 => row.kind = change(&row.kind),
        2 => row.actor = change(&row.actor),
        3 => row.detail = Detail::from_stored(change(row.detail.as_str())),
        4 => row.prev = change(&row.prev),
        _ => row.hash = change(&row.hash),
    }
}

proptest! {
    #[test]
    fn any_single_mutation_is_noticed(mutation in mutation()) {
        let good = chain(LENGTH);
        let head = good[LENGTH - 1].head();
        let mut rows = good.clone();
        mutate(&mut rows, mutation);
        prop_assert_eq!(verify_to(&rows, &head).is_ok(), rows == good);
    }

    #[test]
    fn what_is_hashed_tells_any_two_texts_apart(kind: String, actor: String, cut in 0..8_usize) {
        let mut row = chain(1).remove(0);
        (row.kind, row.actor) = (kind.clone(), actor.clone());
        let before = hash(&row);
        let joined: Vec<char> = (kind.clone() + &actor).chars().collect();
        let cut = cut.min(joined.len());
        row.kind = joined[..cut].iter().collect();
        row.actor = joined[cut..].iter().collect();
        prop_assert_eq!(hash(&row) == before, row.kind == kind);
    }
}
