//! Whether a ledger is whole: entries, checkpoints, the signed end, and checkpoints that were copied elsewhere.
//!
//! Pure: no I/O, no clock. `audit verify` feeds it entry by entry, in bounded memory.
//!
//! Who vouches for what: the trusted key for the signed head; the head, by its hash, for every entry before it; an entry
//! `key.changed` for the key that signed until then. So the stored checkpoints add no trust: they tell how early a
//! ledger went wrong that somebody rewrote without the key. Of somebody with the key only a copied checkpoint tells.

use std::collections::BTreeMap;

use super::chain::{self, FirstBad, GENESIS, Head, Problem, Verifier};
use super::key::PublicKey;
use super::statement::{Purpose, Statement};
use super::{LedgerKind, LedgerRow};

/// Why a ledger is not whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    #[error(transparent)]
    Chain(#[from] FirstBad),
    #[error("entry {seq}: it was altered and its hash made anew: entry {} states another one", .seq + 1)]
    Rehashed { seq: u64 },
    #[error("entry {seq}: it was inserted: the next one is the entry that had its number")]
    Inserted { seq: u64 },
    #[error(
        "entry {seq}: the checkpoint there states another hash; what is before it, as far as no earlier checkpoint covers it, was rewritten"
    )]
    Rewritten { seq: u64 },
    #[error(
        "entry {seq}: the copied checkpoint of {at} states another hash: the ledger was rewritten after it was signed"
    )]
    CopyDiffers { seq: u64, at: String },
    #[error(
        "entry {seq}: it is missing: a copied checkpoint of {at} has seen the ledger up to entry {stated}"
    )]
    CopyBeyond { seq: u64, stated: u64, at: String },
    #[error(
        "entry 1: a checkpoint of entry {stated} begins with another one: it is of another ledger, or this one was replaced"
    )]
    Origin { stated: u64 },
    #[error("entry {seq}: the signature of the checkpoint there does not fit it")]
    Signature { seq: u64 },
    #[error("entry {seq}: the copied checkpoint of {at} is not signed by the key that it names")]
    CopySignature { seq: u64, at: String },
    #[error("entry {seq}: the checkpoint there is signed by {found}, and the ledger was signed by {known}")]
    OtherKey { seq: u64, found: PublicKey, known: PublicKey },
    #[error("entry {seq}: it is signed by {found}, which is not the trusted key {trusted}")]
    Untrusted { seq: u64, found: PublicKey, trusted: PublicKey },
    #[error("entry {seq}: it says that the key changed, but not from the one that signed before")]
    KeyChange { seq: u64 },
    #[error("entry {seq}: the signed head is missing: the end was cut off, or never signed")]
    NoHead { seq: u64 },
    #[error("entry {seq}: the signature of the head does not fit it")]
    HeadSignature { seq: u64 },
    #[error(
        "entry {seq}: the signed head ends there, and the ledger says that it ends otherwise (with entry {stated})"
    )]
    HeadDiffers { seq: u64, stated: u64 },
    #[error("entry {seq}: {problem}")]
    Unreadable { seq: u64, problem: String },
}

impl Bad {
    /// The number of the first entry that is wrong or missing.
    pub fn seq(&self) -> u64 {
        match self {
            Self::Chain(bad) => bad.seq,
            Self::Origin { .. } => 1,
            Self::Rehashed { seq }
            | Self::Inserted { seq }
            | Self::Rewritten { seq }
            | Self::CopyDiffers { seq, .. }
            | Self::CopyBeyond { seq, .. }
            | Self::Signature { seq }
            | Self::CopySignature { seq, .. }
            | Self::OtherKey { seq, .. }
            | Self::Untrusted { seq, .. }
            | Self::KeyChange { seq }
            | Self::NoHead { seq }
            | Self::HeadSignature { seq }
            | Self::HeadDiffers { seq, .. }
            | Self::Unreadable { seq, .. } => *seq,
        }
    }
}

/// What was found of a ledger that is whole, or of an excerpt in which nothing was altered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    pub entries: u64,
    /// Stored checkpoints that fit.
    pub checkpoints: u64,
    /// Copied checkpoints that fit, and the number of the latest.
    pub copies: u64,
    pub covered: u64,
    pub head: Statement,
    /// The entries below were recorded before the ledger was signed.
    pub signed_from: u64,
    /// Keys that signed before the present one.
    pub former_keys: u64,
    pub excerpt: bool,
}

/// Takes a ledger in, in its order.
#[derive(Debug)]
pub struct Examiner {
    excerpt: bool,
    verifier: Verifier,
    /// The head before the last entry.
    before: Head,
    entries: u64,
    origin: String,
    /// An entry that does not continue the one before it. Who is wrong of the two, the end says.
    broken: Option<FirstBad>,
    checkpoints: u64,
    copied: BTreeMap<u64, Vec<Statement>>,
    copies: u64,
    covered: u64,
    /// Who signed so far, and from which entry on.
    signer: Option<(u64, PublicKey)>,
    signed_from: u64,
    former_keys: u64,
}

