//! The traffic that is measured, between a host and the provider, all of it by the calling thread.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::{Errno, Result, ioctl_fionbio, write};
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, accept_with, bind, connect, listen, recv, socket_with,
    sockopt,
};

use crate::lab::Lab;
use crate::places::{self, PORT};

/// How long an answer may take before the traffic counts as refused.
const PATIENCE: Duration = Duration::from_secs(3);

/// Packets that are sent before they are read.
const BATCH: usize = 32;

/// Of one write in bulk.
const BLOCK: usize = 64 * 1024;

/// Writes of a sender that is ahead of its receiver.
const AHEAD: usize = 8;

/// Writes after which a stream has its full speed.
const WARM: f64 = 128.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Connect, one byte, one byte back, close; the server closes first.
    Crr,
    /// The same by the wall clock: who decides outside of the kernel is waited for.
    Wall,
    /// The same, from the provider to the host.
    Inward,
    /// One small datagram, to the provider.
    Udp,
    /// 64 KiB of a stream.
    Bulk,
    /// The same by the wall clock, sent by a thread of its own.
    Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    kind: Kind,
    family: Family,
    governed: bool,
}

impl Mode {
    pub const ALL: [Self; 14] = [
        Self::new(Kind::Crr, Family::V4, true),
        Self::new(Kind::Crr, Family::V4, false),
        Self::new(Kind::Crr, Family::V6, true),
        Self::new(Kind::Crr, Family::V6, false),
        Self::new(Kind::Inward, Family::V4, true),
        Self::new(Kind::Inward, Family::V6, true),
        Self::new(Kind::Udp, Family::V4, true),
        Self::new(Kind::Udp, Family::V4, false),
        Self::new(Kind::Udp, Family::V6, true),
        Self::new(Kind::Udp, Family::V6, false),
        Self::new(Kind::Bulk, Family::V4, true),
        Self::new(Kind::Bulk, Family::V4, false),
        Self::new(Kind::Wall, Family::V4, true),
        Self::new(Kind::Stream, Family::V4, true),
    ];

    const fn new(kind: Kind, family: Family, governed: bool) -> Self {
        Self { kind, family, governed }
    }

    pub fn parse(name: &str) -> Self {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.unwrap_or_else(|| panic!("{name}: no such mode; there are {:?}", Self::ALL.map(Self::name)))
    }

    pub fn name(self) -> String {
        let kind = match self.kind {
            Kind::Crr => "crr",
            Kind::Wall => "wall",
            Kind::Inward => "in",
            Kind::Udp => "udp",
            Kind::Bulk => "bulk",
            Kind::Stream => "stream",
        };
        let family = match self.family {
            Family::V4 => "4",
            Family::V6 => "6",
        };
        format!("{kind}{family}{}", if self.governed { "" } else { "-free" })
    }

    pub fn title(self) -> String {
        let what = match self.kind {
            Kind::Crr => "connect, request, response, close; per connection",
            Kind::Wall => "connect, request, response, close by the wall clock; per connection",
            Kind::Inward => "the provider connects, request, response, close; per connection",
            Kind::Udp => "a small UDP packet",
            Kind::Bulk => "bulk TCP; per 64 KiB",
            Kind::Stream => "bulk TCP by the wall clock, two threads; per 64 KiB",
        };
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let governed = if self.governed { "governed" } else { "ungoverned" };
        format!("{what}; {family}, {governed}")
    }

    pub fn is_ingress(self) -> bool {
        self.kind == Kind::Inward
    }

    pub fn is_udp(self) -> bool {
        self.kind == Kind::Udp
    }

    pub fn is_by_the_wall(self) -> bool {
        matches!(self.kind, Kind::Wall | Kind::Stream)
    }

    pub fn is_governed(self) -> bool {
        self.governed
    }

    /// The provider's address.
    fn address(self) -> IpAddr {
        match (self.family, self.governed, self.kind) {
            (Family::V4, false, _) => places::UNGOVERNED4.into(),
            (Family::V6, false, _) => places::UNGOVERNED6.into(),
            (Family::V4, true, Kind::Udp) => places::GOVERNED_UDP4.into(),
            (Family::V6, true, Kind::Udp) => places::GOVERNED_UDP6.into(),
            (Family::V4, true, _) => places::GOVERNED4.into(),
            (Family::V6, true, _) => places::GOVERNED6.into(),
        }
    }
}

