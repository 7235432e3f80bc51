//! The wire format of netlink: messages and attributes, read and written.
//!
//! Numbers are in the byte order of the host unless a name says `be` (netfilter's attributes are big endian).
//! Reading is bounded by the bytes that are there: what does not fit ends the iteration, nothing panics.

use std::io;

use rustix::io::Errno;

/// `NLM_F_REQUEST` (linux/netlink.h).
const REQUEST: u16 = 0x1;
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// `NLA_TYPE_MASK`: without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const ATTRIBUTE_KIND: u16 = 0x3fff;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// What follows the 16 bytes of the header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind `header` bytes of the payload.
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes::new(self.payload.get(header..).unwrap_or_default())
    }

    /// The code of an acknowledgement or of the end of a dump: zero, or an errno below it.
    pub(super) fn status(&self) -> io::Result<()> {
        // Older kernels end a dump without a code.
        match fixed(self.payload).map(i32::from_ne_bytes) {
            None | Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        }
    }
}

/// The messages of a datagram, in order; ends at the first that does not fit.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(u32::from_ne_bytes(fixed(self.rest)?)).ok()?;
        let message = self.rest.get(..length)?;
        let item = Message {
            kind: u16::from_ne_bytes(fixed(message.get(4..)?)?),
            flags: u16::from_ne_bytes(fixed(message.get(6..)?)?),
            sequence: u32::from_ne_bytes(fixed(message.get(8..)?)?),
            payload: message.get(HEADER..)?,
        };
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some(item)
    }
}

/// One attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Without the flags for nesting and byte order.
    pub kind: u16,
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The attributes inside this one.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.payload)
    }

    pub fn be_u16(&self) -> Option<u16> {
        fixed(self.payload).map(u16::from_be_bytes)
    }

    pub fn be_u32(&self) -> Option<u32> {
        fixed(self.payload).map(u32::from_be_bytes)
    }

    pub fn u64(&self) -> Option<u64> {
        fixed(self.payload).map(u64::from_ne_bytes)
    }

    /// The text up to the first NUL; foreign bytes become U+FFFD.
    pub fn text(&self) -> String {
        let end = self.payload.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&self.payload[..end.unwrap_or(self.payload.len())]).into_owned()
    }
}

/// Attributes in order; ends at the first that does not fit.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let length = usize::from(u16::from_ne_bytes(fixed(self.rest)?));
        let attribute = self.rest.get(..length)?;
        let item = Attribute {
            kind: u16::from_ne_bytes(fixed(attribute.get(2..)?)?) & ATTRIBUTE_KIND,
            payload: attribute.get(ATTRIBUTE_HEADER..)?,
        };
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some(item)
    }
}

/// A message to the kernel: a kind, a fixed header of its family, attributes.
#[derive(Debug, Clone)]
pub struct Request {
    kind: u16,
    body: Vec<u8>,
    /// An attribute outgrew the 16 bits of its length.
    too_long: bool,
}

impl Request {
    /// A message of this kind that begins with `header` (`inet_diag_req_v2`, `nfgenmsg`).
    pub fn new(kind: u16, header: &[u8]) -> Self {
        let mut body = header.to_vec();
        body.resize(aligned(body.len()), 0);
        Self { kind, body, too_long: false }
    }

    /// Adds an attribute.
    pub fn attribute(mut self, kind: u16, payload: &[u8]) -> Self {
        let start = self.begin(kind);
        self.body.extend_from_slice(payload);
        self.end(start);
        self
    }

    /// Adds an attribute that holds the attributes that `inside` adds.
    pub fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.begin(kind | NESTED);
        self = inside(self);
        self.end(start);
        self
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.body.len();
        self.body.extend_from_slice(&[0; 2]);
        self.body.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        match u16::try_from(self.body.len() - start) {
            Ok(length) => self.body[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.body.resize(aligned(self.body.len()), 0);
    }

    /// The datagram. `EMSGSIZE` when an attribute is longer than 65,535 bytes.
    pub(in crate::kernel) fn bytes(&self, sequence: u32, flags: u16) -> io::Result<Vec<u8>> {
        let length = u32::try_from(HEADER + self.body.len());
        let (Ok(length), false) = (length, self.too_long) else {
            return Err(Errno::MSGSIZE.into());
        };
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        // The port of the sender: the kernel knows it.
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.body);
        Ok(bytes)
    }
}