impl Examiner {
    /// Of the whole ledger, or of an excerpt. `copied` are checkpoints that were kept elsewhere.
    pub fn new(excerpt: bool, copied: impl IntoIterator<Item = Statement>) -> Self {
        let mut by_seq: BTreeMap<u64, Vec<Statement>> = BTreeMap::new();
        for statement in copied {
            by_seq.entry(statement.head.seq).or_default().push(statement);
        }
        Self {
            excerpt,
            verifier: Verifier::default(),
            before: Head::default(),
            entries: 0,
            origin: GENESIS.to_owned(),
            broken: None,
            checkpoints: 0,
            copied: by_seq,
            copies: 0,
            covered: 0,
            signer: None,
            signed_from: 1,
            former_keys: 0,
        }
    }

    /// How many entries were taken.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The number that comes next where nothing is missing.
    pub fn next(&self) -> u64 {
        self.verifier.head().seq.saturating_add(1)
    }

    /// The hash of the first entry.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Takes the next entry.
    pub fn entry(&mut self, row: &LedgerRow) -> Result<(), Bad> {
        let last = self.verifier.head().clone();
        if let Err(bad) = self.step(row, &last) {
            return Err(self.first(bad));
        }
        self.entries += 1;
        self.before = last;
        if row.seq == 1 {
            self.origin.clone_from(&row.hash);
        }
        if self.broken.is_none() && row.kind == LedgerKind::KeyChanged.as_str() {
            self.change_key(row)?;
        }
        for statement in self.copied.remove(&row.seq).unwrap_or_default() {
            self.copy(&statement)?;
        }
        Ok(())
    }

    fn step(&mut self, row: &LedgerRow, last: &Head) -> Result<(), Bad> {
        if self.excerpt {
            // What lies between two entries of an excerpt is not known.
            if row.seq > last.seq.saturating_add(1) {
                if chain::hash(row) != row.hash {
                    return Err(FirstBad { seq: row.seq, problem: Problem::Altered }.into());
                }
                self.verifier = Verifier::after(row.head());
                return Ok(());
            }
        }
        match self.verifier.step(row) {
            Ok(()) => Ok(()),
            Err(bad) if bad.problem == Problem::Disconnected && self.broken.is_none() => {
                self.broken = Some(bad);
                self.verifier = Verifier::after(row.head());
                Ok(())
            }
            Err(bad) if bad.problem == Problem::Altered && self.was_before(row) => {
                Err(Bad::Inserted { seq: row.seq - 1 })
            }
            Err(bad) => Err(bad.into()),
        }
    }

    /// Whether the entry was the last one's before somebody inserted that and counted on.
    fn was_before(&self, row: &LedgerRow) -> bool {
        let former = LedgerRow { seq: row.seq.saturating_sub(1), ..row.clone() };
        // The last entry once more is what was inserted itself.
        let another = row.hash != self.verifier.head().hash;
        another && former.prev == self.before.hash && former.seq > 0 && chain::hash(&former) == row.hash
    }

    /// What went wrong before counts.
    fn first(&self, bad: Bad) -> Bad {
        self.broken.clone().map_or(bad, Bad::Chain)
    }

    fn change_key(&mut self, row: &LedgerRow) -> Result<(), Bad> {
        let detail = row.detail.value();
        let key = |name: &str| detail[name].as_str().and_then(|text| text.parse::<PublicKey>().ok());
        let (from, to) = (key("from"), key("to"));
        let before = self.signer.as_ref().map(|(_, key)| key);
        let follows =
            detail["from"].is_null() == from.is_none() && before.is_none_or(|key| Some(key) == from.as_ref());
        let Some(to) = to.filter(|_| follows) else { return Err(Bad::KeyChange { seq: row.seq }) };
        match from {
            Some(_) => self.former_keys += 1,
            None => self.signed_from = row.seq,
        }
        self.signer = Some((row.seq, to));
        Ok(())
    }

    /// Takes a stored checkpoint of the entry that came last.
    pub fn checkpoint(&mut self, statement: &Statement) -> Result<(), Bad> {
        let last = self.verifier.head();
        let seq = statement.head.seq;
        if seq < last.seq || statement.purpose != Purpose::Checkpoint || !statement.is_signed() {
            return Err(self.first(Bad::Signature { seq }));
        }
        if seq > last.seq {
            return Err(self.first(FirstBad { seq: self.next(), problem: Problem::Missing }.into()));
        }
        if self.broken.is_some() {
            return Ok(());
        }
        if statement.origin != self.origin {
            return Err(Bad::Origin { stated: seq });
        }
        if statement.head != *last {
            return Err(Bad::Rewritten { seq });
        }
        self.signed_by(seq, &statement.key)?;
        self.checkpoints += 1;
        Ok(())
    }

