//! A mutation test: whatever somebody does to a ledger, as a database or as an export, is noticed and named.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use picoseg::store::LedgerFilter;
use picoseg::store::export::{self, Format, Writer};
use picoseg::store::offline::Ledger;
use picoseg::store::statement::Statement;
use picoseg::store::verify::{self, Evidence, Judged};
use sqlx::Row;

use super::*;

const ENTRIES: u64 = 9;
const CHECKPOINTS: [u64; 3] = [3, 6, 9];

/// A closed database with entries, checkpoints and the signed head.
struct Victim {
    _root: tempfile::TempDir,
    path: PathBuf,
    copies: Vec<Statement>,
}

impl Victim {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).await.unwrap();
        let mut copies = Vec::new();
        for seq in 1..=ENTRIES {
            let service = (seq % 2 == 0).then_some("stripe");
            let late = Entry { actor: "=root \"q\"\n".to_owned(), ..entry(seq as i64, service) };
            store.append(&[late]).await.unwrap();
            if CHECKPOINTS.contains(&seq) {
                copies.push(store.checkpoint(at(seq as i64)).await.unwrap().unwrap());
            }
        }
        store.close().await;
        Self { path: store.path().to_owned(), _root: root, copies }
    }

    /// A copy somewhere else, changed.
    async fn changed(&self, sql: &str) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("copy.db");
        std::fs::copy(&self.path, &path).unwrap();
        if !sql.is_empty() {
            run(
                &path,
                &format!("DROP TRIGGER ledger_keeps_entries; DROP TRIGGER ledger_keeps_content; {sql}"),
            )
            .await;
        }
        (root, path)
    }

    async fn judge(&self, sql: &str) -> Judged {
        let (_root, path) = self.changed(sql).await;
        verify::database(&path, &Evidence::default()).await
    }

    async fn first_bad(&self, sql: &str) -> Option<u64> {
        let judged = self.judge(sql).await;
        let refusal = judged.outcome.expect_err(sql);
        refusal.seq()
    }

    async fn export(&self, format: Format) -> Vec<u8> {
        export(&self.path, format, LedgerFilter::default()).await
    }
}

async fn run(path: &Path, sql: &str) {
    let options = SqliteConnectOptions::new().filename(path).disable_statement_logging();
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.unwrap();
}

async fn rows_of(path: &Path, sql: &str) -> Vec<sqlx::sqlite::SqliteRow> {
    let options = SqliteConnectOptions::new().filename(path).disable_statement_logging();
    sqlx::query(sql).fetch_all(&mut options.connect().await.unwrap()).await.unwrap()
}

async fn export(path: &Path, format: Format, filter: LedgerFilter) -> Vec<u8> {
    let mut ledger = Ledger::open(path).await.unwrap();
    let mut out = Vec::new();
    export::write(&mut ledger, filter, &mut Writer::new(&mut out, format).unwrap()).await.unwrap();
    out
}

fn judge_export(bytes: &[u8]) -> Judged {
    verify::export(bytes, &Evidence::default())
}

#[tokio::test]
async fn an_untouched_ledger_verifies_as_database_copy_and_export() {
    let victim = Victim::new().await;
    for judged in [
        verify::database(&victim.path, &Evidence { trusted: None, copied: victim.copies.clone() }).await,
        victim.judge("").await,
        judge_export(&victim.export(Format::Jsonl).await),
        judge_export(&victim.export(Format::Csv).await),
    ] {
        let found = judged.outcome.unwrap();
        assert_eq!((judged.entries, found.entries, found.checkpoints), (ENTRIES, ENTRIES, 3));
        assert_eq!(found.head.head.seq, ENTRIES);
    }
    let files: BTreeSet<_> =
        std::fs::read_dir(victim.path.parent().unwrap()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files.len(), 3, "verifying leaves nothing behind: {files:?}");
}

#[tokio::test]
async fn a_byte_of_any_column_of_any_entry_names_that_entry() {
    let victim = Victim::new().await;
    for seq in 1..=ENTRIES {
        for column in ["at", "kind", "service", "actor", "detail", "prev", "hash"] {
            for change in [
                format!("'x' || coalesce({column}, '')"),
                format!("coalesce({column}, '') || ' '"),
                format!("coalesce(substr({column}, 1, 5) || 'X' || substr({column}, 7), 'X')"),
                "''".to_owned(),
            ] {
                let sql = format!("UPDATE ledger SET {column} = {change} WHERE seq = {seq}");
                assert_eq!(victim.first_bad(&sql).await, Some(seq), "{sql}");
            }
        }
    }
}

