use chrono::{TimeDelta, TimeZone, Utc};
use serde_json::json;

use super::super::key::{Key, Place};
use super::*;
use crate::model::Time;
use crate::store::{Detail, Entry};

fn key() -> Key {
    Place::new(tempfile::tempdir().unwrap().path(), None).load(None).unwrap()
}

fn at(second: i64) -> Time {
    Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap() + TimeDelta::seconds(second)
}

fn following(head: &Head, kind: LedgerKind, detail: serde_json::Value) -> LedgerRow {
    let at = at(head.seq as i64);
    LedgerRow::following(head, &Entry { at, kind, service: None, actor: "picosegd".into(), detail })
}

/// Ten entries, checkpoints of the 4th and the 8th, and the signed head.
struct Ledger {
    rows: Vec<LedgerRow>,
    checkpoints: Vec<Statement>,
    head: Statement,
    key: Key,
}

impl Ledger {
    fn new() -> Self {
        let mut head = Head::default();
        let rows: Vec<_> = (0..10)
            .map(|index| {
                let row = following(&head, LedgerKind::WindowOpened, json!({ "index": index }));
                head = row.head();
                row
            })
            .collect();
        Self::signed(rows, key())
    }

    fn signed(rows: Vec<LedgerRow>, key: Key) -> Self {
        let sign =
            |purpose, row: &LedgerRow| Statement::sign(purpose, &rows[0].hash, &row.head(), at(99), &key);
        let checkpoints = [4, 8].map(|seq| sign(Purpose::Checkpoint, &rows[seq - 1])).to_vec();
        let head = sign(Purpose::Head, rows.last().unwrap());
        Self { checkpoints, head, rows, key }
    }

    fn judge(&self, copied: &[&Statement], trusted: Option<&PublicKey>) -> Result<Findings, Bad> {
        let mut examiner = Examiner::new(false, copied.iter().copied().cloned());
        for row in &self.rows {
            examiner.entry(row)?;
            for checkpoint in self.checkpoints.iter().filter(|c| c.head.seq == row.seq) {
                examiner.checkpoint(checkpoint)?;
            }
        }
        let last = self.rows.last().unwrap();
        for beyond in self.checkpoints.iter().filter(|c| c.head.seq > last.seq) {
            examiner.checkpoint(beyond)?;
        }
        examiner.finish(Some(&self.head.to_string()), None, trusted)
    }

    fn bad(&self) -> Bad {
        self.judge(&[], Some(self.key.public())).unwrap_err()
    }

    /// Makes the chain whole again from an entry on, as somebody without the key can.
    fn rehash(&mut self, from: usize) {
        for index in from - 1..self.rows.len() {
            self.rows[index].seq = index as u64 + 1;
            self.rows[index].prev = match index {
                0 => GENESIS.to_owned(),
                _ => self.rows[index - 1].hash.clone(),
            };
            self.rows[index].hash = chain::hash(&self.rows[index]);
        }
    }

    fn forge(&mut self, seq: usize) {
        self.rows[seq - 1].actor = "nobody".to_owned();
        self.rehash(seq);
    }
}

#[test]
fn a_whole_ledger_is_found_so_with_all_that_vouches_for_it() {
    let ledger = Ledger::new();
    let found = ledger.judge(&[&ledger.checkpoints[0].clone()], Some(ledger.key.public())).unwrap();
    assert_eq!((found.entries, found.checkpoints, found.copies, found.covered), (10, 2, 1, 4));
    assert_eq!((found.signed_from, found.former_keys, found.excerpt), (1, 0, false));
    assert!(ledger.judge(&[], None).is_ok());
}

#[test]
fn an_entry_that_was_altered_and_hashed_anew_is_named_itself() {
    for seq in 1..=9 {
        let mut ledger = Ledger::new();
        ledger.rows[seq - 1].actor = "nobody".to_owned();
        ledger.rows[seq - 1].hash = chain::hash(&ledger.rows[seq - 1]);
        let expected = match seq {
            // Here a checkpoint says so at once.
            4 | 8 => Bad::Rewritten { seq: seq as u64 },
            1 => Bad::Rehashed { seq: 1 },
            _ => Bad::Rehashed { seq: seq as u64 },
        };
        assert_eq!(ledger.bad(), expected);
    }
}

