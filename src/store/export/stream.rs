//! From a database to a file, page by page.

use std::io::{self, Write};

use super::{Excerpt, Item, Writer};
use crate::store::offline::{Ledger, Stored};
use crate::store::{LedgerFilter, StoreError, text};

/// Why there is no export, or half of one.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the ledger was never signed: start this version's daemon once, which does it")]
    Unsigned,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes the ledger, or the excerpt of it that the filter chooses.
pub async fn write<W: Write>(
    ledger: &mut Ledger,
    mut filter: LedgerFilter,
    writer: &mut Writer<W>,
) -> Result<(), ExportError> {
    let head = ledger.end().await?.signed.ok_or(ExportError::Unsigned)?;
    let mut checkpoints = Vec::new();
    match excerpt(&filter) {
        Some(chosen) => writer.item(&Item::Excerpt(chosen))?,
        None => checkpoints = stored(ledger).await?,
    }
    let mut checkpoints = checkpoints.into_iter().peekable();
    let mut origin = String::new();
    filter.limit = LedgerFilter::page(0).limit;
    loop {
        let page = ledger.entries(&filter).await?;
        let Some(last) = page.last() else { break };
        filter.after = last.seq;
        for row in page {
            let seq = row.seq;
            if seq == 1 {
                origin.clone_from(&row.hash);
            }
            writer.item(&Item::Entry(row))?;
            while let Some(checkpoint) = checkpoints.next_if(|checkpoint| checkpoint.seq <= seq) {
                // One that was altered comes along as it is: whoever verifies the export has to see it.
                writer.item(&Item::Checkpoint(checkpoint.line(&origin)))?;
            }
        }
    }
    for beyond in checkpoints {
        writer.item(&Item::Checkpoint(beyond.line(&origin)))?;
    }
    writer.item(&Item::Head(head))?;
    Ok(writer.flush()?)
}

fn excerpt(filter: &LedgerFilter) -> Option<Excerpt> {
    let since = filter.since.map(text::from_time);
    let service = filter.service.as_ref().map(ToString::to_string);
    (since.is_some() || service.is_some()).then_some(Excerpt { since, service })
}

/// All of them: one an hour.
async fn stored(ledger: &mut Ledger) -> Result<Vec<Stored>, StoreError> {
    let mut all: Vec<Stored> = Vec::new();
    loop {
        let after = all.last().map_or(i64::MIN, |last| i64::try_from(last.seq).unwrap_or(i64::MAX));
        let page = ledger.checkpoints(after, 1_000).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}