    fn copy(&mut self, statement: &Statement) -> Result<(), Bad> {
        if self.broken.is_some() {
            return Ok(());
        }
        let (seq, at) = (statement.head.seq, statement.at.clone());
        if !statement.is_signed() {
            return Err(Bad::CopySignature { seq, at });
        }
        if !self.excerpt && statement.origin != self.origin {
            return Err(Bad::Origin { stated: seq });
        }
        if statement.head != *self.verifier.head() {
            return Err(Bad::CopyDiffers { seq, at });
        }
        if !self.excerpt {
            self.signed_by(seq, &statement.key)?;
        }
        self.copies += 1;
        self.covered = seq;
        Ok(())
    }

    fn signed_by(&mut self, seq: u64, key: &PublicKey) -> Result<(), Bad> {
        match &self.signer {
            Some((_, known)) if known != key => {
                Err(Bad::OtherKey { seq, found: key.clone(), known: known.clone() })
            }
            Some(_) => Ok(()),
            None => {
                self.signer = Some((seq, key.clone()));
                Ok(())
            }
        }
    }

    /// Takes the line of the signed head and says what was found. `stated` is where the ledger says, unsigned, that it ends.
    /// Without a trusted key the one that the head names has to do.
    pub fn finish(
        mut self,
        head: Option<&str>,
        stated: Option<&Head>,
        trusted: Option<&PublicKey>,
    ) -> Result<Findings, Bad> {
        let last = self.verifier.head().clone();
        let Some(line) = head else { return Err(self.first(Bad::NoHead { seq: self.next() })) };
        let parsed = Statement::parse(line).filter(|head| head.purpose == Purpose::Head && head.is_signed());
        let Some(head) = parsed else {
            return Err(self.first(Bad::HeadSignature { seq: last.seq.max(1) }));
        };
        let trusted = &trusted.unwrap_or(&head.key).clone();
        if self.excerpt {
            return self.finish_excerpt(head, trusted);
        }
        let ended = self.verifier.clone().finish(&head.head);
        if let Some(broken) = self.broken {
            // The head vouches for the entry that does not continue the one before it, hence against that one.
            let vouched = ended.is_ok() && head.key == *trusted && broken.seq > 1;
            return Err(if vouched { Bad::Rehashed { seq: broken.seq - 1 } } else { broken.into() });
        }
        ended?;
        if head.origin != self.origin {
            return Err(Bad::Origin { stated: head.head.seq });
        }
        self.trust(&head, trusted)?;
        if let Some(stated) = stated.filter(|stated| **stated != head.head) {
            return Err(Bad::HeadDiffers { seq: head.head.seq, stated: stated.seq });
        }
        if let Some(copy) = self.copied.into_values().flatten().next() {
            let beyond = Bad::CopyBeyond { seq: last.seq + 1, stated: copy.head.seq, at: copy.at };
            return Err(if copy.origin == self.origin {
                beyond
            } else {
                Bad::Origin { stated: copy.head.seq }
            });
        }
        Ok(Findings {
            entries: self.entries,
            checkpoints: self.checkpoints,
            copies: self.copies,
            covered: self.covered,
            head,
            signed_from: self.signed_from,
            former_keys: self.former_keys,
            excerpt: false,
        })
    }

    /// The key of the head is the trusted one and the one that signed last.
    fn trust(&mut self, head: &Statement, trusted: &PublicKey) -> Result<(), Bad> {
        let seq = head.head.seq;
        if head.key != *trusted {
            // From where on somebody else than the trusted key signed.
            let from = self.signer.as_ref().filter(|(_, key)| key != trusted).map_or(seq, |(from, _)| *from);
            return Err(Bad::Untrusted { seq: from, found: head.key.clone(), trusted: trusted.clone() });
        }
        self.signed_by(seq, &head.key)
    }

    fn finish_excerpt(self, head: Statement, trusted: &PublicKey) -> Result<Findings, Bad> {
        let last = self.verifier.head().seq;
        if let Some(broken) = self.broken {
            return Err(broken.into());
        }
        if head.key != *trusted {
            let seq = head.head.seq;
            return Err(Bad::Untrusted { seq, found: head.key, trusted: trusted.clone() });
        }
        if last > head.head.seq {
            let seq = head.head.seq + 1;
            return Err(FirstBad { seq, problem: Problem::BeyondHead }.into());
        }
        if last == head.head.seq && *self.verifier.head() != head.head {
            return Err(FirstBad { seq: last, problem: Problem::WrongHead }.into());
        }
        Ok(Findings {
            entries: self.entries,
            checkpoints: self.checkpoints,
            copies: self.copies,
            covered: self.covered,
            head,
            signed_from: 1,
            former_keys: 0,
            excerpt: true,
        })
    }
}

#[cfg(test)]
#[path = "examine_tests.rs"]
mod tests;
