//! Feeds a database or an export to the [`Examiner`], in bounded memory.

use std::collections::VecDeque;
use std::io::BufRead;
use std::path::Path;

use super::chain::{FirstBad, Problem};
use super::examine::{Bad, Examiner, Findings};
use super::export::{Item, Reader};
use super::key::PublicKey;
use super::offline::{Ledger, Stored};
use super::statement::Statement;
use super::{LedgerFilter, StoreError};

/// What is held against the ledger.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Whom to trust; without it the key that the ledger names itself.
    pub trusted: Option<PublicKey>,
    /// Checkpoints that were kept elsewhere.
    pub copied: Vec<Statement>,
}

/// What came out.
#[derive(Debug)]
pub struct Judged {
    /// Entries that were read and found good.
    pub entries: u64,
    pub outcome: Result<Findings, Refusal>,
}

/// Why a ledger is not found good.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Bad(#[from] Bad),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Export(String),
}

impl Refusal {
    /// The number of the first entry that is wrong or missing; `None` where nothing could be read.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Bad(bad) => Some(bad.seq()),
            Self::Store(_) | Self::Export(_) => None,
        }
    }
}

/// Verifies the ledger of a database, also while a daemon writes to it.
pub async fn database(path: &Path, evidence: &Evidence) -> Judged {
    let (judged, disturbed) = once(path, evidence).await;
    match disturbed && judged.outcome.is_err() {
        // A daemon started meanwhile: from now on SQLite sees it.
        true => once(path, evidence).await.0,
        false => judged,
    }
}

async fn once(path: &Path, evidence: &Evidence) -> (Judged, bool) {
    let mut ledger = match Ledger::open(path).await {
        Ok(ledger) => ledger,
        Err(error) => return (Judged { entries: 0, outcome: Err(error.into()) }, false),
    };
    let mut examiner = Examiner::new(false, evidence.copied.iter().cloned());
    let fed = feed(&mut ledger, &mut examiner).await;
    let entries = examiner.entries();
    let outcome = match fed {
        Ok(()) => finish(&mut ledger, examiner, evidence).await,
        Err(bad) => Err(bad.into()),
    };
    let disturbed = ledger.was_disturbed();
    ledger.close().await;
    (Judged { entries, outcome }, disturbed)
}

async fn finish(ledger: &mut Ledger, examiner: Examiner, evidence: &Evidence) -> Result<Findings, Refusal> {
    let unreadable = |seq: u64, error: StoreError| Bad::Unreadable { seq, problem: error.to_string() };
    let end = ledger.end().await.map_err(|error| unreadable(examiner.next(), error))?;
    Ok(examiner.finish(end.signed.as_deref(), Some(&end.head), evidence.trusted.as_ref())?)
}

/// Checkpoints that are read at once.
const CHECKPOINTS: u32 = 1_000;

async fn feed(ledger: &mut Ledger, examiner: &mut Examiner) -> Result<(), Bad> {
    let unreadable = |seq: u64, error: StoreError| Bad::Unreadable { seq, problem: error.to_string() };
    if ledger.has_hidden().await.map_err(|error| unreadable(1, error))? {
        return Err(Bad::Unreadable {
            seq: 1,
            problem: "there are entries with numbers below it".to_owned(),
        });
    }
    let mut stored = Checkpoints::default();
    let mut after = 0;
    let mut limit = LedgerFilter::PAGE;
    loop {
        let filter = LedgerFilter { after, limit: Some(limit), ..LedgerFilter::default() };
        let page = match ledger.entries(&filter).await {
            Ok(page) => page,
            // One by one, so that the good ones before the bad one are known.
            Err(_) if limit > 1 => {
                limit = 1;
                continue;
            }
            Err(error) => return Err(unreadable(examiner.next(), error)),
        };
        if page.is_empty() {
            break;
        }
        for row in &page {
            examiner.entry(row)?;
            after = row.seq;
            while let Some(next) = stored.up_to(row.seq, ledger).await? {
                take(&next, examiner)?;
            }
        }
    }
    match stored.up_to(u64::MAX, ledger).await? {
        // Of which ledger it is, the first entry would say.
        Some(_) if examiner.entries() == 0 => Err(FirstBad { seq: 1, problem: Problem::Missing }.into()),
        Some(beyond) => take(&beyond, examiner),
        None => Ok(()),
    }
}

fn take(stored: &Stored, examiner: &mut Examiner) -> Result<(), Bad> {
    let statement = stored.statement(examiner.origin()).ok_or(Bad::Signature { seq: stored.seq })?;
    examiner.checkpoint(&statement)
}

/// The stored checkpoints, some at a time.
#[derive(Debug, Default)]
struct Checkpoints {
    read: VecDeque<Stored>,
    after: i64,
    over: bool,
}

impl Checkpoints {
    async fn up_to(&mut self, seq: u64, ledger: &mut Ledger) -> Result<Option<Stored>, Bad> {
        if self.read.is_empty() && !self.over {
            // The first time from the lowest number there can be.
            let after = if self.after == 0 { i64::MIN } else { self.after };
            let page = ledger.checkpoints(after, CHECKPOINTS).await;
            let page = page.map_err(|error| Bad::Unreadable { seq, problem: error.to_string() })?;
            self.over = page.is_empty();
            self.after = page.last().map_or(self.after, |last| i64::try_from(last.seq).unwrap_or(i64::MAX));
            self.read = page.into();
        }
        match self.read.front() {
            Some(next) if next.seq <= seq => Ok(self.read.pop_front()),
            Some(_) | None => Ok(None),
        }
    }
}

/// Verifies an export.
pub fn export(input: impl BufRead, evidence: &Evidence) -> Judged {
    let reader = match Reader::new(input) {
        Ok(reader) => reader,
        Err(problem) => return Judged { entries: 0, outcome: Err(Refusal::Export(problem.to_string())) },
    };
    let mut reader = reader.peekable();
    let excerpt = reader.next_if(|item| matches!(item, Ok(Item::Excerpt(_)))).is_some();
    let mut examiner = Examiner::new(excerpt, evidence.copied.iter().cloned());
    let fed = feed_items(&mut reader, &mut examiner);
    let entries = examiner.entries();
    let outcome = fed.and_then(|head| examiner.finish(head.as_deref(), None, evidence.trusted.as_ref()));
    Judged { entries, outcome: outcome.map_err(Refusal::Bad) }
}

/// Returns the line of the head, where there is one.
fn feed_items<R: BufRead>(
    reader: &mut std::iter::Peekable<Reader<R>>,
    examiner: &mut Examiner,
) -> Result<Option<String>, Bad> {
    let odd = |examiner: &Examiner, problem: String| Bad::Unreadable { seq: examiner.next(), problem };
    while let Some(item) = reader.next() {
        match item.map_err(|problem| odd(examiner, problem.to_string()))? {
            Item::Entry(row) => examiner.entry(&row)?,
            Item::Checkpoint(line) => {
                let last = examiner.next() - 1;
                let statement = Statement::parse(&line).ok_or(Bad::Signature { seq: last })?;
                examiner.checkpoint(&statement)?;
            }
            Item::Excerpt(_) => {
                return Err(odd(
                    examiner,
                    "what was chosen for an excerpt stands in its first line only".to_owned(),
                ));
            }
            Item::Head(line) => {
                return match reader.next() {
                    None => Ok(Some(line)),
                    Some(_) => Err(odd(examiner, "something follows the signed head".to_owned())),
                };
            }
        }
    }
    Ok(None)
}
