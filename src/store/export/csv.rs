//! CSV (RFC 4180, line feeds as line ends).

use std::io;

use super::{Excerpt, Item};
use crate::store::{Detail, LedgerRow};

pub(super) const HEADER: &[u8] = b"seq,at,kind,service,actor,detail,prev,hash\n";

const CELLS: usize = 8;

const EXCERPT: &str = "excerpt";
const CHECKPOINT: &str = "checkpoint";
const HEAD: &str = "head";

pub(super) fn write(item: &Item) -> io::Result<Vec<u8>> {
    let mark = |kind: &str, text: &str| {
        let cell = |index| match index {
            2 => kind.to_owned(),
            5 => guarded(text),
            _ => String::new(),
        };
        (0..CELLS).map(cell).collect::<Vec<_>>()
    };
    let cells = match item {
        Item::Entry(row) => cells(row),
        Item::Excerpt(excerpt) => mark(EXCERPT, &serde_json::to_string(excerpt)?),
        Item::Checkpoint(line) => mark(CHECKPOINT, line),
        Item::Head(line) => mark(HEAD, line),
    };
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(&cells)?;
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
}

fn cells(row: &LedgerRow) -> Vec<String> {
    let LedgerRow { seq, at, kind, service, actor, detail, prev, hash } = row;
    let service = match service.as_deref() {
        None => String::new(),
        Some("") => "'".to_owned(),
        Some(name) => guarded(name),
    };
    let [at, kind, actor, detail, prev, hash] = [at, kind, actor, detail.as_str(), prev, hash].map(guarded);
    vec![seq.to_string(), at, kind, service, actor, detail, prev, hash]
}

/// No spreadsheet takes the cell for a formula.
fn guarded(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r', '\'']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

fn plain(cell: &str) -> String {
    cell.strip_prefix('\'').unwrap_or(cell).to_owned()
}

pub(super) fn parse(record: &[u8]) -> Option<Item> {
    let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(record);
    let mut records = reader.records();
    let (record, end) = (records.next()?.ok()?, records.next());
    let cells: Vec<_> = record.iter().collect();
    let ([seq, at, kind, service, actor, detail, prev, hash], None) = (&cells[..], end) else { return None };
    if seq.is_empty() {
        let text = plain(detail);
        return match *kind {
            EXCERPT => serde_json::from_str::<Excerpt>(&text).ok().map(Item::Excerpt),
            CHECKPOINT => Some(Item::Checkpoint(text)),
            HEAD => Some(Item::Head(text)),
            _ => None,
        };
    }
    Some(Item::Entry(LedgerRow {
        seq: seq.parse().ok()?,
        at: plain(at),
        kind: plain(kind),
        service: (!service.is_empty()).then(|| plain(service)),
        actor: plain(actor),
        detail: Detail::from_stored(plain(detail)),
        prev: plain(prev),
        hash: plain(hash),
    }))
}