#[test]
fn an_entry_that_was_inserted_and_counted_on_is_named_itself() {
    for seq in 2..=10_usize {
        let mut ledger = Ledger::new();
        let head = ledger.rows[seq - 2].head();
        ledger.rows.insert(seq - 1, following(&head, LedgerKind::ClockStepped, json!({})));
        ledger.rows[seq..].iter_mut().for_each(|row| row.seq += 1);
        let bad = ledger.bad();
        assert_eq!(bad.seq(), seq as u64, "{bad}");
    }
}

#[test]
fn a_tail_that_was_rewritten_without_the_key_fails_at_the_next_signature() {
    for (from, named) in [(1, 4), (3, 4), (4, 4), (5, 8), (8, 8), (9, 10), (10, 10)] {
        let mut ledger = Ledger::new();
        ledger.forge(from);
        let bad = ledger.bad();
        // From the first entry on it begins otherwise than the checkpoints say.
        let named = if from == 1 { 1 } else { named };
        assert_eq!(bad.seq(), named, "{from}: {bad}");
    }
}

#[test]
fn a_tail_that_was_rewritten_and_signed_with_another_key_fails_by_the_trusted_one() {
    let ledger = Ledger::new();
    let mut forged = Ledger::new();
    forged.forge(6);
    let forged = Ledger::signed(forged.rows, key());
    assert!(forged.judge(&[], None).is_ok());
    let bad = forged.judge(&[], Some(ledger.key.public())).unwrap_err();
    assert!(matches!(bad, Bad::Untrusted { seq: 4, .. }), "{bad}");
    // Without a trusted key a copied checkpoint exposes it.
    let copy = Statement::sign(
        Purpose::Checkpoint,
        &forged.rows[0].hash,
        &forged.rows[3].head(),
        at(1),
        &ledger.key,
    );
    let bad = forged.judge(&[&copy], None).unwrap_err();
    assert!(matches!(bad, Bad::OtherKey { seq: 4, .. }), "{bad}");
}

#[test]
fn of_a_tail_that_was_rewritten_with_the_key_only_a_copied_checkpoint_tells() {
    let ledger = Ledger::new();
    let copies = ledger.checkpoints.clone();
    let (rows, key) = (ledger.rows, ledger.key);
    let mut forged = Ledger::signed(rows, key);
    forged.forge(6);
    let forged = Ledger::signed(forged.rows, forged.key);
    let trusted = Some(forged.key.public());
    assert!(forged.judge(&[], trusted).is_ok());
    assert!(forged.judge(&[&copies[0]], trusted).is_ok(), "what was rewritten comes later");
    let bad = forged.judge(&[&copies[0], &copies[1]], trusted).unwrap_err();
    assert!(matches!(bad, Bad::CopyDiffers { seq: 8, .. }), "{bad}");

    let mut short = Ledger::signed(forged.rows.clone(), forged.key);
    short.rows.truncate(5);
    short.head =
        Statement::sign(Purpose::Head, &short.rows[0].hash, &short.rows[4].head(), at(1), &short.key);
    short.checkpoints.truncate(1);
    let bad = short.judge(&[&copies[1]], Some(short.key.public())).unwrap_err();
    assert!(matches!(bad, Bad::CopyBeyond { seq: 6, stated: 8, .. }), "{bad}");
}

#[test]
fn a_checkpoint_of_another_ledger_fits_none() {
    let (one, other) = (Ledger::new(), {
        let mut rows = Ledger::new().rows;
        rows[0].actor = "elsewhere".to_owned();
        let mut ledger = Ledger::signed(rows, key());
        ledger.rehash(1);
        Ledger::signed(ledger.rows, ledger.key)
    });
    for seq in [0, 1] {
        let bad = one.judge(&[&other.checkpoints[seq]], None).unwrap_err();
        assert!(matches!(bad, Bad::Origin { .. }), "{bad}");
    }
}

#[test]
fn a_head_that_was_cut_back_to_a_checkpoint_fails() {
    let mut ledger = Ledger::new();
    ledger.rows.truncate(8);
    assert_eq!(ledger.bad().seq(), 9);
    let line = ledger.checkpoints[1].to_string().replace("picoseg-checkpoint", "picoseg-head");
    ledger.head = Statement::parse(&line).unwrap();
    assert_eq!(ledger.bad(), Bad::HeadSignature { seq: 8 });
}

