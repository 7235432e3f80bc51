//! Sockets inside an agent: stamped records in the background, and short connections in numbers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{MsgFlags, recv, setsockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::locked;
use super::protocol::{Close, End, Ending, Failure, Flow, Tally};
use crate::lab::clock;
use crate::packets::marks;

/// A record begins with its send time; this is its whole length.
const RECORD: usize = 1024;
/// What a short connection carries in each direction: it begins as a TLS ClientHello does.
const WORD: [u8; 200] = {
    let mut word = [b'w'; 200];
    [word[0], word[1], word[2], word[3], word[4], word[5]] = [0x16, 3, 1, 0, 195, 1];
    word
};
const EXCHANGE_WITHIN: Duration = Duration::from_secs(5);

pub type Shared = Arc<Mutex<Flow>>;

pub enum Line {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Line {
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Udp(socket) => socket.try_clone().map(Self::Udp),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Udp(socket) => socket.send(bytes).map(drop),
        }
    }

    pub fn receive(&mut self, bytes: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
        match self {
            Self::Tcp(stream) => stream.read(bytes).map(|length| (length, None)),
            Self::Udp(socket) => socket.recv_from(bytes).map(|(length, from)| (length, Some(from))),
        }
    }

    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Udp(socket) => socket.set_read_timeout(timeout),
        }
    }

    /// After a second of silence the kernel asks for a sign of life.
    pub fn keepalive(&self) -> io::Result<()> {
        let second = Duration::from_secs(1);
        let keepalive = TcpKeepalive::new().with_time(second).with_interval(second);
        match self {
            Self::Tcp(stream) => SockRef::from(stream).set_tcp_keepalive(&keepalive),
            Self::Udp(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Has ICMP errors queued with what they quote.
    pub fn want_errors(&self) -> io::Result<()> {
        let set = |fd: &dyn AsFd, v4: bool| match v4 {
            true => setsockopt(&fd.as_fd(), Ipv4RecvErr, &true),
            false => setsockopt(&fd.as_fd(), Ipv6RecvErr, &true),
        };
        let outcome = match self {
            Self::Tcp(stream) => set(stream, stream.local_addr()?.is_ipv4()),
            Self::Udp(socket) => set(socket, socket.local_addr()?.is_ipv4()),
        };
        outcome.map_err(Into::into)
    }

    /// The names of the packets that queued ICMP errors quote.
    pub fn errors(&self) -> Vec<String> {
        let fd = match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Udp(socket) => socket.as_raw_fd(),
        };
        let (mut names, mut quoted) = (Vec::new(), [0; 4096]);
        while let Ok(length) = recv(fd, &mut quoted, MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT) {
            names.extend(marks(&quoted[..length]));
        }
        names
    }

    /// Looks whether the connection is over, without taking anything from it.
    pub fn peek_end(&self) -> Option<Ending> {
        let Self::Tcp(stream) = self else { return None };
        let mut byte = [0];
        match recv(stream.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Some(Ending::Closed),
            Ok(_) | Err(Errno::EAGAIN) => None,
            Err(errno) => Some(Ending::Broken(io::Error::from(errno).into())),
        }
    }
}

pub fn connect(remote: SocketAddr, local: Option<SocketAddr>, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(local) = local {
        socket.set_reuse_address(true)?;
        socket.bind(&local.into())?;
    }
    socket.connect_timeout(&remote.into(), timeout)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects with TCP Fast Open: nothing is sent before the first words.
pub fn fast_open(remote: SocketAddr, text: &str) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_write_timeout(Some(clock::patient(EXCHANGE_WITHIN)))?;
    socket.send_to_with_flags(text.as_bytes(), &remote.into(), libc::MSG_FASTOPEN)?;
    Ok(TcpStream::from(socket))
}

/// Sends stamped records until the line breaks. A UDP line goes on: there a refusal is an answer to one datagram.
pub fn pump(mut line: Line, flow: &Shared, every: Duration) {
    let mut record = [0; RECORD];
    loop {
        record[..8].copy_from_slice(&stamp().to_le_bytes());
        match (line.send(&record), &line) {
            (Ok(()), _) => locked(flow).sent += 1,
            (Err(_), Line::Udp(_)) => locked(flow).refused += 1,
            (Err(error), Line::Tcp(_)) => return ended(flow, Ending::Broken(error.into())),
        }
        if !every.is_zero() {
            thread::sleep(every);
        }
    }
}

/// Takes stamped records until the line ends.
pub fn drain(mut line: Line, flow: &Shared) {
    let mut buffer = vec![0; 64 * RECORD];
    let mut filled = 0;
    loop {
        match line.receive(&mut buffer[filled..]) {
            Ok((0, None)) => return ended(flow, Ending::Closed),
            Ok((length, _)) => {
                filled += length;
                let whole = filled - filled % RECORD;
                take(&buffer[..whole], flow);
                buffer.copy_within(whole..filled, 0);
                filled -= whole;
            }
            // A queued ICMP error; the datagrams go on.
            Err(_) if matches!(line, Line::Udp(_)) => {}
            Err(error) => return ended(flow, Ending::Broken(error.into())),
        }
    }
}

fn take(records: &[u8], flow: &Shared) {
    let mut flow = locked(flow);
    for record in records.chunks_exact(RECORD) {
        let sent_at = i64::from_le_bytes(record[..8].try_into().expect("eight bytes"));
        flow.received += 1;
        flow.last_stamp = flow.last_stamp.max(sent_at);
    }
}

/// Remembers the first end: later calls on a broken socket say less.
pub fn ended(flow: &Shared, how: Ending) {
    locked(flow).end.get_or_insert(End { how, at: stamp() });
}

fn stamp() -> i64 {
    clock::now().timestamp_nanos_opt().expect("before the year 2262")
}

/// Sends everything back until the end.
pub fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Makes `count` short connections, `workers` at a time.
pub fn exchange(remote: SocketAddr, close: Close, late: Duration, count: u32, workers: u32) -> Tally {
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for worker in 0..workers {
            let share = count / workers + u32::from(worker < count % workers);
            let tally = &tally;
            scope.spawn(move || {
                for _ in 0..share {
                    let outcome = call(remote, close, late);
                    let mut tally = locked(tally);
                    match outcome {
                        Ok(()) => tally.done += 1,
                        Err(error) => *tally.failed.entry(Failure::from(error).text).or_default() += 1,
                    }
                }
            });
        }
    });
    tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The client's side of a short connection.
