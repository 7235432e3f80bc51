//! Sets and their elements, in the layouts that the kernel's kinds of sets want.

use nftnl::nftnl_sys as sys;

use super::error::CommitError;
use super::{expression, text, userdata};
use crate::kernel::ffi;
use crate::model::{Family, Time};
use crate::ruleset::{Field, Key, Set, SetKind};

/// NFT_SET_CONCAT, nf_tables.h (kernel 5.6): ranges in several fields.
const CONCAT: i32 = 0x80;
/// NFT_DATA_VERDICT, nf_tables.h.
const DATA_VERDICT: u32 = 0xffff_ff00;
/// An element outlives its close by a tick or two of the kernel's clock (100 Hz at least), never less. The wall clock
/// closes to the packet; elapsed time decides alone only after the clock was turned back. Were the element gone
/// first, the last packets of every window would be refused with the wrong reason.
pub const MARGIN_MS: u64 = 20;

/// `enum datatypes` of nft's datatype.h; the kernel only stores them.
mod datatype {
    pub const INTEGER: u32 = 4;
    pub const IPV4: u32 = 7;
    pub const IPV6: u32 = 8;
    pub const PROTOCOL: u32 = 12;
    pub const SERVICE: u32 = 13;
    pub const MARK: u32 = 19;
    pub const TIME: u32 = 43;
    /// Bits of one type in that of a concatenation.
    pub const BITS: u32 = 6;
}

/// How a set's elements are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One key (hash).
    Single,
    /// Both ends of the range in one element (pipapo).
    Range,
    /// Two elements: the first key, and the first key behind the range (rbtree).
    Ends,
}

impl Layout {
    pub fn of(set: &Set) -> Self {
        match (set.interval, set.fields.len()) {
            (false, _) => Self::Single,
            (true, 1) => Self::Ends,
            (true, _) => Self::Range,
        }
    }
}

/// The declaration of a set, without elements.
pub fn declare(table: &str, name: &str, set: &Set, id: u32) -> Result<ffi::Set, CommitError> {
    let mut declared = ffi::Set::new()
        .str(sys::NFTNL_SET_TABLE, &text(table)?)
        .str(sys::NFTNL_SET_NAME, &text(name)?)
        .u32(sys::NFTNL_SET_ID, id)
        .u32(sys::NFTNL_SET_FLAGS, flags(set))
        .u32(sys::NFTNL_SET_KEY_TYPE, key_type(&set.fields))
        .u32(sys::NFTNL_SET_KEY_LEN, key_length(&set.fields) as u32)
        .user_data(&userdata::of_set(set));
    if Layout::of(set) == Layout::Range {
        declared = declared.field_lengths(&field_lengths(&set.fields));
    }
    Ok(match set.kind {
        SetKind::Plain => declared,
        SetKind::Verdicts => {
            declared.u32(sys::NFTNL_SET_DATA_TYPE, DATA_VERDICT).u32(sys::NFTNL_SET_DATA_LEN, 0)
        }
        SetKind::Dynamic { size, timeout, counted } => {
            declared = declared.u32(sys::NFTNL_SET_DESC_SIZE, size);
            if let Some(timeout) = timeout {
                declared = declared.u64(sys::NFTNL_SET_TIMEOUT, timeout.as_millis() as u64);
            }
            match counted {
                true => declared.expression(expression::element_counter()),
                false => declared,
            }
        }
    })
}

/// NFT_SET_* flags of a declaration.
pub fn flags(set: &Set) -> u32 {
    let (map, dynamic, timeout) = match set.kind {
        SetKind::Plain => (false, false, false),
        SetKind::Verdicts => (true, false, false),
        SetKind::Dynamic { timeout, .. } => (false, true, timeout.is_some()),
    };
    let flags = [
        (libc::NFT_SET_INTERVAL, set.interval),
        (CONCAT, Layout::of(set) == Layout::Range),
        (libc::NFT_SET_MAP, map),
        (libc::NFT_SET_TIMEOUT, set.expires || timeout),
        (libc::NFT_SET_EVAL, dynamic),
    ];
    flags.iter().filter(|(_, on)| *on).map(|(flag, _)| *flag as u32).sum()
}

/// Bytes of a key: whole registers in a concatenation, the bare field alone.
pub fn key_length(fields: &[Field]) -> usize {
    match fields {
        [field] => field.length(),
        fields => fields.iter().map(|field| field.padded_length()).sum(),
    }
}

