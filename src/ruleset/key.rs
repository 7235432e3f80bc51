//! Keys of set elements in the layout of the kernel's registers.
//!
//! Every field begins on a multiple of 4 bytes and is padded with zeros, as `nft_payload` and `nft_lookup` do it.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Field;
use crate::model::{Family, Time};

/// A key as the kernel compares it. Orders by its bytes. Most are short and need no memory of their own.
#[derive(Clone)]
pub struct Key(Bytes);

/// As many as fit beside the length and the mark in three words: cgroup, IPv4 address, protocol and port.
const SHORT: usize = 22;

#[derive(Clone)]
enum Bytes {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

/// One field of a key, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Cgroup(u64),
    Address(IpAddr),
    Network(u32),
    Protocol(u8),
    Port(u16),
    /// Nanoseconds since 1970.
    Time(u64),
    EchoId(u16),
    Number(u32),
}

impl Key {
    pub fn builder() -> KeyBuilder {
        KeyBuilder(Vec::with_capacity(24))
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut short = [0; SHORT];
        Self(match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(bytes);
                Bytes::Short { length, bytes: short }
            }
            (_, _) => Bytes::Long(bytes.into()),
        })
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or(bytes),
            Bytes::Long(bytes) => bytes,
        }
    }

    /// The fields' values; `None` when the key is too short for them.
    pub fn decode(&self, fields: &[Field]) -> Option<Vec<Value>> {
        let mut rest = self.bytes();
        fields
            .iter()
            .map(|field| {
                let (bytes, tail) = rest.split_at_checked(field.padded_length())?;
                rest = tail;
                decode_field(*field, bytes)
            })
            .collect()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.bytes())
    }
}

impl Field {
    /// Bytes that the kernel compares.
    pub fn length(self) -> usize {
        match self {
            Self::Cgroup | Self::Time => 8,
            Self::Address(Family::V4) | Self::Network(Family::V6) | Self::Number => 4,
            Self::Address(Family::V6) => 16,
            Self::Protocol => 1,
            Self::Network(Family::V4) | Self::Port | Self::EchoId(_) => 2,
        }
    }

    /// Bytes in a key: whole registers of 4 bytes.
    pub fn padded_length(self) -> usize {
        self.length().next_multiple_of(4)
    }
}

fn decode_field(field: Field, bytes: &[u8]) -> Option<Value> {
    let exact = &bytes[..field.length()];
    Some(match field {
        Field::Cgroup => Value::Cgroup(u64::from_ne_bytes(exact.try_into().ok()?)),
        Field::Time => Value::Time(u64::from_be_bytes(exact.try_into().ok()?)),
        Field::Address(Family::V4) => {
            let octets: [u8; 4] = exact.try_into().ok()?;
            Value::Address(Ipv4Addr::from(octets).into())
        }
        Field::Address(Family::V6) => {
            let octets: [u8; 16] = exact.try_into().ok()?;
            Value::Address(Ipv6Addr::from(octets).into())
        }
        Field::Network(Family::V4) => Value::Network(u16::from_be_bytes(exact.try_into().ok()?).into()),
        Field::Network(Family::V6) => Value::Network(u32::from_be_bytes(exact.try_into().ok()?)),
        Field::Protocol => Value::Protocol(*exact.first()?),
        Field::Port => Value::Port(u16::from_be_bytes(exact.try_into().ok()?)),
        Field::EchoId(_) => Value::EchoId(u16::from_be_bytes(exact.try_into().ok()?)),
        Field::Number => Value::Number(u32::from_ne_bytes(exact.try_into().ok()?)),
    })
}

/// Builds a key field by field.
#[derive(Debug, Clone)]
pub struct KeyBuilder(Vec<u8>);

impl KeyBuilder {
    pub fn cgroup(self, id: u64) -> Self {
        self.push(&id.to_ne_bytes())
    }

    /// An address given as a number; IPv4 in the low 32 bits.
    pub fn address(self, family: Family, number: u128) -> Self {
        match family {
            // The model keeps IPv4 numbers in the low 32 bits.
            Family::V4 => self.push(&(number as u32).to_be_bytes()),
            Family::V6 => self.push(&number.to_be_bytes()),
        }
    }

    /// The network of an address that is given as a number.
    pub fn network(self, family: Family, number: u128) -> Self {
        match family {
            Family::V4 => self.push(&((number >> 16) as u16).to_be_bytes()),
            Family::V6 => self.push(&((number >> 96) as u32).to_be_bytes()),
        }
    }

    pub fn protocol(self, number: u8) -> Self {
        self.push(&[number])
    }

    pub fn port(self, port: u16) -> Self {
        self.push(&port.to_be_bytes())
    }

    pub fn number(self, number: u32) -> Self {
        self.push(&number.to_ne_bytes())
    }

    /// Instants before 1970 count as 1970, those after 2262 as the last that nanoseconds can say.
    pub fn time(self, instant: Time) -> Self {
        let nanoseconds =
            instant.timestamp_nanos_opt().unwrap_or(if instant.timestamp() < 0 { 0 } else { i64::MAX });
        self.push(&nanoseconds.max(0).unsigned_abs().to_be_bytes())
    }

    /// The last nanosecond before an instant: the upper end of a half-open range.
    pub fn time_before(self, instant: Time) -> Self {
        self.time(instant - chrono::TimeDelta::nanoseconds(1))
    }

    pub fn build(self) -> Key {
        Key::from_bytes(&self.0)
    }

    fn push(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_decodes_to_what_was_put_in() {
        let key =
            Key::builder().cgroup(0x1234).address(Family::V4, 0x0a00_0001).protocol(6).port(443).build();
        assert_eq!(key.bytes().len(), 20);
        let fields = [Field::Cgroup, Field::Address(Family::V4), Field::Protocol, Field::Port];
        assert_eq!(
            key.decode(&fields).unwrap(),
            [
                Value::Cgroup(0x1234),
                Value::Address("10.0.0.1".parse().unwrap()),
                Value::Protocol(6),
                Value::Port(443)
            ]
        );
        assert_eq!(key.decode(&[Field::Address(Family::V6), Field::Time]), None);
    }

    #[test]
    fn keys_order_by_their_bytes_whether_short_or_long() {
        let long = [1; SHORT + 1];
        for bytes in [&[][..], &[2], &[1, 2, 3], &long[..SHORT], &long] {
            assert_eq!(Key::from_bytes(bytes).bytes(), bytes);
            for other in [&[][..], &[1], &long[..SHORT], &long] {
                assert_eq!(Key::from_bytes(bytes).cmp(&Key::from_bytes(other)), bytes.cmp(other));
            }
        }
        assert_eq!(size_of::<Key>(), 24);
    }
}