fn call(remote: SocketAddr, close: Close, late: Duration) -> io::Result<()> {
    let mut stream = connect(remote, None, clock::patient(EXCHANGE_WITHIN))?;
    stream.set_read_timeout(Some(clock::patient(EXCHANGE_WITHIN)))?;
    stream.write_all(&WORD)?;
    stream.read_exact(&mut [0; WORD.len()])?;
    match close {
        Close::Client => Ok(()),
        Close::ClientResets => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        Close::Server => wait_for_end(&mut stream, late),
        Close::ServerResets => wait_for_end(&mut stream, late).or_else(if_reset),
    }
}

/// The server's side of a short connection.
pub fn answer(mut stream: TcpStream, close: Close, late: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(clock::patient(EXCHANGE_WITHIN)))?;
    stream.read_exact(&mut [0; WORD.len()])?;
    stream.write_all(&WORD)?;
    match close {
        Close::Server => Ok(()),
        Close::ServerResets => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        Close::Client => wait_for_end(&mut stream, late),
        Close::ClientResets => wait_for_end(&mut stream, late).or_else(if_reset),
    }
}

/// The passive side: it learns of the end, and closes at once or later.
fn wait_for_end(stream: &mut TcpStream, late: Duration) -> io::Result<()> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    if !late.is_zero() {
        thread::sleep(late);
    }
    Ok(())
}

fn if_reset(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::ConnectionReset { Ok(()) } else { Err(error) }
}
