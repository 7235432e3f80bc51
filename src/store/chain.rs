//! The chain of the ledger: how an entry is hashed, and whether a sequence of entries is unbroken.
//!
//! Pure: no I/O, no clock. The ledger appends with it, `audit verify` judges with it, a database or an exported file.
//!
//! The hash of an entry is the SHA-256 over these bytes:
//!
//! ```text
//! "picoseg ledger 1\n"
//! field(seq) field(at) field(kind) field(service) field(actor) field(detail) field(prev)
//! field(x) = 0x00                                          when x is absent (only `service` can be)
//!          | 0x01, length of x in 8 bytes big endian, x    else
//! ```
//!
//! `seq` is its decimal digits, `at` RFC 3339 UTC with nine digits of nanoseconds, `detail` the JSON text without spaces
//! and with sorted keys ([`Detail`](super::Detail)), `prev` the lower-case hexadecimal hash of the entry before, of the first 64 zeros.
//! Lengths stand in front so that no two different entries have the same bytes.

use sha2::{Digest, Sha256};

use super::LedgerRow;
use super::text::hex;

/// `prev` of the first entry.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The last entry of an unbroken chain; `seq` is also the number of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: String,
}

impl Default for Head {
    /// The head of the empty chain.
    fn default() -> Self {
        Self { seq: 0, hash: GENESIS.to_owned() }
    }
}

/// The first place where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {seq}: {problem}")]
pub struct FirstBad {
    /// The number of the entry that is wrong, or of the one that is missing.
    pub seq: u64,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("it is missing")]
    Missing,
    #[error("it stands behind an entry with the same or a higher number")]
    OutOfOrder,
    #[error("its content does not have the hash that it states")]
    Altered,
    #[error("it does not continue the entry before it")]
    Disconnected,
    #[error("it is not the entry that the ledger ended with")]
    WrongHead,
    #[error("it is beyond the end of the ledger")]
    BeyondHead,
}

/// The hash that belongs to an entry; its own `hash` is not looked at.
pub fn hash(row: &LedgerRow) -> String {
    let mut sha = Sha256::new();
    sha.update(b"picoseg ledger 1\n");
    field(&mut sha, Some(&row.seq.to_string()));
    field(&mut sha, Some(&row.at));
    field(&mut sha, Some(&row.kind));
    field(&mut sha, row.service.as_deref());
    field(&mut sha, Some(&row.actor));
    field(&mut sha, Some(row.detail.as_str()));
    field(&mut sha, Some(&row.prev));
    hex(&sha.finalize())
}

fn field(sha: &mut Sha256, value: Option<&str>) {
    let Some(value) = value else {
        sha.update([0]);
        return;
    };
    sha.update([1]);
    sha.update((value.len() as u64).to_be_bytes());
    sha.update(value.as_bytes());
}

/// Returns the head of an unbroken chain that begins with entry 1.
///
/// A chain that was cut at its end is unbroken: compare with a known head, [`verify_to`].
pub fn verify<'a>(rows: impl IntoIterator<Item = &'a LedgerRow>) -> Result<Head, FirstBad> {
    let mut verifier = Verifier::default();
    for row in rows {
        verifier.step(row)?;
    }
    Ok(verifier.head)
}

/// Like [`verify`], and the chain has to end with `head`.
pub fn verify_to<'a>(rows: impl IntoIterator<Item = &'a LedgerRow>, head: &Head) -> Result<Head, FirstBad> {
    let mut verifier = Verifier::default();
    for row in rows {
        verifier.step(row)?;
    }
    verifier.finish(head)
}

/// [`verify`] in steps, for a ledger that is read page by page.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    head: Head,
}

impl Verifier {
    /// The last entry that was found good.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Goes on behind an entry that is taken as it is.
    pub(super) fn after(head: Head) -> Self {
        Self { head }
    }

    /// Takes the next entry.
    pub fn step(&mut self, row: &LedgerRow) -> Result<(), FirstBad> {
        let expected = self.head.seq.saturating_add(1);
        let bad = |seq, problem| Err(FirstBad { seq, problem });
        if row.seq > expected {
            return bad(expected, Problem::Missing);
        }
        if row.seq < expected {
            return bad(row.seq, Problem::OutOfOrder);
        }
        if hash(row) != row.hash {
            return bad(row.seq, Problem::Altered);
        }
        if row.prev != self.head.hash {
            return bad(row.seq, Problem::Disconnected);
        }
        self.head = Head { seq: row.seq, hash: row.hash.clone() };
        Ok(())
    }

    /// Returns the head when the entries so far end with `head`.
    pub fn finish(self, head: &Head) -> Result<Head, FirstBad> {
        let bad = |seq, problem| Err(FirstBad { seq, problem });
        if self.head.seq < head.seq {
            return bad(self.head.seq.saturating_add(1), Problem::Missing);
        }
        if self.head.seq > head.seq {
            return bad(head.seq.saturating_add(1), Problem::BeyondHead);
        }
        if self.head.hash != head.hash {
            return bad(head.seq, Problem::WrongHead);
        }
        Ok(self.head)
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
