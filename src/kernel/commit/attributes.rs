//! Netlink attributes, read and written: `struct nlattr` of linux/netlink.h, padded to 4 bytes.

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Bytes of `struct nlmsghdr` and the `struct nfgenmsg` behind it.
pub const PREAMBLE: usize = HEADER + 4;

/// NLA_TYPE_MASK, linux/netlink.h: without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const TYPE_MASK: u16 = 0x3fff;
/// NLA_F_NESTED, linux/netlink.h.
pub const NESTED: u16 = 0x8000;

/// One attribute and where its value begins in the slice that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
    pub offset: usize,
}

impl<'a> Attribute<'a> {
    pub fn inside(self) -> Attributes<'a> {
        Attributes::new(self.value)
    }

    pub fn u32(self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.try_into().ok()?))
    }

    pub fn u64(self) -> Option<u64> {
        Some(u64::from_be_bytes(self.value.try_into().ok()?))
    }

    /// The text before the closing NUL.
    pub fn text(self) -> String {
        let end = self.value.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&self.value[..end.unwrap_or(self.value.len())]).into_owned()
    }
}

/// The attributes of a message or of an attribute, in order. Ends at the first malformed one.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// The attributes of an nf_tables message.
    pub fn of_message(message: &'a [u8]) -> Self {
        Self { bytes: message, position: PREAMBLE }
    }

    pub fn find_kind(mut self, kind: u16) -> Option<Attribute<'a>> {
        self.find(|attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let head = self.bytes.get(self.position..self.position + 4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let offset = self.position + 4;
        let value = self.bytes.get(offset..self.position + length.max(4))?;
        self.position += length.max(4).next_multiple_of(4);
        Some(Attribute { kind: u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK, value, offset })
    }
}

/// A netlink message under construction.
#[derive(Debug, Clone)]
pub struct Request(Vec<u8>);

impl Request {
    /// A message to nf_tables about the inet family. `kind` is one of `NFT_MSG_*`.
    pub fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | kind;
        let flags = flags | libc::NLM_F_REQUEST as u16;
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        // struct nfgenmsg: family, version, resource id.
        bytes.extend([libc::NFPROTO_INET as u8, 0, 0, 0]);
        Self(bytes)
    }

    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut value = value.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds what `fill` adds.
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let inner = fill(Self(Vec::new()));
        self.push(kind | NESTED, &inner.0);
        self
    }

    /// The message with its length in place.
    pub fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The fields of `struct nlmsghdr` that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Whose message it is: in a notification, who caused it.
    pub port: u32,
}

impl Header {
    pub fn of(message: &[u8]) -> Option<Self> {
        let (head, _) = message.split_at_checked(HEADER)?;
        Some(Self {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            sequence: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
            port: u32::from_ne_bytes([head[12], head[13], head[14], head[15]]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let message = Request::new(7, 0, 42)
            .text(1, "picoseg")
            .nested(3, |inner| inner.u32(1, 0xdead).bytes(2, &[1, 2, 3]))
            .finish();
        assert_eq!(Header::of(&message).map(|header| header.sequence), Some(42));
        let all = Attributes::of_message(&message);
        assert_eq!(all.clone().find_kind(1).map(Attribute::text), Some("picoseg".to_owned()));
        let nested = all.find_kind(3).unwrap();
        assert_eq!(nested.inside().find_kind(1).and_then(Attribute::u32), Some(0xdead));
        assert_eq!(nested.inside().find_kind(2).unwrap().value, [1, 2, 3]);
    }

    #[test]
    fn a_message_that_is_cut_short_ends_the_walk() {
        let message = Request::new(7, 0, 1).text(1, "picoseg").finish();
        assert_eq!(Attributes::of_message(&message[..message.len() - 4]).count(), 0);
    }
}
