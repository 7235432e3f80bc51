//! JSON lines.

use std::io;

use serde::{Deserialize, Serialize};

use super::{Excerpt, Item};
use crate::store::LedgerRow;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Mark {
    Excerpt(Excerpt),
    Checkpoint(String),
    Head(String),
}

pub(super) fn write(item: &Item) -> io::Result<Vec<u8>> {
    let mut line = match item {
        Item::Entry(row) => serde_json::to_vec(row)?,
        Item::Excerpt(excerpt) => serde_json::to_vec(&Mark::Excerpt(excerpt.clone()))?,
        Item::Checkpoint(line) => serde_json::to_vec(&Mark::Checkpoint(line.clone()))?,
        Item::Head(line) => serde_json::to_vec(&Mark::Head(line.clone()))?,
    };
    line.push(b'\n');
    Ok(line)
}

pub(super) fn parse(line: &[u8]) -> Option<Item> {
    if let Ok(row) = serde_json::from_slice::<LedgerRow>(line) {
        return Some(Item::Entry(row));
    }
    Some(match serde_json::from_slice(line).ok()? {
        Mark::Excerpt(excerpt) => Item::Excerpt(excerpt),
        Mark::Checkpoint(line) => Item::Checkpoint(line),
        Mark::Head(line) => Item::Head(line),
    })
}