/// The header of every message to netfilter: `nfgenmsg` with version 0.
pub fn netfilter_header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// The first `N` bytes; `None` when there are fewer.
pub(in crate::kernel) fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

/// Messages and attributes begin at multiples of 4.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> Request {
        Request::new(20, &[2, 6, 0, 0])
            .attribute(1, &[9])
            .nest(3, |inside| inside.attribute(4, &7u64.to_ne_bytes()).attribute(5, b"text\0"))
    }

    #[test]
    fn a_request_has_the_layout_of_the_kernel() {
        let bytes = request().bytes(5, 4).unwrap();
        let mut expected = Vec::new();
        expected.extend(56u32.to_ne_bytes());
        expected.extend(20u16.to_ne_bytes());
        expected.extend(5u16.to_ne_bytes());
        expected.extend(5u32.to_ne_bytes());
        expected.extend(0u32.to_ne_bytes());
        expected.extend([2, 6, 0, 0]);
        expected.extend([5u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat());
        expected.extend([9, 0, 0, 0]);
        expected.extend([28u16.to_ne_bytes(), (3u16 | NESTED).to_ne_bytes()].concat());
        expected.extend([12u16.to_ne_bytes(), 4u16.to_ne_bytes()].concat());
        expected.extend(7u64.to_ne_bytes());
        expected.extend([9u16.to_ne_bytes(), 5u16.to_ne_bytes()].concat());
        expected.extend(b"text\0\0\0\0");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_is_built_reads_back() {
        let mut datagram = request().bytes(5, 4).unwrap();
        datagram.extend(request().bytes(6, 0).unwrap());
        let messages: Vec<_> = Messages::new(&datagram).collect();
        assert_eq!(messages.iter().map(|m| m.sequence).collect::<Vec<_>>(), [5, 6]);
        let attributes: Vec<_> = messages[1].attributes(4).collect();
        assert_eq!((attributes[0].kind, attributes[0].payload), (1, &[9][..]));
        let inner: Vec<_> = attributes[1].nested().collect();
        assert_eq!(inner[0].u64(), Some(7));
        assert_eq!(inner[1].text(), "text");
        assert_eq!(inner[1].u64(), None);
    }

    #[test]
    fn an_attribute_that_is_too_long_is_an_error_before_it_is_sent() {
        let request = Request::new(1, &[]).attribute(1, &[0; 70_000]);
        assert_eq!(request.bytes(1, 0).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[test]
    fn a_cut_message_ends_the_iteration() {
        let datagram = request().bytes(5, 4).unwrap();
        for end in 0..datagram.len() {
            assert_eq!(Messages::new(&datagram[..end]).count(), 0, "{end}");
        }
        // A length below the header would never advance.
        assert_eq!(Messages::new(&[0; 64]).count(), 0);
        assert_eq!(Attributes::new(&[0; 64]).count(), 0);
    }

    #[test]
    fn an_error_message_carries_its_errno() {
        assert!(status(&[0; 4]).is_ok());
        assert!(status(&[]).is_ok());
        let refusal = status(&(-libc::EPERM).to_ne_bytes()).unwrap_err();
        assert_eq!(refusal.raw_os_error(), Some(libc::EPERM));
        assert!(status(&i32::MIN.to_ne_bytes()).is_err());
    }

    fn status(payload: &[u8]) -> io::Result<()> {
        let message = Message { kind: 2, flags: 0, sequence: 1, payload };
        message.status()
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_in_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let read: usize = Messages::new(&bytes).map(|m| HEADER + m.payload.len()).sum();
            prop_assert!(read <= bytes.len());
            for message in Messages::new(&bytes) {
                for attribute in message.attributes(4) {
                    let _ = (attribute.text(), attribute.be_u16(), attribute.be_u32(), attribute.u64());
                    let _ = attribute.nested().count();
                }
            }
            prop_assert!(Attributes::new(&bytes).count() <= bytes.len() / ATTRIBUTE_HEADER);
        }

        #[test]
        fn broken_lengths_end_in_bounds(at in 0usize..56, value in any::<u8>()) {
            let mut bytes = request().bytes(5, 4).unwrap();
            bytes[at] = value;
            for message in Messages::new(&bytes) {
                prop_assert!(message.attributes(4).flat_map(|a| a.nested()).count() <= bytes.len());
            }
        }
    }
}