#[tokio::test]
async fn entries_that_were_deleted_moved_repeated_or_cut_off_are_named() {
    let victim = Victim::new().await;
    for seq in 1..=ENTRIES {
        let delete = format!("DELETE FROM ledger WHERE seq = {seq}");
        assert_eq!(victim.first_bad(&delete).await, Some(seq), "{delete}");
        let cut = format!("DELETE FROM ledger WHERE seq >= {seq}");
        assert_eq!(victim.first_bad(&cut).await, Some(seq), "{cut}");
        let closed = format!(
            "DELETE FROM ledger WHERE seq = {seq}; UPDATE ledger SET seq = -seq WHERE seq > {seq};
             UPDATE ledger SET seq = -seq - 1 WHERE seq < 0"
        );
        if seq < ENTRIES {
            let unchecked = format!("PRAGMA ignore_check_constraints = ON; {closed}");
            assert_eq!(victim.first_bad(&unchecked).await, Some(seq), "{closed}");
        }
        let repeated = format!(
            "INSERT INTO ledger SELECT {ENTRIES} + 1, at, kind, service, actor, detail, prev, hash FROM ledger WHERE seq = {seq}"
        );
        assert_eq!(victim.first_bad(&repeated).await, Some(ENTRIES + 1), "{repeated}");
        for other in seq + 1..=ENTRIES {
            let swap = format!(
                "UPDATE ledger SET seq = 1000 WHERE seq = {seq}; UPDATE ledger SET seq = {seq} WHERE seq = {other};
                 UPDATE ledger SET seq = {other} WHERE seq = 1000"
            );
            assert_eq!(victim.first_bad(&swap).await, Some(seq), "{swap}");
        }
    }
    let hidden = "PRAGMA ignore_check_constraints = ON;
        INSERT INTO ledger SELECT -1, at, kind, service, actor, detail, prev, hash FROM ledger WHERE seq = 1";
    assert_eq!(victim.first_bad(hidden).await, Some(1));
}

#[tokio::test]
async fn a_cut_end_with_the_head_put_right_is_still_named() {
    let victim = Victim::new().await;
    for seq in 1..ENTRIES {
        let cut = format!(
            "DELETE FROM ledger WHERE seq > {seq}; DELETE FROM checkpoints WHERE seq > {seq};
             UPDATE ledger_head SET seq = {seq}, hash = (SELECT hash FROM ledger WHERE seq = {seq})"
        );
        assert_eq!(victim.first_bad(&cut).await, Some(seq + 1), "{cut}");
        let unsigned = format!("{cut}, signed = NULL");
        assert_eq!(victim.first_bad(&unsigned).await, Some(seq + 1), "{unsigned}");
    }
    // A checkpoint that is called the head.
    let seq = CHECKPOINTS[1];
    let line = victim.copies[1].to_string().replace("picoseg-checkpoint", "picoseg-head");
    let renamed = format!(
        "DELETE FROM ledger WHERE seq > {seq}; DELETE FROM checkpoints WHERE seq > {seq};
         UPDATE ledger_head SET seq = {seq}, hash = (SELECT hash FROM ledger WHERE seq = {seq}), signed = '{line}'"
    );
    assert_eq!(victim.first_bad(&renamed).await, Some(seq));
}

#[tokio::test]
async fn a_byte_of_any_column_of_a_checkpoint_or_the_head_is_noticed() {
    let victim = Victim::new().await;
    for seq in CHECKPOINTS {
        for column in ["at", "hash", "key", "signature"] {
            let length: i64 =
                rows_of(&victim.path, &format!("SELECT length({column}) FROM checkpoints WHERE seq = {seq}"))
                    .await[0]
                    .get(0);
            for place in [1, length / 2, length] {
                let sql = format!(
                    "UPDATE checkpoints SET {column} = substr({column}, 1, {place} - 1)
                     || CASE substr({column}, {place}, 1) WHEN '0' THEN '1' WHEN '=' THEN 'A' ELSE '0' END
                     || substr({column}, {place} + 1) WHERE seq = {seq}"
                );
                assert_eq!(victim.first_bad(&sql).await, Some(seq), "{sql}");
            }
        }
        for other in [seq + 100, seq - 1] {
            let moved = format!("UPDATE checkpoints SET seq = {other} WHERE seq = {seq}");
            assert_eq!(victim.first_bad(&moved).await, Some(other), "{moved}");
        }
    }
    let swap = "UPDATE checkpoints SET seq = 100 WHERE seq = 3; UPDATE checkpoints SET seq = 3 WHERE seq = 6;
        UPDATE checkpoints SET seq = 6 WHERE seq = 100";
    assert_eq!(victim.first_bad(swap).await, Some(3));
    let head = rows_of(&victim.path, "SELECT signed FROM ledger_head").await[0].get::<String, _>(0);
    for place in (1..=head.len()).step_by(5) {
        let sql = format!(
            "UPDATE ledger_head SET signed = substr(signed, 1, {place} - 1)
             || CASE substr(signed, {place}, 1) WHEN 'Z' THEN 'Y' ELSE 'Z' END || substr(signed, {place} + 1)"
        );
        assert_eq!(victim.first_bad(&sql).await, Some(ENTRIES), "{sql}");
    }
    for set in ["seq = seq - 1", "seq = seq + 1", "hash = upper(hash)", "hash = ''", "signed = ''"] {
        assert_eq!(victim.first_bad(&format!("UPDATE ledger_head SET {set}")).await, Some(ENTRIES), "{set}");
    }
    assert_eq!(victim.first_bad("UPDATE ledger_head SET signed = NULL").await, Some(ENTRIES + 1));
}

