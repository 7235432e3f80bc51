//! One netlink socket: a batch or a question goes in, answers come out.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use mnl::NlMessages;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, getsockname, send, socket_with};

use super::attributes::{Attribute, Attributes, HEADER, Header, PREAMBLE, Request};
use super::error::CommitError;
use super::owner;
use crate::kernel::ffi::enable_netlink;

/// Answers to a batch are one message per refused object; a bad batch of 100,000 rules must not lose any.
const RECEIVE_BUFFER: usize = 16 << 20;
/// More than any answer has: 64 KiB of elements and the rest of their message.
const ANSWER: usize = 128 << 10;
/// How often a dump that was disturbed is begun again.
pub const ATTEMPTS: u32 = 16;

/// NLM_F_DUMP_INTR, linux/netlink.h: the table changed while it was dumped.
const DUMP_INTERRUPTED: u16 = 0x10;
/// NLM_F_CAPPED, linux/netlink.h: the answer holds the header of the refused message only.
const CAPPED: u16 = 0x100;
/// NLM_F_ACK_TLVS, linux/netlink.h: attributes follow in an answer.
const HAS_ATTRIBUTES: u16 = 0x200;
/// NLMSGERR_ATTR_MSG and NLMSGERR_ATTR_OFFS, linux/netlink.h.
const ERROR_TEXT: u16 = 1;
const ERROR_OFFSET: u16 = 2;

/// The kernel's word on one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub sequence: u32,
    /// 0: done.
    pub errno: i32,
    pub text: Option<String>,
    /// Where in the message the bad attribute begins.
    pub offset: Option<usize>,
}

impl Answer {
    /// `None` for a message that is not an answer.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let header = Header::of(message)?;
        if i32::from(header.kind) != libc::NLMSG_ERROR {
            return None;
        }
        let code: [u8; 4] = message.get(HEADER..HEADER + 4)?.try_into().ok()?;
        let extra = Attributes::new(message.get(extra_begins(message, header.flags)..).unwrap_or(&[]));
        Some(Self {
            sequence: header.sequence,
            errno: i32::from_ne_bytes(code).saturating_neg(),
            text: extra.clone().find_kind(ERROR_TEXT).map(Attribute::text),
            offset: extra.clone().find_kind(ERROR_OFFSET).and_then(host_u32),
        })
    }
}

/// Where the attributes of an answer begin: behind the code and the header, or the whole, of the refused message.
fn extra_begins(answer: &[u8], flags: u16) -> usize {
    let refused = HEADER + 4;
    if flags & HAS_ATTRIBUTES == 0 {
        return answer.len();
    }
    let length = answer.get(refused..refused + 4).and_then(|bytes| bytes.try_into().ok());
    match length.map(u32::from_ne_bytes) {
        Some(length) if flags & CAPPED == 0 => refused + (length as usize).next_multiple_of(4),
        _ => refused + HEADER,
    }
}

fn host_u32(attribute: Attribute) -> Option<usize> {
    Some(u32::from_ne_bytes(attribute.value.try_into().ok()?) as usize)
}

