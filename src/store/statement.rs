//! Signed statements about the ledger: what it ends with (`head`), and what it ended with once (`checkpoint`).
//!
//! Pure: no I/O, no clock. A statement is one line of printable ASCII, its eight words separated by single spaces:
//!
//! ```text
//! picoseg-head v1 ORIGIN SEQ HASH TIME KEY SIGNATURE
//! picoseg-checkpoint v1 ORIGIN SEQ HASH TIME KEY SIGNATURE
//! ```
//!
//! | word | what |
//! |---|---|
//! | ORIGIN | which ledger: the hash of its first entry, 64 lower-case hexadecimal digits |
//! | SEQ | the number of the entry, decimal |
//! | HASH | the hash of that entry, 64 lower-case hexadecimal digits |
//! | TIME | when it was signed: RFC 3339, UTC, nine digits of nanoseconds, `Z` |
//! | KEY | the public key: base64 of its 32 bytes (44 characters) |
//! | SIGNATURE | Ed25519 (RFC 8032), base64 of its 64 bytes (88 characters) |
//!
//! Signed is the line up to the space in front of SIGNATURE, that space not included. The first two words say what is stated and in which
//! version, so that no signature fits two purposes: a ledger cannot be cut back to a checkpoint by calling it the head.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signature;

use super::chain::Head;
use super::key::{Key, PublicKey};
use super::text;
use crate::model::Time;

/// What is stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// The ledger ends here.
    Head,
    /// The ledger has this entry.
    Checkpoint,
}

impl Purpose {
    /// The words that a line of this purpose begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Head => "picoseg-head v1 ",
            Self::Checkpoint => "picoseg-checkpoint v1 ",
        }
    }
}

/// A signed statement. It is well-formed; whether the signature fits, [`Statement::is_signed`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub purpose: Purpose,
    pub origin: String,
    pub head: Head,
    /// When it was signed, as written.
    pub at: String,
    pub key: PublicKey,
    signature: Signature,
}

impl Statement {
    pub fn sign(purpose: Purpose, origin: &str, head: &Head, at: Time, key: &Key) -> Self {
        let (at, public) = (text::from_time(at), key.public().clone());
        let signature = key.sign(&signed_text(purpose, origin, head, &at, &public));
        Self { purpose, origin: origin.to_owned(), head: head.clone(), at, key: public, signature }
    }

    /// Reads a line, which has to be exactly as it was written.
    pub fn parse(line: &str) -> Option<Self> {
        let purpose =
            [Purpose::Head, Purpose::Checkpoint].into_iter().find(|p| line.starts_with(p.prefix()))?;
        let words: Vec<_> = line[purpose.prefix().len()..].split(' ').collect();
        let [origin, seq, hash, at, key, signature] = words[..] else { return None };
        let signature: [u8; 64] = STANDARD.decode(signature).ok()?.try_into().ok()?;
        let statement = Self {
            purpose,
            origin: origin.to_owned(),
            head: Head { seq: seq.parse().ok()?, hash: hash.to_owned() },
            at: at.to_owned(),
            key: key.parse().ok()?,
            signature: Signature::from_bytes(&signature),
        };
        let formed = is_hash(origin) && is_hash(hash) && is_time(at) && statement.to_string() == line;
        formed.then_some(statement)
    }

    /// Whether the key that it names has signed it.
    pub fn is_signed(&self) -> bool {
        self.key.verifies(
            &signed_text(self.purpose, &self.origin, &self.head, &self.at, &self.key),
            &self.signature,
        )
    }

    pub(super) fn signature(&self) -> String {
        STANDARD.encode(self.signature.to_bytes())
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = signed_text(self.purpose, &self.origin, &self.head, &self.at, &self.key);
        write!(f, "{text} {}", self.signature())
    }
}

fn signed_text(purpose: Purpose, origin: &str, head: &Head, at: &str, key: &PublicKey) -> String {
    format!("{}{origin} {} {} {at} {key}", purpose.prefix(), head.seq, head.hash)
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_time(text: &str) -> bool {
    text::to_time(text).is_ok_and(|time| text::from_time(time) == text)
}

/// What a text has of checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// As lines, which tell them apart.
    pub lines: BTreeSet<String>,
    /// Begins like one and is none: cut short, or changed on its way.
    pub damaged: u64,
}

