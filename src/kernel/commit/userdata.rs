//! User data that only nft reads: what a set's key is made of, and comments. Without it nft prints numbers of the
//! wrong byte order.
//!
//! Records of type (1 byte), length (1 byte), value; numbers in the host's byte order (libnftnl, udata.h).

use crate::model::Family;
use crate::ruleset::{Field, Set, SetKind};

/// NFTNL_UDATA_SET_*, libnftnl/udata.h.
mod set {
    pub const KEY_BYTE_ORDER: u8 = 0;
    pub const DATA_BYTE_ORDER: u8 = 1;
    pub const KEY_TYPEOF: u8 = 3;
    pub const DATA_TYPEOF: u8 = 4;
    pub const DATA_INTERVAL: u8 = 6;
}

/// NFTNL_UDATA_SET_ELEM_*, libnftnl/udata.h.
mod element {
    pub const COMMENT: u8 = 0;
    pub const FLAGS: u8 = 1;
    /// NFTNL_SET_ELEM_F_INTERVAL_OPEN: the range has no end.
    pub const OPEN: u32 = 1;
}

/// `enum byteorder`, nft's datatype.h.
mod order {
    pub const NONE: u32 = 0;
    pub const HOST: u32 = 1;
    pub const NETWORK: u32 = 2;
}

/// `enum expr_types`, nft's expression.h: as user data they never change.
mod kind {
    pub const VERDICT: u32 = 1;
    pub const PAYLOAD: u32 = 7;
    pub const META: u32 = 9;
    pub const CONCATENATION: u32 = 13;
}

/// NFT_USERDATA_MAXLEN, nf_tables.h. Keys of many fields go without a description, which costs readability only.
const SET_MAX: usize = 256;
/// NFTNL_UDATA_COMMENT_MAXLEN, libnftnl/udata.h, without the closing NUL.
const COMMENT_MAX: usize = 127;

/// The user data of a set.
pub fn of_set(declaration: &Set) -> Vec<u8> {
    let order = number(set::KEY_BYTE_ORDER, byte_order(&declaration.fields));
    let mut data = order.clone();
    let map = matches!(declaration.kind, SetKind::Verdicts);
    if map {
        data.extend(number(set::DATA_BYTE_ORDER, order::NONE));
    }
    data.extend(record(set::KEY_TYPEOF, &typeof_key(&declaration.fields)));
    if map {
        data.extend(record(set::DATA_TYPEOF, &expression(kind::VERDICT, &[])));
        data.extend(number(set::DATA_INTERVAL, 0));
    }
    if data.len() > SET_MAX { order } else { data }
}

/// The user data of an anonymous set of ICMP types.
pub fn of_icmp_types(family: Family) -> Vec<u8> {
    const TYPE: u32 = 1;
    let mut data = number(set::KEY_BYTE_ORDER, order::NETWORK);
    data.extend(record(set::KEY_TYPEOF, &payload(icmp(family), TYPE, None)));
    data
}

/// The user data of an element: its comment, and whether its range is open; `None` when there is nothing to say.
pub fn of_element(comment: Option<&str>, open: bool) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    if let Some(comment) = comment {
        let mut text = shorten(comment).into_bytes();
        text.push(0);
        data.extend(record(element::COMMENT, &text));
    }
    if open {
        data.extend(number(element::FLAGS, element::OPEN));
    }
    (!data.is_empty()).then_some(data)
}

/// The comment in the user data of an element.
pub fn comment_of(data: Option<&[u8]>) -> Option<String> {
    let mut rest = data?;
    while let [kind, length, after @ ..] = rest {
        let value = after.get(..usize::from(*length))?;
        if *kind == element::COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = &after[usize::from(*length)..];
    }
    None
}

/// What is kept of a comment.
pub fn kept(comment: Option<&str>) -> Option<String> {
    comment.map(shorten)
}

/// The end of a comment that is too long: of a path, the end says most.
fn shorten(comment: &str) -> String {
    if comment.len() <= COMMENT_MAX {
        return comment.to_owned();
    }
    let mark = "…";
    let mut start = comment.len() - (COMMENT_MAX - mark.len());
    while !comment.is_char_boundary(start) {
        start += 1;
    }
    format!("{mark}{}", &comment[start..])
}

