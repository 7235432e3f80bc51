//! The ledger as a file for others: JSON lines, or CSV for spreadsheets. Verifies without the database.
//!
//! In order: where it is an excerpt, what was chosen; the entries, each followed by its checkpoint, if it has one; the signed head, always
//! last, so that a file that was cut off shows it.
//!
//! | | JSON lines | CSV |
//! |---|---|---|
//! | entry | the object of `audit show` | `seq,at,kind,service,actor,detail,prev,hash` |
//! | checkpoint | `{"checkpoint":LINE}` | `kind` is `checkpoint`, `detail` is LINE, the rest is empty |
//! | excerpt | `{"excerpt":{"since":TIME,"service":NAME}}` | the same with `excerpt` and the inner object |
//! | head | `{"head":LINE}` | the same with `head` |
//!
//! LINE is a [`statement`](super::statement). In CSV `detail` is the JSON text as it is hashed; a cell that begins with `=`, `+`, `-`, `@`, a tab, a
//! carriage return or an apostrophe has one apostrophe more in front, which reading takes off again, so that no spreadsheet takes it for a formula; an absent
//! service is an empty cell, an empty one an apostrophe.
//!
//! Reading is strict: a line has to be, byte for byte, what writing its content gives. So nothing can hide in what two programs read
//! differently.

mod csv;
mod jsonl;
mod read;
mod stream;

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::LedgerRow;

pub use read::{Problem, Reader};
pub use stream::{ExportError, write};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Jsonl,
    Csv,
}

/// One line, or record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Excerpt(Excerpt),
    Entry(LedgerRow),
    /// A line of text that should be a checkpoint.
    Checkpoint(String),
    /// A line of text that should be the signed head.
    Head(String),
}

/// What was chosen of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excerpt {
    /// RFC 3339.
    pub since: Option<String>,
    pub service: Option<String>,
}

/// Writes a file, line by line.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    format: Format,
}

impl<W: Write> Writer<W> {
    pub fn new(mut out: W, format: Format) -> io::Result<Self> {
        match format {
            Format::Jsonl => {}
            Format::Csv => out.write_all(csv::HEADER)?,
        }
        Ok(Self { out, format })
    }

    pub fn item(&mut self, item: &Item) -> io::Result<()> {
        self.out.write_all(&self.format.line(item)?)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Format {
    /// The only text that stands for an item, its line end included.
    fn line(self, item: &Item) -> io::Result<Vec<u8>> {
        match self {
            Self::Jsonl => jsonl::write(item),
            Self::Csv => csv::write(item),
        }
    }

    fn parse(self, line: &[u8]) -> Option<Item> {
        match self {
            Self::Jsonl => jsonl::parse(line),
            Self::Csv => csv::parse(line),
        }
    }

    /// Whether a record ends with this line end.
    fn is_whole(self, bytes: &[u8]) -> bool {
        match self {
            Self::Jsonl => true,
            // A quoted cell may have line ends of its own.
            Self::Csv => bytes.iter().filter(|byte| **byte == b'"').count() % 2 == 0,
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