#[test]
fn two_checkpoints_that_were_swapped_or_moved_are_named() {
    let mut ledger = Ledger::new();
    let heads = [ledger.checkpoints[0].head.clone(), ledger.checkpoints[1].head.clone()];
    (ledger.checkpoints[0].head, ledger.checkpoints[1].head) = (heads[1].clone(), heads[0].clone());
    ledger.checkpoints.reverse();
    assert_eq!(ledger.bad(), Bad::Signature { seq: 4 });
    for seq in [3, 5, 11] {
        let mut ledger = Ledger::new();
        ledger.checkpoints[0].head.seq = seq;
        assert_eq!(ledger.bad(), Bad::Signature { seq });
    }
}

/// The same ledger with another key from the sixth entry on.
fn rotated(from: impl Fn(&Key) -> Option<String>) -> (Ledger, Key) {
    let (old, new) = (key(), key());
    let mut rows = Ledger::new().rows;
    let detail = json!({ "from": from(&old), "to": new.public().to_string() });
    rows[5].kind = LedgerKind::KeyChanged.as_str().to_owned();
    rows[5].detail = Detail::new(&detail);
    let mut ledger = Ledger::signed(rows, new);
    ledger.rehash(1);
    let mut ledger = Ledger::signed(ledger.rows, ledger.key);
    let (origin, head) = (&ledger.rows[0].hash, ledger.rows[3].head());
    ledger.checkpoints[0] = Statement::sign(Purpose::Checkpoint, origin, &head, at(4), &old);
    (ledger, old)
}

#[test]
fn a_key_that_changed_on_record_vouches_for_what_it_signed_before() {
    let (ledger, old) = rotated(|old| Some(old.public().to_string()));
    let copy = ledger.checkpoints[0].clone();
    let found = ledger.judge(&[&copy], Some(ledger.key.public())).unwrap();
    assert_eq!((found.checkpoints, found.copies, found.former_keys), (2, 1, 1));
    // Whoever trusts the old one only is told where another took over.
    let bad = ledger.judge(&[], Some(old.public())).unwrap_err();
    assert!(matches!(bad, Bad::Untrusted { seq: 6, .. }), "{bad}");
}

#[test]
fn a_key_that_changed_from_another_one_or_from_none_is_named() {
    let (ledger, _) = rotated(|_| Some(key().public().to_string()));
    assert_eq!(ledger.bad(), Bad::KeyChange { seq: 6 });
    let (mut ledger, _) = rotated(|_| None);
    assert_eq!(ledger.bad(), Bad::KeyChange { seq: 6 });
    ledger.checkpoints.remove(0);
    assert_eq!(ledger.judge(&[], None).unwrap().signed_from, 6);
}

#[test]
fn an_excerpt_is_judged_by_what_it_has() {
    let ledger = Ledger::new();
    let judge = |rows: &[LedgerRow]| {
        let mut examiner = Examiner::new(true, ledger.checkpoints.clone());
        for row in rows {
            examiner.entry(row)?;
        }
        examiner.finish(Some(&ledger.head.to_string()), None, None)
    };
    let chosen: Vec<_> = [1, 2, 5, 7].map(|index| ledger.rows[index].clone()).to_vec();
    let found = judge(&chosen).unwrap();
    assert_eq!((found.entries, found.copies, found.excerpt), (4, 1, true));
    assert!(judge(&[]).is_ok());
    let change = |alter: &dyn Fn(&mut Vec<LedgerRow>)| {
        let mut rows = chosen.clone();
        alter(&mut rows);
        judge(&rows).unwrap_err().seq()
    };
    assert_eq!(change(&|rows| rows[2].actor.push('x')), 6);
    assert_eq!(change(&|rows| rows.swap(0, 2)), 3);
    assert_eq!(
        change(&|rows| rows[1].hash = chain::hash(&LedgerRow { actor: "x".into(), ..rows[1].clone() })),
        3
    );
    assert_eq!(
        change(&|rows| rows.push(following(
            &Head { seq: 10, hash: GENESIS.into() },
            LedgerKind::ClockStepped,
            json!({})
        ))),
        11
    );
}
