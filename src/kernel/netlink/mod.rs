//! A netlink socket: requests, acknowledgements, dumps.
//!
//! Neighbours: [`super::sockets`], [`super::conntrack`] and [`super::nflog`] speak through it; `wire` has the format.
//! Deliberately absent: nftables transactions, which go through libnftnl.

mod wire;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{self as socket, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

pub(super) use wire::fixed;
pub use wire::{Attribute, Attributes, Message, Messages, Request, netfilter_header};

/// `NLM_F_ACK` (linux/netlink.h).
const ACK: u16 = 0x4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: the table changed under the dump, some entries may be missing or there twice.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR`, also the acknowledgement (code 0).
const ERROR: u16 = 2;
/// `NLMSG_DONE`, the end of a dump.
const DONE: u16 = 3;

/// The kernel sends dumps in pieces of at most 32 KiB (net/netlink/af_netlink.c, `netlink_dump`).
const RECEIVE: usize = 64 * 1024;
/// How often a dump is begun again when the table changes under it.
const ATTEMPTS: usize = 5;
/// The kernel answers while it handles the request. A longer silence is a fault, and must not hang a close.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which part of the kernel a [`Connection`] talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Sockets: `NETLINK_SOCK_DIAG`.
    SockDiag,
    /// Connection tracking, packet logs: `NETLINK_NETFILTER`.
    Netfilter,
}

/// A netlink socket; it stays in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// `EPROTONOSUPPORT` says that the kernel was built without that part.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        let protocol = match protocol {
            Protocol::SockDiag => SOCK_DIAG,
            Protocol::Netfilter => NETFILTER,
        };
        let fd = socket::socket_with(
            socket::AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(protocol),
        )?;
        socket::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; RECEIVE] })
    }

    /// Asks for a receive buffer of so many bytes; returns what the kernel granted (it books twice the request).
    ///
    /// Beyond `net.core.rmem_max` only with `CAP_NET_ADMIN`; without it, as much as the limit allows.
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<usize> {
        match sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes) {
            Err(Errno::PERM) => sockopt::set_socket_recv_buffer_size(&self.fd, bytes)?,
            other => other?,
        }
        Ok(sockopt::socket_recv_buffer_size(&self.fd)?)
    }

    /// Takes part in these of the first 32 multicast groups, one bit each, and in no others.
    pub fn listen_to(&self, groups: u32) -> io::Result<()> {
        let own = SocketAddrNetlink::try_from(socket::getsockname(&self.fd)?)?;
        Ok(socket::bind(&self.fd, &SocketAddrNetlink::new(own.pid(), groups))?)
    }

    /// Sends a request and waits until the kernel has done it. Its refusal comes back as the error.
    pub fn transact(&mut self, request: &Request) -> io::Result<()> {
        let sequence = self.send(request, ACK)?;
        loop {
            let length = self.receive(RecvFlags::empty())?;
            for message in Messages::new(&self.buffer[..length]) {
                if message.sequence == sequence && message.kind == ERROR {
                    return message.status();
                }
            }
        }
    }

    /// Sends a request that the kernel answers with one message, and returns what `read` made of it.
    pub fn ask<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let sequence = self.send(request, ACK)?;
        let mut answer = None;
        loop {
            let length = self.receive(RecvFlags::empty())?;
            for message in Messages::new(&self.buffer[..length]) {
                match message.kind {
                    _ if message.sequence != sequence => {}
                    ERROR => return message.status().map(|()| answer),
                    _ => answer = answer.or_else(|| read(&message)),
                }
            }
        }
    }

    /// Sends a request and returns what the kernel lists, one item for each message that `read` understands.
    ///
    /// A list that changed while it was read is read again; `EINTR` after a few times. `ENOBUFS` says that the
    /// kernel dropped a part.
    pub fn dump<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            match self.dump_once(request, &mut |message| found.extend(read(message))) {
                Ok(true) => return Ok(found),
                Ok(false) => {}
                Err(error) => {
                    self.drain();
                    return Err(error);
                }
            }
        }
        Err(Errno::INTR.into())
    }

    /// Returns whether the list stood still while it was read.
    fn dump_once(&mut self, request: &Request, each: &mut dyn FnMut(&Message<'_>)) -> io::Result<bool> {
        let sequence = self.send(request, DUMP)?;
        let mut consistent = true;
        loop {
            let length = self.receive(RecvFlags::empty())?;
            for message in Messages::new(&self.buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                consistent &= message.flags & DUMP_INTERRUPTED == 0;
                match message.kind {
                    DONE | ERROR => return message.status().map(|()| consistent),
                    _ => each(&message),
                }
            }
        }
    }

    /// Reads away what a failed dump left: each read makes the kernel go on with it, and a socket runs only one.
    fn drain(&mut self) {
        while !matches!(self.receive(RecvFlags::DONTWAIT), Err(e) if e.raw_os_error() != Some(libc::ENOBUFS))
        {
        }
    }

    /// Sends one datagram with one message; returns its sequence number.
    fn send(&mut self, request: &Request, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.bytes(self.sequence, flags)?;
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::io::retry_on_intr(|| socket::sendto(&self.fd, &bytes, SendFlags::empty(), &kernel))?;
        Ok(self.sequence)
    }

    fn receive(&mut self, flags: RecvFlags) -> io::Result<usize> {
        receive(&self.fd, &mut self.buffer, flags)
    }

    /// Reads one datagram into `buffer` without waiting; returns its length.
    ///
    /// `EWOULDBLOCK` when there is none, `ENOBUFS` (once) when the kernel dropped some, `EMSGSIZE` when the
    /// buffer is too small.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        receive(&self.fd, buffer, RecvFlags::DONTWAIT)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads one datagram that the kernel sent. Those of other processes are skipped: they could forge answers.
fn receive(fd: &OwnedFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    loop {
        let (_, length, sender) = match socket::recvfrom(fd, &mut *buffer, flags | RecvFlags::TRUNC) {
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) if !flags.contains(RecvFlags::DONTWAIT) => return Err(Errno::TIMEDOUT.into()),
            other => other?,
        };
        let port = sender.and_then(|any| SocketAddrNetlink::try_from(any).ok());
        match port.map(|address| address.pid()) {
            Some(0) if length > buffer.len() => return Err(Errno::MSGSIZE.into()),
            Some(0) => return Ok(length),
            Some(_) | None => {}
        }
    }
}
