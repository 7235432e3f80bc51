//! A door to what reads the answers of nf_tables, for [`crate::fuzzing`] alone.

use super::attributes::{Attributes, Header};
use super::read::{assembled, chain_in, counter_in, found_in, set_in};
use super::socket::{Answer, object_or_none};
use super::{named, userdata};
use crate::model::Family;
use crate::ruleset::{Field, Set};

/// Reads one message by its kind as every reader of it does.
pub fn message(bytes: &[u8]) {
    // An answer is read whatever it is, as in `Socket::answers`.
    if let Some(answer) = Answer::parse(bytes) {
        assert!(answer.text.is_none_or(|text| text.len() <= 3 * bytes.len()));
    }
    let _ = object_or_none(bytes);
    let Some(Header { kind, .. }) = Header::of(bytes) else { return };
    match i32::from(kind & 0xff) {
        libc::NFT_MSG_NEWSET => drop(set_in(bytes, "picoseg")),
        libc::NFT_MSG_NEWCHAIN => drop(chain_in(bytes, "picoseg")),
        libc::NFT_MSG_NEWSETELEM => elements(bytes),
        libc::NFT_MSG_NEWRULE => rule(bytes),
        libc::NFT_MSG_NEWOBJ => drop(counter_in(bytes)),
        _ => assert!(Attributes::of_message(bytes).count() <= bytes.len() / 4),
    }
}

fn elements(bytes: &[u8]) {
    let found = found_in(bytes);
    for interval in [false, true] {
        let shape = Set { interval, ..Set::plain(&[Field::Address(Family::V4)]) };
        assert!(assembled(&shape, found.clone()).len() <= found.len());
    }
}

/// As far as we read it. The expressions are read by libnftnl 1.2, which takes it for granted that the kernel sends what it
/// should: a jump without a chain ends it. Whoever forges messages of the kernel is in the kernel.
fn rule(bytes: &[u8]) {
    let _ = named::all_are_named(bytes);
}

/// What is written of a comment, for nft to read.
pub fn comment(text: &str) {
    for open in [false, true] {
        let data = userdata::of_element(Some(text), open).unwrap_or_default();
        assert!(data.len() <= 2 + 128 + 6);
    }
}