/// A listener and a receiver of each family.
pub struct Ends {
    v4: (OwnedFd, OwnedFd),
    v6: (OwnedFd, OwnedFd),
}

impl Ends {
    /// In the namespace of the calling thread.
    pub fn listen() -> Self {
        let pair = |family| {
            let listener = listener(family).unwrap_or_else(|e| panic!("listen: {e}"));
            let receiver = bound(family, SocketType::DGRAM).unwrap_or_else(|e| panic!("bind: {e}"));
            (listener, receiver)
        };
        Self { v4: pair(Family::V4), v6: pair(Family::V6) }
    }

    fn of(&self, family: Family) -> &(OwnedFd, OwnedFd) {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

fn listener(family: Family) -> Result<OwnedFd> {
    let listener = bound(family, SocketType::STREAM)?;
    listen(&listener, 1_024)?;
    Ok(listener)
}

fn bound(family: Family, kind: SocketType) -> Result<OwnedFd> {
    let socket = socket(family, kind)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if family == Family::V6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &places::any(family, PORT))?;
    Ok(socket)
}

fn socket(family: Family, kind: SocketType) -> Result<OwnedFd> {
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    socket_with(domain, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

/// Traffic of a mode through one host. The calling thread is in the namespace of who connects.
pub struct Traffic<'a> {
    mode: Mode,
    ends: &'a Ends,
    target: SocketAddr,
    /// Of a datagram or a stream that stays for the slice.
    lasting: Option<(OwnedFd, Option<OwnedFd>)>,
    /// Of a stream whose sender is a thread of its own.
    receiver: Option<OwnedFd>,
    /// The host's own listener, when the provider connects.
    listener: Option<OwnedFd>,
    buffer: Vec<u8>,
}

impl<'a> Traffic<'a> {
    /// `index`: the host's number.
    ///
    /// # Errors
    /// The traffic is refused.
    pub fn begin(mode: Mode, lab: &'a Lab, index: usize) -> Result<Self> {
        lab.enter(Some(index));
        let ends = &lab.ends;
        let target = SocketAddr::new(mode.address(), PORT);
        let mut traffic = Self {
            mode,
            ends,
            target,
            lasting: None,
            receiver: None,
            listener: None,
            buffer: vec![0; BLOCK],
        };
        match mode.kind {
            Kind::Crr | Kind::Wall => (),
            Kind::Inward => {
                traffic.listener = Some(listener(mode.family)?);
                traffic.target = SocketAddr::new(places::wire(index, mode.family).1, PORT);
                lab.enter(None);
            }
            Kind::Udp => {
                let sender = socket(mode.family, SocketType::DGRAM)?;
                connect(&sender, &target)?;
                traffic.lasting = Some((sender, None));
            }
            Kind::Bulk => {
                let client = socket(mode.family, SocketType::STREAM)?;
                start(&client, &target)?;
                let server = eventually(|| accept_with(&ends.of(mode.family).0, SocketFlags::NONBLOCK))?;
                let mut warm = 0.0;
                while warm < WARM {
                    warm += bulk(&client, &server, &mut traffic.buffer)?;
                }
                traffic.lasting = Some((client, Some(server)));
            }
            Kind::Stream => {
                let client = socket(mode.family, SocketType::STREAM)?;
                start(&client, &target)?;
                let server = eventually(|| accept_with(&ends.of(mode.family).0, SocketFlags::CLOEXEC))?;
                eventually(|| write(&client, b"!"))?;
                ioctl_fionbio(&client, false)?;
                // It ends when the receiver's socket does.
                std::thread::spawn(move || {
                    let block = vec![0; BLOCK];
                    while write(&client, &block).is_ok() {}
                });
                for _ in 0..WARM as usize / AHEAD {
                    stream(&server, &mut traffic.buffer)?;
                }
                traffic.receiver = Some(server);
            }
        }
        Ok(traffic)
    }

    /// Does it once, or a batch of it; returns how often.
    ///
    /// # Errors
    /// The traffic is refused.
    pub fn once(&mut self) -> Result<f64> {
        match (self.mode.kind, &self.lasting) {
            (Kind::Crr | Kind::Wall, _) => {
                let client = socket(self.mode.family, SocketType::STREAM)?;
                exchange(&client, &self.target, &self.ends.of(self.mode.family).0)
            }
            (Kind::Inward, _) => {
                let listener = self.listener.as_ref().expect("made at the beginning");
                let client = socket(self.mode.family, SocketType::STREAM)?;
                bind(&client, &SocketAddr::new(self.mode.address(), 0))?;
                exchange(&client, &self.target, listener)
            }
            (Kind::Udp, Some((sender, _))) => {
                for _ in 0..BATCH {
                    eventually(|| write(sender, b"eighteen bytes ..."))?;
                }
                let receiver = &self.ends.of(self.mode.family).1;
                for _ in 0..BATCH {
                    eventually(|| recv(receiver, &mut self.buffer[..64], RecvFlags::empty()))?;
                }
                Ok(BATCH as f64)
            }
            (Kind::Bulk, Some((client, Some(server)))) => bulk(client, server, &mut self.buffer),
            (Kind::Stream, _) => {
                stream(self.receiver.as_ref().expect("made at the beginning"), &mut self.buffer)
            }
            (Kind::Udp | Kind::Bulk, _) => unreachable!("made at the beginning"),
        }
    }
}

fn start(client: &OwnedFd, target: &SocketAddr) -> Result<()> {
    match connect(client, target) {
        Err(Errno::INPROGRESS) | Ok(()) => Ok(()),
        Err(other) => Err(other),
    }
}

fn exchange(client: &OwnedFd, target: &SocketAddr, listener: &OwnedFd) -> Result<f64> {
    let mut byte = [0];
    start(client, target)?;
    eventually(|| write(client, b"?"))?;
    let server = eventually(|| accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC))?;
    eventually(|| recv(&server, &mut byte, RecvFlags::empty()))?;
    eventually(|| write(&server, b"!"))?;
    drop(server);
    eventually(|| recv(client, &mut byte, RecvFlags::empty()))?;
    let (_, end) = eventually(|| recv(client, &mut byte, RecvFlags::empty()))?;
    if end == 0 { Ok(1.0) } else { Err(Errno::PROTO) }
}

/// What does not fill a segment is joined to the next write, as with any sender that is ahead.
fn bulk(client: &impl AsFd, server: &impl AsFd, buffer: &mut [u8]) -> Result<f64> {
    let mut sent = 0;
    for _ in 0..AHEAD {
        match write(client, buffer) {
            Ok(bytes) => sent += bytes,
            Err(Errno::AGAIN) => break,
            Err(other) => return Err(other),
        }
    }
    let mut received = 0;
    while received < sent {
        received += eventually(|| recv(server, &mut *buffer, RecvFlags::empty()))?.1;
    }
    Ok(received as f64 / BLOCK as f64)
}

/// Reads as much as a sender on another thread sends meanwhile.
fn stream(server: &impl AsFd, buffer: &mut [u8]) -> Result<f64> {
    let mut received = 0;
    while received < AHEAD * BLOCK {
        match recv(server, &mut *buffer, RecvFlags::empty())?.1 {
            0 => return Err(Errno::PIPE),
            bytes => received += bytes,
        }
    }
    Ok(received as f64 / BLOCK as f64)
}

/// An answer is there as soon as it was asked for; now and then another thread of the kernel brings it.
fn eventually<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let mut end = None;
    loop {
        match attempt() {
            Err(Errno::AGAIN | Errno::NOTCONN) => {
                let end = *end.get_or_insert_with(|| Instant::now() + PATIENCE);
                if Instant::now() >= end {
                    return Err(Errno::TIMEDOUT);
                }
                // Who decides needs a processor, too.
                std::thread::sleep(Duration::from_micros(20));
            }
            other => return other,
        }
    }
}