/// A netfilter socket; it stays in the network namespace in which it was opened.
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the current network namespace.
    pub fn open() -> Result<Self, CommitError> {
        Self::fresh().map_err(|error| CommitError::netlink("open a netfilter socket", error))
    }

    /// Goes on with a socket that another process opened, if it is one of netfilter in our network namespace. What it was
    /// answered before is thrown away.
    pub fn adopt(fd: OwnedFd) -> Result<Self, CommitError> {
        let failed = |error: io::Error| CommitError::netlink("go on with a kept socket", error);
        let inode = rustix::fs::fstat(&fd).map_err(|errno| failed(errno.into()))?.st_ino;
        let foreign = || failed(io::Error::other("it is no netfilter socket of this network namespace"));
        let port = owner::port(inode).ok_or_else(foreign)?;
        let mut socket = Self::prepared(fd, port).map_err(failed)?;
        match socket.answers() {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => Err(failed(error)),
            Ok(_) | Err(_) => Ok(socket),
        }
    }

    fn fresh() -> io::Result<Self> {
        // Not for programs that we start: one of them would keep the table that the socket owns.
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        let port = SocketAddrNetlink::try_from(getsockname(&fd)?)?.pid();
        Self::prepared(fd, port)
    }

    fn prepared(fd: OwnedFd, port: u32) -> io::Result<Self> {
        enable_netlink(fd.as_fd(), libc::NETLINK_EXT_ACK)?;
        enable_netlink(fd.as_fd(), libc::NETLINK_CAP_ACK)?;
        // Without CAP_NET_ADMIN in the first user namespace it stays at net.core.rmem_max: still thousands of answers.
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        Ok(Self { fd, port, buffer: vec![0; ANSWER], sequence: 0 })
    }

    /// The number by which the kernel knows who owns a table.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Makes room for one datagram of this size.
    pub fn reserve(&self, bytes: usize) {
        // The kernel wants a little more than the payload; the smaller buffers stay as they are.
        let wanted = bytes + (64 << 10);
        if setsockopt(&self.fd, sockopt::SndBufForce, &wanted).is_err() {
            let _ = setsockopt(&self.fd, sockopt::SndBuf, &wanted);
        }
    }

    /// Sends one datagram: nfnetlink treats it within the call, so that its answers are there afterwards.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let sent = send(&self.fd, datagram, SendFlags::empty())?;
        if sent == datagram.len() {
            Ok(())
        } else {
            Err(io::Error::other(format!("only {sent} of {} bytes were sent", datagram.len())))
        }
    }

    /// The answers that lie in the queue. `Err` with ENOBUFS when some were lost.
    pub fn answers(&mut self) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        let mut lost = None;
        loop {
            match self.receive() {
                Ok(messages) => {
                    for message in messages {
                        answers.extend(Answer::parse(message?));
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => lost = Some(Errno::ENOBUFS),
                Err(error) => return Err(error.into()),
            }
        }
        lost.map_or(Ok(answers), |error| Err(error.into()))
    }

    /// Asks for one object; `None` when there is none.
    pub fn get(&mut self, kind: u16, fill: impl FnOnce(Request) -> Request) -> io::Result<Option<Vec<u8>>> {
        let sequence = self.next_sequence();
        self.send(&fill(Request::new(kind, 0, sequence)).finish())?;
        match self.collect(sequence, 1) {
            Ok(found) => Ok(found.into_iter().next()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for many objects in one datagram: an answer for each, `None` where there is no such object.
    pub fn get_each<'a, T>(
        &mut self,
        kind: u16,
        questions: &'a [T],
        fill: impl Fn(Request, &'a T) -> Request,
    ) -> io::Result<Vec<Option<Vec<u8>>>> {
        let first = self.sequence + 1;
        let mut datagram = Vec::new();
        for question in questions {
            let sequence = self.next_sequence();
            datagram.extend(fill(Request::new(kind, 0, sequence), question).finish());
        }
        self.reserve(datagram.len());
        self.send(&datagram)?;
        let mut found = vec![None; questions.len()];
        let mut answered = 0;
        while answered < questions.len() {
            let messages = match self.receive() {
                Ok(messages) => messages,
                // An rbtree set says nothing at all when no range ends behind a key.
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            for message in messages {
                let message = message?;
                let Some(slot) = slot_of(message, first, &mut found) else {
                    continue;
                };
                *slot = object_or_none(message)?;
                answered += 1;
            }
        }
        Ok(found)
    }

    /// Asks for all objects of a kind, again when they changed meanwhile.
    pub fn dump(
        &mut self,
        what: &str,
        kind: u16,
        fill: impl Fn(Request) -> Request,
    ) -> Result<Vec<Vec<u8>>, CommitError> {
        for _ in 0..ATTEMPTS {
            let sequence = self.next_sequence();
            let request = fill(Request::new(kind, libc::NLM_F_DUMP as u16, sequence)).finish();
            let result = self.send(&request).and_then(|()| self.collect(sequence, usize::MAX));
            match result {
                Ok(messages) => return Ok(messages),
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
                Err(error) => return Err(CommitError::netlink(&format!("read {what}"), error)),
            }
        }
        Err(CommitError::Unsteady { what: what.to_owned(), attempts: ATTEMPTS })
    }

    /// Up to `limit` objects with this sequence number, or all to the end of the dump. EINTR: it was disturbed.
    fn collect(&mut self, sequence: u32, limit: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        let mut disturbed = false;
        loop {
            for message in self.receive()? {
                let message = message?;
                let Some(header) = Header::of(message).filter(|header| header.sequence == sequence) else {
                    continue;
                };
                disturbed |= header.flags & DUMP_INTERRUPTED != 0;
                if i32::from(header.kind) == libc::NLMSG_DONE {
                    return if disturbed { Err(Errno::EINTR.into()) } else { Ok(found) };
                }
                found.extend(object_or_error(message)?);
                if found.len() >= limit {
                    return Ok(found);
                }
            }
        }
    }

    /// Never waits: the kernel has answered when `send` returns, and goes on with a dump within the reading of its last part.
    fn receive(&mut self) -> Result<NlMessages<'_>, Errno> {
        let length = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT)?;
        Ok(NlMessages::new(&self.buffer[..length]))
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn slot_of<'a, T>(message: &[u8], first: u32, slots: &'a mut [T]) -> Option<&'a mut T> {
    let index = Header::of(message)?.sequence.checked_sub(first)?;
    slots.get_mut(index as usize)
}

/// The object in a message; an answer with an error is that error.
fn object_or_error(message: &[u8]) -> io::Result<Option<Vec<u8>>> {
    match Answer::parse(message) {
        None if message.len() >= PREAMBLE => Ok(Some(message.to_vec())),
        Some(answer) if answer.errno != 0 => Err(io::Error::from_raw_os_error(answer.errno)),
        _ => Ok(None),
    }
}

pub(super) fn object_or_none(message: &[u8]) -> io::Result<Option<Vec<u8>>> {
    match object_or_error(message) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        result => result,
    }
}