#[tokio::test]
async fn every_byte_of_an_export_counts() {
    let victim = Victim::new().await;
    for format in [Format::Jsonl, Format::Csv] {
        let good = victim.export(format).await;
        // Of text that repeats itself, some of it; src/store/export has a test of every bit.
        for at in (0..good.len()).step_by(3) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            let judged = judge_export(&bytes);
            let context = format!("{format:?}: byte {at} of {}", good.len());
            assert!(judged.outcome.is_err(), "{context}");
        }
        for length in (0..good.len()).step_by(13) {
            assert!(judge_export(&good[..length]).outcome.is_err(), "{format:?}: cut at {length}");
        }
    }
}

/// Lines of an export, each with the number of its entry, or of the entry that it is about.
fn lines(text: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut seq = 0;
    text.split_inclusive(|byte| *byte == b'\n')
        .map(|line| {
            if line.starts_with(b"{\"seq\"") {
                seq += 1;
            }
            (seq, line.to_vec())
        })
        .collect()
}

#[tokio::test]
async fn lines_of_an_export_that_are_missing_repeated_or_moved_are_named() {
    let victim = Victim::new().await;
    let good = lines(&victim.export(Format::Jsonl).await);
    let judge = |lines: &[(u64, Vec<u8>)]| {
        let text: Vec<u8> = lines.iter().flat_map(|(_, line)| line.clone()).collect();
        judge_export(&text).outcome.map_err(|refusal| refusal.seq())
    };
    let is_entry = |line: &[u8]| line.starts_with(b"{\"seq\"");
    for index in 0..good.len() {
        let (seq, line) = &good[index];
        let mut without = good.clone();
        without.remove(index);
        match (is_entry(line), index + 1 == good.len()) {
            (true, _) => assert_eq!(judge(&without).unwrap_err(), Some(*seq), "without line {index}"),
            (false, true) => assert_eq!(judge(&without).unwrap_err(), Some(ENTRIES + 1)),
            // The head vouches for what a missing checkpoint did.
            (false, false) => assert!(judge(&without).is_ok()),
        }
        let mut twice = good.clone();
        twice.insert(index, good[index].clone());
        let outcome = judge(&twice);
        if is_entry(line) {
            assert_eq!(outcome.unwrap_err(), Some(*seq), "line {index} twice");
        } else if index + 1 == good.len() {
            assert!(outcome.is_err(), "the head twice");
        }
        for other in index + 1..good.len() {
            let mut swapped = good.clone();
            swapped.swap(index, other);
            let error = judge(&swapped).expect_err(&format!("{index} and {other} swapped"));
            let both_entries = is_entry(line) && is_entry(&good[other].1);
            assert!(!both_entries || error == Some(*seq), "{index} and {other}: {error:?}");
        }
    }
}

#[tokio::test]
async fn an_excerpt_is_told_from_the_whole() {
    let victim = Victim::new().await;
    let filters = [
        LedgerFilter { since: Some(at(4)), ..LedgerFilter::default() },
        LedgerFilter { service: Some(name("stripe")), ..LedgerFilter::default() },
    ];
    for (filter, entries) in filters.into_iter().zip([6, 4]) {
        for format in [Format::Jsonl, Format::Csv] {
            let excerpt = export(&victim.path, format, filter.clone()).await;
            let judged = judge_export(&excerpt);
            assert_eq!(judged.entries, entries);
            assert!(judged.outcome.unwrap().excerpt);
            // Without its first line it is a ledger with holes.
            let header = if format == Format::Csv { 2 } else { 1 };
            let mut lines: Vec<_> = excerpt.split_inclusive(|byte| *byte == b'\n').collect();
            lines.remove(header - 1);
            assert_eq!(judge_export(&lines.concat()).outcome.unwrap_err().seq(), Some(1));
        }
    }
}

#[tokio::test]
async fn damaged_pages_are_an_error_and_no_panic() {
    let victim = Victim::new().await;
    let good = std::fs::read(&victim.path).unwrap();
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("damaged.db");
    for page in (0..good.len()).step_by(4096) {
        let mut bytes = good.clone();
        bytes[page..page + 64].fill(0xff);
        std::fs::write(&path, bytes).unwrap();
        // Pages of other tables are none of its business.
        let _ = verify::database(&path, &Evidence::default()).await;
    }
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(verify::database(&path, &Evidence::default()).await.outcome.is_err());
}