/// A key as the kernel wants it for a set: without the padding where the set has one field.
pub fn on_the_wire(set: &Set, key: &Key) -> Key {
    let length = key_length(&set.fields).min(key.bytes().len());
    Key::from_bytes(&key.bytes()[..length])
}

/// A key from the kernel, padded as ours are.
pub fn from_the_wire(bytes: &[u8]) -> Key {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Key::from_bytes(&bytes)
}

/// The types of the fields, packed as nft does it. More than five do not fit: then only the user data says what they are.
fn key_type(fields: &[Field]) -> u32 {
    let pack = |packed, kind| packed << datatype::BITS | kind;
    fields
        .iter()
        .flat_map(|field| match field {
            // See the user data for the reason.
            Field::Cgroup => vec![datatype::MARK, datatype::MARK],
            Field::Number => vec![datatype::MARK],
            Field::EchoId(_) | Field::Network(_) => vec![datatype::INTEGER],
            Field::Address(Family::V4) => vec![datatype::IPV4],
            Field::Address(Family::V6) => vec![datatype::IPV6],
            Field::Protocol => vec![datatype::PROTOCOL],
            Field::Port => vec![datatype::SERVICE],
            Field::Time => vec![datatype::TIME],
        })
        .fold(0, pack)
}

/// Lengths of the fields of a range set. A cgroup's 8 bytes are two fields: it is never a range, and a field of 8 bytes makes
/// pipapo ten to a hundred times slower.
fn field_lengths(fields: &[Field]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|field| match field {
            Field::Cgroup => vec![4, 4],
            field => vec![field.length() as u8],
        })
        .collect()
}

/// Milliseconds until an element has to be gone; `None` when that is over.
pub fn timeout_ms(closes_at: Time, now: Time) -> Option<u64> {
    let left = (closes_at - now).num_milliseconds();
    (closes_at > now).then(|| left.max(0).unsigned_abs() + MARGIN_MS)
}

/// The keys by which the kernel knows an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ends {
    Single(Key),
    Range {
        first: Key,
        last: Key,
    },
    /// `behind` is the first key after the range; none when the range reaches the last key there is.
    Tree {
        first: Key,
        behind: Option<Key>,
    },
}

impl Ends {
    pub fn of(set: &Set, key: &Key, last: Option<&Key>) -> Self {
        let first = on_the_wire(set, key);
        let last = on_the_wire(set, last.unwrap_or(key));
        match Layout::of(set) {
            Layout::Single => Self::Single(first),
            Layout::Range => Self::Range { first, last },
            Layout::Ends => Self::Tree { first, behind: successor(&last) },
        }
    }

    /// True for a range of a tree without an end.
    pub fn open(&self) -> bool {
        matches!(self, Self::Tree { behind: None, .. })
    }
}

/// The next key by byte order; `None` after the last.
pub fn successor(key: &Key) -> Option<Key> {
    let mut bytes = key.bytes().to_vec();
    for byte in bytes.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            return Some(Key::from_bytes(&bytes));
        }
    }
    None
}

/// The key before this one; the first key has none and stays.
pub fn predecessor(key: &Key) -> Key {
    let mut bytes = key.bytes().to_vec();
    for byte in bytes.iter_mut().rev() {
        let borrowed;
        (*byte, borrowed) = byte.overflowing_sub(1);
        if !borrowed {
            return Key::from_bytes(&bytes);
        }
    }
    key.clone()
}

/// The last key of this length.
pub fn greatest(key: &Key) -> Key {
    Key::from_bytes(&vec![u8::MAX; key.bytes().len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_carries_and_ends() {
        assert_eq!(successor(&Key::from_bytes(&[10, 0, 0, 255])), Some(Key::from_bytes(&[10, 0, 1, 0])));
        assert_eq!(successor(&Key::from_bytes(&[255; 4])), None);
    }

    #[test]
    fn elements_outlive_their_close_by_a_tick_or_two() {
        let now = Time::UNIX_EPOCH;
        let after = |ms| now + chrono::TimeDelta::milliseconds(ms);
        assert_eq!(timeout_ms(after(1000), now), Some(1020));
        assert_eq!(timeout_ms(after(5), now), Some(25));
        assert_eq!(timeout_ms(now, now), None);
        assert_eq!(timeout_ms(after(-1), now), None);
    }
}