impl Found {
    /// Takes in the checkpoints of one line of any text: a log, a mail, JSON. Each stands in one piece.
    pub fn look_at(&mut self, line: &str) {
        let prefix = Purpose::Checkpoint.prefix();
        for (start, _) in line.match_indices(prefix) {
            let piece = &line[start..];
            let whole =
                signed_length(&piece[prefix.len()..]).and_then(|length| piece.get(..prefix.len() + length));
            match whole.filter(|line| Statement::parse(line).is_some()) {
                Some(line) => {
                    self.lines.insert(line.to_owned());
                }
                None => self.damaged += 1,
            }
        }
    }

    /// The checkpoints.
    pub fn statements(&self) -> impl Iterator<Item = Statement> {
        self.lines.iter().filter_map(|line| Statement::parse(line))
    }
}

/// Characters of a signature.
const SIGNATURE: usize = 88;

/// How long the words from ORIGIN to SIGNATURE are; the text may go on behind them.
fn signed_length(words: &str) -> Option<usize> {
    let (last_space, _) = words.match_indices(' ').nth(4)?;
    Some(last_space + 1 + SIGNATURE)
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use proptest::prelude::*;

    use super::super::key;
    use super::*;

    fn statement(purpose: Purpose) -> Statement {
        let root = tempfile::tempdir().unwrap();
        let key = key::Place::new(root.path(), None).load(None).unwrap();
        let head = Head { seq: 42, hash: "ab".repeat(32) };
        let at = chrono::Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap();
        Statement::sign(purpose, &"01".repeat(32), &head, at, &key)
    }

    #[test]
    fn a_statement_reads_back_and_is_signed() {
        for purpose in [Purpose::Head, Purpose::Checkpoint] {
            let statement = statement(purpose);
            assert!(statement.is_signed());
            assert_eq!(Statement::parse(&statement.to_string()), Some(statement));
        }
    }

    #[test]
    fn no_byte_of_a_line_can_be_another_one() {
        let line = statement(Purpose::Checkpoint).to_string();
        for at in 0..line.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64] {
                let mut bytes = line.clone().into_bytes();
                bytes[at] ^= flip;
                let good = String::from_utf8(bytes)
                    .is_ok_and(|line| Statement::parse(&line).is_some_and(|s| s.is_signed()));
                assert!(!good, "byte {at} flipped by {flip}");
            }
            assert!(Statement::parse(&line[..at]).is_none());
        }
        assert!(Statement::parse(&format!("{line} ")).is_none());
    }

    #[test]
    fn a_checkpoint_is_no_head() {
        let line = statement(Purpose::Checkpoint).to_string().replace("picoseg-checkpoint", "picoseg-head");
        assert!(!Statement::parse(&line).unwrap().is_signed());
    }

    #[test]
    fn checkpoints_are_found_anywhere_in_a_text() {
        let (one, other) =
            (statement(Purpose::Checkpoint).to_string(), statement(Purpose::Checkpoint).to_string());
        let mut found = Found::default();
        found.look_at(&format!("Jan 01 host picosegd[7]: {one}"));
        found.look_at(&format!("{{\"MESSAGE\":\"{other}\"}} {one}, twice"));
        found.look_at(&statement(Purpose::Head).to_string());
        assert_eq!(found, Found { lines: [one.clone(), other].into(), damaged: 0 });
        assert_eq!(found.statements().count(), 2);
        found.look_at(&one[..one.len() - 1]);
        found.look_at("picoseg-checkpoint v1 ORIGIN");
        assert_eq!(found.damaged, 2);
    }

    proptest! {
        #[test]
        fn any_text_is_looked_through(text: String, cut in 0..400_usize) {
            let line = "picoseg-checkpoint v1 ä ö ü".to_owned() + &text;
            let cut = (0..=cut.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
            Found::default().look_at(&line[..cut]);
        }
    }
}
