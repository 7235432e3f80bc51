//! Packets written byte by byte: what a provider can send without a connection.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};

use super::locked;
use super::protocol::{Kind, Packets};
use super::stream::Shared;
use crate::lab::clock;
use crate::packets::marks;

const TTL: u8 = 64;
const WINDOW: u16 = 64_240;
const SEQUENCE: u32 = 4711;
const DATA: &[u8] = b"unasked";
/// Identifies our own echo request among the answers that arrive.
const ECHO_ID: u16 = 0x7053;

pub fn send(packets: Packets) -> io::Result<()> {
    let socket = raw_socket(packets.to, libc::IPPROTO_RAW)?;
    (0..packets.count).try_for_each(|number| send_one(&socket, packets, number))
}

/// Sends them in bursts, one `every` so often, each from the next of so many sources, and counts them.
pub fn pump(packets: Packets, sources: u32, burst: u32, every: Duration, flow: &Shared) -> io::Result<()> {
    let socket = raw_socket(packets.to, libc::IPPROTO_RAW)?;
    for number in 0..packets.count {
        // Counted first: a number that is read later never lags behind the wire.
        locked(flow).sent += 1;
        let from = SocketAddr::new(behind(packets.from.ip(), number % sources), packets.from.port());
        send_one(&socket, Packets { from, ..packets }, number)?;
        if number % burst == burst - 1 {
            thread::sleep(every);
        }
    }
    Ok(())
}

/// The address so many behind another one.
fn behind(first: IpAddr, number: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => std::net::Ipv4Addr::from_bits(first.to_bits() + number).into(),
        IpAddr::V6(first) => std::net::Ipv6Addr::from_bits(first.to_bits() + u128::from(number)).into(),
    }
}

/// Sends one echo request and waits for its reply.
pub fn ping(remote: IpAddr, timeout: Duration) -> io::Result<()> {
    let (protocol, reply, request) = match remote {
        IpAddr::V4(_) => (libc::IPPROTO_ICMP, 0, echo_request(8)),
        IpAddr::V6(_) => (libc::IPPROTO_ICMPV6, 129, echo_request(128)),
    };
    // Who may not open raw sockets asks the kernel to ping: it chooses the identifier, and hands out no headers.
    let raw = raw_socket(SocketAddr::new(remote, 0), protocol);
    let plain = raw.is_err();
    let domain = Domain::for_address(SocketAddr::new(remote, 0));
    let mut socket = raw.or_else(|_| Socket::new(domain, Type::DGRAM, Some(Protocol::from(protocol))))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send_to(&request, &SocketAddr::new(remote, 0).into())?;
    let answered = clock::within(timeout, || {
        let mut packet = [0; 256];
        let length = socket.read(&mut packet).ok()?;
        let header = if remote.is_ipv4() && !plain { 20 } else { 0 };
        let icmp = packet[..length].get(header..)?;
        (icmp.first() == Some(&reply) && (plain || icmp.get(4..6)? == ECHO_ID.to_be_bytes())).then_some(())
    });
    answered.ok_or_else(|| io::ErrorKind::TimedOut.into())
}

/// Sends whole packets; those that the kernel refuses are lost, as they should be.
pub fn bytes(to: IpAddr, packets: &[Vec<u8>]) -> io::Result<()> {
    let destination = SocketAddr::new(to, 0);
    let socket = raw_socket(destination, libc::IPPROTO_RAW)?;
    for packet in packets {
        match socket.send_to(packet, &destination.into()) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// One socket for each protocol that packets of a test may have: ICMP, TCP, UDP, GRE, SCTP, IPv4 and IPv6 in IP, and
/// destination options.
pub fn ears(v4: bool) -> io::Result<Vec<Socket>> {
    let (domain, icmp) = if v4 { (Domain::IPV4, 1) } else { (Domain::IPV6, 58) };
    let open = |number| {
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(number)))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(1 << 20)?;
        Ok(socket)
    };
    [icmp, 6, 17, 47, 132, 4, 41, 60].into_iter().map(open).collect()
}

/// The names of the packets that arrived.
pub fn heard(ears: &mut [Socket]) -> Vec<String> {
    let mut names = Vec::new();
    let mut packet = vec![0; 65_536];
    for socket in ears {
        while let Ok(length) = socket.read(&mut packet) {
            names.extend(marks(&packet[..length]));
        }
    }
    names
}

fn send_one(socket: &Socket, packets: Packets, number: u32) -> io::Result<()> {
    // The destination of a raw socket has no port.
    let destination = SocketAddr::new(packets.to.ip(), 0);
    socket.send_to(&packet(packets, number), &destination.into()).map(drop)
}

fn raw_socket(remote: SocketAddr, protocol: i32) -> io::Result<Socket> {
    Socket::new(Domain::for_address(remote), Type::RAW, Some(Protocol::from(protocol)))
}

fn packet(Packets { kind, from, to, .. }: Packets, number: u32) -> Vec<u8> {
    let source_port = from.port().wrapping_add((number % 20_000) as u16);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
        (from, to) => panic!("{from} and {to} are of two families"),
    };
    let tcp = |ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>| {
        ip.tcp(source_port, to.port(), SEQUENCE, WINDOW)
    };
    let mut bytes = Vec::new();
    let written = match kind {
        Kind::Syn => tcp(ip).syn().write(&mut bytes, &[]),
        Kind::Reset => tcp(ip).rst().write(&mut bytes, &[]),
        Kind::ResetWithData => tcp(ip).rst().write(&mut bytes, DATA),
        Kind::Data => tcp(ip).ack(SEQUENCE).psh().write(&mut bytes, DATA),
        Kind::Udp => ip.udp(source_port, to.port()).write(&mut bytes, DATA),
        Kind::Echo if from.is_ipv4() => {
            ip.icmpv4_echo_request(ECHO_ID, number as u16).write(&mut bytes, DATA)
        }
        Kind::Echo => ip.icmpv6_echo_request(ECHO_ID, number as u16).write(&mut bytes, DATA),
    };
    written.expect("to a vector");
    bytes
}

/// The kernel fills in the checksum for IPv6; for IPv4 we do.
fn echo_request(kind: u8) -> [u8; 8] {
    let [id_high, id_low] = ECHO_ID.to_be_bytes();
    let sum = u16::from_be_bytes([kind, 0]).wrapping_add(ECHO_ID).wrapping_add(1);
    let [check_high, check_low] = (!sum).to_be_bytes();
    [kind, 0, check_high, check_low, id_high, id_low, 0, 1]
}