fn byte_order(fields: &[Field]) -> u32 {
    match fields {
        [Field::Cgroup] => order::NONE,
        [Field::Time] => order::HOST,
        [_] => order::NETWORK,
        _ => order::NONE,
    }
}

/// What the key is, so that nft prints `typeof`.
fn typeof_key(fields: &[Field]) -> Vec<u8> {
    let mut parts: Vec<_> = fields.iter().flat_map(|field| typeof_field(*field)).collect();
    if let [part] = &mut parts[..] {
        return std::mem::take(part);
    }
    let list: Vec<u8> = (0..).zip(&parts).flat_map(|(index, part)| record(index, part)).collect();
    expression(kind::CONCATENATION, &list)
}

/// Descriptions (`enum proto_desc_id`) and fields (`enum *_hdr_fields`) of nft's proto.h.
///
/// A cgroup's id goes as two marks, the low half first on small-endian machines: as a cgroup, nft would look each id up
/// in all of cgroupfs, which takes minutes; of its types of 8 bytes none is neutral, and plain integers in concatenations it
/// misprints.
fn typeof_field(field: Field) -> Vec<Vec<u8>> {
    match field {
        Field::Cgroup => vec![meta(libc::NFT_META_MARK as u32); 2],
        Field::Address(Family::V4) => vec![payload(12, 12, None)],
        Field::Address(Family::V6) => vec![payload(13, 9, None)],
        Field::Network(Family::V4) => vec![raw(128, 16)],
        Field::Network(Family::V6) => vec![raw(192, 32)],
        Field::Protocol => vec![meta(libc::NFT_META_L4PROTO as u32)],
        Field::Port => vec![payload(11, 2, None)],
        Field::Time => vec![meta(super::expression::META_TIME_NS)],
        Field::EchoId(Family::V4) => vec![payload(icmp(Family::V4), 4, Some(16))],
        Field::EchoId(Family::V6) => vec![payload(icmp(Family::V6), 6, Some(16))],
        Field::Number => vec![meta(libc::NFT_META_MARK as u32)],
    }
}

fn icmp(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 14,
    }
}

/// NFTNL_UDATA_SET_KEY_PAYLOAD_{DESC,TYPE,LEN}: the length in bits, for fields that are plain integers.
fn payload(protocol: u32, field: u32, length: Option<u32>) -> Vec<u8> {
    let mut data = [number(0, protocol), number(1, field)].concat();
    data.extend(length.into_iter().flat_map(|length| number(4, length)));
    expression(kind::PAYLOAD, &data)
}

/// Bits of the network header that are no field of their own: NFTNL_UDATA_SET_KEY_PAYLOAD_{DESC,TYPE,BASE,OFFSET,LEN}.
fn raw(offset: u32, length: u32) -> Vec<u8> {
    /// PROTO_BASE_NETWORK_HDR, nft's proto.h.
    const BASE: u32 = 2;
    let data = [number(0, 0), number(1, 0), number(2, BASE), number(3, offset), number(4, length)].concat();
    expression(kind::PAYLOAD, &data)
}

fn meta(key: u32) -> Vec<u8> {
    expression(kind::META, &number(0, key))
}

/// NFTNL_UDATA_SET_TYPEOF_{EXPR,DATA}.
fn expression(kind: u32, data: &[u8]) -> Vec<u8> {
    [number(0, kind), record(1, data)].concat()
}

fn number(kind: u8, value: u32) -> Vec<u8> {
    record(kind, &value.to_ne_bytes())
}

/// A record; a value that does not fit its length byte is left out.
fn record(kind: u8, value: &[u8]) -> Vec<u8> {
    match u8::try_from(value.len()) {
        Ok(length) => [&[kind, length], value].concat(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_addresses_says_what_nft_says() {
        let data = of_set(&Set::plain(&[Field::Address(Family::V4)]));
        // As nft 1.0.6 sends it for `typeof ip daddr`.
        let nft = "000402000000031400040700000001 0c00040c00000001040c000000".replace(' ', "");
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, nft);
    }

    #[test]
    fn long_comments_keep_their_end() {
        let short = shorten(&format!("{}ü/unit.service", "a".repeat(200)));
        assert!(short.len() <= COMMENT_MAX && short.starts_with('…') && short.ends_with("/unit.service"));
    }
}
